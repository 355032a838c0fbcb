"""Text for people: tables and sizes. The only place where bytes become GB or GiB."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..recommend import Assessment, Recommendation
from ..variants import Variant, VariantList

if TYPE_CHECKING:
    from rich.console import Console

    from ..download import Installed

GB = 10**9
GIB = 2**30
MIB = 2**20

PLAIN_WIDTH = 150
"""Columns where the output is no terminal: wide enough that no table of ours wraps."""


def console(stderr: bool = False) -> Console:
    """A rich console: colours only on a terminal (and not with NO_COLOR), full width elsewhere."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    width = shutil.get_terminal_size().columns if terminal else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, no_color=None if terminal else True, soft_wrap=False)


def gb(size_bytes: int | None) -> str:
    """Download and file sizes, as the Hub and the cards print them: decimal."""
    if size_bytes is None:
        return "?"
    for unit, name in ((GB, "GB"), (10**6, "MB"), (1000, "kB")):
        # Half a gigabyte is still told in GB, as the cards do; below that, the smaller unit reads better.
        if size_bytes >= unit // 2:
            return f"{size_bytes / unit:.2f} {name}"
    return f"{size_bytes} B"


def gib(size_bytes: int | None) -> str:
    """Memory, as drivers print it: binary."""
    if size_bytes is None:
        return "?"
    return f"{size_bytes / GIB:.1f} GiB" if abs(size_bytes) >= GIB // 10 else f"{size_bytes / MIB:.0f} MiB"


def yes(value: bool | None) -> str:
    return "?" if value is None else "yes" if value else "no"


def _bits(variant: Variant) -> str:
    return "?" if variant.bits is None else f"{variant.bits:g}"


def _group(variant: Variant) -> str:
    return "-" if variant.group_size is None else str(variant.group_size)


def variants_table(listed: VariantList) -> None:
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False, title=listed.repo or None, title_justify="left")
    for column, justify in (
        ("branch", "left"),
        ("bits", "right"),
        ("group", "right"),
        ("act order", "left"),
        ("damp", "right"),
        ("dataset", "left"),
        ("seq len", "right"),
        ("size", "right"),
        ("from", "left"),
        ("ExLlama", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for variant in listed.variants:
        table.add_row(
            variant.branch,
            _bits(variant) if variant.holds_weights else "",
            _group(variant) if variant.holds_weights else "",
            yes(variant.act_order),
            "" if variant.damp_percent is None else f"{variant.damp_percent:g}",
            variant.dataset or "",
            str(variant.sequence_length or ""),
            gb(variant.size_bytes) if variant.holds_weights else variant.problem,
            variant.size_source or "",
            yes(variant.exllama),
        )
    out.print(table)


def recommendation_table(answer: Recommendation) -> None:
    from rich.table import Table

    out = console()
    for gpu in answer.machine.gpus or (answer.machine.cpu,):
        held = "; ".join(f"{gib(h.used_bytes)} held by pid {h.pid}, {h.name}" for h in gpu.holders)
        out.print(
            f"GPU {gpu.index}: {gpu.name}, {gib(gpu.free_bytes)} free of {gib(gpu.total_bytes)}"
            if gpu.kind != "cpu"
            else f"No GPU: {gib(gpu.free_bytes)} of system memory free",
            f"({held})" if held else "",
            markup=False,
        )
    table = Table(box=None, pad_edge=False)
    for column, justify in (
        ("", "left"),
        ("branch", "left"),
        ("bits", "right"),
        ("group", "right"),
        ("act order", "left"),
        ("download", "right"),
        ("needs", "right"),
        ("+-", "right"),
        ("to spare", "right"),
        ("longest context", "right"),
        ("loader", "left"),
        ("runtime", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    chosen = answer.choice.branch if answer.choice else None
    for assessment in answer.assessments:
        table.add_row(*_row(assessment, assessment.variant.branch == chosen))
    out.print(table)
    if answer.choice:
        out.print(f"\n-> {answer.reason}", markup=False, style="bold")
    else:
        out.print(f"\n{answer.reason}", markup=False, style="bold")


def _row(assessment: Assessment, chosen: bool) -> tuple[str, ...]:
    variant, need = assessment.variant, assessment.need
    room = assessment.headroom_bytes
    return (
        "->" if chosen else "",
        variant.branch,
        _bits(variant),
        _group(variant),
        yes(variant.act_order),
        gb(variant.size_bytes),
        gib(need.total_bytes) if need else "-",
        gib(need.error_bytes) if need else "-",
        "-" if room is None else gib(room) if room >= 0 else f"short by {gib(-room)}",
        str(assessment.max_context_tokens or "-"),
        assessment.loader or "-",
        assessment.runtime or "-",
    )


def notes(lines: tuple[str, ...]) -> None:
    """Side remarks go to stderr, so that stdout stays the answer."""
    for line in lines:
        print(f"note: {line}", file=sys.stderr)


def models_table(models: Sequence[Installed]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("name", "size", "branch", "template", "loader", "pulled"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for model in models:
        table.add_row(
            model.folder.name,
            gb(model.size_bytes),
            model.branch,
            str((model.template or {}).get("name") or "-"),
            model.loader or "-",
            f"{model.pulled_at:%Y-%m-%d}",
        )
    console().print(table)
