"""A download's place in the queue, from its start to its end: the `Line` that a pull is given."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from filelock import FileLock, Timeout

from ...errors import BranchFitError, DownloadError
from ..events import Checking, Event, Note, OnEvent, Paused, Queued, Resumed, Waiting
from ..locks import publishing
from ..notice import Notice
from .entries import LOCK_S, Entry, QueueFile, State, Wanted

POLL_S = 0.5
"""How often one that waits looks again: a second more or less is nothing beside a download."""

TELL_AGAIN_S = 10.0
"""How often the share done of those ahead is told where nothing else changed."""

BUSY_S = 0.5
"""How long `paused` waits for the queue's file: it is asked between chunks, and its last answer will do."""


class Removed(DownloadError):
    """The user took the download out of the queue while it was under way."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name} was taken out of the queue, and stops here. What was fetched is kept: `branchfit pull {name}` "
            f"goes on from it."
        )


@dataclass(frozen=True)
class Place:
    """Where one stands that may not fetch now: `position` 1 is the next; `before` are the names of those ahead,
    `ahead` the same with process and share done."""

    position: int
    before: tuple[str, ...]
    ahead: tuple[str, ...]
    paused: bool


class QueueLine:
    """One download of this process. Where the queue cannot be kept, it goes on without one, and says so.

    `check` is called as often as `turn` and `paused` look, and may raise to end the download.
    """

    def __init__(self, file: QueueFile, wanted: Wanted, at_once: int, check: Callable[[], None]) -> None:
        self._file, self._wanted, self._at_once, self._check = file, wanted, at_once, check
        self._entry: Entry | None = None
        self._lock: FileLock | None = None
        self._made = ""
        self._notice = Notice(None)
        self._alone, self._told = "", list[str]()
        self._guard = threading.Lock()
        self._place: Place | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._tell: OnEvent = lambda event: None
        self._held: Place | None = None
        self._held_s, self._asked_s = 0.0, 0.0
        self._waits, self._aside, self._fetches = False, False, False

    @property
    def owned(self) -> bool:
        """Whether an entry of the queue is this process's."""
        return self._entry is not None

    def watching(self, tell: OnEvent) -> OnEvent:
        """`tell`, and the queue shows how far the download is; of a pause that is one for another, it says for whom."""

        def both(event: Event) -> None:
            if isinstance(event, (Waiting, Checking)) and not self._waits and not self._aside:
                self._aside = True  # another has its folder, or what is there is hashed: others need not wait for that
                self._give_back()
            publishing(self._notice, tell)(event)  # another notice, once there is an entry
            if isinstance(event, Paused) and self._fetches and self._place is not None:
                self._tell_held(tell, self._place, paused_told=True)

        self._tell = tell
        return both

    @contextlib.contextmanager
    def turn(self, tell: OnEvent) -> Iterator[None]:
        """Wait for the line, telling `Queued`, `Paused` and `Resumed`; have it for the block. Raises `Removed`."""
        if self._entry is None:
            self._try(lambda: self.take_over(make=True))
        self._waits = True
        try:
            self._wait(tell)
            self._fetches = True
            yield
        finally:
            self._fetches = False
            self._give_back()

    def paused(self) -> bool:
        """Whether it may not fetch just now: paused, or another was put first. Raises `Removed`.

        Called in the thread of `turn`, where what it waits for is told while it is held up.
        """
        self._check()
        with self._guard:
            if self._alone or self._entry is None or not self._waits:
                return False
            stamp, now = self._file.stamp(), time.monotonic()
            if stamp == self._stamp and (self._place is None or now - self._asked_s < POLL_S):
                return self._place is not None
            self._asked_s = now
            with contextlib.suppress(OSError):  # a full disk, or a busy one: as before
                self._ask(BUSY_S)
            place = self._place
        if place is None:
            self._held = None
        elif self._held is not None:  # the pull tells of the first moment, as `Paused`
            self._tell_held(self._tell, place)
        return place is not None

    def take_over(self, make: bool) -> None:
        """Make an entry of this download that no process has this one's; with `make`, a new one where there is none.

        Raises OSError.
        """
        with contextlib.ExitStack() as undone:
            with self._file.changing() as draft:
                idle = [entry for entry in draft.state.of(self._wanted) if not self._file.alive(entry)]
                if not idle and not make:
                    return
                now = datetime.now(timezone.utc).replace(microsecond=0)
                found = idle[0] if idle else Entry(draft.state.next_id, self._wanted, now)
                lock = self._file.lock(found.id)
                try:
                    lock.acquire(timeout=0)
                except (Timeout, NotImplementedError) as error:
                    raise OSError(str(error)) from error
                undone.callback(lock.release)
                # Whoever asks for it again wants it now.
                fresh = replace(found, wanted=self._wanted, paused=False, wants_line=True, has_line=False, error=None)
                entry = replace(fresh, pid=os.getpid())
                draft.state = draft.state.put(entry)
            undone.pop_all()
        self._lock, self._made, self._entry = lock, draft.state.made, entry
        self._notice = Notice(self._file.notice(entry.id), stays=True)
        self._notice.__enter__()

    def _try(self, act: Callable[[], None]) -> None:
        """Do it; no queue from now on, where that cannot be read or written."""
        try:
            act()
        except OSError as error:
            self._alone = f"no queue can be kept in {self._file.folder} ({error}): this download waits for no other."

    def _wait(self, tell: OnEvent) -> None:
        was_paused = False
        while True:
            self._check()
            if not self._alone:
                with self._guard:
                    self._try(self._ask)
            for note in self._said():
                tell(Note(note))
            place = self._place if not self._alone else None
            if place is None:
                break
            was_paused = was_paused or place.paused
            self._tell_held(tell, place)
            time.sleep(POLL_S)
        self._held = None
        if was_paused:
            tell(Resumed())

    def _tell_held(self, tell: OnEvent, place: Place, paused_told: bool = False) -> None:
        """Tell why nothing is fetched, where that changed; the shares done of those ahead only now and then."""
        held, now = self._held, time.monotonic()
        if place.paused:
            if not paused_told and (held is None or not held.paused):
                tell(Paused())
        else:
            same = held is not None and (held.paused, held.position, held.before) == (
                False,
                place.position,
                place.before,
            )
            if same and (held == place or now - self._held_s < TELL_AGAIN_S):
                return
            tell(Queued(place.position, place.ahead))
        self._held, self._held_s = place, now

    def _ask(self, timeout_s: float = LOCK_S) -> None:
        """Find out its `_place`: None where the line is this one's, now or already. Raises `Removed`, OSError."""
        assert self._entry is not None
        with self._file.changing(timeout_s) as draft:
            mine = draft.state.get(self._entry.id)
            if mine is None:
                if draft.state.made == self._made:
                    raise Removed(self._wanted.name)
                mine, self._made = self._entry, draft.state.made  # the queue was lost; this download was not
                draft.state = draft.state.put(mine)
            place = self._stands(draft.state, mine)
            self._entry = replace(mine, wants_line=True, has_line=place is None)
            draft.state = draft.state.put(self._entry)
        self._stamp, self._place = self._file.stamp(), place

    def _stands(self, state: State, mine: Entry) -> Place | None:
        """None where it may fetch. One that has the line keeps it until it is taken from it; the others go by order."""
        held_up = state.paused or mine.paused
        if mine.has_line and not held_up:
            return None
        others = [one for one in state.entries if one.wants_line and one.id != mine.id and self._file.alive(one)]
        earlier = {one.id for one in state.entries[: state.entries.index(mine)]}
        holders = [one for one in others if one.has_line]
        waiting = [one for one in others if not one.has_line and not one.paused and one.id in earlier]
        before = [*holders, *waiting]
        if not held_up and len(before) < self._at_once:
            return None
        names = tuple(one.wanted.name for one in before)
        return Place(len(waiting) + 1, names, tuple(map(self._words, before)), held_up)

    def _words(self, entry: Entry) -> str:
        found = self._file.progress(entry)
        share = f", {100 * found.done_bytes // found.total_bytes} %" if entry.has_line and found.total_bytes else ""
        return f"{entry.wanted.name} (pid {entry.pid}{share})"

    def _give_back(self) -> None:
        """The line, or its place in it, is for the next one."""
        with self._guard, contextlib.suppress(OSError):
            self._waits = False
            if self._alone or self._entry is None:
                return
            with self._file.changing(BUSY_S) as draft:
                mine = draft.state.get(self._entry.id)
                if mine is not None:
                    draft.state = draft.state.put(replace(mine, wants_line=False, has_line=False))

    def _said(self) -> list[str]:
        """What the user has to read of the queue, once."""
        said = [*self._file.notes, *filter(None, [self._alone])]
        new = [each for each in said if each not in self._told]
        self._told += new
        return new

    def end(self, error: BaseException | None) -> None:
        """The download is over: its entry goes, or stays for another time with what went wrong. Never raises."""
        if self._entry is None or self._lock is None:
            return
        id_, gone = self._entry.id, False
        self._notice.__exit__(None, None, None)
        words = str(error) if isinstance(error, BranchFitError) else None
        with contextlib.suppress(OSError), self._file.changing(BUSY_S) as draft:
            mine = draft.state.get(id_)
            # What never got anything and nobody put there for later is not worth a place.
            if mine is not None and error is not None and (mine.for_later or self._file.progress(mine).total_bytes):
                ended = replace(mine, wants_line=False, has_line=False, pid=None, error=words)
                draft.state = draft.state.put(ended)
            else:
                draft.state, gone = draft.state.without(id_), True
            self._lock.release()
        self._lock.release()
        self._entry = None
        if gone:
            self._file.forget(id_)
