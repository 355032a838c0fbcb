"""Branch x cache type x the longest context that fits: the grid of `branchfit fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ..gpus import Gpu, Machine
from ..loaders import Availability
from ..memory import CONTEXT_STEP, Need, Terms, cache_types, fits, place
from ..memory.correcting import Correction, Corrections, corrected
from ..memory.longest import longest_of
from ..units import gib
from ..variants import Variant, VariantList
from .answer import Assessment
from .assess import assess, each_runtime, furthest
from .choose import lessons, planned_context, remarks
from .words import margin_only, need_words

LimitedBy = Literal["model", "memory", "search"]
"""What ends a context: the model's own, memory, or the search, where the model's own is unknown or less than asked."""


@dataclass(frozen=True)
class Cell:
    """One branch on one runtime with one cache type: fp16, q8, q6 or q4, and fp32 on the CPU.

    `longest_tokens` is the longest context that fits, 0 where none does. `need` is at `need_tokens`: that context, or
    for 0 the shortest that was tried. `headroom_bytes` is what the tightest card has left then, the error counted as
    taken, negative by how much it is short.
    """

    cache: str
    longest_tokens: int
    limited_by: LimitedBy
    need_tokens: int
    need: Need
    headroom_bytes: int


@dataclass(frozen=True)
class Row:
    """One branch on one runtime, a cell for each of its cache types.

    `loader` and `runtime` None: nothing here loads it. No cells: nothing can be said. `why` has the words for either,
    and for the first cell that fits its numbers. `own_tokens` is the model's own context, None if unknown;
    `limit_tokens` how far was looked. `correction` is what this machine's own loads added to each need, None where
    they add nothing.
    """

    variant: Variant
    loader: str | None
    runtime: str | None
    own_tokens: int | None
    limit_tokens: int
    cells: tuple[Cell, ...]
    why: str
    correction: Correction | None = None

    def cell(self, cache: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.cache == cache), None)


@dataclass(frozen=True)
class Grid:
    """The rows in the order of the repo's branches. `context_tokens` is what was asked for, None if nothing was."""

    repo: str
    commit: str | None
    context_tokens: int | None
    machine: Machine
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def caches(self) -> tuple[str, ...]:
        """Every cache type that a row has, the most exact first; fp16 alone where none has any."""
        # The row with the most names them in their order.
        widest = sorted(self.rows, key=lambda row: -len(row.cells))
        return tuple(dict.fromkeys(cell.cache for row in widest for cell in row.cells)) or ("fp16",)

    @property
    def fits(self) -> bool:
        """Whether anything fits, at any context."""
        return any(cell.longest_tokens for row in self.rows for cell in row.cells)

    @property
    def nearest(self) -> Row | None:
        """The row that is least short where nothing fits; None where nothing can be loaded."""
        return max((row for row in self.rows if row.cells), key=_best, default=None)


def context_grid(
    listed: VariantList,
    machine: Machine,
    available: Availability,
    *,
    context_tokens: int | None = None,
    branch: str | None = None,
    all_runtimes: bool = False,
    corrections: Corrections | None = None,
) -> Grid:
    """The longest context of every branch (or of `branch`) with every cache type of its runtime.

    The runtime is the one `recommend` would take at `context_tokens`, or at the smaller of the model's own and 4096;
    where that does not fit on any, the one with the longest context. With `all_runtimes` each that loads the branch
    has a row. Contexts are looked for up to the model's own, or `context_tokens` if that is more. `corrections` are
    what loads on this machine have taught, as for `recommend`.
    """
    gpus = machine.gpus or (machine.cpu,)
    planned = planned_context(listed, context_tokens)
    rows: list[Row] = []
    for variant in listed.variants:
        if branch is not None and variant.branch != branch:
            continue
        rows += _rows(variant, gpus, available, planned, context_tokens, all_runtimes, corrections)
    notes = [*remarks(listed, machine, available, planned), *lessons([(row.runtime, row.correction) for row in rows])]
    return Grid(listed.repo, listed.commit, context_tokens, machine, tuple(rows), tuple(dict.fromkeys(notes)))


def _rows(
    variant: Variant,
    gpus: Sequence[Gpu],
    available: Availability,
    planned: int,
    asked: int | None,
    all_runtimes: bool,
    corrections: Corrections | None,
) -> list[Row]:
    found = assess(variant, gpus, available, planned, corrections)
    if found.runtime is None or (found.fits and not all_runtimes):
        return [_row(found, asked)]
    rows = [_row(one, asked) for one in each_runtime(variant, gpus, available, planned, corrections)]
    return rows if all_runtimes else [max(rows, key=_best)]


def _best(row: Row) -> tuple[int, int]:
    """Sorts rows by the best of their cells: the longest context, then the least short."""
    return max(((cell.longest_tokens, cell.headroom_bytes) for cell in row.cells), default=(0, -(2**62)))


def _row(found: Assessment, asked: int | None) -> Row:
    variant, runtime, free, learned = found.variant, found.runtime, found.free_bytes, found.correction
    own = variant.shape.max_context_tokens if variant.shape else None
    limit = furthest(variant, asked or 0)
    cells: list[Cell | None] = []
    if runtime is not None:

        def made(cache: str, tokens: int) -> Terms | None:
            formula = found.told.terms(variant, runtime, tokens, cache)
            return None if formula is None else corrected(formula, learned)

        for cache in cache_types(runtime):
            # transformers runs in fp32 on the CPU, its cache with it.
            name = "fp32" if found.told.cpu and cache == "fp16" else cache
            cells.append(_cell(name, partial(made, cache), free, limit, own, asked))
    known = tuple(cell for cell in cells if cell is not None)
    why = _words(runtime or "", known, free, learned) if known else found.detail
    return Row(variant, found.loader, runtime, own, limit, known, why, learned)


def _cell(
    cache: str,
    made: Callable[[int], Terms | None],
    free: tuple[int, ...],
    limit: int,
    own: int | None,
    asked: int | None,
) -> Cell | None:
    """None where the terms are unknown."""

    def laid_out(tokens: int) -> Need | None:
        terms = made(tokens)
        return None if terms is None else place(terms, free)

    longest = longest_of(made, free, limit)
    if asked is not None and longest < asked < longest + CONTEXT_STEP:
        # The search goes by steps; what was asked lies between two.
        between = laid_out(asked)
        longest = asked if between is not None and fits(between, free) else longest
    at = longest or min(CONTEXT_STEP, limit)
    need = laid_out(at)
    if need is None:
        return None
    ended: LimitedBy = "memory" if longest < limit else "model" if limit == own else "search"
    return Cell(cache, longest, ended, at, need, need.headroom_bytes(free))


def _words(runtime: str, cells: Sequence[Cell], free: tuple[int, ...], learned: Correction | None) -> str:
    """The numbers of the first cell that fits; where none does, of the one that is least short."""
    first = next((cell for cell in cells if cell.longest_tokens), None)
    shown = first or max(cells, key=lambda cell: cell.headroom_bytes)
    cache = f" and {'an' if shown.cache.startswith('f') else 'a'} {shown.cache} cache" if len(cells) > 1 else ""
    numbers = f"with {runtime}{cache} it {need_words(shown.need, shown.need_tokens, learned)}"
    if first is None:
        missing = margin_only(shown.need, free) or f"short by {gib(-shown.headroom_bytes)}"
        return f"does not fit: {numbers}, {missing}"
    return f"{numbers}, {gib(shown.headroom_bytes)} to spare"
