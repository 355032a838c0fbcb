"""What each runtime takes, and which runtimes an answer may choose between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from branchfit.errors import UsageError
from branchfit.gpus import Gpu, parse_gpus
from branchfit.gpus.system import Memory
from branchfit.loaders import (
    LOADERS,
    RUNTIMES,
    Host,
    Verdict,
    available_runtimes,
    by_name,
    can_load,
    check_host,
    of_loader,
    this_host,
)

RAM = Memory(64 * 2**30, 60 * 2**30)
CPU = parse_gpus(["none"], RAM).cpu
RADEON = Gpu(0, "Radeon RX 7900 XTX (gfx1100)", 24 * 2**30, 24 * 2**30, None, "rocm", kind="rocm")
MAC = Gpu(0, "Apple M1 Pro", 10 * 2**30, 10 * 2**30, None, "mps", kind="mps")


def card(capability: str | None) -> Gpu:
    return Gpu(0, "a card", 24 * 2**30, 24 * 2**30, capability, "given")


def load(name: str, **branch: Any) -> Verdict:
    """can_load of the commonest branch there is, with changes."""
    facts: dict[str, Any] = {"format": "gptq", "bits": 4, "group_size": 128, "act_order": True, "model_type": "llama"}
    return can_load(by_name(name), **{**facts, **branch})


def takers(**branch: Any) -> set[str]:
    return {runtime.name for runtime in RUNTIMES if load(runtime.name, **branch).can}


EXLLAMAS = {"exllamav2", "gptqmodel:exllama_v2", "exllama"}


@pytest.mark.parametrize("group_size", [None, 32, 64, 128])
@pytest.mark.parametrize("act_order", [True, False])
def test_every_exllama_takes_4_bit_llama_with_and_without_groups_and_act_order(
    group_size: int | None, act_order: bool
) -> None:
    assert takers(group_size=group_size, act_order=act_order) >= EXLLAMAS


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (2, {"gptqmodel:triton", "gptqmodel:torch", "auto_gptq"}),
        (3, {"gptqmodel:torch", "auto_gptq"}),
        (8, {"gptqmodel:marlin", "gptqmodel:triton", "gptqmodel:torch", "auto_gptq"}),
        (5, set()),
    ],
)
def test_other_bits_are_autogptqs_and_three_are_torchs_alone(bits: int, names: set[str]) -> None:
    assert takers(bits=bits) == names


def test_a_refusal_names_the_bits_wanted_and_found() -> None:
    assert load("exllamav2", bits=3) == Verdict("exllamav2", "ExLlama", False, "exllamav2 takes 4 bits, not 3.")
    assert load("gptqmodel:triton", bits=3).why == "gptqmodel:triton takes 2, 4 or 8 bits, not 3."


def test_a_yes_says_what_it_takes() -> None:
    assert load("exllamav2", group_size=32).why == "exllamav2 takes 4-bit GPTQ, group size 32, act order."
    assert load("exllamav2", group_size=None, act_order=False).why == "exllamav2 takes 4-bit GPTQ, no grouping."


def test_unknown_bits_cannot_be_judged() -> None:
    verdict = load("gptqmodel:torch", bits=None)
    assert not verdict.can
    assert "how many bits" in verdict.why


def test_bits_that_came_as_a_float_are_the_same_bits() -> None:
    assert load("exllamav2", bits=4.0).why == "exllamav2 takes 4-bit GPTQ, group size 128, act order."


@pytest.mark.parametrize(("group_size", "can"), [(16, False), (32, True), (96, False), (1024, True), (7, False)])
def test_exllamav2_reads_groups_that_are_powers_of_two_from_32(group_size: int, can: bool) -> None:
    assert load("exllamav2", group_size=group_size).can is can


def test_marlin_takes_the_group_sizes_its_kernel_declares() -> None:
    assert (
        load("gptqmodel:marlin", group_size=256).why
        == "gptqmodel:marlin takes group sizes 32, 64 or 128 or none, not 256."
    )
    assert load("gptqmodel:torch", group_size=256).can
    assert not load("gptqmodel:torch", group_size=48).can


def test_groups_have_to_divide_the_rows_where_the_kernel_divides() -> None:
    assert load("exllama", group_size=128, in_features=[4096, 11008]).can  # 11008 = 86 * 128
    verdict = load("exllama", group_size=1024, in_features=[4096, 11008])
    assert verdict.why == "exllama needs groups that divide each linear's rows; 11008 rows are not a multiple of 1024."
    assert load("exllamav2", group_size=1024, in_features=[4096, 11008]).can


def test_marlin_takes_symmetric_quantisation_only_and_says_when_it_assumes_it() -> None:
    assert not load("gptqmodel:marlin", symmetric=False).can
    assert (
        load("gptqmodel:marlin", symmetric=True).why == "gptqmodel:marlin takes 4-bit GPTQ, group size 128, act order."
    )
    assert "if it is symmetric, the default" in load("gptqmodel:marlin", symmetric=None).why
    assert load("exllamav2", symmetric=False).can


@pytest.mark.parametrize(
    ("capability", "refusing"),
    [
        ("6.1", {"gptqmodel:exllama_v2", "gptqmodel:marlin", "gptqmodel:triton"}),
        ("7.0", {"gptqmodel:exllama_v2", "gptqmodel:marlin"}),
        ("7.5", set()),
        ("8.6", set()),
        ("10.0", set()),
        ("12.1", set()),
        (None, set()),
    ],
)
def test_old_cards_are_refused_by_the_kernels_that_refuse_them(capability: str | None, refusing: set[str]) -> None:
    assert takers() - takers(gpu=card(capability)) == refusing


def test_a_refused_capability_is_named_with_the_one_needed() -> None:
    why = load("gptqmodel:marlin", gpu=card("7.0")).why
    assert why == "gptqmodel:marlin needs compute capability 7.5 or more; GPU 0 (a card) has 7.0."


def test_an_unknown_capability_is_let_through_and_said() -> None:
    assert "unknown, is 7.5 or more" in load("gptqmodel:marlin", gpu=card(None)).why
    assert "unknown" not in load("gptqmodel:torch", gpu=card(None)).why


def test_pascal_works_and_is_called_slow() -> None:
    assert "slowly: compute capability 6.1" in load("exllamav2", gpu=card("6.1")).why
    assert "slowly" not in load("exllamav2", gpu=card("7.0")).why


@pytest.mark.parametrize(
    ("gpu", "names"),
    [
        (CPU, {"gptqmodel:torch", "auto_gptq"}),
        (MAC, {"gptqmodel:torch"}),
        (RADEON, {"exllamav2", "exllama", "gptqmodel:torch", "auto_gptq"}),
    ],
    ids=["cpu", "mac", "radeon"],
)
def test_other_devices_have_the_runtimes_that_run_on_them(gpu: Gpu, names: set[str]) -> None:
    assert takers(gpu=gpu) == names


def test_a_wrong_device_is_named() -> None:
    assert load("exllamav2", gpu=CPU).why == "exllamav2 runs on NVIDIA GPUs and AMD GPUs, not on CPU (no GPU)."


@pytest.mark.parametrize(
    ("model_type", "names"),
    [
        ("llama", EXLLAMAS),
        ("mistral", {"exllamav2", "gptqmodel:exllama_v2"}),
        ("Yi", {"exllamav2", "gptqmodel:exllama_v2"}),
        ("qwen3_moe", {"exllamav2"}),  # its experts come up random in gptqmodel with transformers 5
        ("falcon", {"gptqmodel:exllama_v2"}),
        ("phi3", {"gptqmodel:exllama_v2"}),
        (None, EXLLAMAS),
        ("", EXLLAMAS),
    ],
)
def test_the_architectures_each_exllama_knows(model_type: str | None, names: set[str]) -> None:
    assert takers(model_type=model_type) & EXLLAMAS == names


def test_mixtral_is_refused_where_its_experts_would_come_up_missing() -> None:
    for runtime in RUNTIMES:
        verdict = can_load(
            runtime, format="gptq", bits=4, group_size=None, act_order=True, model_type="mixtral", branch="main"
        )
        if runtime.name.startswith("gptqmodel:"):
            assert not verdict.can and "experts" in verdict.why
        if runtime.name in ("exllamav2", "auto_gptq"):
            assert verdict.can


def test_an_unknown_architecture_is_named() -> None:
    assert load("exllama", model_type="mistral").why == "exllama loads llama; mistral is not among them."
    assert load("exllamav2", model_type="falcon").why == "exllamav2 loads 21 architectures; falcon is not among them."


def test_autogptq_knows_the_architectures_of_its_time() -> None:
    assert load("auto_gptq", model_type="RefinedWeb").can
    assert not load("auto_gptq", model_type="qwen3").can
    assert load("gptqmodel:torch", model_type="qwen3").can


def test_exl2_is_exllamav2s_at_any_bit_rate_and_phi3_too() -> None:
    assert takers(format="exl2", bits=4.25, group_size=None) == {"exllamav2"}
    assert load("exllamav2", format="exl2", bits=4.25, group_size=None).why == "exllamav2 takes 4.25-bit EXL2."
    assert load("exllamav2", format="exl2", bits=None, model_type="phi3").can


@pytest.mark.parametrize("format_", ["awq", "exl3", "gguf", "ggml", "fp16", ""])
def test_other_formats_are_nobodys(format_: str) -> None:
    assert takers(format=format_) == set()


def test_a_wrong_format_is_named_with_the_right_ones() -> None:
    assert load("exllamav2", format="awq").why == "exllamav2 reads EXL2 and GPTQ, not AWQ."
    assert load("gptqmodel:torch", format="").why == "gptqmodel:torch reads GPTQ, not an unknown format."


def test_gptq_for_llama_is_for_old_main_branches() -> None:
    assert load("gptq_for_llama", branch="main", act_order=False).can
    assert "before August 2023" in load("gptq_for_llama", branch="main", act_order=False).why
    assert not load("gptq_for_llama", branch="main", act_order=True).can
    assert load("gptq_for_llama", branch="main", act_order=True, group_size=None).can
    assert "not for gptq-4bit-32g" in load("gptq_for_llama", branch="gptq-4bit-32g", act_order=False).why


def test_every_runtime_says_where_its_facts_were_read_and_plays_a_loader() -> None:
    assert {runtime.loader for runtime in RUNTIMES} == set(LOADERS)
    assert len({runtime.name for runtime in RUNTIMES}) == len(RUNTIMES) == 8
    for runtime in RUNTIMES:
        assert runtime.source
        assert runtime.packages


def test_the_tables_facts_are_gptqmodels_own() -> None:
    qlinear = pytest.importorskip("gptqmodel.nn_modules.qlinear", reason="needs gptqmodel, whose own table is compared")
    from gptqmodel.nn_modules.qlinear.exllamav2 import ExllamaV2Linear
    from gptqmodel.nn_modules.qlinear.marlin import MarlinLinear
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.nn_modules.qlinear.tritonv2 import TritonV2Linear

    assert qlinear
    for name, kernel in {
        "exllama_v2": ExllamaV2Linear,
        "marlin": MarlinLinear,
        "triton": TritonV2Linear,
        "torch": TorchLinear,
    }.items():
        runtime = by_name(f"gptqmodel:{name}")
        assert runtime.bits <= set(kernel.SUPPORTS_BITS)
        assert runtime.group_sizes == set(kernel.SUPPORTS_GROUP_SIZE) - {-1}
        assert runtime.needs_symmetric == (kernel.SUPPORTS_SYM == [True])


# --- which runtimes there are


def host(
    versions: Mapping[str, str] | None = None,
    *,
    extra: tuple[str, ...] = (),
    nvcc: str | None = "/usr/local/cuda/bin/nvcc",
    platform: str = "linux",
    python: tuple[int, int] = (3, 11),
) -> Host:
    installed = dict(versions or {})
    return Host(lambda name: name in installed or name in extra, installed.get, nvcc, platform, python)


V4 = {"torch": "2.13.0", "transformers": "5.6.0", "optimum": "2.3.0", "gptqmodel": "7.6.0", "triton": "3.6.0"}
"""What a webui of v4.x has once gptqmodel and optimum are added to it."""

V2 = {"torch": "2.1.2", "transformers": "4.38.2", "auto_gptq": "0.7.1", "exllamav2": "0.0.20"}
"""What a webui of v1.8 to v1.14 brings along."""


def here(which: Host) -> set[str]:
    return {verdict.runtime for verdict in check_host(which) if verdict.can}


def why(which: Host, name: str) -> str:
    return next(verdict.why for verdict in check_host(which) if verdict.runtime == name)


def test_a_new_webui_has_gptqmodels_kernels() -> None:
    assert here(host(V4)) == {"gptqmodel:exllama_v2", "gptqmodel:marlin", "gptqmodel:triton", "gptqmodel:torch"}


def test_without_nvcc_only_the_kernels_that_need_none_are_left() -> None:
    bare = host(V4, nvcc=None)
    assert here(bare) == {"gptqmodel:triton", "gptqmodel:torch"}
    assert "CUDA_HOME" in why(bare, "gptqmodel:marlin")


def test_an_old_webui_has_auto_gptq_and_exllamav2() -> None:
    assert here(host(V2)) == {"auto_gptq", "exllamav2"}


def test_exllamav2_needs_nvcc_unless_its_wheel_is_compiled() -> None:
    assert "exllamav2" not in here(host(V2, nvcc=None))
    assert "exllamav2_ext" in why(host(V2, nvcc=None), "exllamav2")
    assert "exllamav2" in here(host(V2, extra=("exllamav2_ext",), nvcc=None))


def test_auto_gptq_does_not_import_beside_transformers_5() -> None:
    new = host({**V2, "transformers": "5.0.0"})
    assert "auto_gptq" not in here(new)
    assert why(new, "auto_gptq") == (
        "auto_gptq does not import beside transformers 5.0.0: it needs transformers below 5, or use gptqmodel."
    )
    assert "auto_gptq" in here(host({**V2, "transformers": "4.57.6"}))


def test_auto_gptq_has_no_wheel_for_python_3_12() -> None:
    assert "up to 3.11, and this is 3.12" in why(host(V4, python=(3, 12)), "auto_gptq")
    assert "pip install auto-gptq" in why(host(V4), "auto_gptq")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gptqmodel": "5.8.0"}, "needs gptqmodel 7.0 or newer beside optimum 2.3.0; gptqmodel 5.8.0 is here"),
        ({"optimum": "1.23.3"}, "needs optimum 1.24 and gptqmodel 1.4.3 or newer; optimum 1.23.3"),
        ({"gptqmodel": "1.4.2", "optimum": "2.0.0"}, "gptqmodel 1.4.2 are here"),
        ({"torch": "2.13.0+rocm7.0"}, "torch 2.13.0+rocm7.0 is built for ROCm"),
        ({"torch": "2.13.0+cpu"}, "torch 2.13.0+cpu is built for the CPU"),
    ],
)
def test_versions_that_do_not_go_together_are_named(change: dict[str, str], words: str) -> None:
    which = host({**V4, **change})
    assert words in why(which, "gptqmodel:exllama_v2")


def test_gptqmodel_5_goes_with_optimum_2_2() -> None:
    assert "gptqmodel:torch" in here(host({**V4, "gptqmodel": "5.8.0", "optimum": "2.2.0"}))


@pytest.mark.parametrize(
    ("version", "takes_3_bits"), [("5.8.0", False), ("6.0.3", False), ("7.6.0", True), ("7.7.0", True), (None, True)]
)
def test_three_bits_are_not_given_to_a_gptqmodel_that_reads_them_wrongly(
    version: str | None, takes_3_bits: bool
) -> None:
    installed = host({**V4, "optimum": "2.2.0"} | ({"gptqmodel": version} if version else {}))
    found = {runtime.name: runtime for runtime in available_runtimes(None, False, installed).runtimes}
    assert found["gptqmodel:torch"].bits == frozenset({2, 4, 8} | ({3} if takes_3_bits else set()))


def test_gptqmodel_needs_optimum_for_transformers() -> None:
    without = {name: version for name, version in V4.items() if name != "optimum"}
    assert why(host(without), "gptqmodel:torch") == "gptqmodel:torch lacks optimum: pip install optimum."


def test_a_cpu_build_of_torch_leaves_what_runs_on_a_cpu() -> None:
    assert here(host({**V4, "torch": "2.13.0+cpu"})) == {"gptqmodel:torch"}


def test_marlin_is_for_linux() -> None:
    windows = host(V4, platform="win32")
    assert "gptqmodel:marlin" not in here(windows)
    assert "runs on Linux only, and this is win32" in why(windows, "gptqmodel:marlin")


def test_what_is_installed_is_named_with_its_versions() -> None:
    assert why(host(V2), "auto_gptq") == "auto_gptq is installed (auto_gptq 0.7.1, transformers 4.38.2, torch 2.1.2)."


def test_versions_that_do_not_read_as_numbers_raise_nothing() -> None:
    assert check_host(host({**V4, "optimum": "unknown", "gptqmodel": "9" * 5000}))


def test_this_python_is_checked_without_importing_anything_heavy() -> None:
    code = (
        "import sys; from branchfit.loaders import available_runtimes; available_runtimes(None, False); "
        "print([name for name in ('torch', 'transformers', 'gptqmodel', 'optimum', 'triton') if name in sys.modules])"
    )
    path = f"import sys; sys.path[:0] = {sys.path!r}; "
    done = subprocess.run([sys.executable, "-S", "-c", path + code], text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"


def test_this_host_is_this_python() -> None:
    assert this_host().python == sys.version_info[:2]
    assert this_host().has("pytest")
    assert not this_host().has("no_such_module_anywhere")
    assert this_host().version("pytest") == pytest.__version__
    assert this_host().version("no-such-distribution-anywhere") is None


def names(availability: Any) -> list[str]:
    return [runtime.name for runtime in availability.runtimes]


ASSUMED = ["exllamav2", "gptqmodel:triton", "gptqmodel:torch"]


def test_a_simulated_gpu_assumes_three_runtimes_and_says_so() -> None:
    answer = available_runtimes(None, True)
    assert names(answer) == ASSUMED
    assert answer.assumed
    assert "exllamav2, gptqmodel:triton and gptqmodel:torch are assumed" in answer.note


def test_a_host_without_any_runtime_assumes_them_too_and_says_what_is_missing() -> None:
    answer = available_runtimes(None, False, host())
    assert names(answer) == ASSUMED
    assert answer.assumed
    assert "no GPTQ runtime is installed here" in answer.note
    assert len(answer.missing) == 8


def test_a_host_with_runtimes_offers_those_in_order_of_preference() -> None:
    answer = available_runtimes(None, False, host(V2))
    assert names(answer) == ["exllamav2", "auto_gptq"]
    assert not answer.assumed
    assert answer.note == "installed here: exllamav2 and auto_gptq."
    assert "gptqmodel:torch" in {verdict.runtime for verdict in answer.missing}


def test_named_runtimes_rule_over_both_without_repeats() -> None:
    for simulated in (True, False):
        answer = available_runtimes(["auto_gptq", "ExLlamaV2", "auto_gptq"], simulated, host(V4))
        assert names(answer) == ["exllamav2", "auto_gptq"]
        assert not answer.assumed
        assert answer.note == "runtimes as --runtime says: exllamav2 and auto_gptq."


def test_a_runtime_that_is_named_runs_on_this_host_unless_the_machine_is_another() -> None:
    windows = host({**V4, "exllamav2": "0.3.2"}, platform="win32")
    for name in ("gptqmodel:marlin", "exllamav2"):
        assert not available_runtimes([name], False, windows).expandable
        assert available_runtimes([name], True, windows).expandable
    assert not available_runtimes(["exllamav2"], False, windows).flash
    there = host({**V4, "exllamav2": "0.3.2", "flash_attn": "2.8.0"}, platform="win32")
    assert available_runtimes(["exllamav2"], False, there).flash


def test_gptq_for_llama_is_chosen_only_by_name() -> None:
    old = host({**V2, "gptq_for_llama": "0.1.0"})
    assert "gptq_for_llama" in here(old)
    assert "gptq_for_llama" not in names(available_runtimes(None, False, old))
    assert names(available_runtimes(["gptq_for_llama"], False, old)) == ["gptq_for_llama"]


def test_an_unknown_runtime_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError) as raised:
        available_runtimes(["llama.cpp"], True)
    assert "--runtime llama.cpp: no such runtime" in str(raised.value)
    assert all(runtime.name in str(raised.value) for runtime in RUNTIMES)


def test_a_loader_keeps_its_own_runtimes() -> None:
    answer = available_runtimes(None, True)
    assert [runtime.name for runtime in of_loader(answer.runtimes, "exllama")] == ["exllamav2"]
    assert [runtime.name for runtime in of_loader(answer.runtimes, "AutoGPTQ")] == ASSUMED[1:]
    assert of_loader(answer.runtimes, None) == answer.runtimes


def test_an_unknown_loader_is_refused_with_both_names() -> None:
    with pytest.raises(UsageError, match=r"--loader vLLM: no such loader\. There are: ExLlama, AutoGPTQ"):
        of_loader(RUNTIMES, "vLLM")
