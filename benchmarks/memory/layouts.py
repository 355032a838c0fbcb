"""A measured load, allocation by allocation, by torch's rules; and the limits under which it comes to its end.

The load itself is one segment, which transformers allocates and frees (`caching_allocator_warmup`), carved up tensor by
tensor; then what the kernel allocates. marlin's is its order by source: repacked weights and scales replace the first
ones linear by linear, zeros go.

Which limits suffice has holes: one that is a few MiB larger may lead to another layout that fails. Limits are tried one
after another, beginning with what is allocated, until all of 128 MiB in a row suffice: every 8 MiB with expandable
segments; every 32 with default ones, which need more, and then between the last that failed and the next one, and
around the first that sufficed. Smaller holes, and ones behind those 128 MiB, may be missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from branchfit.memory import terms
from branchfit.memory.transformers import CUBLAS_BYTES, MARLIN_SMS
from branchfit.shape import checkpoint_tensors
from branchfit.units import MIB

from .cases import RECIPES, SHAPES, Record, expandable, variant_of
from .segments import NO_LIMIT, Allocator, Expandable, OutOfMemory

if TYPE_CHECKING:
    from .tracing import Event

MAX_SPLIT_BYTES = 256 * MIB
"""gptqmodel 7.6.0 asks for it with the expandable segments (models/auto.py, max_split_size_mb)."""

STEP_BYTES, TOLERANCE_BYTES, IN_A_ROW_BYTES = 32 * MIB, 8 * MIB, 128 * MIB
"""How limits are tried, as said above; the tolerance is the step with expandable segments."""

MOST_TRIED_BYTES = 8 * 2**30
"""Above what is allocated: more than was ever reserved beyond that with default segments."""


@dataclass(frozen=True)
class Load:
    """What decides a layout. The two kernels that dequantise allocate alike.

    `segments` are "default"; "gptqmodel", expandable ones as it asks for them; or "alone", without its other settings.
    """

    kernel: str
    shape: str
    branch: str
    segments: str

    @classmethod
    def of(cls, record: Record) -> Load:
        kernel = record["runtime"].partition(":")[2]
        segments = (
            "default"
            if not expandable(record)
            else "alone"
            if {"expandable", "late"} & set(record["switches"])
            else "gptqmodel"
        )
        return cls("triton" if kernel == "torch" else kernel, record["shape"], record["branch"], segments)

    def allocator(self, limit_bytes: int = NO_LIMIT) -> Allocator:
        if self.segments == "default":
            return Allocator(limit_bytes)
        return Expandable(limit_bytes, MAX_SPLIT_BYTES if self.segments == "gptqmodel" else NO_LIMIT)

    def load(self, allocator: Allocator) -> None:
        """As the measurement does: one small tensor, transformers' warm-up, the tensors, the kernel's own, and what is
        free goes back (gptqmodel_post_init ends with empty_cache). Raises OutOfMemory."""
        recipe = RECIPES[self.branch]
        tensors = {
            t.name: t.size_bytes for t in checkpoint_tensors(SHAPES[self.shape], recipe.bits, recipe.group_size, False)
        }
        allocator.take("first", 1)
        allocator.give("first")
        allocator.take("warm-up", sum(tensors.values()) - allocator.reserved)
        allocator.give("warm-up")
        for name, size_bytes in tensors.items():
            allocator.take(name, size_bytes)
        reordered = recipe.act_order and recipe.group_size is not None
        if self.kernel == "exllama_v2":
            made = terms(variant_of({"shape": self.shape, "branch": self.branch}), "gptqmodel:exllama_v2", 1)
            assert made is not None
            allocator.take("scratch", made.fixed_bytes - CUBLAS_BYTES)
            for name in [name for name in tensors if name.endswith(".g_idx") and reordered]:
                allocator.take(f"{name}, permutation", tensors[name])
        if self.kernel == "marlin":
            for name in [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]:
                _repack(allocator, name, tensors, reordered)
        allocator.release()


def _repack(allocator: Allocator, linear: str, tensors: dict[str, int], reordered: bool) -> None:
    """MarlinLinear.post_init (gptqmodel 7.6.0, nn_modules/qlinear/marlin.py)."""
    allocator.take(f"{linear}, workspace", 4 * max(MARLIN_SMS, 128))
    if reordered:
        for name in ("indices", "sorted"):
            allocator.take(f"{linear}, {name}", tensors[f"{linear}.g_idx"])
    allocator.give(f"{linear}.g_idx")
    for name in ("qweight", "scales"):
        allocator.take(f"{linear}.{name}, repacked", tensors[f"{linear}.{name}"])
        allocator.give(f"{linear}.{name}")
    allocator.give(f"{linear}.qzeros")


@cache
def events(shape: str, kernel: str, context_tokens: int, new_tokens: int) -> Sequence[Event]:
    """The trace of a prompt, which takes seconds, once for all branches; it stays in memory."""
    from .tracing import traced

    return traced(SHAPES[shape], kernel, context_tokens, new_tokens, CUBLAS_BYTES)


def read(allocator: Allocator, trace: Iterable[Event], kept: set[int | str]) -> int:
    """The trace's allocations; the most that was reserved in it, in bytes. Raises OutOfMemory.

    All is given back behind it, but what has a name of its own: the process's first prompt takes that, and it is in
    `kept` from then on.
    """
    left: set[int | str] = set()
    allocator.peak_reserved = allocator.reserved
    for kind, name, size_bytes in trace:
        if kind == "take" and name not in kept:
            allocator.take(name, size_bytes)
            (kept if isinstance(name, str) else left).add(name)
        elif kind == "give":
            allocator.give(name)
            left.remove(name)
    for name in left:
        allocator.give(name)
    return allocator.peak_reserved


def runs(load: Load, context_tokens: int, new_tokens: int, limit_bytes: int) -> bool:
    """Whether it comes to its end under that limit, in a process of its own."""
    allocator = load.allocator(limit_bytes)
    try:
        load.load(allocator)
        read(allocator, events(load.shape, load.kernel, context_tokens, new_tokens), set())
    except OutOfMemory:
        return False
    return True


@cache
def needs(load: Load, context_tokens: int, new_tokens: int) -> tuple[int, int, int]:
    """Allocated at the most; the first limit that sufficed and the one from which on all did, as bytes above it."""
    allocator = load.allocator()
    load.load(allocator)
    read(allocator, events(load.shape, load.kernel, context_tokens, new_tokens), set())
    peak = allocator.peak_allocated

    def enough(above_bytes: int) -> bool:
        return runs(load, context_tokens, new_tokens, peak + above_bytes)

    step = STEP_BYTES if load.segments == "default" else TOLERANCE_BYTES
    in_a_row = IN_A_ROW_BYTES // step
    tried: list[bool] = []
    while tried[-in_a_row:] != [True] * in_a_row:
        tried.append(enough(len(tried) * step))
        if len(tried) * step > MOST_TRIED_BYTES:
            raise RuntimeError(f"{load} at {context_tokens} tokens: no limit suffices")
    first, last = tried.index(True), len(tried) - in_a_row
    return peak, between(enough, first * step, step), between(enough, last * step, step)


def between(enough: Callable[[int], bool], high: int, step: int) -> int:
    """The least that suffices, of the step below `high`, which does; bytes, within the tolerance."""
    low = high - step
    while high and high - low > TOLERANCE_BYTES:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
