"""What stands in the cells of the page's tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from branchfit.units import GIB, MIB

from .cases import Record
from .table import Summary

CASE_HEAD = ("runtime", "model", "branch", "context", "cache")


def prose(text: str, **values: object) -> str:
    """A paragraph on one line."""
    return " ".join(text.split()).format(**values)


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def folded(words: str, table: str) -> str:
    """A table that opens at a click."""
    return f"<details><summary>{words}</summary>\n\n{table}\n\n</details>"


def named(record: Record) -> list[str]:
    """The first cells of a case's row. The runtime's switches stand behind its name."""
    runtime = " ".join([str(record["runtime"]), *(record.get("switches") or ())])
    return [runtime, record["shape"], f"`{record['branch']}`", f"{record['context']}", record["cache"]]


def size(amount_bytes: float) -> str:
    return f"{amount_bytes / GIB:.2f}"


def off(error_bytes: float) -> str:
    return f"{error_bytes / MIB:+.0f}"


def of(count: int, cases: int) -> str:
    """In bold where it is not all of them."""
    return f"{count} of {cases}" if count == cases else f"**{count} of {cases}**"


def summary_cells(found: Summary) -> list[str]:
    """Cases, median, 95 %, worst, in target, covered."""
    pairs = (
        (found.median_bytes, found.median_share),
        (found.most_bytes, found.most_share),
        (found.worst_bytes, found.worst_share),
    )
    counts = [of(found.in_target, found.cases), of(found.covered, found.cases)]
    return [str(found.cases), *(f"{amount / MIB:.0f} MiB, {share:.1%}" for amount, share in pairs), *counts]
