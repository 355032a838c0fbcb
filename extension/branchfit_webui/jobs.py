"""What the tab has going on: downloads, loads, verifications, each in a thread of its own.

They belong to the webui, not to a page: a page that is reloaded, or a second one, sees the same jobs.
The same thing asked for twice is one job. Loads take turns in the order they were asked for, since a webui
holds one model, and so do repairs; downloads do in the queue that they share with the command.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from branchfit.download.events import Event, Paused, Resumed
from branchfit.errors import BranchFitError

from . import told

LINE, MODEL = "line", "model"
"""What jobs take turns at: the line to the Hub (repairs), and the one model that a webui holds."""

ALIVE = frozenset({"waiting", "running"})

SPEED_WINDOW_S = 10.0
"""Speed is that of the last so many seconds: long enough not to jump, short enough to show a stall."""

_KEPT_LINES = 8
_KEPT_JOBS = 6
"""Messages shown of a job, and ended jobs kept for pages that come back: what one can take in at a glance."""


class Cancelled(Exception):
    """The user asked to stop; what was fetched stays."""


@dataclass(frozen=True)
class Seen:
    """A job at one moment. `state` is waiting, running, done, failed or cancelled; sizes are bytes; `ended` counts
    the jobs that had ended with it."""

    key: str
    what: str
    state: str
    phase: str
    done_bytes: int
    total_bytes: int
    bytes_per_s: float | None
    lines: tuple[str, ...]
    result: str
    stopping: bool
    ended: int | None = None

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    @property
    def left_s(self) -> float | None:
        """Seconds to go at the present speed, None where there is none."""
        left_bytes = self.total_bytes - self.done_bytes
        return left_bytes / self.bytes_per_s if self.bytes_per_s and left_bytes > 0 else None


class Job:
    """One job. Its work calls `say`, `tell` and `turn`; each of them ends it where it was cancelled."""

    def __init__(self, key: str, what: str, turns: _Turns) -> None:
        self.key, self.what = key, what
        self._turns = turns
        self._lock = threading.Lock()
        self._cancel = threading.Event()
        self._state, self._phase, self._held_up, self._result = "waiting", "", "", ""
        self._paused = False
        self._ended: int | None = None
        self._done_bytes = self._total_bytes = 0
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._pace: deque[tuple[float, int]] = deque()

    # For its work

    def check(self) -> None:
        if self._cancel.is_set():
            raise Cancelled

    def say(self, phase: str) -> None:
        """What is being done now. The bar starts over."""
        self.check()
        self.show(phase)

    def show(self, phase: str) -> None:
        """As `say`, where the work cannot be stopped."""
        with self._lock:
            self._phase, self._held_up = phase, ""
            self._lines.clear()
            self._done_bytes = self._total_bytes = 0
            self._pace.clear()

    def note(self, line: str) -> None:
        with self._lock:
            if not self._lines or self._lines[-1] != line:
                self._lines.append(line)

    def tell(self, event: Event) -> None:
        """An event of a pull or a verify."""
        self.check()
        with self._lock:
            self._count(event)
        line = told.line(event)
        if line:
            self.note(line)

    def _count(self, event: Event) -> None:
        held_up, amounts = told.held_up(event), told.amounts(event)
        self._paused = (self._paused or isinstance(event, Paused)) and not isinstance(event, Resumed)
        # What was on its way when it was paused is still told: that does not mean that it goes on.
        if held_up is not None and held_up != self._held_up and (held_up or not self._paused):
            self._held_up = held_up
            self._pace.clear()  # the speed is that of what is fetched, and by whom
        if amounts is None:
            return
        self._done_bytes, self._total_bytes = amounts
        now = time.monotonic()
        if self._pace and self._done_bytes < self._pace[-1][1]:  # a file that had to start over
            self._pace.clear()
        self._pace.append((now, self._done_bytes))
        while len(self._pace) > 2 and now - self._pace[1][0] > SPEED_WINDOW_S:
            self._pace.popleft()

    @contextmanager
    def turn(self, at: str) -> Iterator[None]:
        """Wait for one's turn, then have it."""
        with self._turns.wait(at, self):
            yield

    # For those who look

    def seen(self) -> Seen:
        with self._lock:
            return Seen(
                self.key, self.what, self._state, self._held_up or self._phase, self._done_bytes, self._total_bytes,
                self._speed(), tuple(self._lines), self._result, self._cancel.is_set(), self._ended,
            )  # fmt: skip

    def _speed(self) -> float | None:
        """Bytes a second, up to now: a line that has gone silent slows down instead of standing at its last speed."""
        if self._state != "running" or len(self._pace) < 2:
            return None
        (since, before), (_, after) = self._pace[0], self._pace[-1]
        elapsed_s = time.monotonic() - since
        return (after - before) / elapsed_s if elapsed_s > 0 and after > before else None

    def cancel(self) -> None:
        self._cancel.set()
        self._turns.wake()

    def run(self, work: Callable[[Job], str]) -> tuple[str, str]:
        """Do the work; the state it ends in, and what is to be said of it."""
        with self._lock:
            self._state = "running"
        try:
            return "done", work(self)
        except Cancelled:
            kept = " What was fetched is kept; start it again to go on from there." if self._total_bytes else ""
            return "cancelled", f"Stopped.{kept}"
        except BranchFitError as error:
            return "failed", str(error)
        except Exception as error:  # noqa: BLE001 - whatever a host or a disk brings: the page has to say it
            traceback.print_exc()
            return "failed", f"Something unexpected: {type(error).__name__}: {error}. The console has the details."

    def end(self, state: str, result: str, number: int) -> None:
        with self._lock:
            self._state, self._result, self._ended = state, result, number


class _Turns:
    """First come, first served, at each of the things that one job at a time can have."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queues: dict[str, deque[Job]] = {}

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def wait(self, at: str, job: Job) -> Iterator[None]:
        with self._changed:
            queue = self._queues.setdefault(at, deque())
            queue.append(job)
        try:
            with self._changed:
                while queue[0] is not job:
                    ahead = list(queue)[: list(queue).index(job)]
                    job.say(f"waiting for {ahead[-1].what}{_others(len(ahead) - 1)}")
                    self._changed.wait()
            job.check()
            yield
        finally:
            with self._changed:
                queue.remove(job)
                self._changed.notify_all()


def _others(number: int) -> str:
    return f" and {number} more" if number else ""


@dataclass
class Jobs:
    """All jobs of this webui, oldest first."""

    _jobs: dict[str, Job] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _turns: _Turns = field(default_factory=_Turns)
    _changes: int = 0

    def start(self, key: str, what: str, work: Callable[[Job], str]) -> bool:
        """Start `work` in a thread. False where a job of that key is alive: it is that one that goes on."""
        with self._lock:
            old = self._jobs.get(key)
            if old is not None and old.seen().alive:
                return False
            self._jobs.pop(key, None)
            job = self._jobs[key] = Job(key, what, self._turns)
            ended = sorted(
                (seen for seen in (each.seen() for each in self._jobs.values()) if not seen.alive),
                key=lambda seen: seen.ended or 0,
            )
            for seen in ended[:-_KEPT_JOBS]:
                del self._jobs[seen.key]
        threading.Thread(target=self._run, args=(job, work), name=f"branchfit {key}", daemon=True).start()
        return True

    def _run(self, job: Job, work: Callable[[Job], str]) -> None:
        state, result = job.run(work)
        # Together: a page that sees the one sees the other.
        with self._lock:
            self._changes += 1
            job.end(state, result, self._changes)

    def seen(self) -> list[Seen]:
        """All of them now: those alive, the newest first, then the others, the last to end first."""
        with self._lock:
            seen = [job.seen() for job in reversed(self._jobs.values())]
        return sorted(seen, key=lambda one: (0, 0) if one.alive else (1, -(one.ended or 0)))

    @property
    def ended(self) -> int:
        """How many jobs have ended since the webui came up: a page that knows another number has old tables."""
        return self._changes

    def alive(self) -> bool:
        return any(seen.alive for seen in self.seen())

    def cancel(self, key: str) -> bool:
        """Ask a job to stop. False where none of that key is alive."""
        with self._lock:
            job = self._jobs.get(key)
        if job is None or not job.seen().alive:
            return False
        job.cancel()
        return True

    def wait(self, key: str, timeout_s: float) -> Seen:
        """For tests and scripts: the job once it has ended. Raises TimeoutError."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            seen = next((each for each in self.seen() if each.key == key), None)
            if seen is not None and not seen.alive:
                return seen
            time.sleep(0.01)
        raise TimeoutError(f"{key} was not done in {timeout_s:g} s")
