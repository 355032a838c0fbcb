"""An event of a pull or a verify as a line for people, and as where a download stands."""

from __future__ import annotations

from branchfit.download.events import (
    BranchMoved,
    Checking,
    Event,
    FileBad,
    FileStarted,
    FileVerified,
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
from branchfit.units import gb


def line(event: Event) -> str:
    """What to write; '' for events that only move the bar or change the phase."""
    if isinstance(event, LeftOut):
        return f"left out {event.path}: {event.reason}"
    if isinstance(event, (Checking, FileStarted)):
        return f"{'checking what is there of' if isinstance(event, Checking) else 'now'} {event.path}"
    if isinstance(event, FileVerified):
        return f"verified {event.path} ({gb(event.size_bytes)}, {event.algorithm})"
    if isinstance(event, Reused):
        return f"{event.path} was on this machine already ({event.source})"
    if isinstance(event, FileBad):
        return f"BAD {event.path}: expected {event.expected}, got {event.actual}"
    if isinstance(event, Retrying):
        return f"{event.path}: {event.reason}; trying again in {event.wait_s:g} s"
    if isinstance(event, BranchMoved):
        return f"the branch moved from commit {event.installed_commit[:12]} to {event.hub_commit[:12]}"
    return event.message if isinstance(event, Note) else ""


def held_up(event: Event) -> str | None:
    """Why nothing is fetched from here on, in place of the phase; '' where it goes on; None where nothing changes."""
    if isinstance(event, Queued):
        more = len(event.ahead) - 1
        return f"waiting for {event.ahead[0] if event.ahead else 'its turn'}{f' and {more} more' if more > 0 else ''}"
    if isinstance(event, Paused):
        return "paused"
    if isinstance(event, Waiting):
        return f"another program{f' (pid {event.pid})' if event.pid else ''} is at work on it; waiting for it"
    return "" if isinstance(event, (Resumed, Started, Checking, FileStarted, Progress, Reused)) else None


def amounts(event: Event) -> tuple[int, int] | None:
    """Bytes done and in all, of an event that tells them of the whole; the other program's while that is waited for."""
    if isinstance(event, Started) or (isinstance(event, Waiting) and event.total_bytes):
        return event.done_bytes, event.total_bytes
    return (event.overall_done_bytes, event.overall_total_bytes) if isinstance(event, Progress) else None
