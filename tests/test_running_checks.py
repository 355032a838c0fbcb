"""What is in memory against what the files hold, on stand-in models: every way to come up wrong is seen."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from branchfit.errors import LoadedWrong, LoadError, UsageError, WrongKernel
from branchfit.running.checks import check_loaded
from branchfit.running.folder import ModelFolder, read_folder
from branchfit.running.kernels import quantization_config
from running_models import WEIGHTS, Model, Module, Tensor, edit, kernel, read_all, small_model, write_tensors

TORCH = "gptqmodel:torch"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def read(folder: Path) -> ModelFolder:
    return read_folder(folder)


def came_up(read: ModelFolder, kind: type[Module] | None = None) -> Model:
    """The model as it should be: quantised modules of a kernel, and the files' numbers in all the rest."""
    kind = kind or kernel("TorchLinear")
    modules: dict[str, Module] = {}
    for name, stored in read.tensors.items():
        module, _, leaf = name.rpartition(".")
        packed = f"{module}.qweight" in read.tensors
        if leaf == "bias":
            continue  # AutoGPTQ's zero ones: a Llama has no place for them
        made = modules.setdefault(module, kind() if packed else kernel("LlamaRMSNorm", "transformers")())
        setattr(made, leaf, Tensor(list(stored.first(8) or ()), stored.shape))
    return Model(modules)


LINEAR = "model.layers.1.mlp.up_proj"


def wrong(model: Any, read: ModelFolder, **given: Any) -> LoadedWrong:
    with pytest.raises(LoadedWrong) as caught:
        check_loaded(model, read, **given)
    return caught.value


def test_a_model_that_is_what_the_files_hold_passes_with_a_word_on_the_zero_biases(read: ModelFolder) -> None:
    assert check_loaded(came_up(read), read, runtime=TORCH) == (
        "21 biases in the files are zero, as AutoGPTQ writes them, and are left out: harmless.",
    )


def test_a_model_that_is_none_or_has_no_memory_is_not_loaded(read: ModelFolder) -> None:
    assert "no model in memory" in str(wrong(None, read))
    model = came_up(read)
    model.modules["model.norm"] = Module(weight=Tensor([1.0], (256,), meta=True))
    assert "1 tensors (model.norm.weight) have no memory" in str(wrong(model, read))


def test_linears_that_came_up_plain_are_random_numbers(read: ModelFolder) -> None:
    model = came_up(read)
    model.modules[LINEAR] = kernel("Linear", "torch.nn.modules.linear")(weight=Tensor([0.5]))
    error = wrong(model, read)
    assert error.missing == (LINEAR,)
    assert "1 of 21 quantised linears (model.layers.1.mlp.up_proj) came up as Linear" in str(error)
    del model.modules[LINEAR]
    assert "came up as no module" in str(wrong(model, read))


def test_what_came_from_no_file_is_counted_and_three_are_named(read: ModelFolder) -> None:
    model = came_up(read)
    for number in range(4):
        model.modules[f"model.extra{number}"] = Module(weight=Tensor([0.1]))
    error = wrong(model, read)
    assert error.missing == tuple(f"model.extra{number}.weight" for number in range(4))
    assert "(model.extra0.weight, model.extra1.weight, model.extra2.weight ...) came from no file" in str(error)


def test_tied_weights_and_what_models_compute_are_no_missing_tensors(read: ModelFolder) -> None:
    model = came_up(read)
    model.modules["lm_tied"] = Module(weight=model.modules["model.embed_tokens"].weight)  # type: ignore[attr-defined]
    model.modules["model.layers.0.self_attn.rotary_emb"] = Module(inv_freq=Tensor([1.0]))
    model.modules[LINEAR].workspace = Tensor([0.0])  # type: ignore[attr-defined]
    model.modules[LINEAR].bias = Tensor([0.0, 0.0])  # type: ignore[attr-defined]
    assert len(check_loaded(model, read)) == 1
    model.modules["lm_tied"] = Module(weight=Tensor([1.0]))
    assert wrong(model, read).missing == ("lm_tied.weight",)


def test_packed_tensors_of_a_linear_have_to_come_from_the_file_too(folder: Path, tmp_path: Path) -> None:
    small_model(tmp_path)
    every = {key: one for key, one in read_all(tmp_path / WEIGHTS).items() if key != f"{LINEAR}.g_idx"}
    write_tensors(tmp_path / WEIGHTS, every)
    read = read_folder(tmp_path)
    model = came_up(read)
    model.modules[LINEAR].g_idx = Tensor([0.0, 3.0])  # type: ignore[attr-defined]
    assert wrong(model, read).missing == (f"{LINEAR}.g_idx",)


def test_a_base_models_file_is_matched_without_the_prefix(tmp_path: Path) -> None:
    small_model(tmp_path)
    every = {key.removeprefix("model."): one for key, one in read_all(tmp_path / WEIGHTS).items()}
    whole = came_up(read_folder(tmp_path))
    write_tensors(tmp_path / WEIGHTS, every)
    assert len(check_loaded(whole, read_folder(tmp_path))) == 1


def test_other_numbers_than_the_files_are_seen(read: ModelFolder) -> None:
    model = came_up(read)
    model.modules["model.norm"].weight = Tensor([9.0] * 8, (256,))  # type: ignore[attr-defined]
    error = wrong(model, read)
    assert error.missing == ("model.norm.weight",)
    assert "do not hold the numbers" in str(error)
    # bfloat16 keeps 8 bits: as near as that is the same number.
    stored = read.tensors["model.norm.weight"].first(8) or ()
    model.modules["model.norm"].weight = Tensor([n * (1 + 2**-8) for n in stored], (256,))  # type: ignore[attr-defined]
    assert check_loaded(model, read)


def test_a_bias_that_is_not_zero_and_has_no_place_is_an_error(tmp_path: Path) -> None:
    small_model(tmp_path)
    every = read_all(tmp_path / WEIGHTS)
    dtype, shape, data = every[f"{LINEAR}.bias"]
    negative_zeros = struct.pack("<e", -0.0) * (len(data) // 2)
    write_tensors(tmp_path / WEIGHTS, {**every, f"{LINEAR}.bias": (dtype, shape, negative_zeros)})
    assert check_loaded(came_up(read_folder(tmp_path)), read_folder(tmp_path))
    smallest = negative_zeros[:-2] + struct.pack("<e", 2**-24)
    write_tensors(tmp_path / WEIGHTS, {**every, f"{LINEAR}.bias": (dtype, shape, smallest)})
    read = read_folder(tmp_path)
    error = wrong(came_up(read), read)
    assert error.missing == (f"{LINEAR}.bias",)
    assert "1 of 21 biases" in str(error)
    # A model that has the place for it keeps it.
    model = came_up(read)
    model.modules[LINEAR].bias = Tensor([1.0])  # type: ignore[attr-defined]
    assert "20 biases" in check_loaded(model, read)[0]


def test_what_transformers_says_is_missing_counts(read: ModelFolder) -> None:
    info = {"missing_keys": {"model.norm.weight"}, "mismatched_keys": set()}
    assert wrong(came_up(read), read, loading_info=info).missing == ("model.norm.weight",)
    info = {"missing_keys": set(), "mismatched_keys": {("lm_head.weight", (1,), (2,))}}
    assert "another shape" in str(wrong(came_up(read), read, loading_info=info))
    assert check_loaded(came_up(read), read, {"missing_keys": set(), "unexpected_keys": {f"{LINEAR}.bias"}})


# ---- kernels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "package", "name"),
    [
        ("gptqmodel:exllama_v2", "gptqmodel.nn_modules.qlinear.exllamav2", "ExllamaV2Linear"),
        ("gptqmodel:exllama_v2", "gptqmodel.nn_modules.qlinear.exllamav2", "ExllamaV2QuantLinear"),
        ("gptqmodel:marlin", "gptqmodel.nn_modules.qlinear.marlin", "MarlinLinear"),
        ("gptqmodel:triton", "gptqmodel.nn_modules.qlinear.tritonv2", "TritonV2Linear"),
        ("gptqmodel:torch", "gptqmodel.nn_modules.qlinear.torch", "TorchLinear"),
        ("auto_gptq", "auto_gptq.nn_modules.qlinear.qlinear_cuda", "QuantLinear"),
        ("auto_gptq", "auto_gptq.nn_modules.qlinear.qlinear_cuda_old", "QuantLinear"),
    ],
)
def test_each_runtime_is_known_by_its_class_and_by_no_others(
    runtime: str, package: str, name: str, read: ModelFolder
) -> None:
    model = came_up(read, kernel(name, package))
    assert check_loaded(model, read, runtime=runtime)
    for other in ("gptqmodel:exllama_v2", "gptqmodel:marlin", "gptqmodel:triton", "gptqmodel:torch", "auto_gptq"):
        if other != runtime:
            error = wrong(model, read, runtime=other)
            assert isinstance(error, WrongKernel)
            assert (error.runtime, error.found) == (other, f"{package}.{name}")


@pytest.mark.parametrize("name", ["TorchFusedLinear", "TorchInt8Linear", "TorchAtenLinear", "MlxQuantLinear"])
def test_kernels_that_only_sound_like_it_are_others(name: str, read: ModelFolder) -> None:
    assert isinstance(wrong(came_up(read, kernel(name)), read, runtime=TORCH), WrongKernel)
    one = came_up(read)
    one.modules[LINEAR].__class__ = kernel(name)
    assert name in str(wrong(one, read, runtime=TORCH))


@pytest.mark.parametrize("kernel_name", ["exllama", "exllamav2", "triton", "marlin"])
def test_auto_gptqs_other_kernels_are_not_its_own(kernel_name: str, read: ModelFolder) -> None:
    made = kernel("QuantLinear", f"auto_gptq.nn_modules.qlinear.qlinear_{kernel_name}")
    assert isinstance(wrong(came_up(read, made), read, runtime="auto_gptq"), WrongKernel)


@pytest.mark.parametrize(
    ("runtime", "version", "own"),
    [
        ("gptqmodel:exllama_v2", "5.23.0", {"backend": "exllama_v2"}),
        ("gptqmodel:marlin", "5.6.2", {"backend": "marlin"}),
        ("gptqmodel:triton", "4.57.6", {"backend": "triton"}),
        ("gptqmodel:torch", "4.49.0", {"backend": "torch"}),
        ("auto_gptq", "4.57.6", {"use_exllama": False}),
        ("auto_gptq", "4.35.0", {"use_exllama": False}),
        ("auto_gptq", "4.34.1", {"disable_exllama": True}),
        ("auto_gptq", "4.32.0", {"disable_exllama": True}),
    ],
)
def test_the_config_names_the_kernel_in_each_versions_words(
    runtime: str, version: str, own: dict[str, Any], read: ModelFolder
) -> None:
    made = quantization_config(read, runtime, version)
    assert made == {**(read.quantization or {}), **own}
    assert made["bits"] == 4
    assert made["quant_method"] == "gptq"


@pytest.mark.parametrize(
    ("runtime", "version", "says"),
    [
        ("gptqmodel:torch", "4.48.3", "transformers>=4.49"),
        ("auto_gptq", "5.0.0", "4.32 up to, not including, 5"),
        ("auto_gptq", "4.31.0", "4.32 up to, not including, 5"),
        ("exllamav2", "5.23.0", "not used through transformers; what is: gptqmodel:exllama_v2"),
    ],
)
def test_what_transformers_cannot_be_told_is_an_error(runtime: str, version: str, says: str, read: ModelFolder) -> None:
    with pytest.raises(LoadError, match=says):
        quantization_config(read, runtime, version)


def test_an_unknown_runtime_and_a_model_that_is_not_gptq_are_refused(read: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such runtime"):
        quantization_config(read, "auto")
    small_model(tmp_path)
    edit(tmp_path / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(LoadError, match="not quantised by GPTQ"):
        quantization_config(read_folder(tmp_path), TORCH, "5.23.0")
