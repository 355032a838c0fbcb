"""The board: every job with its bar, speed and time left, and how the last ones ended."""

from __future__ import annotations

from collections.abc import Sequence

from branchfit.units import gb

from ..jobs import Seen
from .pieces import block, good, problem, quiet, text

WORKING = "branchfit-working"


def board_html(jobs: Sequence[Seen], started: bool = False) -> str:
    """Jobs that are alive first, in full; then how the last others ended, and every one that failed.

    `started`: something was just started, so that the page asks once more whatever came of it by now.
    """
    alive = [job for job in jobs if job.alive]
    ended = [job for job in jobs if not job.alive]
    shown = [job for place, job in enumerate(ended) if place < (1 if alive else 2) or job.state == "failed"]
    mark = f'<span class="{WORKING}"></span>' if alive or started else ""
    return block(mark, *map(_alive, alive), *map(_ended, shown))


def _alive(job: Seen) -> str:
    stopping = " (stopping)" if job.stopping else ""
    parts = [f"<div><b>{text(job.what)}</b>: {text(job.phase or 'starting')}{stopping}</div>"]
    if job.total_bytes:
        share = 100 * job.done_bytes / job.total_bytes
        parts.append(f'<div class="bar"><div style="width: {share:.1f}%"></div></div>')
        parts.append(f"<div>{text(amount(job))}</div>")
    parts.append(quiet(job.lines[-1]) if job.lines else "")
    return "".join(parts)


def _ended(job: Seen) -> str:
    said = f"{job.what}: {job.result}"
    return good(said) if job.state == "done" else problem(said) if job.state == "failed" else quiet(said)


def amount(job: Seen) -> str:
    """Bytes, share, speed and time left in words."""
    words = f"{gb(job.done_bytes)} of {gb(job.total_bytes)} ({100 * job.done_bytes / job.total_bytes:.0f} %)"
    if job.bytes_per_s:
        words += f", {gb(int(job.bytes_per_s))}/s"
    if job.left_s is not None:
        words += f", {duration(job.left_s)} left"
    return words


def duration(seconds: float) -> str:
    """3661 -> '1 h 1 min'; the two largest units, since nobody plans by the second for an hour."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
