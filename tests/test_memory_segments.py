"""torch's allocator under a limit, by its rules; and what a traced forward pass allocates."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from branchfit.memory.transformers import _activations
from branchfit.memory.weights import weigh
from branchfit.shape import ModelShape
from branchfit.variants import Variant

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

from memory.segments import ADDRESSES, CHUNK_BYTES, Addresses, Allocator, Expandable, OutOfMemory

MIB = 2**20


def filled(allocator: Allocator, **sizes_mib: float) -> Allocator:
    """With these tensors taken, by name, in this order."""
    for name, size in sizes_mib.items():
        allocator.take(name, int(size * MIB))
    return allocator


def given(allocator: Allocator, *names: str) -> Allocator:
    for name in names:
        allocator.give(name)
    return allocator


def mib(allocator: Allocator) -> tuple[float, float]:
    return allocator.allocated / MIB, allocator.reserved / MIB


def test_tensors_below_10_mib_share_20_and_larger_ones_have_their_own_rounded_up_to_2() -> None:
    assert mib(filled(Allocator(), a=8, b=8)) == (16, 20)
    assert mib(filled(Allocator(), a=8, b=8, c=8)) == (24, 40)
    assert mib(filled(Allocator(), a=10)) == (10, 10)
    assert mib(filled(Allocator(), a=12.5)) == (12.5, 14)
    assert mib(filled(Allocator(), a=0.5, b=1, c=0.5)) == (2, 2)


def test_a_rest_of_up_to_1_mib_belongs_to_the_block_and_a_larger_one_is_split_off() -> None:
    assert mib(filled(Allocator(), a=13)) == (14, 14)
    assert mib(filled(Allocator(), a=12.5, b=1.5)) == (14, 14)


def test_the_smallest_free_block_that_fits_is_taken() -> None:
    allocator = given(filled(Allocator(), a=30, b=14, c=22), "a", "b", "c")
    assert mib(filled(allocator, d=13, e=22, f=30)) == (14 + 22 + 30, 66)
    # 13 in the first of them, the 30, would have left no room for the last


def test_free_neighbours_are_one_block() -> None:
    allocator = given(filled(Allocator(), a=8, b=8), "b", "a")
    assert mib(filled(allocator, c=19)) == (20, 20)


def test_under_a_limit_whole_free_segments_go_back_and_then_it_fits() -> None:
    allocator = given(filled(Allocator(44 * MIB), a=20, b=20), "a")
    assert mib(filled(allocator, c=24)) == (44, 44)
    assert allocator.peak_reserved == 44 * MIB


def test_a_segment_in_which_something_lies_does_not_go_back() -> None:
    allocator = given(filled(Allocator(40 * MIB), a=8, b=8), "a")
    with pytest.raises(OutOfMemory) as caught:
        allocator.take("c", 22 * MIB)
    assert (caught.value.wanted, caught.value.reserved, caught.value.limit) == (22 * MIB, 20 * MIB, 40 * MIB)
    assert mib(filled(given(allocator, "b"), c=22)) == (22, 22)


def test_segments_lie_upwards_at_first_and_then_each_below_all_others() -> None:
    at = Addresses([(ADDRESSES, 40 * MIB)])
    first, second = at.take(20 * MIB), at.take(20 * MIB)
    assert (first, second) == (ADDRESSES, ADDRESSES + 20 * MIB)
    third, fourth = at.take(44 * MIB), at.take(100 * MIB)
    assert third < first and third % CHUNK_BYTES == 0 and fourth == third - 128 * MIB
    # What is left of a chunk is taken before a new one is; what has gone at the start before that.
    assert at.take(28 * MIB) == fourth + 100 * MIB and at.take(20 * MIB) == third + 44 * MIB
    at.give(first, 20 * MIB)
    at.give(second, 20 * MIB)
    assert at.take(36 * MIB) == first
    at.give(third, 44 * MIB)
    assert at.take(40 * MIB) == third
    # A chunk is whole again once all of it has gone; it does not join the next one.
    whole = at.take(128 * MIB)
    at.give(whole, 128 * MIB)
    parts = at.take(32 * MIB), at.take(96 * MIB)
    assert parts == (whole, whole + 32 * MIB)
    at.give(parts[0], 32 * MIB)
    at.give(parts[1], 96 * MIB)
    assert at.take(128 * MIB) == whole
    at.give(whole, 128 * MIB)
    at.give(fourth, 100 * MIB)
    at.give(fourth + 100 * MIB, 28 * MIB)
    assert at.take(200 * MIB) < whole


def test_of_two_free_blocks_of_one_size_the_later_segments_is_taken() -> None:
    allocator = filled(Allocator(), first=300, second=300, third=300)  # room at the start for one of them
    at = {name: block.at for name, (_, block) in allocator._blocks.items()}
    assert at["third"] < at["second"] < at["first"]
    filled(given(allocator, "second", "third"), again=300)
    assert allocator._blocks["again"][1].at == at["third"]


def test_expandable_segments_grow_by_pages_without_gaps_between_tensors() -> None:
    assert mib(filled(Expandable(), a=8)) == (8, 20)
    assert mib(filled(Expandable(), a=19.5)) == (19.5, 20)
    assert mib(filled(Expandable(), a=8, b=15)) == (23, 40)
    # 13 + 12.5 + 14.5 are 40; default segments would be 14, 14 and 16
    assert mib(filled(Expandable(), a=13, b=12.5, c=14.5)) == (40, 40)
    assert mib(filled(Expandable(), a=0.5, b=13)) == (13.5, 2 + 20)


def test_free_pages_are_unmapped_and_mapped_elsewhere() -> None:
    allocator = given(filled(Expandable(60 * MIB), a=20, b=20, c=20), "a", "c")
    assert mib(allocator) == (20, 60)
    assert mib(filled(allocator, d=40)) == (60, 60)  # as one, behind b
    assert mib(filled(Expandable(), a=20, b=20, c=20)) == (60, 60)


def test_a_block_that_pins_its_page_keeps_it() -> None:
    allocator = given(filled(Expandable(), a=4, b=30), "b")
    allocator.release()
    assert mib(allocator) == (4, 20)
    given(allocator, "a").release()
    assert mib(allocator) == (0, 0)


def test_what_pages_are_pinned_by_is_missing_under_a_limit() -> None:
    """Of two pages a small tensor holds each: 12 of 40 MiB are used, and there is no room for 30 more in 60."""
    allocator = given(filled(Expandable(60 * MIB), a=6, b=14, c=6), "b")
    with pytest.raises(OutOfMemory):
        allocator.take("d", 30 * MIB)
    assert mib(given(allocator, "a", "c")) == (0, 40)
    assert mib(filled(allocator, d=30)) == (30, 40)


def test_unmapped_pages_are_mapped_again_around_what_is_free() -> None:
    """Free, unmapped and free stretches behind each other are room for one tensor."""
    allocator = given(filled(Expandable(), a=6, b=48, c=6), "b")
    allocator.release()
    assert mib(allocator) == (12, 40)  # the page from 20 to 40 is gone
    assert mib(filled(allocator, d=48)) == (60, 60)


def test_a_free_block_that_could_grow_is_left_to_what_needs_it() -> None:
    allocator = given(filled(Expandable(), a=40, b=20, c=20), "a", "c")
    # 20 fit exactly at the end, which can grow: they go into the 40, and 40 more find 20 at the end
    assert mib(filled(allocator, d=20, e=40)) == (80, 100)


def test_a_block_of_the_largest_size_to_be_split_is_for_nearly_as_large_tensors_alone() -> None:
    def reserved(max_split_mib: int, wanted_mib: int) -> float:
        allocator = given(filled(Expandable(max_split_bytes=max_split_mib * MIB), a=300, b=20), "a")
        return mib(filled(allocator, c=wanted_mib))[1]

    assert [reserved(1000, wanted) for wanted in (100, 260, 290)] == [320, 320, 320]
    assert [reserved(256, wanted) for wanted in (100, 260, 290)] == [420, 580, 320]


def test_whole_pages_are_mapped_after_the_limit_was_looked_at() -> None:
    """24 MiB are allowed, and two pages make 40: the 16 that are over are there for the next."""
    allocator = filled(Expandable(24 * MIB), a=24, b=16)
    assert mib(allocator) == (40, 40)
    with pytest.raises(OutOfMemory):
        allocator.take("c", 2 * MIB)


NEEDS = "needs torch and transformers 5, whose own forward pass is traced (the `[gptq]` extra)"
SHAPE = ModelShape("llama", 512, 1536, 4, 8, 4, 64, 8000, 4096)


@pytest.mark.parametrize(("kernel", "dequantised_bytes", "tokens"), [("exllama_v2", 0.0, 2048), ("triton", 2.0, 256)])
def test_a_traced_prompt_allocates_what_the_formula_says(kernel: str, dequantised_bytes: float, tokens: int) -> None:
    """256 tokens are so few that the dequantised weight is more than the MLP's product."""
    pytest.importorskip("torch", reason=NEEDS)
    pytest.importorskip("transformers", minversion="5.0", reason=NEEDS)
    from memory.tracing import CUBLAS, traced

    weights = weigh(Variant("main", bits=4, group_size=128, act_order=True, shape=SHAPE, model_type="llama"))
    assert weights is not None
    cache = SHAPE.layers * weights.kv_layer_bytes(tokens)
    events = traced(SHAPE, kernel, tokens, 1, 32 * MIB)
    assert [event.size_bytes for event in events if event.name == CUBLAS] == [32 * MIB]
    held: dict[int | str, int] = {}
    most = 0
    for event in events:
        if event.kind == "take" and event.name != CUBLAS:
            held[event.name] = event.size_bytes
        elif event.kind == "give":
            del held[event.name]
        most = max(most, sum(held.values()))
    assert most == pytest.approx(cache + _activations(weights, tokens, dequantised_bytes), rel=0.01)
    # what is left: K and V of the prompt, of one token more, and its logits
    assert sum(held.values()) == pytest.approx(cache, rel=0.03)
    assert [event.kind for event in events].count("read") == 2
