"""The demo's six branches in transformers and gptqmodel, on the CPU: they load, agree, and speak.

The reference takes the float weights, rounds them here in torch, and never sees a packed word; only
the numbers of the groups are read from the file, since act order is a free choice.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from branchfit.demo.repo import BRANCHES, SHAPE, demo_repo
from branchfit.demo.synth import Recipe, reference_tensors, reference_weight, write_model
from branchfit.prompts import ALPACA_COT
from branchfit.shape import ModelShape

# Before the imports, which read them. gptqmodel asks for more workers than a machine of two cores
# has; and it compiles its dequantisation anew for every shape, far slower than these models run.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

NEEDS = "loading real GPTQ models needs the `[gptq]` extra"
if os.environ.get("BRANCHFIT_NEEDS_GPTQ"):
    # ./install.sh test --all has installed it: there, a skip would hide that nothing was tested.
    import gptqmodel  # noqa: F401 (only whether it is there)
    import optimum  # noqa: F401 (the same)
torch = pytest.importorskip("torch", reason=NEEDS)
transformers = pytest.importorskip("transformers", reason=NEEDS)
safetensors_torch = pytest.importorskip("safetensors.torch", reason=NEEDS)
for package in ("optimum", "gptqmodel"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(NEEDS, allow_module_level=True)

# transformers, optimum and gptqmodel warn of one another's deprecations; none of that is ours.
pytestmark = pytest.mark.filterwarnings("ignore")

Tensor = torch.Tensor

PROMPT = ALPACA_COT.render("Ann has three boxes of ten pens and gives away seven. How many pens are left?")

AGREES = 5e-3
"""gptqmodel's torch kernel dequantises in fp16, the reference in fp32: that much and no more."""

AGREES_IN_FP16 = 1e-4
"""With the reference's weights in fp16 too, only the order of additions is left."""

DIFFERS = 0.1
"""What any real mistake moves some logit by, at the least."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    demo = demo_repo(tmp_path_factory.mktemp("demo"))
    return {branch: files["config.json"].parent for branch, files in demo.branches.items()}


def load(folder: Path, bits: int) -> tuple[Any, dict[str, Any]]:
    """The model as transformers and gptqmodel load it in fp32, and what they say about its keys."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        quantization_config=transformers.GPTQConfig(bits=bits, backend="torch"),
        output_loading_info=True,
    )
    return model.eval(), info


def logits_of(model: Any, folder: Path) -> Tensor:
    ids = transformers.AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")
    with torch.no_grad():
        return model(**ids).logits.float()


def rounded(weight: Tensor, group_of: Tensor, bits: int) -> Tensor:
    """`weight` [out, in] as its symmetric codes give it back, one group of columns after another."""
    result = torch.empty_like(weight)
    for group in group_of.unique():
        block = weight[:, group_of == group]
        scale = (2 * block.abs().amax(dim=1, keepdim=True) / (2**bits - 1)).half().float()
        steps = torch.round(block / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        result[:, group_of == group] = steps * scale
    return result


def reference_logits(folder: Path, change: Callable[[str, Tensor], Tensor]) -> Tensor:
    """Logits of a plain Llama with the float weights, each first put through `change(name, weight)`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).float().eval()
    state = {}
    for tensor in reference_tensors(SHAPE):
        weight = torch.from_numpy(reference_weight(SHAPE, tensor, seed=0)).float()
        state[tensor.name] = change(tensor.name, weight)
    model.load_state_dict(state, strict=True)
    return logits_of(model, folder)


def dequantised_logits(folder: Path, bits: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The reference: every linear rounded to nearest, the products held in `dtype`."""
    stored = safetensors_torch.load_file(folder / "model.safetensors")

    def change(name: str, weight: Tensor) -> Tensor:
        group_of = stored.get(name.removesuffix("weight") + "g_idx")
        return weight if group_of is None else rounded(weight, group_of, bits).to(dtype).float()

    return reference_logits(folder, change)


def furthest(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_loads_whole_agrees_with_its_reference_and_generates(branch: str, folders: dict[str, Path]) -> None:
    folder, bits = folders[branch], BRANCHES[branch].bits
    model, info = load(folder, bits)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    # AutoGPTQ's zero biases, which Llama has no place for, and nothing else.
    assert {key.rpartition(".")[2] for key in info["unexpected_keys"]} <= {"bias"}

    logits = logits_of(model, folder)
    assert logits.std() > 1
    assert furthest(logits, dequantised_logits(folder, bits)) < AGREES
    assert furthest(logits, dequantised_logits(folder, bits, torch.float16)) < AGREES_IN_FP16

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt")
    assert tokenizer.decode(ids["input_ids"][0][1:]) == PROMPT
    out = model.generate(**ids, min_new_tokens=8, max_new_tokens=8)
    assert out.shape[1] == ids["input_ids"].shape[1] + 8
    assert tokenizer.decode(out[0], skip_special_tokens=True).startswith(PROMPT)


def test_zeros_stored_without_their_minus_one_are_seen(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["gptq-4bit-128g-actorder_True"]
    wrong = tmp_path / "wrong"
    shutil.copytree(folder, wrong)
    tensors = safetensors_torch.load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("qzeros"):
            # Every zero is 8: stored as 7 in v1, as 8 without the minus one.
            assert (tensor == 0x77777777).all()
            tensors[name] = torch.full_like(tensor, 0x88888888 - (1 << 32))
    safetensors_torch.save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    model, _ = load(wrong, 4)
    assert furthest(logits_of(model, wrong), dequantised_logits(folder, 4)) > DIFFERS


def test_each_branch_has_logits_of_its_own_and_none_has_the_unquantised_ones(folders: dict[str, Path]) -> None:
    # The references alone: the test above ties each branch to its own.
    logits = {branch: dequantised_logits(folder, BRANCHES[branch].bits) for branch, folder in folders.items()}
    logits["unquantised"] = reference_logits(folders["main"], lambda _, weight: weight)
    names = list(logits)
    for index, name in enumerate(names):
        for other in names[:index]:
            assert furthest(logits[name], logits[other]) > DIFFERS, (name, other)


def test_without_quantization_config_the_keys_are_missing(folders: dict[str, Path], tmp_path: Path) -> None:
    # Shows that "no missing keys" says something: transformers raises nothing here.
    folder = tmp_path / "bare"
    shutil.copytree(folders["main"], folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    _, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert len(info["missing_keys"]) == 7 * SHAPE.layers


@pytest.mark.parametrize(
    "shape",
    [
        ModelShape("mistral", 128, 256, 2, 4, 2, 32, 320, 512),
        ModelShape("qwen2", 128, 256, 2, 4, 2, 32, 320, 512, attention_bias=True),
    ],
    ids=lambda shape: shape.model_type,
)
def test_other_families_and_asymmetric_zeros_load_whole(shape: ModelShape, tmp_path: Path) -> None:
    write_model(tmp_path, shape, Recipe(4, 32, act_order=True, symmetric=False))
    model, info = load(tmp_path, 4)
    assert not info["missing_keys"]
    for tensor in reference_tensors(shape):
        if tensor.name.endswith(".bias"):
            assert shape.attention_bias
            loaded = dict(model.state_dict())[tensor.name]
            assert torch.equal(loaded.float(), torch.from_numpy(reference_weight(shape, tensor, 0)).float())
    assert 1 < logits_of(model, tmp_path).std() < 10
