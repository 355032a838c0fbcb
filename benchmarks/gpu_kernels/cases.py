"""Which checkpoints, which runtimes, which deliberate mistakes; and the checkpoints themselves."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from branchfit.demo.repo import BRANCHES, SHAPE
from branchfit.demo.synth import Recipe, write_model
from branchfit.demo.synth.packing import pack_rows, pack_zeros
from branchfit.gpus import Gpu, detect
from branchfit.loaders import Verdict, by_name, can_load
from branchfit.shape import ModelShape

SHAPES = {
    "demo": SHAPE,
    "wide": ModelShape("llama", 4096, 11008, 2, 32, 32, 128, 32000, 4096),
    "7b": ModelShape("llama", 4096, 11008, 32, 32, 32, 128, 32000, 4096),
    "13b": ModelShape("llama", 5120, 13824, 40, 40, 40, 128, 32000, 4096),
}
"""The demo's; two layers of Llama-2-7B; Llama-2-7B and 13B, from their config.json."""

ACT_128G = "gptq-4bit-128g-actorder_True"
RECIPES: Mapping[str, Mapping[str, Recipe]] = {
    "demo": {
        **BRANCHES,
        "gptq-4bit-128g-actorder_False": Recipe(4, 128),
        "gptq-8bit-128g-actorder_True": Recipe(8, 128, act_order=True),
        "gptq-8bit--1g-actorder_True": Recipe(8, None, act_order=True),
    },
    "wide": {
        "main": Recipe(4, None, act_order=True),
        ACT_128G: Recipe(4, 128, act_order=True),
        "gptq-3bit-128g-actorder_True": Recipe(3, 128, act_order=True),
        "gptq-8bit-128g-actorder_True": Recipe(8, 128, act_order=True),
    },
    "7b": {ACT_128G: BRANCHES[ACT_128G], "gptq-3bit-128g-actorder_True": BRANCHES["gptq-3bit-128g-actorder_True"]},
    "13b": {ACT_128G: BRANCHES[ACT_128G]},
}
ROUNDED = ("demo", "wide")
"""Shapes whose codes are rounded from float weights, and so have a reference. The others' are random."""

CONTROLS = {
    "zeros": "every stored zero one more than it is",
    "order": "the groups in file order, as if there were no act order",
    "codes": "the lowest bit of every code flipped",
}

NO_COMPILE, NO_TRITON = {"TORCHDYNAMO_DISABLE": "1"}, {"GPTQ_TORCH_TRITON_DEQUANT": "0"}
BARE_EXLLAMA = {"EXLLAMA_NO_FLASH_ATTN": "1", "EXLLAMA_NO_XFORMERS": "1"}


@dataclass(frozen=True)
class Variant:
    """A runtime of branchfit's table, or "dense", with switches; `packages` are those it needs besides its own."""

    name: str
    environ: Mapping[str, str]
    packages: tuple[str, ...] = ()

    @property
    def runtime(self) -> str:
        return self.name.partition("+")[0]

    @property
    def backend(self) -> str:
        return self.runtime.partition(":")[2]


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("exllamav2", BARE_EXLLAMA),
        Variant("exllamav2+no_sdpa", {**BARE_EXLLAMA, "EXLLAMA_NO_SDPA": "1"}),
        Variant("exllamav2+xformers", {"EXLLAMA_NO_FLASH_ATTN": "1"}, ("xformers",)),
        Variant("exllamav2+flash_attn", {}, ("flash_attn",)),
        Variant("gptqmodel:exllama_v2", {}),
        Variant("gptqmodel:marlin", {}),
        Variant("gptqmodel:triton", {}),
        Variant("gptqmodel:torch", {}),
        Variant("gptqmodel:torch+no_compile", NO_COMPILE),
        Variant("gptqmodel:torch+no_triton", NO_TRITON),
        Variant("gptqmodel:torch+no_triton+no_compile", {**NO_TRITON, **NO_COMPILE}),
        Variant("dense", {}),
    )
}
"""exllamav2's attention: flash-attn if there, else xformers, else torch's SDPA, else plain products (attn.py; its
environment variables are in config.py). From 0.2.9 to 0.3.2 it calls SDPA without the causal mask (`_attn_torch`: for
a causal layer the mask is that of image blocks, None), so that prompts are read wrong; `+no_sdpa` avoids it.

gptqmodel's torch kernel wraps its dequantisation in torch.compile (nn_modules/qlinear/torch.py `optimize`) and does it
in a Triton kernel (GPTQ_TORCH_TRITON_DEQUANT). `dense` is the unquantised fp16 model in transformers, to compare."""


def controls_of(recipe: Recipe) -> list[str]:
    grouped_by_act = recipe.act_order and recipe.group_size is not None
    return ["zeros", *(["order"] if grouped_by_act else []), "codes"]


def make(work: Path, shape: str, branch: str) -> None:
    """Write one checkpoint and its controls under `work`, unless they are there."""
    recipe, folder = RECIPES[shape][branch], work / shape / branch
    if (folder / "made").is_file():
        return
    write_model(folder, SHAPES[shape], recipe, fill="rtn" if shape in ROUNDED else "random")
    for control in controls_of(recipe) if shape in ROUNDED else ():
        spoil(folder, folder.with_name(f"{branch}+{control}"), recipe, control)
    (folder / "made").touch()


def spoil(folder: Path, spoilt: Path, recipe: Recipe, control: str) -> None:
    """A copy of the checkpoint with the one thing wrong that `control` names."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    shutil.copytree(folder, spoilt, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if control == "zeros" and name.endswith(".qzeros"):
            zeros = np.full((len(tensor), tensor.shape[1] * 32 // recipe.bits), 2 ** (recipe.bits - 1) + 1, np.uint8)
            tensors[name] = pack_zeros(zeros, recipe.bits)
        elif control == "order" and name.endswith(".g_idx"):
            tensors[name] = (np.arange(len(tensor)) // (recipe.group_size or 1)).astype(np.int32)
        elif control == "codes" and name.endswith(".qweight"):
            lowest_bits = pack_rows(np.ones((32, 1), dtype=np.uint8), recipe.bits)
            tensors[name] = tensor ^ np.tile(lowest_bits, (len(tensor) // recipe.bits, 1))
    save_file(tensors, spoilt / "model.safetensors", metadata={"format": "pt"})


def judge(variant: Variant, shape: str, branch: str, device: str) -> Verdict:
    """branchfit's own verdict on the case, for this machine's GPU."""
    recipe, extents = RECIPES[shape][branch], SHAPES[shape]
    return can_load(
        by_name(variant.runtime),
        format="gptq",
        bits=recipe.bits,
        group_size=recipe.group_size,
        act_order=recipe.act_order,
        symmetric=recipe.symmetric,
        model_type=extents.model_type,
        gpu=gpu_here(device),
        in_features={linear.in_features for linear in extents.linears},
        branch=branch,
    )


def gpu_here(device: str) -> Gpu:
    machine = detect()
    return machine.cpu if device == "cpu" or not machine.gpus else machine.gpus[0]


def lacks(variant: Variant) -> str:
    """The packages that the variant needs and this Python has not; "" for none."""
    own = ("transformers",) if variant.name == "dense" else by_name(variant.runtime).packages
    return ", ".join(name for name in (*own, *variant.packages) if importlib.util.find_spec(name) is None)


def needs_nvcc(variant: Variant) -> bool:
    return variant.name != "dense" and by_name(variant.runtime).needs_nvcc
