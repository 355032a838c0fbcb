"""The size of a checkpoint before it exists: published tables, exact files, and the header itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchfit.checkpoint import checkpoint_bytes, file_header, file_order
from branchfit.shape import ModelShape, TensorSpec, checkpoint_tensors

LLAMA_2_70B = ModelShape("llama", 8192, 28672, 80, 64, 8, 128, 32000)


def by_listing(shape: ModelShape, bits: int, group_size: int | None, zero_bias: bool) -> int:
    """The size found the slow way: build the header, add up every tensor."""
    tensors = file_order(checkpoint_tensors(shape, bits, group_size, zero_bias))
    return len(file_header(tensors)) + sum(tensor.size_bytes for tensor in tensors)


@pytest.mark.parametrize("vocab", [32001, 32002])
@pytest.mark.parametrize(
    ("bits", "group_size", "published_gb"),
    [(4, None, "35.33"), (4, 32, "40.66"), (4, 64, "37.99"), (4, 128, "36.65"), (3, None, "26.78"), (3, 128, "28.03")],
)
def test_wizardmath_70b_has_the_sizes_its_card_prints(
    vocab: int, bits: int, group_size: int | None, published_gb: str
) -> None:
    size_bytes = checkpoint_bytes(replace(LLAMA_2_70B, vocab=vocab), bits, group_size)
    assert f"{size_bytes / 1e9:.2f}" == published_gb


@pytest.mark.parametrize(("group_size", "published_bytes"), [(None, 35_332_232_264), (128, 36_652_374_352)])
def test_llama_2_70b_files_of_2023_are_met_to_the_byte(group_size: int | None, published_bytes: int) -> None:
    # Cards that printed raw bytes. Files of that age have no metadata and hold a buffer of rotary
    # frequencies in every layer; with both told, nothing is left over.
    tensors = list(checkpoint_tensors(LLAMA_2_70B, 4, group_size))
    rotary = [TensorSpec(f"model.layers.{n}.self_attn.rotary_emb.inv_freq", "F32", (64,)) for n in range(80)]
    header = file_header(file_order([*tensors, *rotary]), metadata={})
    assert len(header) + sum(tensor.size_bytes for tensor in [*tensors, *rotary]) == published_bytes
    # What checkpoint_bytes says of them is 29 kB short of 35 GB.
    assert 0 < published_bytes - checkpoint_bytes(LLAMA_2_70B, 4, group_size) < 30_000


def test_a_model_of_one_small_layer_adds_up_by_hand() -> None:
    # hidden 64, intermediate 128, one head of 64, vocabulary 10, 4 bits, group 32.
    # A 64 x 64 linear: qweight 64*64/2 = 2048, qzeros 2 groups * 64/2 = 64, scales 2*64*2 = 256,
    # g_idx 64*4 = 256, bias 64*2 = 128: 2752, four of them 11008.
    # 64 -> 128: 4096 + 128 + 512 + 256 + 256 = 5248, two of them 10496.
    # 128 -> 64: 4096 + 4*32 + 4*64*2 + 512 + 128 = 5376.
    # Embedding and head 2 * 10*64*2 = 2560, three norms 3 * 128 = 384.
    data_bytes = 11008 + 10496 + 5376 + 2560 + 384
    shape = ModelShape("llama", 64, 128, 1, 1, 1, 64, 10)
    header_bytes = len(file_header(file_order(checkpoint_tensors(shape, 4, 32))))
    assert checkpoint_bytes(shape, 4, 32) == data_bytes + header_bytes
    assert sum(tensor.size_bytes for tensor in checkpoint_tensors(shape, 4, 32)) == data_bytes


def test_a_header_of_two_tensors_reads_as_the_format_says() -> None:
    tensors = file_order([TensorSpec("a", "F16", (3,)), TensorSpec("b", "I32", (2, 2))])
    raw = file_header(tensors)
    # The wider dtype first: b takes bytes 0 to 16, a the six behind it.
    text = (
        '{"__metadata__":{"format":"pt"},"b":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]},'
        '"a":{"dtype":"F16","shape":[3],"data_offsets":[16,22]}}'
    )
    assert raw[8:].decode().rstrip(" ") == text
    assert int.from_bytes(raw[:8], "little") == len(raw) - 8
    assert (len(raw) - 8) % 8 == 0
    assert json.loads(raw[8:])["a"]["shape"] == [3]


SHAPES = st.builds(
    lambda hidden, intermediate, layers, heads, kv_heads, vocab, tied, experts, attention_bias: ModelShape(
        "mixtral" if experts else "llama",
        hidden * 32,
        intermediate * 32,
        layers,
        heads,
        kv_heads,
        32,
        vocab,
        tied=tied,
        experts=experts,
        attention_bias=attention_bias,
    ),
    st.integers(1, 300),
    st.integers(1, 900),
    st.integers(1, 130),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 200_000),
    st.booleans(),
    st.sampled_from([0, 0, 0, 2, 8]),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.sampled_from([2, 3, 4, 8]), st.sampled_from([None, 32, 64, 128]), st.booleans())
def test_counting_the_header_and_building_it_never_disagree(
    shape: ModelShape, bits: int, group_size: int | None, zero_bias: bool
) -> None:
    assert checkpoint_bytes(shape, bits, group_size, zero_bias) == by_listing(shape, bits, group_size, zero_bias)


def test_the_work_does_not_grow_with_the_layers_a_config_claims() -> None:
    # A listing of this would not end: 37 tensors in each of 10^9 layers, each with 90 to 150
    # characters in the header.
    def data_bytes(layers: int) -> int:
        return sum(tensor.size_bytes for tensor in checkpoint_tensors(replace(LLAMA_2_70B, layers=layers), 4, 128))

    layer_bytes = data_bytes(2) - data_bytes(1)
    header_bytes = checkpoint_bytes(replace(LLAMA_2_70B, layers=10**9), 4, 128) - 10**9 * layer_bytes
    assert 37 * 90 < header_bytes / 10**9 < 37 * 150
