"""Headers: which files count, what is read, what is refused."""

from __future__ import annotations

import json
import struct

import pytest

from branchfit.hub import BadHeader, RepoFile, TensorEntry, parse_header
from branchfit.hub.branches import FIRST_RANGE_BYTES
from branchfit.hub.safetensors import MAX_HEADER_BYTES, header_length, weight_headers
from branchfit.shape import checkpoint_tensors, read_shape
from hub_samples import safetensors


def header(**tensors: object) -> bytes:
    return json.dumps(tensors).encode()


def tensor(dtype: str, shape: object, start: int, stop: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_tensors_come_in_the_order_of_their_data() -> None:
    text = header(b=tensor("I32", [2, 3], 4, 28), a=tensor("F16", [2], 0, 4), none=tensor("F16", [0], 28, 28))
    assert parse_header(text, 28) == (
        TensorEntry("a", "F16", (2,), 4),
        TensorEntry("b", "I32", (2, 3), 24),
        TensorEntry("none", "F16", (0,), 0),
    )


def test_the_metadata_is_no_tensor_and_six_bit_floats_count_in_bits() -> None:
    text = header(__metadata__={"format": "pt"}, a=tensor("F6_E2M3", [4], 0, 3), b=tensor("F4", [2], 3, 4))
    assert [entry.size_bytes for entry in parse_header(text, 4)] == [3, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"not json", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"dtype": "F16", "dtype": "F16"}}', "twice"),
        (header(a=[]), "lacks"),
        (header(a={"dtype": "F16", "shape": [1]}), "lacks"),
        (header(a=tensor("Q4_K", [2], 0, 4)), "dtype that is known"),
        (header(a=tensor("F16", [-2], 0, 4)), "impossible"),
        (header(a=tensor("F16", [True], 0, 2)), "impossible"),
        (header(a=tensor("F16", [2.0], 0, 4)), "impossible"),
        (header(a=tensor("F16", "2", 0, 4)), "impossible"),
        (header(a=tensor("F16", [2], -4, 0)), "impossible"),
        (header(a=tensor("F16", [2], 4, 0)), "F16 of"),
        (header(a=tensor("F16", [3], 0, 4)), "F16 of"),
        (header(a=tensor("F16", [9] * 100_000, 0, 4)), "F16 of"),
        (header(a=tensor("F16", [2], 2, 6)), "begins at byte 2"),
        (header(a=tensor("F16", [2], 0, 4), b=tensor("F16", [2], 2, 6)), "begins at byte 2"),
        (header(a=tensor("F16", [1], 0, 2)), "take 2 bytes, the file holds 4"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(BadHeader, match=said):
        parse_header(text, 4)


def test_a_length_beyond_the_file_or_the_format_s_cap_is_refused_before_anything_is_read() -> None:
    assert header_length(safetensors({"a": ("F16", (2,))})[:8], 200) > 0
    with pytest.raises(BadHeader, match="the file has 100"):
        header_length(struct.pack("<Q", 93), 100)
    with pytest.raises(BadHeader, match="at most 100,000,000"):
        header_length(struct.pack("<Q", MAX_HEADER_BYTES + 1), None)
    with pytest.raises(BadHeader, match="7 bytes"):
        header_length(b"1234567", None)


def test_the_header_of_a_70b_branch_fits_into_the_first_range() -> None:
    config = {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "vocab_size": 32000}
    config |= {"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8}
    found, end = {}, 0
    for spec in checkpoint_tensors(read_shape(config), 4, 32):
        found[spec.name] = tensor(spec.dtype, spec.shape, end, end + spec.size_bytes)
        end += spec.size_bytes
    text = json.dumps(found, separators=(",", ":")).encode()
    # 3 + 80 x (2 norms + 7 linears x 5): embedding, head, last norm, and the layers.
    assert len(found) == 2963
    assert 8 + len(text) < FIRST_RANGE_BYTES
    assert sum(entry.size_bytes for entry in parse_header(text, end)) == end


@pytest.mark.parametrize(
    ("names", "chosen", "odd"),
    [
        (["config.json", "model.safetensors"], ["model.safetensors"], ""),
        (["gptq_model-4bit-128g.safetensors"], ["gptq_model-4bit-128g.safetensors"], ""),
        (
            ["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "",
        ),
        (["model-00001-of-00002.safetensors"], [], "1 of the 2 shards of model are there"),
        (["a.safetensors", "b.safetensors"], ["b.safetensors"], "several weight files"),
        (["model.safetensors", "adapter.safetensors"], ["model.safetensors"], ""),
        (["original/model.safetensors", "pytorch_model.bin", "q.pt"], [], ""),
        ([], [], ""),
    ],
)
def test_the_weight_files_that_count_are_chosen(names: list[str], chosen: list[str], odd: str) -> None:
    files, said = weight_headers(RepoFile(name, 1) for name in names)
    assert [file.path for file in files] == chosen
    assert said.startswith(odd) and bool(said) == bool(odd)
