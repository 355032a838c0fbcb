"""Memory, part by part: worked out by hand, or read in a published table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from branchfit import loaders
from branchfit.checkpoint import checkpoint_bytes
from branchfit.memory import cache_types, fits, place, terms, weigh
from branchfit.shape import ModelShape, read_shape
from branchfit.variants import Variant
from models import LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, LLAMA_33B, MISTRAL_7B, MIXTRAL_8X7B, QWEN2_05B

MIB = 2**20
GIB = 2**30

RUNTIMES = tuple(runtime.name for runtime in loaders.RUNTIMES)


def variant(config: dict[str, object], bits: int = 4, group: int | None = None, act_order: bool = True) -> Variant:
    shape = read_shape(config)
    size = checkpoint_bytes(shape, bits, group)
    return Variant("b", bits=bits, group_size=group, act_order=act_order, shape=shape, size_bytes=size)


HAND = ModelShape("llama", 1024, 2048, 2, 8, 4, 128, 1000, 4096)
"""Small and round. A layer's linears: q, o 1024 x 1024; k, v 1024 x 512; gate, up 1024 x 2048; down 2048 x 1024,
9,437,184 weights in all, 8,192 inputs. At 4 bits in groups of 128: qweight 4,718,592; 73,728 scales, so scales
147,456 and qzeros 36,864; g_idx 32,768; norms 4,096; AutoGPTQ's zero biases 16,384. KV at 2048: 4,194,304."""

PACKED = 4_718_592 + 147_456 + 36_864 + 32_768
POSITIONS = 2048 * (4 * 128 + 40)
ACTIVATIONS = 2048 * (8 * 1024 + 6 * 2048) + POSITIONS
"""Four hidden states, gate, up and product: more than gate and up beside 2 bytes a weight of the up-projection."""

EAGER = 2048 * (8 * 1024 + 4 * 2048) + 6 * 1024 * 2048 + POSITIONS
CUBLAS = 32 * MIB
GAPS = int(0.38 * 8_388_608)
"""Of the cache's two layers, in torch's default allocator."""

PAGES = 20 * MIB + 2048 * 2 * 1024
"""In its expandable segments: the rest of a page, and a hidden state."""

EXLLAMAV2_GAPS = (5 * 2 * MIB + 20 * MIB - 2 * (PACKED + 32_768 + 4096 + 4_194_304)) // 2
"""A layer's tensors are all under 1 MiB: two layers' take five segments of 2 MiB. The four K and V of 2 MiB lie in one
of 20. What that is more than they are, for each of two layers."""

EXLLAMA_V2_BUFFERS = 2 * 1024 * 2048 + 2048 * 2048 * 8 * 4


@pytest.mark.parametrize(
    ("runtime", "options", "layer", "first", "last", "kv", "fixed", "load", "prefill", "logits"),
    [
        # temp_state + temp_mlp + 256 KiB + temp_dq + sin, cos; x_map; the open activation term
        ("exllama", {}, PACKED + 4096, 0, 2048 + 2_048_000, 4_194_304,
         8_388_608 + 16_384 + 262_144 + 4_194_304 + 1_048_576, 1_048_576, 100_663_296, 4000),
        # MLP scratch + sin, cos; q_perm, q_invperm; a vocabulary padded to 1024; state, q, result, all heads' K and V
        ("exllamav2", {}, PACKED + 32_768 + 4096 + EXLLAMAV2_GAPS, 0, 2048 + 2 * 1024 * 1024, 4_194_304,
         20_971_520 + 4_194_304 + 1_048_576 + CUBLAS, 0, 3 * 4_194_304 + 2 * 4_194_304, 6048),
        # scores and probabilities of eight heads
        ("exllamav2", {"plain_attention": True}, PACKED + 32_768 + 4096 + EXLLAMAV2_GAPS, 0, 2048 + 2 * 1024 * 1024,
         4_194_304, 20_971_520 + 4_194_304 + 1_048_576 + CUBLAS, 0, 5 * 4_194_304 + 2 * 8 * 2048 * 2048 * 2, 6048),
        ("gptqmodel:exllama_v2", {}, PACKED + 32_768 + 4096, 2_048_000, 2048 + 2_048_000, 4_194_304,
         EXLLAMA_V2_BUFFERS + CUBLAS, 0, ACTIVATIONS + PAGES, 6000),
        # the default allocator's gaps in place of the expandable segments' pages: 0.38 of the cache's two layers
        ("gptqmodel:exllama_v2", {"expandable": False}, PACKED + 32_768 + 4096, 2_048_000, 2048 + 2_048_000, 4_194_304,
         EXLLAMA_V2_BUFFERS + CUBLAS, 0, ACTIVATIONS + GAPS, 6000),
        # qzeros dropped, g_idx twice, 4 x 132 a linear
        ("gptqmodel:marlin", {}, 4_718_592 + 147_456 + 4 * 132 * 7 + 65_536 + 4096, 2_048_000, 2048 + 2_048_000,
         4_194_304, CUBLAS, 0, ACTIVATIONS + PAGES, 6000),
        ("gptqmodel:triton", {}, PACKED + 4096, 2_048_000, 2048 + 2_048_000, 4_194_304, CUBLAS, 0,
         ACTIVATIONS + PAGES, 6000),
        ("gptqmodel:torch", {}, PACKED + 4096, 2_048_000, 2048 + 2_048_000, 4_194_304, CUBLAS, 0,
         ACTIVATIONS + PAGES, 6000),
        ("gptqmodel:torch", {"triton": False}, PACKED + 65_536 + 4096, 2_048_000, 2048 + 2_048_000, 4_194_304, CUBLAS,
         0, EAGER + PAGES, 6000),
        # fp32: norms, embedding, head, cache and activations double
        ("gptqmodel:torch", {"cpu": True}, PACKED + 65_536 + 8192, 4_096_000, 4096 + 4_096_000, 8_388_608, 0,
         0, 2 * ACTIVATIONS, 6000),
        ("auto_gptq", {}, PACKED + 16_384 + 32_768 + 4096, 2_048_000, 2048 + 2_048_000, 4_194_304,
         EXLLAMA_V2_BUFFERS + CUBLAS, 0, ACTIVATIONS + GAPS, 2048 * 6000),
        ("auto_gptq", {"cpu": True}, PACKED + 16_384 + 8192, 4_096_000, 4096 + 4_096_000, 8_388_608, 0, 0,
         2 * ACTIVATIONS, 2048 * 6000),
        ("gptq_for_llama", {}, PACKED + 16_384 + 4096, 2_048_000, 2048 + 2_048_000, 4_194_304, CUBLAS, 0,
         EAGER + GAPS, 2048 * 6000),
    ],
)  # fmt: skip
def test_every_runtimes_terms_are_what_a_hand_works_out(
    runtime: str, options: dict[str, bool], layer: int, first: int, last: int, kv: int, fixed: int, load: int,
    prefill: int, logits: int,
) -> None:  # fmt: skip
    made = terms(Variant("b", bits=4, group_size=128, act_order=True, shape=HAND), runtime, 2048, **options)
    assert made is not None
    # exllama's x_map is as long as g_idx, and takes its place
    assert made.layer_bytes == layer
    assert (made.first_bytes, made.last_bytes, made.kv_layer_bytes) == (first, last, kv)
    assert (made.fixed_bytes, made.load_bytes, made.prefill_bytes, made.logits_bytes) == (fixed, load, prefill, logits)
    contexts = {"exllama": 725, "exllamav2": 776}
    assert made.context_bytes == (485 if options.get("cpu") else contexts.get(runtime, 704)) * MIB


def test_without_groups_there_are_no_permutations_and_without_act_order_no_x_map() -> None:
    plain = Variant("b", bits=4, group_size=None, act_order=True, shape=HAND)
    unordered = Variant("b", bits=4, group_size=128, act_order=False, shape=HAND)
    exllamav2, exllama = terms(plain, "exllamav2", 1), terms(unordered, "exllama", 1)
    assert exllamav2 is not None and exllama is not None
    # one scale for each of 8,192 outputs: scales 16,384 and qzeros 4,096, each tensor a multiple of 512 bytes; six
    # layers' 28.6 MB take 14 segments of 2 MiB and two layers' 5, so that a layer takes 2.25 of them; a cache of one
    # token has four tensors of 1 KiB in one more
    each = 4_718_592 + 16_384 + 4_096 + 32_768 + 4096 + 1024
    assert exllamav2.layer_bytes == each + (int(2 * 2.25 * 2 * MIB) + 2 * MIB - 2 * (each + 2048)) // 2
    assert exllama.layer_bytes == PACKED - 32_768 + 4096


def test_fractional_bits_are_taken_by_the_files_own_size_with_a_twentieth_of_error() -> None:
    """EXL2 at 4.65 bits: no GPTQ layout, so the size is what counts."""
    exl2 = Variant("b", format="exl2", bits=4.65, shape=read_shape(LLAMA_2_70B), size_bytes=41_000_000_000)
    made = terms(exl2, "exllamav2", 2048)
    assert made is not None
    need = place(made, [80 * GIB])
    assert need.weights_bytes == pytest.approx(41_000_000_000 - 524_288_000, rel=0.01)  # the embedding stays on the CPU
    # and where the allocator's gaps lie is not known either
    assert 41_000_000_000 / 20 <= made.layer_error_bytes * 80 + 80 < 41_000_000_000 * (1 / 20 + 1 / 50)


def test_where_nothing_fits_the_placement_that_is_least_short_is_told() -> None:
    made = terms(variant(LLAMA_2_70B), "exllamav2", 4096)
    assert made is not None
    alone, beside = [24 * GIB], [24 * GIB, GIB]
    short = place(made, alone).headroom_bytes(tuple(alone))
    assert short < 0
    # A small second card takes what it can: that cannot make the shortage worse.
    assert short <= place(made, beside).headroom_bytes(tuple(beside)) < 0
    unusable = [0, 24 * GIB]
    assert place(made, unusable).per_gpu_bytes[0] == 0


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
    assert made.fixed_bytes - CUBLAS == pytest.approx(mib * MIB, abs=MIB / 2)


@pytest.mark.parametrize("act_order", [True, False])
def test_auto_gptq_has_the_kernel_of_its_version(act_order: bool) -> None:
    seven = variant(LLAMA_2_7B, act_order=act_order)
    newer, unknown, older = (terms(seven, "auto_gptq", 4096, version=version) for version in ("0.5.0", None, "0.4.2"))
    assert newer is not None and unknown is not None and older is not None
    assert newer == unknown and newer.fixed_bytes - CUBLAS == pytest.approx(774 * MIB, abs=MIB / 2)
    # temp_dq: 2 bytes a weight of the widest linear; with act order the CUDA kernel, which dequantises as it goes.
    widest = 4096 * 11008
    assert older.fixed_bytes - CUBLAS == (0 if act_order else 2 * widest)
    cuda = terms(variant(LLAMA_2_7B, bits=8, act_order=act_order), "auto_gptq", 4096, version="0.4.2")
    assert cuda is not None and cuda.fixed_bytes == CUBLAS
    if act_order:
        assert older.prefill_bytes > newer.prefill_bytes
    else:
        assert older.prefill_bytes == newer.prefill_bytes


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
    gaps = 20 * MIB + 2 * 8192
    assert 2 * 8192 * 28672 + gaps <= made.prefill_bytes < 2 * 8192 * 28672 + gaps + MIB


@pytest.mark.parametrize(
    ("config", "tokens", "least", "most"),
    [
        (LLAMA_2_13B, 2048, 223, 282),  # died of the first, above what is allocated, and ran with the second: H100
        (LLAMA_2_13B, 1536, 192, 247),
        (LLAMA_2_13B, 1024, 160, 240),
        (LLAMA_2_13B, 4096, 64, 96),
        (LLAMA_2_7B, 2048, 54, 81),
        (LLAMA_2_7B, 4096, 60, 90),
    ],
)
def test_marlin_loses_more_between_tensors_where_the_cache_is_large(
    config: dict[str, object], tokens: int, least: int, most: int
) -> None:
    marlin, other = (
        terms(variant(config), f"gptqmodel:{kernel}", tokens, expandable=True) for kernel in ("marlin", "exllama_v2")
    )
    assert marlin is not None and other is not None
    assert least <= (marlin.unseen_bytes + marlin.unseen_error_bytes) / MIB + 150  # of which the runtime's own error
    assert least - 150 <= marlin.unseen_bytes / MIB <= most + 150
    assert marlin.unseen_bytes >= other.unseen_bytes


def test_what_marlin_loses_is_what_a_hand_works_out() -> None:
    made = terms(variant(LLAMA_2_13B), "gptqmodel:marlin", 2048)
    assert made is not None
    # 40 layers with 20 MiB for K and for V; four hidden states, gate, up and their product, and the positions.
    activations = 2048 * (4 * 2 * 5120 + 3 * 2 * 13824 + 4 * 128 + 5 * 8)
    half = (int(0.3 * 40 * 40 * MIB) - activations) // 2
    state = 20 * MIB
    assert (made.unseen_bytes, made.unseen_error_bytes) == (20 * MIB + state + half, state + half)
    assert made.embedded_bytes == state
    # From 20 MiB a tensor on whole pages of its place go back: no more of them are lost.
    longer = terms(variant(LLAMA_2_13B), "gptqmodel:marlin", 2304)
    assert longer is not None and longer.unseen_bytes < made.unseen_bytes


def test_marlin_loses_no_more_than_others_where_few_heads_are_kept() -> None:
    marlin, other = (terms(variant(LLAMA_2_70B), f"gptqmodel:{kernel}", 4096) for kernel in ("marlin", "triton"))
    assert marlin is not None and other is not None
    assert (marlin.unseen_bytes, marlin.unseen_error_bytes) == (other.unseen_bytes, other.unseen_error_bytes)


def test_a_tied_model_has_no_head_of_its_own_in_transformers_but_one_in_exllama() -> None:
    tied = variant(QWEN2_05B)
    triton, exllamav2 = terms(tied, "gptqmodel:triton", 256), terms(tied, "exllamav2", 256)
    assert triton is not None and exllamav2 is not None
    assert triton.last_bytes == 2 * 896
    assert exllamav2.last_bytes == 2 * 896 + 2 * 896 * 151936


def test_a_size_that_differs_from_the_formula_is_taken_over_and_counts_as_error_up_to_a_twentieth() -> None:
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


def test_files_that_are_not_all_there_are_not_believed() -> None:
    """A branch that is half uploaded: what it needs is what its shape needs."""
    whole = variant(LLAMA_2_70B)
    part = replace(whole, size_bytes=3_000_000_000)
    a, b = (terms(each, "exllamav2", 4096) for each in (whole, part))
    assert a is not None and b is not None
    assert a.layer_bytes == pytest.approx(b.layer_bytes, abs=8192)  # the file's header, spread over the layers
    assert b.layer_error_bytes * 80 == pytest.approx((whole.size_bytes or 0) / 20, rel=0.01)


@pytest.mark.parametrize("model_type", ["gemma2", "mpt"])
def test_attention_without_sdpa_has_a_score_for_each_pair_of_tokens_and_head(model_type: str) -> None:
    config = {**LLAMA_2_7B, "model_type": model_type}
    eager, other = (
        terms(variant(config), "gptqmodel:triton", 8192),
        terms(variant(LLAMA_2_7B), "gptqmodel:triton", 8192),
    )
    assert eager is not None and other is not None
    assert eager.prefill_bytes - other.prefill_bytes > 9 * 32 * 8192**2


def test_a_head_that_is_the_embedding_by_default_is_still_one_more_tensor_in_exllamav2() -> None:
    """Gemma's and Command-R's config.json do not say that they are tied."""
    shape = read_shape({**LLAMA_2_7B, "model_type": "gemma", "vocab_size": 256000})
    assert shape.tied and not read_shape({**LLAMA_2_7B, "model_type": "gemma", "tie_word_embeddings": False}).tied
    made = terms(Variant("b", bits=4, group_size=128, shape=shape), "exllamav2", 4096)
    assert made is not None
    assert made.last_bytes > 2 * 4096 * 256000


def test_a_version_that_nobody_measured_has_twice_the_error() -> None:
    known, other, unsaid = (terms(variant(LLAMA_2_7B), "exllamav2", 4096, version=v) for v in ("0.3.2", "0.2.9", None))
    assert known is not None and other is not None and unsaid is not None
    assert known.error_bytes == unsaid.error_bytes and other.error_bytes == 2 * known.error_bytes


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


@given(shapes, st.sampled_from([(name, cache) for name in RUNTIMES for cache in cache_types(name)]), contexts, contexts)
@example(LLAMA_2_70B, ("exllamav2", "fp16"), 512, 513)
@example(LLAMA_2_7B, ("exllamav2", "fp16"), 128, 129)
@example(LLAMA_2_7B, ("exllamav2", "q4"), 512, 768)
@example(LLAMA_33B, ("exllamav2", "q6"), 78, 79)
def test_a_longer_context_never_needs_less(config: dict[str, object], by: tuple[str, str], a: int, b: int) -> None:
    shorter, longer = (terms(variant(config), by[0], tokens, cache=by[1]) for tokens in sorted((a, b)))
    assert shorter is not None and longer is not None
    assert place(shorter, [GIB]).total_bytes <= place(longer, [GIB]).total_bytes


@given(shapes, runtimes, st.sampled_from([None, 32, 64, 128]))
def test_more_bits_never_need_less_at_the_same_group(
    config: dict[str, object], runtime: str, group: int | None
) -> None:
    # Of AutoGPTQ the weights alone: its 4-bit kernel has a buffer that the others have not.
    weights = [terms(variant(config, bits=bits, group=group), runtime, 1) for bits in (3, 4, 8)]
    sizes = [made.layer_bytes for made in weights if made is not None]
    if runtime not in ("auto_gptq", "gptq_for_llama", "exllama"):
        totals = [place(made, [2**40]).total_bytes for made in weights if made is not None]
        assert totals == sorted(totals)
    assert sizes == sorted(sizes) and len(set(sizes)) == 3


def test_a_shape_of_one_layer_is_placed_like_any_other() -> None:
    shape = ModelShape("llama", 64, 128, 1, 2, 2, 32, 100, 128)
    tiny = Variant("b", bits=4, group_size=32, shape=shape, size_bytes=checkpoint_bytes(shape, 4, 32))
    made = terms(tiny, "gptqmodel:torch", 128, cpu=True)
    assert made is not None
    assert fits(place(made, [2 * GIB]), [2 * GIB])
