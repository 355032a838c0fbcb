"""What a wish becomes on each host: the loader, the kernel, and the arguments that reach the host's own loader.

Expected values were worked out by hand from the hosts' modules/loaders.py, models.py, models_settings.py and
the loaders' modules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from branchfit.demo.synth import Recipe
from branchfit.errors import LoadError
from branchfit.gpus import Machine
from branchfit_webui.host import Host
from branchfit_webui.loading import LoadPlan, host_availability, load, overlay, plan_load
from loading_models import (
    AUTOGPTQ,
    EXLLAMA_V1,
    EXLLAMA_V2,
    GPTQMODEL,
    NAME,
    NO_GPU,
    OLD_GPU,
    ONE_GPU,
    TWO_GPUS,
    packages,
    write,
)
from standin.loading import ERAS, loading_host

FOUR = Recipe(4, 128, act_order=True)
PLAIN = Recipe(4, 128)
THREE = Recipe(3, None, act_order=True)
EIGHT = Recipe(8, 128)

V1 = packages(EXLLAMA_V1, {"auto_gptq": "0.4.2", "optimum": "1.13", "gptq_for_llama": "0.1"})
V1_TWO = packages(EXLLAMA_V1, {"exllamav2": "0.0.5", "exllamav2_ext": "0.0.5", "auto_gptq": "0.4.2"})
V1_8 = packages(EXLLAMA_V2, AUTOGPTQ)
V3 = packages(EXLLAMA_V2, {"transformers": "4.57", "optimum": "2.3", "gptqmodel": "7.6", "triton": "3.2"})
V3_LAST = {**EXLLAMA_V2, "exllamav2": "0.3.2"}
V4 = packages(GPTQMODEL)
V4_NVCC = packages(GPTQMODEL, nvcc=True)


@pytest.fixture(autouse=True)
def no_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers is not here for it; test_loading_real.py has it."""
    monkeypatch.setattr(overlay, "install_overlay", lambda host: None)


OF_EXLLAMA = {"max_seq_len": 1024, "gpu_split": ""}
OF_V2 = {"ctx_size": 1024, "gpu_split": "", "cache_type": "fp16", "autosplit": False, "enable_tp": False}
OF_TRANSFORMERS = {"gpu_split": "", "cpu": False, "bf16": False, "load_in_4bit": False, "cpu_memory": 0}
OLD_TRANSFORMERS = {"gpu_memory": None, "cpu": False, "bf16": False, "load_in_4bit": False, "auto_devices": False}
UNFUSED = {"no_inject_fused_mlp": True, "triton": False, "no_use_cuda_fp16": False, "gpu_memory": None, "cpu": False}

TABLE: list[tuple[str, Any, str | None, Recipe, Machine, tuple[str, str, str | None], Mapping[str, Any]]] = [
    # era, packages, asked for, files, machine -> (loader, runtime, kernel), arguments among those that arrive
    ("v1.5", V1, "ExLlama", FOUR, ONE_GPU, ("ExLlama_HF", "exllama", None), OF_EXLLAMA),
    ("v1.5", V1, "AutoGPTQ", FOUR, ONE_GPU, ("AutoGPTQ", "auto_gptq", None),
     {**UNFUSED, "no_inject_fused_attention": True, "wbits": 4, "groupsize": 128, "desc_act": True}),
    ("v1.5", V1, None, THREE, ONE_GPU, ("AutoGPTQ", "auto_gptq", None),
     {**UNFUSED, "wbits": 3, "groupsize": -1, "desc_act": True}),
    ("v1.5", V1, "gptq_for_llama", PLAIN, ONE_GPU, ("GPTQ-for-LLaMa", "gptq_for_llama", None),
     {"wbits": 4, "groupsize": 128, "model_type": "llama", "pre_layer": None}),
    ("v1.7", V1, "exllamav2", FOUR, ONE_GPU, ("ExLlama_HF", "exllama", None), OF_EXLLAMA),
    ("v1.7", V1_TWO, "ExLlama", FOUR, ONE_GPU, ("ExLlamav2_HF", "exllamav2", None), {**OF_EXLLAMA, "cfg_cache": False}),
    ("v1.7", V1, "AutoGPTQ", FOUR, ONE_GPU, ("AutoGPTQ", "auto_gptq", None), {**UNFUSED, "disable_exllama": True}),
    ("v1.7", V1, "AutoGPTQ", PLAIN, ONE_GPU, ("AutoGPTQ", "auto_gptq", None), {**UNFUSED, "disable_exllama": False}),
    ("v1.7", V1, "AutoGPTQ", EIGHT, ONE_GPU, ("AutoGPTQ", "auto_gptq", None), {"disable_exllama": True, "wbits": 8}),
    ("v1.8", V1_8, "ExLlama", FOUR, ONE_GPU, ("ExLlamav2_HF", "exllamav2", None),
     {**OF_EXLLAMA, "cache_8bit": False, "cache_4bit": False, "autosplit": False}),
    ("v1.8", V1_8, "AutoGPTQ", FOUR, ONE_GPU, ("AutoGPTQ", "auto_gptq", None),
     {**UNFUSED, "disable_exllama": True, "disable_exllamav2": False}),
    ("v1.8", V1_8, "AutoGPTQ", THREE, ONE_GPU, ("AutoGPTQ", "auto_gptq", None),
     {**UNFUSED, "disable_exllama": True, "disable_exllamav2": True}),
    ("v2.8", V1_8, "ExLlama", FOUR, ONE_GPU, ("ExLlamav2_HF", "exllamav2", None),
     {"max_seq_len": 1024, "cache_type": "fp16", "autosplit": False, "enable_tp": False}),
    ("v2.8", packages(AUTOGPTQ), "AutoGPTQ", THREE, ONE_GPU, ("Transformers", "auto_gptq", None), OLD_TRANSFORMERS),
    ("v3.23", V3, "exllamav2", FOUR, ONE_GPU, ("ExLlamav2_HF", "exllamav2", None), {**OF_V2, "no_sdpa": False}),
    # 0.2.9 to 0.3.2 read prompts without a causal mask through torch's SDPA
    ("v3.23", packages(V3_LAST), "exllamav2", FOUR, ONE_GPU, ("ExLlamav2_HF", "exllamav2", None),
     {**OF_V2, "no_sdpa": True}),
    ("v3.23", V3, "AutoGPTQ", FOUR, ONE_GPU, ("Transformers", "gptqmodel:triton", "triton"), OF_TRANSFORMERS),
    ("v3.23", V3, "exllamav2", THREE, ONE_GPU, ("Transformers", "gptqmodel:torch", "torch"), OF_TRANSFORMERS),
    ("v4.7", V4_NVCC, "ExLlama", FOUR, ONE_GPU,
     ("Transformers", "gptqmodel:exllama_v2", "exllama_v2"), OF_TRANSFORMERS),
    ("v4.7", V4_NVCC, "exllamav2", FOUR, ONE_GPU,
     ("Transformers", "gptqmodel:exllama_v2", "exllama_v2"), OF_TRANSFORMERS),
    ("v4.7", V4_NVCC, "AutoGPTQ", FOUR, ONE_GPU, ("Transformers", "gptqmodel:marlin", "marlin"), OF_TRANSFORMERS),
    # without nvcc nothing that compiles on first use is chosen
    ("v4.7", V4, "ExLlama", FOUR, ONE_GPU, ("Transformers", "gptqmodel:triton", "triton"), OF_TRANSFORMERS),
    ("v4.7", V4, "AutoGPTQ", FOUR, ONE_GPU, ("Transformers", "gptqmodel:triton", "triton"), OF_TRANSFORMERS),
    ("v4.7", V4, "AutoGPTQ", EIGHT, ONE_GPU, ("Transformers", "gptqmodel:triton", "triton"), OF_TRANSFORMERS),
    ("v4.7", V4_NVCC, "AutoGPTQ", THREE, ONE_GPU, ("Transformers", "gptqmodel:torch", "torch"), OF_TRANSFORMERS),
    # compute capability 6.1: neither exllama_v2 and marlin (7.5) nor triton (7.0)
    ("v4.7", V4_NVCC, "ExLlama", FOUR, OLD_GPU, ("Transformers", "gptqmodel:torch", "torch"), OF_TRANSFORMERS),
    ("v4.7", V4_NVCC, "exllamav2", FOUR, NO_GPU, ("Transformers", "gptqmodel:torch", "torch"), {"cpu": True}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("era", "python", "asked", "recipe", "machine", "becomes", "arrives"),
    TABLE,
    ids=[f"{row[0]}-{row[2]}-{row[3].bits}bit-{row[5][1]}-{index}" for index, row in enumerate(TABLE)],
)
def test_what_is_asked_for_becomes_what_the_host_has(
    tmp_path: Path,
    era: str,
    python: Any,
    asked: str | None,
    recipe: Recipe,
    machine: Machine,
    becomes: tuple[str, str, str | None],
    arrives: Mapping[str, Any],
) -> None:
    with loading_host(era, tmp_path) as standin:
        folder, host = write(standin.models_dir, recipe), Host()
        plan = plan_load(host, folder, runtime=asked, context_tokens=1024, machine=machine, packages=python)
        assert (plan.loader, plan.runtime, plan.kernel) == becomes
        load(host, plan, on_step=lambda step: None)
        [(name, loader, args)] = standin.loads
        assert (name, loader) == (NAME, becomes[0])
        # A slider of 0 is what the page sends for "nothing given", and arrives as the default.
        expected = {key: None if key == "cpu_memory" and era < "v3" else value for key, value in arrives.items()}
        assert {key: args[key] for key in expected} == expected
        assert standin.shared.settings["truncation_length"] == 1024


def plan(tmp_path: Path, era: str, python: Any, recipe: Recipe, machine: Machine, **more: Any) -> LoadPlan:
    with loading_host(era, tmp_path, gpus=len(machine.gpus)) as standin:
        folder = write(standin.models_dir, recipe)
        wishes = {"runtime": None, "context_tokens": None, **more}
        return plan_load(Host(), folder, machine=machine, packages=python, **wishes)


GIB = 2**30


def test_a_split_is_given_to_exllama_in_gib_rounded_up(tmp_path: Path) -> None:
    split = (int(21.701 * GIB), 20 * GIB)
    assert plan(tmp_path, "v1.7", V1_TWO, FOUR, TWO_GPUS, gpu_split_bytes=split).settings["gpu_split"] == "21.71,20"


def test_a_split_is_given_to_old_transformers_in_mib_a_slider(tmp_path: Path) -> None:
    made = plan(tmp_path, "v1.7", V1_TWO, THREE, TWO_GPUS, gpu_split_bytes=(3 * GIB + 1, 2 * GIB))
    assert made.loader == "AutoGPTQ"
    assert (made.settings["gpu_memory_0"], made.settings["gpu_memory_1"]) == (3073, 2048)


def test_a_split_reaches_the_transformers_loader_of_v4_and_is_said_to_be_an_upper_bound(tmp_path: Path) -> None:
    made = plan(tmp_path, "v4.7", V4, FOUR, TWO_GPUS, gpu_split_bytes=(3 * GIB, 2 * GIB))
    assert made.settings["gpu_split"] == "3,2" and any("upper bound" in note for note in made.notes)


def test_one_of_two_gpus_is_enough_to_be_told_so(tmp_path: Path) -> None:
    made = plan(tmp_path, "v4.7", V4, FOUR, TWO_GPUS, gpu_split_bytes=(0, 2 * GIB))
    assert made.settings["gpu_split"] == "0,2", "or accelerate lays it over both"


def test_one_gpu_alone_is_told_nothing(tmp_path: Path) -> None:
    assert plan(tmp_path, "v4.7", V4, FOUR, ONE_GPU, gpu_split_bytes=(3 * GIB,)).settings["gpu_split"] == ""


@pytest.mark.parametrize(
    ("era", "python", "cache", "settings"),
    [
        ("v3.23", V3, "q4", {"cache_type": "q4"}),
        ("v1.8", V1_8, "q4", {"cache_8bit": False, "cache_4bit": True}),
        ("v1.8", V1_8, "fp8", {"cache_8bit": True, "cache_4bit": False}),
    ],
)
def test_the_cache_is_named_as_the_host_names_it(
    tmp_path: Path, era: str, python: Any, cache: str, settings: dict[str, Any]
) -> None:
    made = plan(tmp_path, era, python, FOUR, ONE_GPU, cache_type=cache)
    assert {name: made.settings[name] for name in settings} == settings


def test_a_cache_the_loader_does_not_have_is_refused_before_anything_is_unloaded(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="ExLlamav2_HF of this webui has no q6 cache"):
        plan(tmp_path, "v1.8", V1_8, FOUR, ONE_GPU, cache_type="q6")
    with pytest.raises(LoadError, match="Transformers of this webui has no q4 cache"):
        plan(tmp_path, "v4.7", V4, FOUR, ONE_GPU, cache_type="q4")


def test_the_context_is_the_models_own_up_to_4096(tmp_path: Path) -> None:
    assert plan(tmp_path, "v3.23", V3, FOUR, ONE_GPU).settings["ctx_size"] == 4096


def test_the_reason_says_what_was_asked_for_and_what_it_became(tmp_path: Path) -> None:
    reason = plan(tmp_path, "v4.7", V4_NVCC, FOUR, ONE_GPU, runtime="exllamav2").reason
    assert reason == (
        "exllamav2 was asked for, but exllamav2 is played by the loader ExLlamav2_HF or ExLlamav2, which this webui "
        "does not have: it becomes gptqmodel:exllama_v2 through the webui's Transformers loader, which takes 4-bit "
        "GPTQ, group size 128, act order."
    )


def test_where_nothing_can_load_it_every_reason_is_said(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as refusal:
        plan(tmp_path, "v3.23", packages(EXLLAMA_V2, {"transformers": "4.57"}), THREE, ONE_GPU)
    said = str(refusal.value)
    assert f"nothing here can load {NAME} (3-bit GPTQ, no grouping, act order)" in said
    assert "exllamav2 takes 4 bits, not 3." in said
    assert "gptqmodel:torch lacks gptqmodel, optimum: `./install.sh --gptq` installs versions of them" in said


def test_a_newer_host_without_packages_offers_nothing_and_says_what_helps(tmp_path: Path) -> None:
    with loading_host("v4.7", tmp_path):
        found = host_availability(Host(), ONE_GPU, packages({"torch": "2.9", "transformers": "5.6.2"}))
    assert found.runtimes == () and not found.assumed
    assert found.note == (
        "this webui cannot load GPTQ as it is. `./install.sh --gptq` installs what its Transformers loader needs "
        "for it, where that is known."
    )
    assert [verdict.why for verdict in found.missing if verdict.runtime == "gptqmodel:torch"] == [
        "gptqmodel:torch lacks gptqmodel, optimum: `./install.sh --gptq` installs versions of them that go with "
        "this webui's transformers 5.6.2."
    ]


def test_gptqmodel_is_not_advised_where_transformers_is_too_old_for_it(tmp_path: Path) -> None:
    with loading_host("v1.7", tmp_path):
        found = host_availability(Host(), ONE_GPU, packages({"torch": "2.1", "transformers": "4.34.1"}))
    assert "gptqmodel" not in found.note and "exllamav2 lacks exllamav2: the webui's own installer" in found.note
    assert [verdict.why for verdict in found.missing if verdict.runtime == "gptqmodel:torch"] == [
        "gptqmodel:torch needs transformers 4.49 or newer in the Transformers loader; 4.34.1 is here."
    ]


def test_a_portable_build_is_told_apart(tmp_path: Path) -> None:
    with loading_host("v4.7", tmp_path):
        found = host_availability(Host(), ONE_GPU, packages({}))
    assert found.runtimes == () and "setup" not in found.note
    assert any("a portable build has neither" in verdict.why for verdict in found.missing)


AVAILABLE = [
    ("v1.5", V1, ["exllama", "auto_gptq"]),
    ("v1.7", V1_TWO, ["exllamav2", "exllama", "auto_gptq"]),
    ("v1.8", packages(EXLLAMA_V1, EXLLAMA_V2), ["exllamav2"]),  # the package is there, the loader gone
    ("v2.8", V1_8, ["exllamav2", "auto_gptq"]),
    ("v2.8", packages(EXLLAMA_V2, {"auto_gptq": "0.7.1"}), ["exllamav2"]),  # Transformers needs optimum beside it
    ("v3.23", V3, ["exllamav2", "gptqmodel:triton", "gptqmodel:torch"]),
    ("v4.7", V4_NVCC, ["gptqmodel:exllama_v2", "gptqmodel:marlin", "gptqmodel:triton", "gptqmodel:torch"]),
    ("v4.7", packages(EXLLAMA_V2), []),  # v4 dropped the loader, whatever is installed
    ("v4.7", packages(GPTQMODEL, {"gptqmodel": "5.8"}), []),  # optimum 2.3 asks for gptqmodel 7
    ("v3.23", packages(GPTQMODEL, {"transformers": "4.48"}), []),  # which cannot be told a kernel
]


@pytest.mark.parametrize(("era", "python", "names"), AVAILABLE)
def test_what_is_available_is_what_both_the_host_and_its_python_have(
    tmp_path: Path, era: str, python: Any, names: list[str]
) -> None:
    with loading_host(era, tmp_path):
        found = host_availability(Host(), ONE_GPU, python)
    assert [runtime.name for runtime in found.runtimes] == names and not found.assumed


def test_a_loader_that_is_listed_and_has_no_function_is_not_offered(tmp_path: Path) -> None:
    with loading_host("v3.23", tmp_path):
        host = Host()
        del host.models.ExLlamav2_HF_loader
        assert "ExLlamav2_HF" not in host.offered_loaders() and "ExLlamav2" in host.offered_loaders()
        found = host_availability(host, ONE_GPU, V3)
        assert "exllamav2 (ExLlamav2)" in found.note


@pytest.mark.parametrize("era", ERAS)
def test_every_loader_of_an_era_is_found(tmp_path: Path, era: str) -> None:
    with loading_host(era, tmp_path):
        readers = {"Transformers", "AutoGPTQ", "GPTQ-for-LLaMa", "ExLlama", "ExLlama_HF", "ExLlamav2", "ExLlamav2_HF"}
        assert set(Host().offered_loaders()) == readers & set(ERAS[era])


def test_a_loader_that_takes_the_last_file_it_finds_is_not_given_a_folder_with_two(tmp_path: Path) -> None:
    with loading_host("v1.8", tmp_path) as standin:
        folder = write(standin.models_dir, FOUR)
        (folder / "old.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        wishes: dict[str, Any] = {"runtime": None, "context_tokens": None, "machine": ONE_GPU}
        with pytest.raises(LoadError, match=r"of 2 .safetensors files model.safetensors is the model"):
            plan_load(Host(), folder, packages=V1_8, **wishes)
    with loading_host("v4.7", tmp_path):
        assert plan_load(Host(), folder, packages=V4, **wishes).loader == "Transformers", "it is told which"


def test_exl2_is_exllamav2s_and_what_nothing_reads_is_said(tmp_path: Path) -> None:
    def config(folder: Path, method: str) -> None:
        content = json.loads((folder / "config.json").read_text())
        content["quantization_config"] = {"quant_method": method, "bits": 4.25}
        (folder / "config.json").write_text(json.dumps(content))

    with loading_host("v3.23", tmp_path) as standin:
        folder = write(standin.models_dir, FOUR)
        config(folder, "exl2")
        wishes: dict[str, Any] = {"context_tokens": None, "machine": ONE_GPU, "packages": V3}
        assert plan_load(Host(), folder, runtime="exllamav2", **wishes).loader == "ExLlamav2_HF"
        config(folder, "awq")
        with pytest.raises(LoadError, match=r"it is 4.25-bit AWQ, and BranchFit loads GPTQ"):
            plan_load(Host(), folder, runtime=None, **wishes)


@pytest.mark.parametrize(
    ("version", "blind"),
    [("0.2.8", False), ("0.2.9", True), ("0.3.0", True), ("0.3.2", True), ("0.3.2+cu128.torch2.7.0", True),
     ("0.3.3", False), (None, False)],
)  # fmt: skip
def test_the_exllamav2_that_forgets_its_causal_mask_is_told_to_use_no_sdpa(
    tmp_path: Path, version: str | None, blind: bool
) -> None:
    with loading_host("v3.23", tmp_path) as standin:
        found = packages({**EXLLAMA_V2, "exllamav2": version} if version else EXLLAMA_V2)
        if version is None:
            found = replace(found, version=lambda name: None)
        plan = plan_load(
            Host(), write(standin.models_dir, FOUR), runtime="exllamav2", context_tokens=1024, machine=ONE_GPU,
            packages=found,
        )  # fmt: skip
        assert plan.settings["no_sdpa"] is blind


def test_exllama_the_runtime_is_told_from_exllama_the_loader(tmp_path: Path) -> None:
    with loading_host("v1.7", tmp_path) as standin:
        both = packages(EXLLAMA_V1, {"exllamav2": "0.0.5", "exllamav2_ext": "0.0.5"})
        folder = write(standin.models_dir, FOUR)
        wishes: dict[str, Any] = {"context_tokens": 1024, "machine": ONE_GPU, "packages": both}
        assert plan_load(Host(), folder, runtime="exllama", **wishes).runtime == "exllama"
        assert plan_load(Host(), folder, runtime="ExLlama", **wishes).runtime == "exllamav2"
