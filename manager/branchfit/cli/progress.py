"""A pull's events as bars on a terminal, as lines elsewhere, or as JSON lines."""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import Any

from ..download.events import (
    BranchMoved,
    Checking,
    Event,
    FileBad,
    FileStarted,
    FileVerified,
    Finished,
    LeftOut,
    Note,
    Progress,
    Retrying,
    Started,
    Waiting,
)
from ..units import gb
from .render import console

_OUTCOMES = {
    "fetched": "pulled and verified",
    "already": "already there, nothing to do",
    "kept": "kept as it is",
    "adopted": "verified and adopted",
    "repaired": "repaired",
}


class PullProgress:
    """Takes events (`tell`) and shows them on stderr; with `lines` as JSON objects on stdout instead.

    `outcome` is, at the end, how it went in words.
    """

    def __init__(self, lines: bool = False, quiet: bool = False, latest: bool = False) -> None:
        self._latest = latest
        self.outcome = "done"
        self._lines = lines
        self._quiet = quiet
        self._done = self._total = 0
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._checked: set[str] = set()

    def __enter__(self) -> PullProgress:
        if not self._lines and not self._quiet and sys.stderr.isatty():
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=console(stderr=True),
                transient=True,  # a bar left half way says nothing true; the lines above stay
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        if kind is KeyboardInterrupt and self._total:
            self._line(
                f"interrupted at {gb(self._done)} of {gb(self._total)}; what is there is kept, "
                f"the same command goes on from it"
            )

    def tell(self, event: Event) -> None:
        if isinstance(event, Started):
            self._done, self._total = event.done_bytes, event.total_bytes
        elif isinstance(event, Progress):
            self._done, self._total = event.overall_done_bytes, event.overall_total_bytes
        if isinstance(event, Finished):
            self.outcome = _OUTCOMES.get(event.outcome, event.outcome)
        if self._lines:
            print(json.dumps(event.to_dict(), ensure_ascii=False), flush=True)
        elif not self._quiet:
            self._show(event)

    def _show(self, event: Event) -> None:
        if isinstance(event, Started):
            self._bar("all files", event.total_bytes, event.done_bytes)
            self._line(
                f"{event.repo}:{event.branch}, {event.files} files, {gb(event.total_bytes - event.done_bytes)} to fetch"
            )
        elif isinstance(event, Checking):
            # One a MiB: a bar where there are bars, else one line a file.
            self._bar(f"checking {event.path}", event.total_bytes, event.done_bytes)
            if self._bars is None and event.path not in self._checked:
                self._line(f"checking what is there of {event.path}")
            self._checked.add(event.path)
        elif isinstance(event, FileStarted):
            self._drop(f"checking {event.path}")
            self._bar(event.path, event.total_bytes, event.done_bytes)
        elif isinstance(event, Progress):
            self._bar(event.path, event.total_bytes, event.done_bytes)
            self._bar("all files", event.overall_total_bytes, event.overall_done_bytes)
        elif isinstance(event, FileVerified):
            self._drop(event.path)
            self._drop(f"checking {event.path}")
            self._line(f"verified {event.path} ({gb(event.size_bytes)}, {event.algorithm})")
        elif isinstance(event, FileBad):
            self._drop(event.path)
            self._line(f"BAD {event.path}")
        elif isinstance(event, LeftOut):
            self._line(f"left out {event.path}: {event.reason}")
        elif isinstance(event, Retrying):
            self._line(f"{event.path}: {event.reason}; trying again in {event.wait_s:g} s")
        elif isinstance(event, Waiting):
            self._line(f"another pull{f' (pid {event.pid})' if event.pid else ''} is at work on it; waiting for it")
        elif isinstance(event, BranchMoved):
            then = "fetching the new one" if self._latest else "--latest fetches the new one"
            self._line(f"the branch moved from {event.installed_commit[:12]} to {event.hub_commit[:12]}; {then}")
        elif isinstance(event, Note):
            self._line(event.message)

    def _bar(self, name: str, total: int, done: int) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, completed=done)
        self._bars.update(self._tasks[name], total=total, completed=done)

    def _drop(self, name: str) -> None:
        if self._bars is not None and name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))

    def _line(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
