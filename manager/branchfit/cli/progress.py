"""A pull's events as bars on a terminal, as lines elsewhere, or as JSON lines."""

from __future__ import annotations

import json
import sys
import time
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
    Paused,
    Progress,
    Queued,
    Resumed,
    Retrying,
    Reused,
    Started,
    Waiting,
)
from ..units import MB, gb
from .heap import keep_small
from .render import console

BAR_BYTES = 8 * MB
"""Smaller files get no bar: it would be gone before it is read, and drawing thousands costs more than fetching them."""

FIRST_LOG_S, LOG_S = 5.0, 30.0
"""Where there are no bars, a line tells how far it is, so soon and then so often: a log of a night has a thousand."""

SPEED_S = 5.0
"""Speed is that of the last so many seconds; rich's own 30 tell of a line that is not there any more."""

NARROW, NARROWEST = 78, 60
"""Columns below which the bar goes, and the time left: a line that wraps is drawn over and over."""

OVERALL = "all files"

_OUTCOMES = {
    "fetched": "pulled and verified",
    "already": "already there, every file by its size (`branchfit verify` reads them)",
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
        self._done = self._total = self._small = self._small_bytes = 0
        self._logged: tuple[float, int] | None = None
        self._first = True
        self._waited_for: int | None = -1
        self._ahead: tuple[str, ...] = ()
        self._retried: set[tuple[str, int]] = set()
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._checked: set[str] = set()

    def __enter__(self) -> PullProgress:
        keep_small()
        if not self._lines and not self._quiet and sys.stderr.isatty():
            self._bars = _bars()
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
            self._bar(OVERALL, event.total_bytes, event.done_bytes)
            here = f" ({gb(event.done_bytes)} are here)" if event.done_bytes else ""
            self._line(
                f"{event.repo}:{event.branch}, {event.files} file{'' if event.files == 1 else 's'}, "
                f"{gb(event.total_bytes - event.done_bytes)} to fetch{here}"
            )
        elif isinstance(event, Checking):
            if event.total_bytes < BAR_BYTES:
                return
            # One a MiB: a bar where there are bars, else one line a file.
            self._bar(f"checking {event.path}", event.total_bytes, event.done_bytes)
            if self._bars is None and event.path not in self._checked:
                self._line(f"checking what is there of {event.path}")
            self._checked.add(event.path)
        elif isinstance(event, FileStarted):
            self._drop(f"checking {event.path}")
            if event.total_bytes >= BAR_BYTES:
                self._bar(event.path, event.total_bytes, event.done_bytes)
        elif isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, FileVerified):
            self._verified(event)
        elif isinstance(event, FileBad):
            self._drop(event.path)
            self._line(f"BAD {event.path}")
        elif isinstance(event, Waiting):
            self._waiting(event)
        elif isinstance(event, Finished):
            if self._small:
                many = "" if self._small == 1 else "s"
                self._line(f"verified {self._small} small file{many} ({gb(self._small_bytes)})")
        else:
            line = self._words(event)
            if line:
                self._line(line)

    def _words(self, event: Event) -> str:
        """What is said of an event that moves no bar."""
        if isinstance(event, LeftOut):
            return f"left out {event.path}: {event.reason}"
        if isinstance(event, Reused):
            return (
                f"{event.path} is here already ({event.source}): not fetched" if event.size_bytes >= BAR_BYTES else ""
            )
        if isinstance(event, Retrying):
            return self._retrying(event)
        if isinstance(event, Queued):
            return self._queued(event)
        if isinstance(event, Paused):
            self._describe("paused")
            return "paused; `branchfit queue resume` goes on"
        if isinstance(event, Resumed):
            self._describe(OVERALL)
            return "going on"
        if isinstance(event, BranchMoved):
            then = "fetching the new one" if self._latest else "--latest fetches the new one"
            return f"the branch moved from {event.installed_commit[:12]} to {event.hub_commit[:12]}; {then}"
        return event.message if isinstance(event, Note) else ""

    def _retrying(self, event: Retrying) -> str:
        """Once for all connections that a file has."""
        known = (event.path, event.attempt) in self._retried
        if event.attempt == 1:
            self._retried = {one for one in self._retried if one[0] != event.path or one[1] == 1}
        self._retried.add((event.path, event.attempt))
        return "" if known else f"{event.path}: {event.reason}; trying again in {event.wait_s:g} s"

    def _queued(self, event: Queued) -> str:
        """Once for each that is ahead; how far it is shows in the bar."""
        names = tuple(one.partition(" (")[0] for one in event.ahead)
        known, self._ahead = names == self._ahead, names
        self._describe(f"waiting for {', '.join(event.ahead)}")
        return "" if known else f"waiting for {', '.join(event.ahead) or 'a turn'}"

    def _progress(self, event: Progress) -> None:
        if event.total_bytes >= BAR_BYTES:
            self._bar(event.path, event.total_bytes, event.done_bytes)
        verified = f", {gb(event.verified_bytes)} verified" if event.verified_bytes >= BAR_BYTES else ""
        self._bar(OVERALL, event.overall_total_bytes, event.overall_done_bytes, f"{OVERALL}{verified}")
        now = time.monotonic()
        if self._bars is not None:
            return
        if self._logged is None:
            self._logged = (now - LOG_S + FIRST_LOG_S, event.overall_done_bytes)
        elif now - self._logged[0] >= LOG_S:
            elapsed_s = min(now - self._logged[0], FIRST_LOG_S if self._first else LOG_S)
            self._log(event, (event.overall_done_bytes - self._logged[1]) / elapsed_s)
            self._first = False
            self._logged = (now, event.overall_done_bytes)

    def _log(self, event: Progress, bytes_per_s: float) -> None:
        left_bytes = event.overall_total_bytes - event.overall_done_bytes
        left_s = left_bytes / bytes_per_s if bytes_per_s > 0 else 0.0
        left = f", {left_s / 60:.0f} min left" if left_s >= 90 else f", {left_s:.0f} s left" if left_s else ""
        self._line(
            f"{gb(event.overall_done_bytes)} of {gb(event.overall_total_bytes)}, {gb(int(bytes_per_s))}/s{left}"
            f" ({gb(event.verified_bytes)} verified)"
        )

    def _verified(self, event: FileVerified) -> None:
        self._drop(event.path)
        self._drop(f"checking {event.path}")
        if event.size_bytes < BAR_BYTES:
            self._small += 1
            self._small_bytes += event.size_bytes
        else:
            self._line(f"verified {event.path} ({gb(event.size_bytes)}, {event.algorithm})")

    def _waiting(self, event: Waiting) -> None:
        """Another process's progress: as ours on a terminal, elsewhere once."""
        if event.total_bytes:
            who = f"pid {event.pid} fetches it" if event.pid else "another fetches it"
            self._bar(OVERALL, event.total_bytes, event.done_bytes, who)
        if event.pid != self._waited_for:
            at = f", at {gb(event.done_bytes)} of {gb(event.total_bytes)}" if event.total_bytes else ""
            who = f" (pid {event.pid})" if event.pid else ""
            self._line(f"another BranchFit{who} is at work on it{at}; waiting for it, and taking over if it stops")
        self._waited_for = event.pid

    def _describe(self, words: str) -> None:
        if self._bars is not None and OVERALL in self._tasks:
            self._bars.update(self._tasks[OVERALL], description=words)

    def _bar(self, name: str, total: int, done: int, description: str | None = None) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, completed=done)
        self._bars.update(self._tasks[name], total=total, completed=done, description=description or name)

    def _drop(self, name: str) -> None:
        if self._bars is not None and name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))

    def _line(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def _bars() -> Any:
    """rich's bars, with the columns that the terminal has room for."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    shown = console(stderr=True)

    def column(most: int | None = None) -> Column:
        return Column(no_wrap=True, overflow="ellipsis", max_width=most)

    name_columns = max(10, min(34, shown.width - 44))
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=column(name_columns)),
        TaskProgressColumn(table_column=column()),
        DownloadColumn(table_column=column()),
        TransferSpeedColumn(table_column=column()),
    ]
    if shown.width >= NARROWEST:
        columns.append(TimeRemainingColumn(compact=True, table_column=column()))
    if shown.width >= NARROW:
        columns.insert(1, BarColumn(bar_width=None if shown.width > 100 else 10))
    # Gone at the end: a bar left half way says nothing true; the lines above stay.
    return Progress(*columns, console=shown, transient=True, speed_estimate_period=SPEED_S, expand=shown.width > 100)
