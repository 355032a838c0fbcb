"""Several connections at once: threads fetch, the caller's thread tells, decides how many, and may be interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..events import Event, FileStarted, FileVerified, OnEvent, Paused, Progress, Resumed
from ..hashing import PIECE_BYTES
from ..line import Line
from ..lockfile import LockedFile
from ..staging import Stopped
from .board import FILES_AT_ONCE, Board
from .connections import Connections
from .reading import Growing, Hand

if TYPE_CHECKING:
    from .transfer import Transfer

SMALL_BYTES = PIECE_BYTES // 2
"""Files up to this are fetched whole by one connection: two seconds of a line of 32 Mbit/s; no more are worth it."""

SMALL_AT_ONCE = 8
"""Small files at once: their time is round trips. huggingface_hub's snapshot_download takes eight."""

POLL_S = 0.1
"""How long the caller's thread waits unbroken: Windows delivers Ctrl-C only between waits."""

JOIN_S = 2.0
"""How long a stop waits for threads that sit in a read or an fsync, which end in their own time.

Those can change nothing once the folder's lock is given back: `Staging.writing` is closed to them then."""


class Crew:
    """Runs a transfer over files in threads, its events in order in the caller's thread.

    `done` is each file's bytes on disk at the start, `verified_bytes` those that need nothing more; the overall
    figures of `Progress` are kept here.
    """

    def __init__(
        self, done: dict[str, int], total_bytes: int, verified_bytes: int, on_event: OnEvent, line: Line
    ) -> None:
        self.stop = threading.Event()
        self.hold = threading.Event()
        self._done = dict(done)
        self._overall_bytes = sum(done.values())
        self._total_bytes = total_bytes
        self._verified_bytes = verified_bytes
        self._on_event = on_event
        self._line = line
        self._queue: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running = 0
        self._hands: list[Hand] = []

    def tell(self, event: Event) -> None:
        """Called by the threads."""
        self._queue.put(event)

    def run(self, files: Sequence[LockedFile], transfer: Transfer) -> int:
        """Bring every file; return the bytes fetched.

        The first error stops the others and is raised when they have ended. So does whatever comes
        to the caller's thread meanwhile: Ctrl-C, or an `on_event` that raises.
        """
        ordered = sorted(files, key=lambda file: (file.size_bytes, file.path))
        small = deque(file for file in ordered if file.size_bytes <= SMALL_BYTES)
        large = [file for file in ordered if file.size_bytes > SMALL_BYTES]
        first = min(FILES_AT_ONCE, len(large))
        board, connections = Board(large, first), Connections(first, now_s=time.monotonic())
        failure: BaseException | None = None
        failed_s = 0.0
        try:
            for _ in range(min(SMALL_AT_ONCE, len(small))):
                self._start(lambda hand: _bring_all(small, transfer, hand), counted=False)
            while True:
                while board.wants_more() and not self.stop.is_set():
                    board.joined()
                    self._start(lambda hand: self._work(board, transfer, hand))
                if not self._running or (failed_s and time.monotonic() - failed_s > JOIN_S):
                    break
                taken = self._take()
                if taken is not None and failure is None:
                    failure, failed_s = taken, time.monotonic()
                if failure is None:
                    self._look(board, connections)
        finally:
            self.stop.set()
            left = board.stop()
            deadline = time.monotonic() + JOIN_S
            for thread in self._threads:
                if thread.is_alive():
                    thread.join(max(0.0, deadline - time.monotonic()))
            for growing in left:
                with contextlib.suppress(OSError, Stopped):
                    growing.part.close()
        if failure is not None:
            raise failure
        return sum(hand.fetched_bytes for hand in self._hands)

    def _start(self, work: Callable[[Hand], None], counted: bool = True) -> None:
        hand = Hand(counted=counted)

        def run() -> None:
            try:
                work(hand)
            except Stopped:
                pass  # whoever told us to stop knows why
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                self.stop.set()
                self._queue.put(error)
            self._queue.put(None)

        thread = threading.Thread(target=run, name=f"branchfit-pull-{len(self._threads)}", daemon=True)
        self._hands.append(hand)
        self._threads.append(thread)
        self._running += 1
        thread.start()

    def _work(self, board: Board, transfer: Transfer, hand: Hand) -> None:
        """One connection, until there is nothing for it."""
        try:
            while not self.stop.is_set() and (work := board.next(hand)) is not None:
                if work.begin is not None:
                    opened: Growing | None = None
                    try:
                        opened = transfer.begin(work.begin)
                    finally:
                        board.opened(opened)
                elif work.fetch is not None:
                    hand.dismissed = False  # it came to an end by itself before it saw that
                    growing, claim = work.fetch
                    try:
                        transfer.fetch(growing, claim, hand)
                    finally:
                        board.released(growing)
                elif work.finish is not None:
                    done = False
                    try:
                        done = transfer.finish(work.finish)
                    finally:
                        board.finished(work.finish, done)
        finally:
            hand.working = False
            board.left()

    def _take(self) -> BaseException | None:
        """Deliver what the threads told; what one of them raised."""
        try:
            item = self._queue.get(timeout=POLL_S)
        except queue.Empty:
            return None
        if item is None:
            self._running -= 1
        elif isinstance(item, BaseException):
            return item
        else:
            self._deliver(item)
        return None

    def _look(self, board: Board, connections: Connections) -> None:
        """Whether the user holds it up, and how many connections are worth having."""
        held = self._line.paused()
        if held != self.hold.is_set():
            (self.hold.set if held else self.hold.clear)()
            self._on_event(Paused() if held else Resumed())
        now, counted = time.monotonic(), [hand for hand in self._hands if hand.counted]
        refused = [hand for hand in counted if hand.refused]
        for hand in refused:
            hand.refused = False
        if refused:
            board.hands = connections.refused(now)
        elif board.files and not held:
            fetched_bytes = sum(hand.fetched_bytes for hand in counted)
            waited_s = sum(hand.waited_s for hand in counted)
            before, board.hands = board.hands, connections.sample(now, fetched_bytes, waited_s, board.living)
            if board.hands < before:
                _dismiss(counted, board.living - board.hands)

    def _deliver(self, event: Event) -> None:
        if isinstance(event, (FileStarted, Progress)):
            self._overall_bytes += event.done_bytes - self._done.get(event.path, 0)
            self._done[event.path] = event.done_bytes
        elif isinstance(event, FileVerified):
            self._verified_bytes += event.size_bytes
        if isinstance(event, Progress):
            event = dataclasses.replace(
                event,
                overall_done_bytes=self._overall_bytes,
                overall_total_bytes=self._total_bytes,
                verified_bytes=self._verified_bytes,
                connections=self._running,
            )
        self._on_event(event)


def _dismiss(hands: Sequence[Hand], number: int) -> None:
    """End so many of them, the slowest: what they were to bring is the others', whose rate shows only without them."""
    working = sorted((hand for hand in hands if hand.working), key=lambda hand: hand.bytes_per_s)
    for hand in working[: max(0, number)]:
        hand.dismissed = True


def _bring_all(files: deque[LockedFile], transfer: Transfer, hand: Hand) -> None:
    while True:
        try:
            file = files.popleft()
        except IndexError:  # another took the last one
            return
        transfer.bring(file, hand)
