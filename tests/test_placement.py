"""Layers onto cards: how many on each, what else lies there, and which cards are left alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from branchfit.checkpoint import checkpoint_bytes
from branchfit.gpus import parse_gpus
from branchfit.gpus.system import Memory
from branchfit.memory import Terms, fits, place, terms
from branchfit.memory.placement import spare_bytes
from branchfit.recommend import Recommendation
from branchfit.running.choosing import Plan, device_map
from branchfit.shape import ModelShape, read_shape
from branchfit.variants import Variant
from models import LLAMA_2_7B, LLAMA_2_70B

MIB = 2**20
GIB = 2**30


def variant(config: dict[str, object], group: int | None = 128) -> Variant:
    shape = read_shape(config)
    return Variant(
        "b", bits=4, group_size=group, act_order=True, shape=shape, size_bytes=checkpoint_bytes(shape, 4, group)
    )


def round_terms(**other: int) -> Terms:
    """Ten layers of 1 GiB each with their cache; a card's own: 1 GiB of context and buffers."""
    sizes = {
        "layer_bytes": 768 * MIB, "first_bytes": 0, "last_bytes": 0, "kv_layer_bytes": 256 * MIB,
        "fixed_bytes": 256 * MIB, "load_bytes": 0, "prefill_bytes": 256 * MIB, "logits_bytes": 0,
        "context_bytes": 512 * MIB, "error_bytes": 0,
    }  # fmt: skip
    return Terms(runtime="hand", context_tokens=2048, **{"layers": 10, **sizes, **other})


def test_unequal_cards_get_layers_by_the_room_that_each_has() -> None:
    # Room for 15 and 8 of 20 layers: with 1 GiB kept free on each for 14 and 7, with more for no 20 any longer.
    need = place(round_terms(layers=20), [16 * GIB, 9 * GIB])
    assert need.layers_per_gpu == (14, 6)
    assert need.per_gpu_bytes == (15 * GIB, 7 * GIB)


def test_each_card_has_its_own_buffers_and_the_ends_their_extras() -> None:
    made = round_terms(first_bytes=2 * GIB, last_bytes=3 * GIB, logits_bytes=MIB)
    need = place(made, [7 * GIB, 5 * GIB, 8 * GIB])
    layers = need.layers_per_gpu
    assert need.per_gpu_bytes == (
        (layers[0] + 1) * GIB + 2 * GIB,
        (layers[1] + 1) * GIB,
        (layers[2] + 1) * GIB + 3 * GIB + MIB,
    )
    assert need.split_bytes == tuple(size - 512 * MIB for size in need.per_gpu_bytes)


def test_the_embedded_prompt_is_on_the_first_card_alone() -> None:
    need = place(round_terms(embedded_bytes=64 * MIB), [7 * GIB, 7 * GIB])
    assert need.layers_per_gpu == (5, 5)
    assert need.per_gpu_bytes == (6 * GIB, 6 * GIB - 64 * MIB)
    assert need.total_bytes == 12 * GIB - 64 * MIB
    assert place(round_terms(embedded_bytes=64 * MIB, load_bytes=GIB), [8 * GIB, 8 * GIB]).per_gpu_bytes == (
        5 * GIB + 1792 * MIB,
        5 * GIB + 1792 * MIB,
    )


def test_a_later_card_takes_a_layer_in_the_embedded_prompts_place() -> None:
    made = round_terms(prefill_bytes=512 * MIB, embedded_bytes=512 * MIB)
    free = [6 * GIB + 256 * MIB, 5 * GIB + 768 * MIB]
    assert fits(place(made, free), free) and spare_bytes(made, free) == 0
    assert place(made, free).layers_per_gpu == (5, 5)
    assert not fits(place(made, free[::-1]), free[::-1])


@given(
    st.sampled_from([LLAMA_2_7B, LLAMA_2_70B]),
    st.sampled_from(["exllamav2", "gptqmodel:triton", "gptqmodel:exllama_v2"]),
    st.lists(st.integers(0, 60).map(lambda size: size * GIB), min_size=1, max_size=5),
    st.integers(1, 16384),
)
def test_what_is_left_tells_whether_it_fits_as_the_placement_does(
    config: dict[str, object], runtime: str, free: list[int], context: int
) -> None:
    made = terms(variant(config), runtime, context)
    assert made is not None
    assert (spare_bytes(made, free) >= 0) == fits(place(made, free), free)


def test_a_last_card_without_a_layer_still_holds_the_head() -> None:
    made = round_terms(last_bytes=2 * GIB)
    need = place(made, [11 * GIB, 3 * GIB])
    assert need.layers_per_gpu == (10, 0)
    assert need.per_gpu_bytes == (11 * GIB, 3 * GIB)


def test_what_a_display_has_taken_of_a_card_is_not_laid_onto_it() -> None:
    """Two cards alike; the first drives a display, so that less of it is free."""
    assert place(round_terms(), [8 * GIB, 8 * GIB]).layers_per_gpu == (5, 5)
    with_display = place(round_terms(), [5 * GIB, 8 * GIB])
    assert with_display.layers_per_gpu == (4, 6) and with_display.per_gpu_bytes == (5 * GIB, 7 * GIB)


cards = st.lists(st.integers(200, 24 * 1024).map(lambda size: size * MIB), min_size=2, max_size=4)


@given(cards, st.sampled_from(["exllama", "exllamav2", "gptqmodel:triton"]), st.integers(256, 8192))
def test_no_card_is_used_for_nothing_and_none_beyond_its_room(free: list[int], runtime: str, context: int) -> None:
    made = terms(variant(LLAMA_2_7B), runtime, context)
    assert made is not None
    need = place(made, free)
    if not fits(need, free):
        return
    used = [card for card, size in enumerate(need.per_gpu_bytes) if size]
    for card in used:
        at_an_end = card == used[-1] or (card == used[0] and made.first_bytes > 0)
        assert need.layers_per_gpu[card] or at_an_end
        assert need.per_gpu_bytes[card] + need.error_per_gpu_bytes[card] <= free[card]
    for fewer in range(1, len(used)):  # as few as will do, the roomiest
        roomiest = sorted(sorted(range(len(free)), key=lambda card: (-free[card], card))[:fewer])
        alone = [free[card] if card in roomiest else 0 for card in range(len(free))]
        assert not fits(place(made, alone), alone)


def test_two_cards_share_the_layers_and_the_head_stands_on_the_last() -> None:
    made = terms(variant(LLAMA_2_70B, None), "exllamav2", 4096)
    assert made is not None
    need = place(made, [24 * GIB, 24 * GIB])
    first, second = need.per_gpu_bytes
    one_layer = made.layer_bytes + made.kv_layer_bytes
    assert (
        second - first
        == made.last_bytes + made.logits_bytes + (need.layers_per_gpu[1] - need.layers_per_gpu[0]) * one_layer
    )
    # As even as whole layers allow: moving one more would leave the fuller card fuller.
    assert abs(second - first) <= one_layer + MIB


def test_one_card_that_is_large_enough_is_used_alone_though_it_is_the_second() -> None:
    made = terms(variant(LLAMA_2_7B), "exllamav2", 2048)
    assert made is not None
    assert place(made, [8 * GIB, 24 * GIB]).layers_per_gpu == (0, 32)


def test_two_cards_too_small_for_their_own_buffers_do_not_fit_though_their_sum_would() -> None:
    made = terms(variant(LLAMA_2_7B), "gptqmodel:exllama_v2", 2048)
    assert made is not None
    need = place(made, [12 * GIB])
    assert fits(need, [12 * GIB])
    eight = [12 * GIB // 8] * 8
    assert not fits(place(made, eight), eight)


def test_no_gpu_memory_at_all_is_not_enough() -> None:
    made = terms(variant(LLAMA_2_7B), "exllamav2", 2048)
    assert made is not None
    assert not fits(place(made, []), [])


# transformers' device_map


def planned(model: Variant, made: Terms, sizes: list[str]) -> tuple[dict[str, object], Plan]:
    machine = parse_gpus(sizes, Memory(64 * GIB, 60 * GIB))
    need = place(made, [gpu.free_bytes for gpu in machine.gpus])
    answer = Recommendation("r", None, 2048, machine, None, "", (), (), (), ())
    plan = Plan(model, "gptqmodel:triton", need, answer)
    return device_map(plan, machine, "llama"), plan


HAND = ModelShape("llama", 64, 128, 10, 2, 2, 32, 100)


def test_a_head_alone_on_the_last_card_is_mapped_there() -> None:
    placement, _ = planned(Variant("b", shape=HAND), round_terms(last_bytes=2 * GIB), ["11GiB", "3GiB"])
    assert {placement[f"model.layers.{layer}"] for layer in range(10)} == {0}
    assert (placement["model.embed_tokens"], placement["model.norm"], placement["lm_head"]) == (0, 1, 1)


def test_every_layer_is_mapped_where_it_was_counted() -> None:
    placement, plan = planned(Variant("b", shape=HAND), round_terms(layers=20), ["16GiB", "9GiB"])
    assert plan.need is not None
    on = [placement[f"model.layers.{layer}"] for layer in range(20)]
    assert on == [0] * 14 + [1] * 6 and plan.need.layers_per_gpu == (14, 6)


def test_a_tied_head_lies_with_the_embedding_since_elsewhere_it_would_be_a_copy() -> None:
    placement, _ = planned(Variant("b", shape=replace(HAND, tied=True)), round_terms(), ["8GiB", "8GiB"])
    assert (placement["model.embed_tokens"], placement["model.norm"], placement["lm_head"]) == (0, 1, 0)
