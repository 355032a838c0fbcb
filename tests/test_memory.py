"""Memory, part by part: worked out by hand, or read in a published table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchfit.checkpoint import checkpoint_bytes
from branchfit.memory import fits, longest_context, place, terms, weigh
from branchfit.shape import ModelShape, read_shape
from branchfit.variants import Variant
from models import LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, LLAMA_33B, MISTRAL_7B, MIXTRAL_8X7B, QWEN2_05B

MIB = 2**20
GIB = 2**30

RUNTIMES = (
    "exllama",
    "exllamav2",
    "auto_gptq",
    "gptqmodel:exllama_v2",
    "gptqmodel:marlin",
    "gptqmodel:triton",
    "gptqmodel:torch",
    "gptq_for_llama",
)


def variant(config: dict[str, object], bits: int = 4, group: int | None = None, act_order: bool = True) -> Variant:
    shape = read_shape(config)
    size = checkpoint_bytes(shape, bits, group)
    return Variant("b", bits=bits, group_size=group, act_order=act_order, shape=shape, size_bytes=size)


def test_the_kv_cache_of_llama_2_70b_at_4096_is_1280_mib() -> None:
    # 2 tensors * 80 layers * 8 heads * 128 * 4096 tokens * 2 bytes
    made = terms(variant(LLAMA_2_70B), "exllamav2", 4096)
    assert made is not None
    assert made.kv_layer_bytes * made.layers == 1280 * MIB


def test_the_quantised_weights_of_llama_2_70b_are_half_a_byte_each() -> None:
    weights = weigh(variant(LLAMA_2_70B))
    assert weights is not None
    # 2 * 8192^2 + 2 * 8192 * 1024 + 3 * 8192 * 28672 weights a layer
    assert weights.qweight == 855_638_016 // 2


@pytest.mark.parametrize(("config", "mib"), [(LLAMA_2_7B, 774), (LLAMA_2_13B, 999), (LLAMA_2_70B, 2240)])
def test_gptqmodels_exllama_v2_buffers_are_what_its_source_gives(config: dict[str, object], mib: int) -> None:
    made = terms(variant(config), "gptqmodel:exllama_v2", 4096)
    assert made is not None
    assert made.fixed_bytes == pytest.approx(mib * MIB, abs=MIB / 2)


def test_what_groups_cost_at_33b_is_what_exllamas_readme_measured() -> None:
    # README of ExLlama v1: 33B, group 128 against none: 596 MB (MiB) measured; the formula gives 588.
    with_groups = terms(variant(LLAMA_33B, group=128, act_order=False), "exllama", 2048)
    without = terms(variant(LLAMA_33B, group=None, act_order=False), "exllama", 2048)
    assert with_groups is not None and without is not None
    difference = (with_groups.layer_bytes - without.layer_bytes) * with_groups.layers
    assert difference == pytest.approx(588 * MIB, abs=MIB)


def test_exllama_v1_keeps_no_embedding_on_the_gpu_and_transformers_does() -> None:
    exllama, triton = (terms(variant(LLAMA_2_70B), runtime, 4096) for runtime in ("exllama", "gptqmodel:triton"))
    assert exllama is not None and triton is not None
    assert exllama.first_bytes == 0
    assert triton.first_bytes == 2 * 32000 * 8192


def test_three_bits_are_dequantised_by_torch_at_two_bytes_a_weight_of_the_largest_linear() -> None:
    made = terms(variant(LLAMA_2_70B, bits=3), "gptqmodel:torch", 1)
    assert made is not None
    assert 2 * 8192 * 28672 <= made.prefill_bytes < 2 * 8192 * 28672 + MIB


def test_a_tied_model_has_no_head_of_its_own_in_transformers_but_one_in_exllama() -> None:
    tied = variant(QWEN2_05B)
    triton, exllamav2 = terms(tied, "gptqmodel:triton", 256), terms(tied, "exllamav2", 256)
    assert triton is not None and exllamav2 is not None
    assert triton.last_bytes == 2 * 896
    assert exllamav2.last_bytes == 2 * 896 + 2 * 896 * 151936


def test_a_size_that_differs_from_the_formula_is_taken_over_and_counts_as_error() -> None:
    exact = variant(LLAMA_2_70B)
    larger = replace(exact, size_bytes=(exact.size_bytes or 0) + 80 * MIB)
    a, b = (place(made, [80 * GIB]) for made in (terms(v, "exllamav2", 4096) for v in (exact, larger)) if made)
    assert b.weights_bytes - a.weights_bytes == 80 * MIB
    assert b.error_bytes - a.error_bytes == 80 * MIB


def test_without_a_config_the_shape_is_guessed_from_the_size_and_is_never_grouped_query() -> None:
    sized = Variant("b", bits=4, group_size=128, size_bytes=3_896_726_080)  # vicuna-7B-v1.3's 128g branch
    weights = weigh(sized)
    assert weights is not None
    assert abs(weights.shape.layers - 32) <= 1 and abs(weights.shape.hidden - 4096) <= 128
    assert weights.shape.kv_heads == weights.shape.heads
    assert weights.error_bytes >= 3_896_726_080 // 20


def test_nothing_is_said_of_a_branch_whose_size_nobody_knows() -> None:
    assert terms(Variant("b", bits=4), "exllamav2", 4096) is None


shapes = st.sampled_from([LLAMA_2_7B, LLAMA_2_13B, LLAMA_33B, LLAMA_2_70B, MISTRAL_7B, MIXTRAL_8X7B, QWEN2_05B])
runtimes = st.sampled_from(RUNTIMES)
cards = st.lists(st.integers(1, 96).map(lambda size: size * GIB), min_size=1, max_size=4)
contexts = st.integers(1, 32768)


@given(shapes, runtimes, cards, contexts, st.sampled_from([None, 32, 128]))
def test_the_parts_and_the_cards_both_add_up(
    config: dict[str, object], runtime: str, free: list[int], context: int, group: int | None
) -> None:
    made = terms(variant(config, group=group), runtime, context)
    assert made is not None
    need = place(made, free)
    assert sum(need.per_gpu_bytes) == need.total_bytes
    assert sum(need.layers_per_gpu) == made.layers
    parts = (need.weights_bytes, need.kv_cache_bytes, need.scratch_bytes, need.context_bytes)
    assert sum(parts) == need.total_bytes and min(parts) > 0
    assert need.weights_bytes == made.layers * made.layer_bytes + made.first_bytes + made.last_bytes


@given(shapes, runtimes, cards, contexts)
def test_fitting_is_judged_on_every_card_and_never_on_pooled_memory(
    config: dict[str, object], runtime: str, free: list[int], context: int
) -> None:
    made = terms(variant(config), runtime, context)
    assert made is not None
    need = place(made, free)
    every = all(n + e <= f for n, e, f in zip(need.per_gpu_bytes, need.error_per_gpu_bytes, free, strict=True) if n)
    assert fits(need, free) == every
    if fits(need, free):
        assert fits(place(made, [*free, 1 * GIB]), [*free, 1 * GIB])
        assert fits(place(made, [size + GIB for size in free]), [size + GIB for size in free])


@given(shapes, runtimes, contexts, contexts)
def test_a_longer_context_never_needs_less(config: dict[str, object], runtime: str, a: int, b: int) -> None:
    shorter, longer = (terms(variant(config), runtime, tokens) for tokens in sorted((a, b)))
    assert shorter is not None and longer is not None
    assert place(shorter, [GIB]).total_bytes <= place(longer, [GIB]).total_bytes


@given(shapes, runtimes, st.sampled_from([None, 32, 64, 128]))
def test_more_bits_never_need_less_at_the_same_group(
    config: dict[str, object], runtime: str, group: int | None
) -> None:
    weights = [terms(variant(config, bits=bits, group=group), runtime, 1) for bits in (3, 4, 8)]
    sizes = [made.layer_bytes for made in weights if made is not None]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3


@settings(max_examples=40)
@given(shapes, runtimes, cards)
def test_the_longest_context_fits_and_256_tokens_more_do_not(
    config: dict[str, object], runtime: str, free: list[int]
) -> None:
    limit = 8192
    asked = variant(config)
    longest = longest_context(asked, runtime, free, limit)

    def holds(tokens: int) -> bool:
        made = terms(asked, runtime, tokens)
        return made is not None and fits(place(made, free), free)

    assert longest == 0 or holds(longest)
    assert longest == limit or not holds(longest + 256)


def test_two_cards_share_the_layers_and_the_head_stands_on_the_last() -> None:
    made = terms(variant(LLAMA_2_70B), "exllamav2", 4096)
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


def test_a_shape_of_one_layer_is_placed_like_any_other() -> None:
    shape = ModelShape("llama", 64, 128, 1, 2, 2, 32, 100, 128)
    tiny = Variant("b", bits=4, group_size=32, shape=shape, size_bytes=checkpoint_bytes(shape, 4, 32))
    made = terms(tiny, "gptqmodel:torch", 128, cpu=True)
    assert made is not None
    assert fits(place(made, [2 * GIB]), [2 * GIB])
