"""What each loader is told of several cards: its own arithmetic, worked out by hand from its source."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchfit.checkpoint import checkpoint_bytes
from branchfit.gpus import parse_gpus
from branchfit.memory import Need, place, terms
from branchfit.memory.splits import (
    Modules,
    accelerate_split,
    exllama_split,
    exllamav2_split,
    loader_split,
    modules_of,
    read_modules,
    split_text,
)
from branchfit.recommend import Assessment
from branchfit.recommend.sharing import order_words, told_words
from branchfit.shape import ModelShape, checkpoint_tensors, read_shape
from branchfit.variants import Variant
from models import LLAMA_2_70B, MIXTRAL_8X7B, QWEN2_05B

GIB = 2**30

HAND = ModelShape("llama", 1024, 2048, 4, 8, 4, 128, 1000, 4096)
"""tests/test_memory.py's, with 4 layers. In a layer's attention 3,145,728 weights and 4,096 inputs, in its MLP
6,291,456 and 4,096: 4 bits, groups of 128, no bias, norms of 2,048 bytes each."""

ATTENTION = 1_572_864 + 49_152 + 12_288 + 16_384 + 2048
MLP = 3_145_728 + 98_304 + 24_576 + 16_384 + 2048
LAYER = ATTENTION + MLP
NORM, HEAD = 2048, 2_048_000
G_IDX = 2 * 16_384


def modules(zero_bias: bool = False) -> Modules:
    found = modules_of(Variant("b", bits=4, group_size=128, shape=HAND, zero_bias=zero_bias))
    assert found is not None
    return found


def need(layers: tuple[int, ...], *, head_alone: bool = False) -> Need:
    """A forecast of which only the layers matter; a card without any is unused, the last but for the head."""
    sizes = tuple(1 if count or (head_alone and card == len(layers) - 1) else 0 for card, count in enumerate(layers))
    return Need(0, 0, 0, 0, sizes, (0,) * len(layers), layers, sizes)


def test_a_checkpoints_tensors_are_told_apart_by_module() -> None:
    found = modules()
    assert (found.attention, found.mlp) == ((ATTENTION,) * 4, (MLP,) * 4)
    assert (found.embedding, found.norm, found.head, found.biases, found.g_idx) == (HEAD, NORM, HEAD, 0, G_IDX)


@pytest.mark.parametrize("zero_bias", [False, True])
def test_exllama_is_told_half_a_layer_more_than_the_weights_that_go_in_without_g_idx_and_bias(zero_bias: bool) -> None:
    counted = LAYER - G_IDX
    split = exllama_split(modules(zero_bias), need((3, 1)))
    assert split.per_gpu_bytes == (3 * counted + counted // 2, 2 * counted + NORM + HEAD)
    assert split.layers_per_gpu == (3, 1)


def test_a_head_alone_on_the_last_card_leaves_the_norm_with_the_layers() -> None:
    counted = LAYER - G_IDX
    first, second = exllama_split(modules(), need((4, 0), head_alone=True)).per_gpu_bytes
    assert 4 * counted + NORM <= first < 4 * counted + NORM + HEAD <= first + second


def test_exllamav2_is_told_weights_scratch_and_attention_of_a_card_and_half_the_next_attention() -> None:
    # sin and cos, the state, the mask; the MLP's three buffers and its linear; attention scores of 8 heads
    base = 2 * 128 * 2048 * 2 + 1024 * 2048 * 2 + 2048 * 2048 * 2
    mlp = 2048 * (1024 + 2 * 2048) * 2 + 2 * 1024 * 2048
    attention = 2048 * (1024 + 1024 + 2 * 512) * 2 + 2 * 1024 * 1024 + 2 * 2048 * 1024 * 2
    scores = 2 * 2048 * 2048 * 8 * 2
    first, _ = exllamav2_split(modules(), HAND, need((3, 1)), 2048, flash_attention=False).per_gpu_bytes
    assert first == base + 3 * LAYER + max(mlp, attention) + scores + ATTENTION // 2
    with_flash, _ = exllamav2_split(modules(), HAND, need((3, 1)), 2048, flash_attention=True).per_gpu_bytes
    # 2048 / 190 times less: 389,120 of 4,194,304
    assert first - with_flash == 2 * (4_194_304 - 389_120) * 8 * 2


def test_accelerate_is_told_the_embedding_and_on_gpu_0_the_largest_module_still_to_come() -> None:
    split = accelerate_split(modules(), need((2, 2)), balanced=False)
    # LAYER is the largest there is, and half of another decides
    assert split.per_gpu_bytes[0] == HEAD + 2 * LAYER + LAYER + LAYER // 2
    assert split.layers_per_gpu == (2, 2)
    second = accelerate_split(modules(), need((0, 2, 2)), balanced=False)
    assert second.per_gpu_bytes[:2] == (0, HEAD + 2 * LAYER + LAYER // 2), "only GPU 0 keeps room"


def test_where_accelerate_balances_what_it_will_really_do_is_said() -> None:
    """An equal share of 4 layers is 2; a buffer of 1.25 of the largest less the one kept free adds none."""
    split = accelerate_split(modules(), need((3, 1)), balanced=True)
    share = (4 * LAYER + 2 * HEAD + NORM) // 2 + LAYER * 5 // 4
    fit = next(count for count in (3, 2, 1) if HEAD + count * LAYER + LAYER <= share)
    assert split.layers_per_gpu == (fit, 4 - fit) != (3, 1)
    assert accelerate_split(modules(), need((3, 1)), balanced=False).layers_per_gpu == (3, 1)


def test_the_buffer_that_accelerate_adds_is_as_large_as_the_embedding_only_from_transformers_5_18() -> None:
    wide = Modules(10_000, (500,) * 20, (500,) * 20, 1, 10_000)
    # Share 20,000 and 1.25 x 10,000; the embedding and, kept free on GPU 0, the head take 20,000 of it: 12 layers.
    assert accelerate_split(wide, need((12, 8)), balanced=True, by_leaf=True).layers_per_gpu == (12, 8)
    assert accelerate_split(wide, need((13, 7)), balanced=True, by_leaf=True).layers_per_gpu == (12, 8)
    # 1.25 x 1,000 leaves room for one.
    assert accelerate_split(wide, need((12, 8)), balanced=True, by_leaf=False).layers_per_gpu == (1, 19)


def test_a_tied_head_is_no_module_of_its_own_in_transformers_and_one_in_exllamav2() -> None:
    shape = read_shape(QWEN2_05B)
    tied = modules_of(Variant("b", bits=4, group_size=128, shape=shape))
    assert tied is not None and tied.head == 0
    split = exllamav2_split(tied, shape, need((12, 12)), 2048, flash_attention=False)
    alone = exllamav2_split(tied, shape, need((24, 0), head_alone=True), 2048, flash_attention=False)
    assert split.per_gpu_bytes[1] > tied.embedding and alone.per_gpu_bytes[1] > tied.embedding


@pytest.mark.parametrize("config", [LLAMA_2_70B, MIXTRAL_8X7B, QWEN2_05B])
def test_one_layer_repeated_is_what_the_whole_checkpoint_has(config: dict[str, object]) -> None:
    shape = read_shape(config)
    every = read_modules((tensor.name, tensor.size_bytes) for tensor in checkpoint_tensors(shape, 4, 64))
    assert modules_of(Variant("b", bits=4, group_size=64, shape=shape)) == every


def test_tensors_of_another_naming_or_with_a_layer_missing_are_no_modules() -> None:
    assert read_modules([("transformer.h.0.attn.c_attn.weight", 8)]) is None
    there = [("model.embed_tokens.weight", 8), ("model.layers.1.self_attn.q_proj.qweight", 8)]
    assert read_modules([*there, ("model.layers.1.mlp.up_proj.qweight", 8)]) is None
    assert modules_of(Variant("b", format="exl2", bits=4.65, shape=HAND)) is None


def test_a_split_is_written_in_gib_with_a_zero_for_a_card_in_between() -> None:
    assert split_text((GIB * 3 // 2, 0, 20 * GIB + 2**20)) == "1.5,0,20.000977"
    assert split_text((GIB * 3 // 2, 0, 20 * GIB + 2**20), 3) == "1.5,0,20.001"


def test_the_answer_over_several_gpus_says_what_exllama_is_told_of_them() -> None:
    variant = Variant("b", bits=4, group_size=128, shape=read_shape(LLAMA_2_70B))
    laid = need((41, 0, 39))

    def said(runtime: str, placed: Need) -> str:
        return told_words(Assessment(variant, "ExLlama", runtime, True, placed, 0, 4096, ""), 4096)

    # Read by exllamav2 0.3.2's own set_device_map: 41 and 39 layers, without flash-attn and with it.
    assert said("exllamav2", laid) == (
        "exllamav2 puts its layers so (41 on GPU 0, 39 on GPU 2) when it is told gpu_split 18.759,0,18.87 "
        "(17.852,0,17.963 where flash-attn or xformers is installed): it counts weights and buffers there, and not "
        "the cache"
    )
    assert "installed" not in said("exllama", laid) and said("exllama", laid).startswith("exllama puts")
    assert said("gptqmodel:triton", laid) == said("exllamav2", need((80, 0, 0))) == ""


def test_an_order_of_gpus_that_a_webuis_loader_would_overfill_is_said_with_one_that_it_does_not() -> None:
    variant = Variant("b", bits=3, group_size=64, act_order=True, shape=read_shape(LLAMA_2_70B))
    variant = replace(variant, size_bytes=checkpoint_bytes(read_shape(LLAMA_2_70B), 3, 64))
    said = {}
    for runtime, sizes in itertools.product(("gptqmodel:torch", "exllamav2"), ((24, 12), (12, 24), (48, 0))):
        made = terms(variant, runtime, 4096)
        assert made is not None
        free = tuple(size * GIB for size in sizes)
        gpus = parse_gpus([f"{size or 1}GiB@8.6" for size in sizes]).gpus
        placed = Assessment(variant, "AutoGPTQ", runtime, True, place(made, free), 0, 4096, "", "", free)
        said[runtime, sizes] = order_words(placed, gpus)
    told = said.pop(("gptqmodel:torch", (24, 12)))
    assert "40 and 40 layers where 57 and 23 are planned, and GPU 1 would need 16.3 GiB of 12.0 GiB" in told
    assert "CUDA_VISIBLE_DEVICES=1,0" in told
    assert set(said.values()) == {""}


counts = st.lists(st.integers(0, 4), min_size=2, max_size=4).filter(lambda layers: sum(layers) == 4)


@given(counts, st.sampled_from(["exllama", "exllamav2", "gptqmodel:triton", "gptq_for_llama"]), st.booleans())
def test_a_split_has_an_entry_for_every_card_up_to_the_last_used_and_nothing_for_the_idle(
    layers: list[int], runtime: str, flash: bool
) -> None:
    wanted = need(tuple(layers))
    split = loader_split(runtime, modules(), HAND, wanted, 2048, flash_attention=flash)
    last = max(card for card, count in enumerate(layers) if count)
    assert len(split.per_gpu_bytes) == last + 1
    assert [bool(share) for share in split.per_gpu_bytes] == [bool(count) for count in layers[: last + 1]]
    if runtime in ("exllama", "exllamav2", "gptq_for_llama"):
        assert split.layers_per_gpu == tuple(layers)
    assert split.layers_per_gpu is None or sum(split.layers_per_gpu) == 4
