"""torch's caching allocator under a limit, allocation by allocation: its default segments, and expandable ones.

Source of every rule: c10/cuda/CUDACachingAllocator.cpp, read at commit 001074d25084 of pytorch/pytorch; each names its
function. One stream, one card. What is missing: sizes rounded by powers of two, private pools, the collection of old
segments above a threshold and `release_available_cached_blocks`. The last two leave expandable segments alone
(c10/core/CachingDeviceAllocator.h), and default ones where nobody asks for them. With expandable segments
`max_split_bytes` decides which free blocks are taken, not which are split.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable
from dataclasses import dataclass, field

from branchfit.memory.allocator import BLOCK, LARGE_SEGMENT, OWN_SEGMENT, ROUND, SMALL, SMALL_SEGMENT

ADDRESSES = 2**50
"""Bytes between two expandable segments' addresses: more than any of them grows to (torch reserves 1 1/8 of the
card)."""

ARENA_BYTES = (28 * 2**20, 340 * 2**20)
"""Two stretches of addresses that CUDA has left of what it reserves at its start, once transformers' and gptqmodel's
kernels lie there: driver 580.159.04, torch 2.11, read off segments that were recorded on an H100."""

CHUNK_BYTES = 32 * 2**20
"""What does not fit there gets addresses of its own, each time below all others, in multiples of this (as above)."""

NO_LIMIT = 2**60
"""Bytes; also torch's `max_split_size` where nobody sets it."""


class OutOfMemory(Exception):
    """Nothing that can be given back makes room: `wanted` more bytes where `reserved` of `limit` are taken."""

    def __init__(self, wanted: int, reserved: int, limit: int) -> None:
        super().__init__(f"{wanted} bytes wanted, {reserved} of {limit} reserved")
        self.wanted, self.reserved, self.limit = wanted, reserved, limit


@dataclass(eq=False)
class Block:
    """A stretch of addresses in a segment, between its neighbours; bytes. Unmapped ones have no memory behind them."""

    at: int
    size: int
    free: bool = True
    mapped: bool = True
    before: Block | None = None
    after: Block | None = None

    def split(self, size: int) -> Block:
        """Cut to that size; the rest is a block of its own."""
        rest = Block(self.at + size, self.size - size, self.free, self.mapped, self, self.after)
        if self.after:
            self.after.before = rest
        self.after, self.size = rest, size
        return rest


@dataclass
class Blocks:
    """Free blocks of one kind, in the order in which they are looked through."""

    by_size: bool
    sorted: list[tuple[int, int, Block]] = field(default_factory=list)

    def _key(self, block: Block) -> tuple[int, int]:
        return (block.size if self.by_size else 0), block.at

    def add(self, block: Block) -> None:
        insort(self.sorted, (*self._key(block), block))

    def remove(self, block: Block) -> None:
        place = bisect_left(self.sorted, self._key(block), key=lambda one: one[:2])
        assert self.sorted.pop(place)[2] is block

    def fitting(self, size: int) -> int:
        """Where blocks of at least that size begin, in a list by size."""
        return bisect_left(self.sorted, size, key=lambda one: one[0])


@dataclass
class Pool:
    """Tensors of up to 1 MiB share one pool and larger ones the other (`get_pool`); `page` is what expandable segments
    grow by (`find_expandable_block`)."""

    small: bool
    page: int
    free: Blocks = field(default_factory=lambda: Blocks(by_size=True))
    unmapped: Blocks = field(default_factory=lambda: Blocks(by_size=False))

    def merge(self, block: Block) -> Block:
        """With free neighbours of the same kind (`try_merge_blocks`). The block itself is in no list."""
        kept = self.free if block.mapped else self.unmapped
        before, after = block.before, block.after
        if before and before.free and before.mapped == block.mapped:
            kept.remove(before)
            block.at, block.size, block.before = before.at, before.size + block.size, before.before
            if block.before:
                block.before.after = block
        if after and after.free and after.mapped == block.mapped:
            kept.remove(after)
            block.size, block.after = block.size + after.size, after.after
            if block.after:
                block.after.before = block
        return block


@dataclass
class Addresses:
    """Where cudaMalloc puts default segments, which decides between free blocks of one size. `holes` are (address,
    bytes), in their order; those of CUDA's start are above all chunks."""

    holes: list[tuple[int, int]] = field(
        default_factory=lambda: [((place + 1) * ADDRESSES, size) for place, size in enumerate(ARENA_BYTES)]
    )
    lowest: int = ADDRESSES // 2
    chunks: set[int] = field(default_factory=set)

    def take(self, size: int) -> int:
        """The lowest hole at CUDA's start that has room, else what is left of a chunk, else a new chunk."""
        fitting = [hole for hole in self.holes if hole[1] >= size]
        if fitting:
            at, room = next((hole for hole in fitting if hole[0] >= ADDRESSES), fitting[0])
            self.holes.remove((at, room))
        else:
            room = -(-size // CHUNK_BYTES) * CHUNK_BYTES
            at = self.lowest = self.lowest - room
            self.chunks.add(at)
        if room > size:
            insort(self.holes, (at + size, room - size))
        return at

    def give(self, at: int, size: int) -> None:
        """Together with free neighbours; chunks stay apart."""
        merged: list[tuple[int, int]] = []
        for one, room in sorted([*self.holes, (at, size)]):
            if merged and sum(merged[-1]) == one and one not in self.chunks:
                one, room = merged[-1][0], merged.pop()[1] + room
            merged.append((one, room))
        self.holes = merged


class Allocator:
    """Default segments. In bytes: `reserved` of the card, `allocated` in blocks, and the most of both so far."""

    def __init__(self, limit_bytes: int = NO_LIMIT) -> None:
        self.limit = limit_bytes
        self.reserved = self.allocated = self.peak_reserved = self.peak_allocated = 0
        self.small, self.large = Pool(True, SMALL_SEGMENT), Pool(False, LARGE_SEGMENT)
        self._blocks: dict[Hashable, tuple[Pool, Block]] = {}
        self._addresses = Addresses()

    def take(self, name: Hashable, size_bytes: int) -> None:
        """A tensor of that size, known by that name until it is given back.

        A free block that fits, else new memory, else that once more when all that is wholly free has gone back
        (`malloc`). Raises OutOfMemory.
        """
        size = max(BLOCK, -(-size_bytes // BLOCK) * BLOCK)  # round_size
        pool = self.small if size <= SMALL else self.large
        block = self._fitting(pool, size)
        if block is not None:
            pool.free.remove(block)
        else:
            block = self._new(pool, size)
            if block is None:
                self.release()
                block = self._new(pool, size)
            if block is None:
                raise OutOfMemory(size, self.reserved, self.limit)
        if self._splits(pool, block.size - size):
            pool.free.add(block.split(size))
        block.free = False
        self._blocks[name] = pool, block
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def give(self, name: Hashable) -> None:
        """That tensor is no more (`free_block`)."""
        pool, block = self._blocks.pop(name)
        self.allocated -= block.size
        block.free = True
        pool.free.add(pool.merge(block))

    def release(self) -> None:
        """Whole free segments go back to the card (`release_cached_blocks`; torch.cuda.empty_cache)."""
        for pool in (self.large, self.small):
            for _, _, block in list(pool.free.sorted):
                self._release(pool, block)

    def _fitting(self, pool: Pool, size: int) -> Block | None:
        """The smallest, of those the one at the lowest address (`get_free_block`)."""
        place = pool.free.fitting(size)
        return pool.free.sorted[place][2] if place < len(pool.free.sorted) else None

    def _splits(self, pool: Pool, rest: int) -> bool:
        return rest >= BLOCK if pool.small else rest > SMALL  # should_split

    def _segment_bytes(self, pool: Pool, size: int) -> int:
        """`get_allocation_size`."""
        if pool.small:
            return SMALL_SEGMENT
        return LARGE_SEGMENT if size < OWN_SEGMENT else -(-size // ROUND) * ROUND

    def _new(self, pool: Pool, size: int) -> Block | None:
        """A segment, in no list yet; None where the limit leaves no room for it (`alloc_block`)."""
        segment = self._segment_bytes(pool, size)
        if self.reserved + segment > self.limit:
            return None
        self._reserve(segment)
        return Block(self._addresses.take(segment), segment)

    def _release(self, pool: Pool, block: Block) -> None:
        if block.before is None and block.after is None:
            pool.free.remove(block)
            self._addresses.give(block.at, block.size)
            self._reserve(-block.size)

    def _reserve(self, more: int) -> None:
        self.reserved += more
        self.peak_reserved = max(self.peak_reserved, self.reserved)


class Expandable(Allocator):
    """Expandable segments: one a pool, which grows by pages; free pages go back from wherever they lie.

    The limit is torch's own (`set_per_process_memory_fraction`), which looks at a tensor's size before it maps whole
    pages. So what is reserved may be above it by less than a page.
    """

    def __init__(self, limit_bytes: int = NO_LIMIT, max_split_bytes: int = NO_LIMIT) -> None:
        super().__init__(limit_bytes)
        self.max_split = max_split_bytes
        self._segments = 0

    def _fitting(self, pool: Pool, size: int) -> Block | None:
        """The smallest, one that can grow counting as what it can grow to; a block of `max_split_bytes` or more is for
        tensors that are nearly as large alone (`get_free_block`)."""
        free, place = pool.free.sorted, pool.free.fitting(size)
        if place == len(free):
            return None
        while place + 1 < len(free) and _grown(free[place + 1][2]) < _grown(free[place][2]):
            place += 1
        block = free[place][2]
        if size < self.max_split <= block.size or (size >= self.max_split and block.size >= size + LARGE_SEGMENT):
            return None
        return block

    def _splits(self, pool: Pool, rest: int) -> bool:
        return rest >= BLOCK  # should_split

    def _new(self, pool: Pool, size: int) -> Block | None:
        """At the lowest address with room in free and unmapped blocks, which are mapped one after another
        (`try_allocate_expandable_block`)."""
        if self.reserved + self._segment_bytes(pool, size) > self.limit:
            return None
        block = self._with_room(pool, size)
        if not block.mapped:
            block = self._map(pool, block, size)
        while block.size < size:
            assert block.after is not None  # `_with_room` has looked
            block = self._map(pool, block.after, size - block.size)
        pool.free.remove(block)
        return block

    def _with_room(self, pool: Pool, size: int) -> Block:
        """The first block of such a stretch; of a new segment if there is none (`find_expandable_block`)."""
        for _, _, unmapped in pool.unmapped.sorted:
            first = unmapped.before if unmapped.before and unmapped.before.free else unmapped
            room, block = first.size, first.after
            while room < size and block is not None and block.free:
                room, block = room + block.size, block.after
            if room >= size:
                return first
        self._segments += 1
        whole = Block(self._segments * ADDRESSES, ADDRESSES, mapped=False)
        pool.unmapped.add(whole)
        return whole

    def _map(self, pool: Pool, block: Block, size: int) -> Block:
        """So many bytes of an unmapped block, in whole pages; with its free neighbours it is one (`map_block`)."""
        mapped = min(block.size, -(-size // pool.page) * pool.page)
        pool.unmapped.remove(block)
        if mapped < block.size:
            pool.unmapped.add(block.split(mapped))
        block.mapped = True
        self._reserve(mapped)
        block = pool.merge(block)
        pool.free.add(block)
        return block

    def _release(self, pool: Pool, block: Block) -> None:
        """The pages that are free in whole (`unmap_block`, ExpandableSegment's unmap)."""
        start = block.at // ADDRESSES * ADDRESSES
        first = start + -(-(block.at - start) // pool.page) * pool.page
        end = start + (block.at + block.size - start) // pool.page * pool.page
        if first >= end:
            return
        pool.free.remove(block)
        if first > block.at:
            page = block.split(first - block.at)
            pool.free.add(block)
            block = page
        if end < block.at + block.size:
            pool.free.add(block.split(end - block.at))
        block.mapped = False
        self._reserve(-block.size)
        block = pool.merge(block)
        if block.before is not None or block.after is not None:  # else the segment is gone
            pool.unmapped.add(block)


def _grown(block: Block) -> int:
    return block.size + (block.after.size if block.after and not block.after.mapped else 0)
