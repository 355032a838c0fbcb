"""How long to wait: every wait for the network has an end, leaves with Ctrl-C, and holds up no exit.

What blocks runs in daemon threads, which the interpreter does not wait for when it ends (those of
concurrent.futures it does). A library that sits in a read cannot be interrupted, so it is left behind.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

POLL_S = 0.2
"""How long the caller's thread waits unbroken: Windows delivers Ctrl-C only between waits."""

ANSWER_TIMEOUTS = 3
"""A small answer has this many timeouts from the first word to its last byte: connect, redirect, body."""

SLOWEST_BYTES_PER_S = 16_000
"""An answer that comes at least so fast is waited for: sixteen at once fill a line of 2 Mbit/s."""

Result = TypeVar("Result")


class WireFault(OSError):
    """A line that cannot be used, in words that may be shown."""

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__(said)


class TooSlow(WireFault):
    """The time for an answer is over and it is not whole."""


@dataclass(frozen=True)
class Patience:
    """`read_s` for each connect and read, `answer_s` for each try's answer; no new try after `again_s`."""

    read_s: float
    answer_s: float
    again_s: float


def usual(timeout_s: float) -> Patience:
    """For what there is no other source of."""
    return Patience(timeout_s, ANSWER_TIMEOUTS * timeout_s, ANSWER_TIMEOUTS * timeout_s)


def short(timeout_s: float) -> Patience:
    """Where a remembered answer serves: what fails at once is tried again, silence is not."""
    return Patience(timeout_s, timeout_s, timeout_s)


class Deadline:
    """The time one answer has: `limit_s`, and more for bytes that come at SLOWEST_BYTES_PER_S."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._began = time.monotonic()
        self._bytes = 0

    def came(self, number_bytes: int) -> None:
        """Bytes arrived. Raises TooSlow if the time is over all the same."""
        self._bytes += number_bytes
        self.check()

    @property
    def left_s(self) -> float:
        return self._began + self.limit_s + self._bytes / SLOWEST_BYTES_PER_S - time.monotonic()

    def check(self) -> None:
        """Raises TooSlow when the time is over."""
        if self.left_s <= 0:
            spent_s = time.monotonic() - self._began
            if not self._bytes:
                raise TooSlow(f"no answer came in {spent_s:.3g} s")
            raise TooSlow(f"only {self._bytes:,} bytes came in {spent_s:.3g} s")


def within(deadline: Deadline, work: Callable[[], Result], discard: Callable[[Result], object]) -> Result:
    """What `work` returns or raises, run in a daemon thread. Raises TooSlow when the time is over.

    The thread is then left to itself; what it returns later goes to `discard`.
    """
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            if outcome.set_running_or_notify_cancel():
                outcome.set_exception(error)
            return
        if outcome.set_running_or_notify_cancel():
            outcome.set_result(result)
        else:
            discard(result)

    threading.Thread(target=run, name="branchfit-wire", daemon=True).start()
    try:
        while not wait((outcome,), max(0.0, min(POLL_S, deadline.left_s))).done:
            deadline.check()
    except BaseException:
        if not outcome.cancel() and outcome.exception() is None:
            discard(outcome.result())
        raise
    return outcome.result()


class Workers:
    """A bounded pool of daemon threads."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """`work(*arguments)` as soon as a thread is free."""
        outcome: Future[Result] = Future()

        def run() -> None:
            try:
                result = work(*arguments)
            except BaseException as error:  # noqa: BLE001 - raised again by whoever asks for the result
                outcome.set_exception(error)
            else:
                outcome.set_result(result)

        self._jobs.put(run)
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._work, name="branchfit-hub", daemon=True)
            self._threads.append(thread)
            thread.start()
        return outcome

    def stop(self) -> None:
        """Drops what has not begun and waits for nothing."""
        self._stopped.set()
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopped.is_set():
            job()


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """A pool that is left behind at the end of the block, whatever its threads are doing then."""
    pool = Workers(count)
    try:
        yield pool
    finally:
        pool.stop()


def settled(*pending: Future[Any]) -> set[Future[Any]]:
    """Those of `pending` that have come to an end, at least one."""
    while True:
        if done := wait(pending, POLL_S, return_when="FIRST_COMPLETED").done:
            return done
