"""What torch's caching allocator takes for tensors that stay: more than their bytes, by its rules on blocks.

Source: c10/cuda/CUDACachingAllocator.cpp of torch 2.1 to 2.11 (kMinBlockSize, kSmallSize, kSmallBuffer,
kMinLargeAlloc, kLargeBuffer, kRoundLarge, get_allocation_size, should_split; a free block is taken best fit). A model
that is loaded tensor by tensor leaves gaps that no later tensor fits: measured, 258 MiB of 5.0 GiB at 7B in ExLlamaV2.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .parts import MIB

BLOCK = 512
SMALL, SMALL_SEGMENT = MIB, 2 * MIB
"""Tensors up to the first share segments of the second."""

LARGE_SEGMENT, OWN_SEGMENT = 20 * MIB, 10 * MIB
"""Larger ones below the second share segments of the first; from there on each has one of its own."""

ROUND = 2 * MIB
"""A segment of one's own is rounded up to this."""


@dataclass
class Allocator:
    """Segments as they fill; nothing is ever freed. `allocated` counts a block whole, as torch's own figure does."""

    reserved: int = 0
    allocated: int = 0
    _gaps: list[int] = field(default_factory=list)
    _small_left: int = 0

    def take(self, size_bytes: int, count: int = 1) -> None:
        """As many tensors of that size."""
        size = -(-size_bytes // BLOCK) * BLOCK
        if size <= SMALL:
            self._take_small(size * count)
            return
        for _ in range(count):
            self._take_large(size)

    def _take_small(self, size: int) -> None:
        # A 2 MiB segment holds many: what is lost between them is less than what is left of the last.
        self.allocated += size
        segments = max(0, -(-(size - self._small_left) // SMALL_SEGMENT))
        self.reserved += segments * SMALL_SEGMENT
        self._small_left += segments * SMALL_SEGMENT - size

    def _take_large(self, size: int) -> None:
        place = bisect_left(self._gaps, size)
        if place < len(self._gaps):
            block = self._gaps.pop(place)
        else:
            block = LARGE_SEGMENT if size < OWN_SEGMENT else -(-size // ROUND) * ROUND
            self.reserved += block
        if block - size > SMALL:
            insort(self._gaps, block - size)
            block = size
        self.allocated += block


@dataclass(frozen=True)
class Held:
    """What one layer's tensors come to, in bytes: allocated and reserved a layer, and its gaps by size and number."""

    allocated: float
    reserved: float
    gaps: Mapping[int, float]


LAYERS_TRIED = 6
"""Gaps of one layer are filled by the next ones': after two layers of the shapes that were tried it repeats itself
every layer or every other one, so that two layers' growth behind the second is the rest's."""


def of_layers(tensors: Iterable[int]) -> Held:
    """What a layer of many adds: `tensors` are its tensors' sizes in bytes, in the order in which they are loaded."""
    sizes = list(tensors)
    allocator = Allocator()
    seen = []
    for _ in range(LAYERS_TRIED):
        for size in sizes:
            allocator.take(size)
        seen.append((allocator.allocated, allocator.reserved, Counter(allocator._gaps)))
    (allocated, reserved, gaps), (last_allocated, last_reserved, last_gaps) = seen[1], seen[-1]
    layers = LAYERS_TRIED - 2
    more = {size: (last_gaps[size] - gaps[size]) / layers for size in last_gaps if last_gaps[size] > gaps[size]}
    return Held((last_allocated - allocated) / layers, (last_reserved - reserved) / layers, more)


def with_cache(held: Held, layers: int, blocks: Iterable[int]) -> tuple[int, int]:
    """Bytes reserved for `layers` of that and for a KV cache whose layers have tensors of `blocks` bytes each, which
    fill the gaps first: the weights' share, and what the cache adds."""
    gaps = {size: int(a_layer * layers) for size, a_layer in held.gaps.items()}
    added = 0
    for size, a_layer in sorted(Counter(-(-block // BLOCK) * BLOCK for block in blocks).items(), reverse=True):
        added += _filled(gaps, size, a_layer * layers)
    return int(held.reserved * layers), added


def _filled(gaps: dict[int, int], size: int, count: int) -> int:
    """What so many tensors of one size reserve anew; the gaps that they fill are gone.

    Never less than at `SMALL`, up to which tensors fill no gaps: a longer context is not said to need less, though just
    above it does, by up to 0.2 GiB.
    """
    if size <= SMALL:
        return -(-size * count // SMALL_SEGMENT) * SMALL_SEGMENT
    least = -(-SMALL * count // SMALL_SEGMENT) * SMALL_SEGMENT
    for gap in sorted(gaps):
        each = gap // size
        if each:
            used = min(gaps[gap], -(-count // each))
            gaps[gap] -= used
            count = max(0, count - used * each)
    if size < OWN_SEGMENT:
        return max(least, -(-count // (LARGE_SEGMENT // size)) * LARGE_SEGMENT)
    return max(least, count * (-(-size // ROUND) * ROUND))
