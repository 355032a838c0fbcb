"""Text for people: tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from ..gpus import Machine, headline, shares
from ..recommend import Assessment, Grid, Recommendation, Row
from ..units import error_text, gb, gib
from ..variants import Disagreement, Variant, VariantList

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..download import Installed
    from ..download.usage.usage import CachedRepo
    from ..installed import FolderUse

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 and C1 controls and the marks that reorder text."""

Justify = Literal["left", "right"]

PLAIN_WIDTH = 150
"""Columns where the output is no terminal: wide enough that no table of ours wraps."""


def console(stderr: bool = False) -> Console:
    """A rich console: colours only on a terminal (and not with NO_COLOR), full width elsewhere."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    # On a terminal rich asks for the width at each drawing: windows get resized.
    width = None if terminal else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, no_color=None if terminal else True, emoji=False)


def yes(value: bool | None) -> str:
    return "?" if value is None else "yes" if value else "no"


def _bits(variant: Variant) -> str:
    return "?" if variant.bits is None else f"{variant.bits:g}"


def _group(variant: Variant) -> str:
    return "-" if variant.group_size is None else str(variant.group_size)


def variants_table(listed: VariantList) -> None:
    out = console()
    columns: list[tuple[str, Justify, Callable[[Variant], str]]] = [
        ("branch", "left", lambda v: v.branch),
        ("bits", "right", _bits),
        ("group", "right", _group),
        ("act order", "left", lambda v: yes(v.act_order)),
        ("damp", "right", lambda v: "" if v.damp_percent is None else f"{v.damp_percent:g}"),
        ("dataset", "left", lambda v: v.dataset or ""),
        ("seq len", "right", lambda v: str(v.sequence_length or "")),
        ("size", "right", lambda v: gb(v.size_bytes) if v.holds_weights else v.problem),
        ("size from", "left", lambda v: v.size_source or ""),
        ("ExLlama", "left", lambda v: yes(v.exllama)),
    ]
    for least_width, title in ((110, "dataset"), (95, "damp"), (90, "size from"), (82, "seq len")):
        if out.width < least_width:
            columns = [column for column in columns if column[0] != title]
    if listed.repo:
        out.print(listed.repo, markup=False, style="bold")
    rows = [[text(variant) for _, _, text in columns] for variant in listed.variants]
    out.print(_table([(title, justify) for title, justify, _ in columns], rows))


def recommendation(answer: Recommendation) -> None:
    """The answer first, then the facts it rests on, then a word on every branch."""
    out = console()
    out.print(f"{'-> ' if answer.choice else ''}{answer.reason}\n", markup=False, style="bold")
    devices(answer.machine, out)
    chosen = answer.choice.branch if answer.choice else None
    columns = _columns(answer, out.width)
    rows = [[text(a, a.variant.branch == chosen) for _, _, text in columns] for a in answer.assessments]
    if rows:
        out.print(_table([(title, justify) for title, justify, _ in columns], rows))
    for assessment in answer.assessments:
        words = assessment.verdict if assessment.need else assessment.why
        out.print(f"{assessment.variant.branch}: {words}", markup=False)


def devices(machine: Machine, out: Console) -> None:
    """A line for each GPU, or for the memory that stands in for one: what is free, and who holds the rest."""
    for gpu in machine.gpus or (machine.cpu,):
        out.print(headline(gpu), markup=False)
        for line in shares(gpu) if gpu.kind != "cpu" else ():
            out.print(f"  {line}", markup=False)


def _columns(answer: Recommendation, width: int) -> list[tuple[str, Justify, Callable[[Assessment, bool], str]]]:
    """The columns of the table; on a narrow terminal those that the branch's name tells too are left out."""
    columns: list[tuple[str, Justify, Callable[[Assessment, bool], str]]] = [
        ("", "left", lambda a, chosen: "->" if chosen else ""),
        ("branch", "left", lambda a, _: a.variant.branch),
        ("bits", "right", lambda a, _: _bits(a.variant)),
        ("group", "right", lambda a, _: _group(a.variant)),
        ("act order", "left", lambda a, _: yes(a.variant.act_order)),
        ("download", "right", lambda a, _: gb(a.variant.size_bytes)),
        ("needs", "right", lambda a, _: gib(a.need.total_bytes) if a.need else "-"),
        ("error", "right", lambda a, _: error_text(a.need.error_bytes) if a.need else "-"),
        ("to spare", "right", lambda a, _: _spare(a.headroom_bytes)),
        ("context", "right", lambda a, _: str(a.max_context_tokens or "-")),
        ("loader", "left", lambda a, _: a.loader or "-"),
        ("runtime", "left", lambda a, _: a.runtime or "-"),
    ]
    for least_width, title in ((125, "act order"), (115, "runtime"), (98, "group"), (92, "bits"), (86, "error")):
        if width < least_width:
            columns = [column for column in columns if column[0] != title]
    return columns


def context_grid(grid: Grid) -> None:
    """The grid of `branchfit fit`, and beneath it the numbers behind each branch's first cell."""
    out = console()
    out.print(_how_far(grid), markup=False, style="bold")
    devices(grid.machine, out)
    out.print()
    columns = [["branch", *(row.variant.branch for row in grid.rows)]]
    columns += [_cache_column(grid, cache) for cache in grid.caches]
    runtimes = [row.runtime or "-" for row in grid.rows]
    if sum(max(map(len, column)) + 2 for column in columns) + max(map(len, ["runtime", *runtimes])) <= out.width:
        out.print(_lines([*columns, ["runtime", *runtimes]]))
    else:
        for runtime in dict.fromkeys(runtimes):
            own = [0, *(place for place, name in enumerate(runtimes, 1) if name == runtime)]
            parts = [[column[place] for place in own] for column in columns]
            out.print(f"runtime {runtime}", markup=False)
            out.print(_lines([part for part in parts if any(cell.strip() for cell in part[1:])]))
    if grid.context_tokens is not None:
        marked = any("*" in cell for column in columns[1:] for cell in column)
        out.print(f"{'*' if marked else 'none'} has room for {grid.context_tokens} tokens", markup=False)
    out.print()
    for row in grid.rows:
        out.print(f"{row.variant.branch}: {row.why}", markup=False)


def _how_far(grid: Grid) -> str:
    """What the numbers of the grid are, and how far was looked."""
    rows = [row for row in grid.rows if row.cells]
    own, limits = {row.own_tokens for row in rows}, {row.limit_tokens for row in rows}
    what = "The longest context that fits, in tokens"
    if len(own) != 1 or len(limits) != 1:
        return f"{what}, by each branch's own limit" if rows else f"{what}: nothing here loads any branch"
    (most,), (limit,) = own, limits
    if most is None:
        return f"{what}; the model's own is unknown: looked for up to {limit}"
    return f"{what}; the model's own is {most}" + (f", looked for up to {limit}" if limit > most else "")


def _cache_column(grid: Grid, cache: str) -> list[str]:
    """The title and a cell for each row, digits under digits; `*` behind those with room for what was asked."""
    alike = len({row.limit_tokens for row in grid.rows if row.cells}) <= 1
    column = [cache, *(_context(row, cache, alike) for row in grid.rows)]
    width = max(map(len, column))
    asked, cells = grid.context_tokens, [row.cell(cache) for row in grid.rows]
    reached = [cell is not None and asked is not None and cell.longest_tokens >= asked for cell in cells]
    return [f"{text:>{width}}{'*' if marked else ''}" for text, marked in zip(column, [False, *reached], strict=True)]


def _context(row: Row, cache: str, alike: bool) -> str:
    """A cell: empty for a cache type that this runtime does not have, `-` where nothing fits."""
    cell = row.cell(cache)
    if cell is None:
        return "" if row.cells else "-"
    limited = not alike and 0 < cell.longest_tokens < row.limit_tokens
    return f"{cell.longest_tokens or '-'}{f' of {row.limit_tokens}' if limited else ''}"


def _lines(columns: Sequence[Sequence[str]]) -> Table:
    """A table of columns whose cells stand where they should: rich would cut the blanks behind a number."""
    return _table([(column[0], "left") for column in columns], [*zip(*(column[1:] for column in columns), strict=True)])


def _spare(headroom_bytes: int | None) -> str:
    if headroom_bytes is None:
        return "-"
    return gib(headroom_bytes) if headroom_bytes >= 0 else f"-{gib(-headroom_bytes)}"


def _table(columns: Sequence[tuple[str, Justify]], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title, justify in columns:
        # A branch's name broken over lines cannot be read, nor copied.
        table.add_column(title, justify=justify, no_wrap=title in ("branch", "name"), overflow="fold")
    for row in rows:
        # Text, not str: a card's words are never markup, and never move the terminal's cursor.
        table.add_row(*(Text(_CONTROL.sub("", cell)) for cell in row))
    return table


def disagreements(found: Sequence[Disagreement]) -> None:
    """What the card says differently from the branches themselves."""
    out = console()
    for difference in found:
        size = difference.field == "size_bytes"
        card, actual = (
            gb(value) if size and isinstance(value, int) else value for value in (difference.card, difference.actual)
        )
        where = f"{difference.branch}: " if difference.branch else ""
        out.print(f"disagreement: {where}{difference.field}: the card says {card}, in truth {actual}", markup=False)


def notes(lines: tuple[str, ...]) -> None:
    """Side remarks go to stderr, so that stdout stays the answer."""
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


def models_table(models: Sequence[Installed]) -> None:
    rows = [
        [
            model.folder.name,
            gb(model.size_bytes),
            str((model.template or {}).get("name") or "-"),
            model.loader or "-",
            f"{model.pulled_at:%Y-%m-%d}",
            f"{model.verified_at:%Y-%m-%d}" if model.verified_at is not None else "-",
        ]
        for model in models
    ]
    columns: list[tuple[str, Justify]] = [("name", "left"), ("size", "right")]
    columns += [("template", "left"), ("loader", "left"), ("pulled", "left"), ("verified", "left")]
    console().print(_table(columns, rows))


def folders_table(folders: Sequence[FolderUse]) -> None:
    rows = [
        [
            use.name,
            gb(use.size_bytes),
            gb(use.shared_bytes) if use.shared_bytes else "-",
            ", ".join(use.shared_with) or "-",
            f"{len(use.extra)}, {gb(sum(file.size_bytes for file in use.extra))}" if use.extra else "-",
        ]
        for use in folders
    ]
    columns: list[tuple[str, Justify]] = [("name", "left"), ("size", "right"), ("of it shared", "right")]
    columns += [("with", "left"), ("not the author's", "right")]
    console().print(_table(columns, rows))


def cached_repos_table(repos: Sequence[CachedRepo]) -> None:
    rows = [
        [repo.repo, repo.kind, gb(repo.size_bytes), str(repo.revisions) if repo.problem is None else "cannot be read"]
        for repo in repos
    ]
    columns: list[tuple[str, Justify]] = [("name", "left"), ("kind", "left"), ("size", "right"), ("commits", "right")]
    console().print(_table(columns, rows))
