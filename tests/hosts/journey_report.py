"""The verdicts of a journey: a row for everything that was looked at, and what was seen there."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

YES, NO, NOT_HERE = "yes", "NO", "not here"
"""`not here`: this host cannot do it, and the row says why; whoever reads decides whether that is right."""

MOST_SEEN = 200
"""Characters of what was seen that a table's cell takes: the sentences meant for people are shorter."""


def _say(line: str) -> None:
    print(line, flush=True)


@dataclass(frozen=True)
class Row:
    step: str
    what: str
    word: str
    seen: str


@dataclass
class Report:
    """One host's journey. `say` is told each row as it comes."""

    host: str
    say: Callable[[str], None] = _say
    at_failure: Callable[[str], None] = lambda name: None
    rows: list[Row] = field(default_factory=list)
    work: str = ""
    """The folder of this run, which goes at its end: told as `...`."""
    facts: dict[str, Any] = field(default_factory=dict)
    _step: str = ""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What happens inside belongs to the step; an exception ends the step, not the journey."""
        self._step = name
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever a page or a host does: it is a verdict, and the next step has its own
            traceback.print_exc()
            self.at_failure(name)
            self.add("the step could be made to its end", NO, f"{type(error).__name__}: {error}")

    def add(self, what: str, word: str, seen: object = "") -> None:
        row = Row(self._step, what, word, str(seen).replace(self.work, "...") if self.work else str(seen))
        self.rows.append(row)
        self.say(f"{self.host} | {row.step} | {row.what} | {row.word} | {row.seen[:MOST_SEEN]}")

    def check(self, what: str, holds: object, seen: object = "") -> bool:
        """A row that is yes where `holds`."""
        self.add(what, YES if holds else NO, seen)
        return bool(holds)

    @property
    def holds(self) -> bool:
        return bool(self.rows) and all(row.word != NO for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        return {"host": self.host, "holds": self.holds, "facts": self.facts, "rows": [asdict(row) for row in self.rows]}


def cell(text: str) -> str:
    """Text for a Markdown table: one line, nothing that ends the cell, not too long."""
    line = re.sub(r"\s+", " ", text).strip().replace("|", "\\|")
    return line if len(line) <= MOST_SEEN else line[: MOST_SEEN - 1] + "…"


def table(report: Report) -> str:
    lines = ["| step | what was looked at | | what was seen |", "|---|---|---|---|"]
    last = ""
    for row in report.rows:
        step = row.step if row.step != last else ""
        last = row.step
        lines.append(f"| {cell(step)} | {cell(row.what)} | {row.word} | {cell(row.seen)} |")
    return "\n".join(lines)


def summary(reports: Sequence[Report]) -> str:
    """A row a step, a column a host: how many of what was looked at were right."""
    steps = list(dict.fromkeys(row.step for report in reports for row in report.rows))
    lines = [f"| step | {' | '.join(report.host for report in reports)} |", "|---|" + "---|" * len(reports)]
    for step in steps:
        cells = [_counted([row.word for row in report.rows if row.step == step]) for report in reports]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _counted(words: Sequence[str]) -> str:
    if not words:
        return "-"
    here = [word for word in words if word != NOT_HERE]
    wrong = here.count(NO)
    text = f"{NO}: {wrong} of {len(here)}" if wrong else f"yes ({len(here)})" if here else ""
    away = len(words) - len(here)
    return ", ".join(filter(None, [text, f"{away} not here" if away else ""]))
