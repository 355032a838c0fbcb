"""The downloads of this user, in order: one at a time has the line, the others wait, and all can be held up.

    queue = Queue()
    with queue.joined(Wanted(repo, branch, models_dir)) as line:
        pull(hub, repo, branch, models_dir, on_event=line.watching(show), line=line)

A download whose process died or was interrupted stays in the queue and is in nobody's way; it leaves it when it
ended well, or is removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...errors import NotFound, UsageError
from ..names import folder_name
from ..planning import resolved
from .entries import Entry, QueueFile, State, Wanted
from .turns import QueueLine

AT_ONCE = 1
"""Downloads that share the line unless the user says more: one after the other, the first is there in half the time,
and the last no later."""


class NotQueued(NotFound):
    """No download of that number is in the queue."""

    def __init__(self, id_: int, known: Sequence[int]) -> None:
        self.id, self.known = id_, tuple(known)
        there = f"it has {', '.join(map(str, self.known))}" if self.known else "it is empty"
        super().__init__(f"the queue has no download {id_}; {there} (`branchfit queue` lists them).")


@dataclass(frozen=True)
class Listed:
    """An entry as it stands now. `done_bytes` of `total_bytes`, 0 of 0 where nothing was begun.

    While a process is at work on it, `state` is `running`, `waiting`, `paused` or `busy` (with what needs no line:
    checking what is there, putting things in place); without one it is `paused`, `added`, `stopped` or `failed`.
    """

    position: int
    entry: Entry
    alive: bool
    state: str
    done_bytes: int
    total_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        entry, wanted = self.entry, self.entry.wanted
        return {
            "position": self.position, "id": entry.id, "state": self.state, "repo": wanted.repo,
            "branch": wanted.branch, "commit": wanted.commit, "folder": str(wanted.target),
            "done_bytes": self.done_bytes, "total_bytes": self.total_bytes,
            "pid": entry.pid if self.alive else None, "error": entry.error, "added_at": entry.added_at.isoformat(),
        }  # fmt: skip


def at_once() -> int:
    """How many downloads may have the line: BRANCHFIT_AT_ONCE, else one. Raises UsageError for what is no number."""
    given = os.environ.get("BRANCHFIT_AT_ONCE", "")
    if not given.strip():
        return AT_ONCE
    if not given.strip().isdecimal() or int(given) < 1:
        raise UsageError(f"BRANCHFIT_AT_ONCE is {given!r:.40}, and should be how many downloads at once: 1 or more.")
    return int(given)


class Queue:
    """The queue of this user. Every method reads the file anew; they raise OSError where none can be kept."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = QueueFile(folder) if folder is not None else QueueFile()

    def take_notes(self) -> tuple[str, ...]:
        """What the user should read, once: that a queue which could not be read was put aside."""
        taken = tuple(self._file.notes)
        self._file.notes.clear()
        return taken

    def paused(self) -> bool:
        """Whether all of it is held up."""
        return self._file.read().paused

    def listed(self) -> list[Listed]:
        """All of it, first come first."""
        if not self._file.folder.is_dir():
            return []
        with self._file.changing() as draft:
            state = draft.state
            return [self._listed(place, entry, state) for place, entry in enumerate(state.entries, 1)]

    def _listed(self, position: int, entry: Entry, state: State) -> Listed:
        alive, progress = self._file.alive(entry), self._file.progress(entry)
        words = "added"
        if entry.paused or (alive and state.paused):
            words = "paused"
        elif alive:
            words = "running" if entry.has_line else "waiting" if entry.wants_line else "busy"
        elif entry.error is not None or progress.total_bytes:
            words = "failed" if entry.error is not None else "stopped"
        return Listed(position, entry, alive, words, progress.done_bytes, progress.total_bytes)

    def add(self, wanted: Wanted, for_later: bool = False) -> tuple[Entry, bool]:
        """Put a download at the end; (its entry, True). One for the same folder that is there stays where it is:
        (that one, False)."""
        wanted = settled(wanted)
        with self._file.changing() as draft:
            there = draft.state.of(wanted)
            if there:
                entry = there[0]
                if not self._file.alive(entry):
                    entry = replace(entry, wanted=wanted, for_later=entry.for_later or for_later, error=None)
                    draft.state = draft.state.put(entry)
                return entry, False
            now = datetime.now(timezone.utc).replace(microsecond=0)
            entry = Entry(draft.state.next_id, wanted, now, for_later)
            draft.state = draft.state.put(entry)
            return entry, True

    @contextlib.contextmanager
    def joined(
        self, wanted: Wanted, *, at_once_: int | None = None, check: Callable[[], None] = lambda: None
    ) -> Iterator[QueueLine]:
        """The line for a pull of this, done in the block. What comes out of the block is how the download ended.

        An entry for it that no process has becomes this one's at once (`line.owned`), another is made when the
        pull wants its turn. `check` is called while it waits, and may raise. Where no queue can be kept, the pull
        goes on without one.
        """
        line = QueueLine(self._file, settled(wanted), at_once_ or at_once(), check)
        with contextlib.suppress(OSError):
            line.take_over(make=False)
        try:
            yield line
        except BaseException as error:
            line.end(error)
            raise
        line.end(None)

    def pause(self, id_: int | None = None) -> None:
        """Hold a download up, or all of them; the line is for the next one. Raises NotQueued."""
        with self._file.changing() as draft:
            if id_ is None:
                halted = tuple(replace(entry, has_line=False) for entry in draft.state.entries)
                draft.state = replace(draft.state, paused=True, entries=halted)
            else:
                draft.state = draft.state.put(replace(_get(draft.state, id_), paused=True, has_line=False))

    def resume(self, id_: int | None = None) -> None:
        """Let a download go on when its turn comes, or all of them. Raises NotQueued."""
        with self._file.changing() as draft:
            if id_ is None:
                going = tuple(replace(entry, paused=False) for entry in draft.state.entries)
                draft.state = replace(draft.state, paused=False, entries=going)
            else:
                draft.state = draft.state.put(replace(_get(draft.state, id_), paused=False))

    def move(self, id_: int, position: int) -> None:
        """Put a download to a position, 1 being the first; one that has the line and comes after it now gives it up.

        Raises NotQueued.
        """
        with self._file.changing() as draft:
            moved = _get(draft.state, id_)
            order = [entry for entry in draft.state.entries if entry.id != id_]
            order.insert(max(0, position - 1), moved)
            waits = moved.wants_line and not moved.has_line and not moved.paused and self._file.alive(moved)
            passed = [entry for entry in order[order.index(moved) + 1 :] if entry.has_line and self._file.alive(entry)]
            if waits and passed:
                order = [replace(entry, has_line=False) if entry is passed[-1] else entry for entry in order]
            draft.state = replace(draft.state, entries=tuple(order))

    def remove(self, id_: int) -> Entry:
        """Take a download out. What was fetched stays; where it is under way, it stops. Raises NotQueued."""
        with self._file.changing() as draft:
            entry = _get(draft.state, id_)
            if not self._file.alive(entry):
                self._file.forget(id_)
            draft.state = draft.state.without(id_)
        return entry


def settled(wanted: Wanted) -> Wanted:
    """With its folders as they are from anywhere. Raises UsageError for a bad name, DownloadError for a bad folder."""
    folder_name(wanted.repo, wanted.branch)
    staging_dir = wanted.staging_dir.absolute() if wanted.staging_dir is not None else None
    return replace(wanted, models_dir=resolved(wanted.models_dir), staging_dir=staging_dir)


def _get(state: State, id_: int) -> Entry:
    found = state.get(id_)
    if found is None:
        raise NotQueued(id_, [entry.id for entry in state.entries])
    return found
