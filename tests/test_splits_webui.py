"""What the webui's loaders are told when a forecast lays a model over several GPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from branchfit.demo.synth import Recipe, write_model
from branchfit.errors import LoadError
from branchfit.gpus import Machine, parse_gpus
from branchfit.loaders import Host as Packages
from branchfit.memory import Need
from branchfit.memory.splits import accelerate_split, exllama_split, exllamav2_split, modules_of, split_text
from branchfit.variants import Variant
from branchfit_webui.host import Host
from branchfit_webui.loading import LoadPlan, plan_load
from loading_models import AUTOGPTQ, EXLLAMA_V1, EXLLAMA_V2, GPTQMODEL, NAME, RAM, SHAPE, TWO_GPUS, packages
from standin.loading import loading_host

EIGHT_LAYERS = replace(SHAPE, layers=8)
FOUR_BITS = Recipe(4, 128, act_order=True)
VARIANT = Variant("b", bits=4, group_size=128, shape=EIGHT_LAYERS)
V1 = packages(EXLLAMA_V1)
V2 = packages(EXLLAMA_V2)
V4 = packages(GPTQMODEL)
GIB = 2**30


def need(layers: tuple[int, ...], layer_bytes: int = 2**20) -> Need:
    sizes = tuple(count * layer_bytes for count in layers)
    return Need(sum(sizes), 0, 0, 0, sizes, (0,) * len(layers), layers, sizes)


def plan(tmp_path: Path, era: str, python: Packages, wanted: Need | None, machine: Machine = TWO_GPUS) -> LoadPlan:
    with loading_host(era, tmp_path, gpus=len(machine.gpus)) as standin:
        folder = standin.models_dir / NAME
        write_model(folder, EIGHT_LAYERS, FOUR_BITS, fill="random")
        more: dict[str, Any] = {"gpu_split_bytes": wanted.split_bytes if wanted else ()}
        return plan_load(
            Host(), folder, runtime=None, context_tokens=2048, machine=machine, packages=python, need=wanted, **more
        )


def modules(*, zero_bias: bool = True) -> Any:
    return modules_of(VARIANT, zero_bias=zero_bias)


def test_exllama_is_told_weights_alone(tmp_path: Path) -> None:
    made = plan(tmp_path, "v1.7", V1, need((5, 3)))
    assert made.loader == "ExLlama_HF"
    assert made.settings["gpu_split"] == split_text(exllama_split(modules(), need((5, 3))).per_gpu_bytes)
    assert not any("GPU" in note for note in made.notes)


@pytest.mark.parametrize(
    ("also", "flash"),
    [({}, False), ({"flash_attn": "2.5.9"}, True), ({"flash_attn": "1.0.9"}, False), ({"xformers": "0.0.27"}, True)],
)
def test_exllamav2_is_told_less_where_it_has_flash_attention(tmp_path: Path, also: dict[str, str], flash: bool) -> None:
    made = plan(tmp_path, "v3.23", packages(EXLLAMA_V2, also), need((5, 3)))
    expected = exllamav2_split(modules(), EIGHT_LAYERS, need((5, 3)), 2048, flash_attention=flash)
    assert made.loader == "ExLlamav2_HF"
    assert made.settings["gpu_split"] == split_text(expected.per_gpu_bytes)


def test_the_transformers_loader_is_told_what_accelerate_counts(tmp_path: Path) -> None:
    made = plan(tmp_path, "v4.7", V4, need((3, 5)))
    expected = accelerate_split(modules(zero_bias=False), need((3, 5)), balanced=True, by_leaf=False)
    assert expected.layers_per_gpu == (3, 5)
    assert made.settings["gpu_split"] == split_text(expected.per_gpu_bytes)
    assert not any("upper bound" in note or "share" in note for note in made.notes)


def test_the_sliders_of_old_webuis_get_the_same_in_mib(tmp_path: Path) -> None:
    made = plan(tmp_path, "v1.8", packages(AUTOGPTQ), need((3, 5)))
    assert made.loader == "AutoGPTQ"
    bytes_told = accelerate_split(modules(), need((3, 5)), balanced=True, by_leaf=False).per_gpu_bytes
    sliders = [made.settings[f"gpu_memory_{card}"] * 2**20 for card in (0, 1)]
    assert all(0 <= slider - told < 2**20 for slider, told in zip(sliders, bytes_told, strict=True))


def test_where_accelerate_lays_other_layers_than_planned_the_plan_says_so(tmp_path: Path) -> None:
    made = plan(tmp_path, "v4.7", V4, need((7, 1)))
    [note] = [note for note in made.notes if "share" in note]
    assert note.startswith("The webui's Transformers loader leaves the layers to accelerate")
    assert "of them on GPU 0 and 1, where 7 and 1 were planned" in note


def test_where_that_would_fill_a_gpu_nothing_is_unloaded_and_the_order_is_the_remedy(tmp_path: Path) -> None:
    big_first = parse_gpus(["24GiB@8.6", "3GiB@8.6"], RAM)
    with pytest.raises(LoadError, match=r"GPU 1 would need .* and has 3\.0 GiB free.*CUDA_VISIBLE_DEVICES=1,0\."):
        plan(tmp_path, "v4.7", V4, need((7, 1), GIB), big_first)
    small_first = parse_gpus(["3GiB@8.6", "24GiB@8.6"], RAM)
    assert "gpu_split" in plan(tmp_path / "again", "v4.7", V4, need((1, 7), GIB), small_first).settings


def test_one_of_two_gpus_is_told_to_take_all_of_it(tmp_path: Path) -> None:
    told = plan(tmp_path, "v3.23", V2, need((0, 8))).settings["gpu_split"]
    first, second = told.split(",")
    assert first == "0" and float(second) * GIB > sum(modules().layers)


def test_a_forecast_of_other_layers_or_other_gpus_is_not_taken_at_its_word(tmp_path: Path) -> None:
    made = plan(tmp_path, "v3.23", V2, need((5, 4), GIB))
    assert made.settings["gpu_split"] == "5,4" and any("upper bound" in note for note in made.notes)


def test_one_gpu_is_told_nothing(tmp_path: Path) -> None:
    one = parse_gpus(["24GiB@8.6"], RAM)
    assert plan(tmp_path, "v3.23", V2, need((8,)), one).settings["gpu_split"] == ""
