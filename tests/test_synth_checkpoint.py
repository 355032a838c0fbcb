"""What the synthesiser writes, read again by other means: plain bit arithmetic and the safetensors package."""

from __future__ import annotations

import json
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from branchfit.checkpoint import checkpoint_bytes
from branchfit.demo.synth import Recipe, reference_tensors, reference_weight, write_checkpoint, write_model
from branchfit.demo.synth import checkpoint as synth_checkpoint
from branchfit.errors import ConfigError
from branchfit.shape import ModelShape, TensorSpec, read_shape

TINY = ModelShape("llama", 64, 96, 2, 2, 1, 32, 300)


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, from the format's own description and nothing else."""
    raw = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", raw[:8])
    data = raw[8 + header_bytes :]
    header = json.loads(raw[8 : 8 + header_bytes])
    assert header.pop("__metadata__") == {"format": "pt"}
    dtypes = {"I32": np.dtype("<i4"), "F16": np.dtype("<f2")}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], dtypes[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def stream(words: np.ndarray, bits: int) -> list[int]:
    """The codes in a run of words: all the words as one number, its lowest bits first."""
    number = sum((int(word) & 0xFFFFFFFF) << (32 * index) for index, word in enumerate(words))
    return [(number >> (bits * index)) & (2**bits - 1) for index in range(len(words) * 32 // bits)]


def dequantised(tensors: dict[str, np.ndarray], linear: str, bits: int) -> list[list[Fraction]]:
    """weight[in][out] of a linear in the file, exactly: scale * (code - (stored zero + 1))."""
    qweight, scales, g_idx = (tensors[f"{linear}.{part}"] for part in ("qweight", "scales", "g_idx"))
    columns = [stream(qweight[:, out], bits) for out in range(qweight.shape[1])]
    zeros = [[stored + 1 for stored in stream(row, bits)] for row in tensors[f"{linear}.qzeros"]]
    return [
        [Fraction(float(scales[group, out])) * (columns[out][i] - zeros[group][out]) for out in range(len(columns))]
        for i, group in enumerate(g_idx)
    ]


def nearest(weight: np.ndarray, group_of: list[int], bits: int, symmetric: bool) -> list[list[Fraction]]:
    """weight[in][out] rounded to nearest from `weight` [out, in], one number at a time."""
    top = 2**bits - 1
    rounded = [[Fraction(0)] * weight.shape[0] for _ in group_of]
    for out, row in enumerate(weight.tolist()):
        for group in set(group_of):
            members = [i for i, number in enumerate(group_of) if number == group]
            low, high = min(0.0, *(row[i] for i in members)), max(0.0, *(row[i] for i in members))
            if symmetric:
                high = max(high, -low)
                low = -high
            scale = float(np.float16(np.float32(high - low) / np.float32(top)))
            zero = (
                2 ** (bits - 1) if symmetric else max(1, min(top, round(float(np.float32(-low) / np.float32(scale)))))
            )
            for i in members:
                code = round(float(np.float32(row[i]) / np.float32(scale))) + zero
                rounded[i][out] = Fraction(scale) * (max(0, min(top, code)) - zero)
    return rounded


RECIPES = [
    Recipe(4, None, act_order=True),
    Recipe(4, 32, act_order=True),
    Recipe(3, None),
    Recipe(3, 32, act_order=True, symmetric=False),
    Recipe(2, 16, symmetric=False),
    Recipe(8, 32, symmetric=False),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_file_unpacks_to_its_reference_rounded_to_nearest(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, TINY, recipe, seed=5)
    tensors = read_file(path)
    linear = "model.layers.1.mlp.down_proj"
    weight = reference_weight(TINY, TensorSpec(linear + ".weight", "F16", (64, 96)), 5)
    group_of = [int(group) for group in tensors[linear + ".g_idx"]]
    assert dequantised(tensors, linear, recipe.bits) == nearest(weight, group_of, recipe.bits, recipe.symmetric)


def test_plain_tensors_are_the_reference_itself(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", TINY, Recipe(4, 32), seed=5)
    tensors = read_file(tmp_path / "a")
    for tensor in TINY.plain_tensors():
        assert np.array_equal(tensors[tensor.name], reference_weight(TINY, tensor, 5)), tensor.name
    assert len({tensor.name for tensor in reference_tensors(TINY)}) == 3 + 2 * (2 + 7)


@pytest.mark.parametrize("recipe", [Recipe(4, 32, act_order=True), Recipe(3, None), Recipe(8, 64, zero_bias=False)])
def test_the_safetensors_package_would_have_written_the_same_bytes(recipe: Recipe, tmp_path: Path) -> None:
    shape = ModelShape("llama", 64, 128, 12, 2, 1, 32, 300)
    path = tmp_path / "model.safetensors"
    size_bytes = write_checkpoint(path, shape, recipe)
    tensors = safetensors.numpy.load_file(path)
    assert path.read_bytes() == safetensors.numpy.save(tensors, metadata={"format": "pt"})
    assert (
        size_bytes == path.stat().st_size == checkpoint_bytes(shape, recipe.bits, recipe.group_size, recipe.zero_bias)
    )


def test_act_order_shuffles_the_inputs_and_keeps_every_group_full(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", TINY, Recipe(4, 32, act_order=True))
    write_checkpoint(tmp_path / "b", TINY, Recipe(4, 32))
    shuffled, plain = read_file(tmp_path / "a"), read_file(tmp_path / "b")
    name = "model.layers.0.self_attn.q_proj.g_idx"
    assert plain[name].tolist() == [0] * 32 + [1] * 32
    assert shuffled[name].tolist() != plain[name].tolist()
    assert sorted(shuffled[name].tolist()) == plain[name].tolist()
    # GPTQ sorts by activations, and q, k and v see the same; o sees others.
    assert np.array_equal(shuffled[name], shuffled["model.layers.0.self_attn.v_proj.g_idx"])
    assert not np.array_equal(shuffled[name], shuffled["model.layers.0.self_attn.o_proj.g_idx"])


def test_act_order_without_groups_leaves_one_group_for_all(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", TINY, Recipe(3, None, act_order=True))
    assert not read_file(tmp_path / "a")["model.layers.0.mlp.up_proj.g_idx"].any()


def test_asymmetric_zeros_differ_and_symmetric_ones_do_not(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", TINY, Recipe(4, 32))
    write_checkpoint(tmp_path / "b", TINY, Recipe(4, 32, symmetric=False))
    name = "model.layers.0.mlp.up_proj.qzeros"
    assert set(read_file(tmp_path / "a")[name].ravel().tolist()) == {0x77777777}
    assert len(set(read_file(tmp_path / "b")[name].ravel().tolist())) > 10


def test_a_qwen2_keeps_its_own_biases_where_a_llama_has_zeros(tmp_path: Path) -> None:
    qwen = ModelShape("qwen2", 64, 96, 1, 2, 1, 32, 300, attention_bias=True, tied=True)
    write_checkpoint(tmp_path / "a", qwen, Recipe(4, 32))
    tensors = read_file(tmp_path / "a")
    assert tensors["model.layers.0.self_attn.q_proj.bias"].std() > 0.01
    assert not tensors["model.layers.0.self_attn.o_proj.bias"].any()
    assert "lm_head.weight" not in tensors
    write_checkpoint(tmp_path / "b", qwen, Recipe(4, 32, zero_bias=False))
    biases = sorted(name for name in read_file(tmp_path / "b") if name.endswith(".bias"))
    assert biases == [f"model.layers.0.self_attn.{part}_proj.bias" for part in "kqv"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    recipe = Recipe(3, 32, act_order=True)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_checkpoint(tmp_path / name, TINY, recipe, seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_random_fill_has_every_size_and_sane_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pieces that do not divide the embedding: the last one is shorter.
    monkeypatch.setattr(synth_checkpoint, "PIECE_ELEMENTS", 1000)
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, TINY, Recipe(4, 32, act_order=True), fill="random")
    assert path.stat().st_size == checkpoint_bytes(TINY, 4, 32)
    tensors = read_file(path)
    weights = [float(value) for row in dequantised(tensors, "model.layers.0.self_attn.q_proj", 4) for value in row]
    # A linear of 64 inputs in the reference spreads by 1/8.
    assert 0.11 < np.std(weights) < 0.14
    assert np.isfinite(tensors["model.embed_tokens.weight"].astype(np.float32)).all()


@pytest.mark.parametrize(
    ("shape", "recipe", "words"),
    [
        (ModelShape("llama", 64, 172, 1, 2, 2, 32, 300), Recipe(4, None), "mlp.gate_proj has out_features 172"),
        (ModelShape("llama", 72, 96, 1, 2, 2, 32, 300), Recipe(4, None), "self_attn.q_proj has in_features 72"),
        (TINY, Recipe(4, 64), "mlp.down_proj has in_features 96, not a multiple of group size 64"),
        (TINY, Recipe(5, None), "5 bits"),
        (TINY, Recipe(4, 0), "group size 0"),
        (ModelShape("phi", 64, 96, 1, 2, 2, 32, 300), Recipe(4, None), "'phi' has no known tensors"),
    ],
)
def test_what_the_layout_cannot_carry_is_refused_with_its_numbers(
    shape: ModelShape, recipe: Recipe, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        write_model(tmp_path / "model", shape, recipe)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "shape",
    [
        TINY,
        ModelShape("mistral", 64, 96, 1, 2, 1, 64, 300, 8192),
        ModelShape("mixtral", 64, 96, 1, 2, 1, 32, 300, 8192, experts=4),
        ModelShape("qwen2", 64, 96, 1, 2, 1, 32, 300, 8192, tied=True, attention_bias=True),
        ModelShape("qwen3", 64, 96, 1, 2, 1, 64, 300, 8192, qk_norm=True),
    ],
    ids=lambda shape: shape.model_type,
)
def test_a_written_config_reads_back_as_the_shape_it_was_written_from(shape: ModelShape, tmp_path: Path) -> None:
    files = write_model(tmp_path, shape, Recipe(4, 32, act_order=True))
    config = json.loads(files["config.json"].read_bytes())
    read = read_shape(config)
    assert {**read.__dict__, "max_context_tokens": 0} == {**shape.__dict__, "max_context_tokens": 0}
    assert files["model.safetensors"].stat().st_size == checkpoint_bytes(read, 4, 32)


def test_both_configs_carry_the_settings_as_auto_gptq_spells_them(tmp_path: Path) -> None:
    files = write_model(tmp_path, TINY, Recipe(3, None, act_order=True))
    expected: dict[str, Any] = {
        "bits": 3,
        "group_size": -1,
        "damp_percent": 0.1,
        "desc_act": True,
        "sym": True,
        "true_sequential": True,
        "model_name_or_path": None,
        "model_file_base_name": "model",
    }
    assert json.loads(files["quantize_config.json"].read_bytes()) == expected
    config = json.loads(files["config.json"].read_bytes())
    assert config["quantization_config"] == {**expected, "quant_method": "gptq"}
