"""A model's folder, read as a load reads it: right ones need nothing, each known trap is closed or named."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from branchfit.demo.repo import BRANCHES, SHAPE
from branchfit.demo.synth import Recipe, write_model
from branchfit.errors import LoadError
from branchfit.running.folder import read_folder
from branchfit.shape import ModelShape
from running_models import WEIGHTS, copied, edit, read_all, small_model, split, write_tensors


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return copied(whole, tmp_path / "model")


def refused(folder: Path) -> str:
    with pytest.raises(LoadError) as caught:
        read_folder(folder)
    return str(caught.value)


EXPECTED = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}


def settings(folder: Path) -> dict[str, Any]:
    found = read_folder(folder).quantization
    assert found is not None
    return {name: found[name] for name in EXPECTED}


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_folder_as_published_needs_no_change(branch: str, tmp_path: Path) -> None:
    recipe = BRANCHES[branch]
    model = read_folder(small_model(tmp_path / "m", recipe))
    assert (model.changes, model.notes, model.weight_files) == ({}, (), (WEIGHTS,))
    assert model.quantization is not None
    assert model.quantization["bits"] == recipe.bits
    assert model.quantization["group_size"] == (recipe.group_size or -1)
    assert model.quantization["desc_act"] is True


def test_nothing_on_disk_is_touched(folder: Path) -> None:
    (folder / "quantize_config.json").unlink()
    edit(folder / "config.json", drop=("quantization_config",))
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert read_folder(folder).changes
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_settings_missing_in_config_come_from_quantize_config(folder: Path) -> None:
    edit(folder / "config.json", drop=("quantization_config",))
    model = read_folder(folder)
    assert settings(folder) == EXPECTED
    assert model.changes["quantization_config"] == model.quantization
    assert model.notes == ("config.json has no usable quantization_config: it is taken from quantize_config.json",)


@pytest.mark.parametrize("value", [None, "gptq", "", [], 4, {}, {"quant_method": "gptq"}, "{broken"])
def test_a_malformed_quantization_config_counts_as_none(value: Any, folder: Path) -> None:
    edit(folder / "config.json", quantization_config=value)
    assert settings(folder) == EXPECTED
    assert "quantization_config" in read_folder(folder).changes


def test_a_quantization_config_written_as_text_is_read(folder: Path) -> None:
    (folder / "quantize_config.json").unlink()
    edit(folder / "config.json", quantization_config=json.dumps({**EXPECTED, "damp_percent": 0.01}))
    model = read_folder(folder)
    assert model.changes["quantization_config"] == {**EXPECTED, "damp_percent": 0.01}
    assert "a text, not an object" in model.notes[0]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(4, 128, act_order=True),
        Recipe(4, 32, act_order=False),
        Recipe(3, 64, act_order=True),
        Recipe(8, None),
        Recipe(2, 32, symmetric=False),
        Recipe(4, 512, act_order=True),
    ],
    ids=str,
)
def test_settings_that_no_file_has_are_worked_out_from_the_tensors(recipe: Recipe, tmp_path: Path) -> None:
    shape = SHAPE if recipe.group_size != 512 else ModelShape("llama", 512, 512, 1, 8, 8, 64, 320, 512)
    write_model(tmp_path, shape, recipe)
    (tmp_path / "quantize_config.json").unlink()
    edit(tmp_path / "config.json", drop=("quantization_config",))
    model = read_folder(tmp_path)
    assert model.quantization is not None
    whole_row = recipe.group_size in (None, 512)
    assert model.quantization["bits"] == recipe.bits
    assert model.quantization["group_size"] == (-1 if whole_row else recipe.group_size)
    assert model.quantization["desc_act"] is (recipe.act_order and not whole_row)
    assert model.quantization["sym"] is recipe.symmetric
    assert model.quantization.get("checkpoint_format") == ("gptq" if recipe.symmetric else None)
    assert "worked out from the tensors" in model.notes[0]


def test_act_order_that_nothing_tells_is_an_error(folder: Path) -> None:
    (folder / "quantize_config.json").unlink()
    edit(folder / "config.json", drop=("quantization_config",))
    every = read_all(folder / WEIGHTS)
    write_tensors(folder / WEIGHTS, {name: one for name, one in every.items() if not name.endswith("g_idx")})
    assert "act order cannot be told" in refused(folder)


@pytest.mark.parametrize(
    ("said", "note"),
    [
        ({"bits": 3}, "3 bits where the tensors have 4"),
        ({"bits": "4"}, ""),
        ({"group_size": 32}, "group size 32 where the tensors have a group of 128"),
        ({"group_size": None}, "group of 128"),
        ({"group_size": 0}, "group size 0"),
        ({"desc_act": False}, "no act order where g_idx has one"),
        ({"desc_act": None}, "nothing of act order"),
        ({"sym": None}, ""),
        ({"damp_percent": 1}, ""),
        ({"dataset": "ptb"}, ""),
        ({"use_exllama": True, "disable_exllama": False}, ""),
        ({"exllama_config": {"version": 2}}, ""),
        ({"backend": "auto"}, ""),
    ],
    ids=str,
)
def test_what_the_tensors_contradict_or_transformers_refuses_is_put_right(
    said: dict[str, Any], note: str, folder: Path
) -> None:
    edit(folder / "config.json", quantization_config={**EXPECTED, "damp_percent": 0.1, **said})
    model = read_folder(folder)
    assert settings(folder) == EXPECTED
    assert set(model.changes["quantization_config"]) <= {*EXPECTED, "damp_percent"}
    assert note in " ".join(model.notes)


def test_an_asymmetric_checkpoint_that_does_not_say_so_is_not_taken_for_symmetric(tmp_path: Path) -> None:
    small_model(tmp_path, Recipe(4, 32, symmetric=False))
    edit(tmp_path / "config.json", quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32})
    assert read_folder(tmp_path).changes["quantization_config"]["sym"] is False


# ---- Marlin ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [False, True])
def test_is_marlin_format_is_left_out_where_the_tensors_are_gptqs(value: bool, folder: Path) -> None:
    edit(folder / "quantize_config.json", is_marlin_format=value)
    edit(folder / "config.json", drop=("quantization_config",))
    model = read_folder(folder)
    assert settings(folder) == EXPECTED
    assert "is_marlin_format" not in model.changes["quantization_config"]
    assert any("is_marlin_format" in note for note in model.notes)


def test_is_marlin_format_in_config_itself_is_left_out_too(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={**EXPECTED, "is_marlin_format": False})
    assert read_folder(folder).changes["quantization_config"] == EXPECTED


def test_tensors_packed_for_marlin_are_an_error(folder: Path) -> None:
    edit(folder / "quantize_config.json", is_marlin_format=True)
    name = "model.layers.0.mlp.up_proj"
    every = {key: one for key, one in read_all(folder / WEIGHTS).items() if not key.startswith(name)}
    every |= {f"{name}.B": ("I32", [16, 1024], bytes(65536)), f"{name}.s": ("F16", [2, 512], bytes(2048))}
    write_tensors(folder / WEIGHTS, every)
    assert "packed for the Marlin kernel" in refused(folder)


# ---- weight files ------------------------------------------------------------------------------


def test_a_weight_file_of_another_name_is_named_to_transformers(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "gptq_model-4bit-128g.safetensors")
    model = read_folder(folder)
    assert model.changes == {"transformers_weights": "gptq_model-4bit-128g.safetensors"}
    assert model.weight_files == ("gptq_model-4bit-128g.safetensors",)


def test_of_several_files_the_quantised_one_is_taken_by_its_header(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "a-4bit.safetensors")
    write_tensors(folder / WEIGHTS, {"model.norm.weight": ("F16", [256], bytes(512))})
    write_tensors(folder / "z-lora.safetensors", {"lora.weight": ("F16", [2], bytes(4))})
    model = read_folder(folder)
    assert model.weight_files == ("a-4bit.safetensors",)
    assert model.changes["transformers_weights"] == "a-4bit.safetensors"
    assert "and not model.safetensors, z-lora.safetensors" in model.notes[0]


def test_between_two_quantised_files_nothing_is_guessed(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "a-4bit.safetensors")
    (folder / "b-4bit.safetensors").write_bytes((folder / "a-4bit.safetensors").read_bytes())
    assert "2 quantised checkpoints, a-4bit.safetensors, b-4bit.safetensors" in refused(folder)
    edit(folder / "quantize_config.json", model_file_base_name="b-4bit")
    assert read_folder(folder).weight_files == ("b-4bit.safetensors",)


def test_shards_are_read_in_order_and_a_missing_one_is_named(folder: Path) -> None:
    shards = split(folder)
    model = read_folder(folder)
    assert model.weight_files == tuple(shards)
    assert model.changes == {}
    (folder / shards[1]).unlink()
    message = refused(folder)
    assert f"1 of the 2 shards that model.safetensors.index.json names are missing ({shards[1]})" in message
    assert "branchfit repair" in message


def test_shards_of_another_name_are_found_by_their_index(folder: Path) -> None:
    shards = split(folder, "gptq_model-4bit")
    model = read_folder(folder)
    assert model.weight_files == tuple(shards)
    assert model.changes == {"transformers_weights": "gptq_model-4bit.safetensors.index.json"}


def test_shards_without_an_index_and_an_index_that_leads_out_are_errors(folder: Path) -> None:
    split(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    assert "no file of this folder" in refused(folder)
    index.unlink()
    assert "2 of 2 shards are there and no index (model.safetensors.index.json)" in refused(folder)


@pytest.mark.parametrize("cut", [1, 5, 4000])
def test_a_file_cut_short_is_named(cut: int, folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(raw[: len(raw) - cut] if cut != 5 else raw[:cut])
    message = refused(folder)
    assert WEIGHTS in message
    assert "branchfit repair" in message


def test_a_folder_without_what_is_needed_says_so(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert "no .safetensors file" in refused(folder)
    assert "pytorch_model.bin" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refused(folder)
    (folder / "config.json").write_text("[]")
    assert "not a JSON object" in refused(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(folder)


# ---- config.json -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "float32"])
def test_a_dtype_that_is_missing_or_wider_becomes_float16(value: str | None, folder: Path) -> None:
    edit(folder / "config.json", **({"torch_dtype": value} if value else {}), drop=() if value else ("torch_dtype",))
    assert read_folder(folder).changes == {"torch_dtype": "float16"}


def test_an_early_llama_config_is_completed_from_the_tensors(folder: Path) -> None:
    edit(
        folder / "config.json",
        drop=("model_type", "num_key_value_heads", "max_position_embeddings", "rope_theta", "use_cache"),
        architectures=["LLaMAForCausalLM"],
        max_sequence_length=4096,
        vocab_size=300,
    )
    changes = read_folder(folder).changes
    assert changes == {
        "model_type": "llama",
        "vocab_size": 320,
        "max_position_embeddings": 4096,
        "num_key_value_heads": 2,
    }


def test_a_config_without_the_models_extents_is_an_error(folder: Path) -> None:
    edit(folder / "config.json", drop=("num_hidden_layers", "hidden_size"))
    message = refused(folder)
    assert "num_hidden_layers" in message
    assert "transformers would take its own defaults" in message


def test_other_formats_and_plain_models_are_not_gptq(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    assert read_folder(folder).quantization is None
    write_tensors(folder / WEIGHTS, {"model.norm.weight": ("F16", [256], struct.pack("<256e", *[1.0] * 256))})
    edit(folder / "config.json", drop=("quantization_config",))
    assert "none of its tensors is a packed one" in refused(folder)
    (folder / "quantize_config.json").unlink()
    model = read_folder(folder)
    assert (model.quantization, model.changes) == (None, {})


def test_awqs_layout_is_not_taken_for_gptqs(folder: Path) -> None:
    # AWQ's names are the same; it packs along the outputs: [in, out / 8] at 4 bits.
    name = "model.layers.0.mlp.up_proj"
    awq = {
        f"{name}.qweight": ("I32", [256, 64], bytes(65536)),
        f"{name}.qzeros": ("I32", [2, 64], bytes(512)),
        f"{name}.scales": ("F16", [2, 512], bytes(2048)),
    }
    write_tensors(folder / WEIGHTS, awq)
    assert "its tensors are laid out as AWQ's" in refused(folder)
    (folder / "quantize_config.json").unlink()
    edit(folder / "config.json", drop=("quantization_config",))
    assert "not as GPTQ packs them" in refused(folder)


def test_linears_of_different_bits_and_torn_ones_are_errors(folder: Path) -> None:
    every = read_all(folder / WEIGHTS)
    name = "model.layers.0.mlp.up_proj"
    eight = {
        f"{name}.qweight": ("I32", [64, 512], bytes(131072)),
        f"{name}.qzeros": ("I32", [2, 128], bytes(1024)),
    }
    write_tensors(folder / WEIGHTS, {**every, **eight})
    assert "linears of 4 and 8 bits" in refused(folder)
    write_tensors(folder / WEIGHTS, {key: one for key, one in every.items() if key != f"{name}.scales"})
    assert f"{name} has a qweight and no scales" in refused(folder)
