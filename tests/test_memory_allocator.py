"""Torch's caching allocator: how much is reserved for tensors that stay."""

from __future__ import annotations

import pytest

from branchfit.memory.allocator import Allocator, of_layers, with_cache

MIB = 2**20
KIB = 2**10


def taken(*sizes: int) -> tuple[int, int]:
    """Allocated and reserved, in bytes, after these."""
    allocator = Allocator()
    for size in sizes:
        allocator.take(size)
    return allocator.allocated, allocator.reserved


@pytest.mark.parametrize(
    ("sizes", "allocated", "reserved"),
    [
        ([1], 512, 2 * MIB),
        ([MIB], MIB, 2 * MIB),
        ([MIB] * 3, 3 * MIB, 4 * MIB),
        # two of 8 in a segment of 20; the 4 that are left hold a third tensor that fits
        ([8 * MIB] * 2, 16 * MIB, 20 * MIB),
        ([8 * MIB] * 2 + [4 * MIB], 20 * MIB, 20 * MIB),
        ([8 * MIB] * 3, 24 * MIB, 40 * MIB),
        # from 10 on one's own, rounded up to 2; a rest of up to 1 belongs to the block
        ([21 * MIB + 512 * KIB], 22 * MIB, 22 * MIB),
        ([12 * MIB + 512 * KIB], 12 * MIB + 512 * KIB, 14 * MIB),
        ([12 * MIB + 512 * KIB, 1025 * KIB], 14 * MIB, 14 * MIB),
        # the smallest gap that fits is taken: the 2 of the second segment, not the 4 of the first
        ([8 * MIB] * 2 + [9 * MIB] * 2 + [2 * MIB, 4 * MIB], 40 * MIB, 40 * MIB),
    ],
)
def test_blocks_are_what_the_allocators_rules_make_of_them(sizes: list[int], allocated: int, reserved: int) -> None:
    assert taken(*sizes) == (allocated, reserved)


def test_a_layers_growth_is_that_of_all_layers_laid_out_one_by_one() -> None:
    """Llama-2-7B in groups of 128, and 13B, whose scales fill the gaps that its projections leave."""
    seven = [8 * MIB, 64 * KIB, 256 * KIB, 16 * KIB] * 4 + [21 * MIB + 512 * KIB, 172 * KIB, 688 * KIB, 16 * KIB] * 3
    thirteen = [12 * MIB + 512 * KIB, 100 * KIB, 400 * KIB, 20 * KIB] * 4
    thirteen += [33 * MIB + 768 * KIB, 270 * KIB, 1080 * KIB, 20 * KIB] * 3
    for sizes, layers in ((seven, 32), (thirteen, 40)):
        held, whole = of_layers(sizes), Allocator()
        for _ in range(layers):
            for size in sizes:
                whole.take(size)
        assert held.reserved * layers == pytest.approx(whole.reserved, rel=0.003)
        assert held.allocated * layers == pytest.approx(whole.allocated, rel=0.003)


def test_a_cache_fills_the_gaps_first_and_is_never_less_than_what_fills_none() -> None:
    held = of_layers([8 * MIB, 8 * MIB])  # a gap of 4 each
    assert with_cache(held, 10, [MIB]) == (200 * MIB, 10 * MIB)
    assert with_cache(held, 10, [4 * MIB]) == (200 * MIB, 10 * MIB)
    assert with_cache(held, 10, [4 * MIB, 4 * MIB]) == (200 * MIB, 2 * 20 * MIB)
    assert with_cache(held, 10, [2 * MIB]) == (200 * MIB, 10 * MIB)
    assert with_cache(held, 10, [5 * MIB]) == (200 * MIB, 3 * 20 * MIB)
    assert with_cache(held, 10, [15 * MIB]) == (200 * MIB, 10 * 16 * MIB)
    assert with_cache(held, 10, [256 * KIB]) == (200 * MIB, 4 * MIB)


def test_the_large_tensors_of_a_cache_do_not_use_a_gap_twice() -> None:
    held = of_layers([8 * MIB, 8 * MIB])
    assert with_cache(held, 10, [4 * MIB, 2 * MIB]) == (200 * MIB, 10 * MIB + 20 * MIB)
