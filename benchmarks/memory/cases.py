"""What is measured: shapes, branches, runtimes, contexts, the most telling first; and sparse files of real shape."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from branchfit.checkpoint import checkpoint_bytes, file_header, file_order
from branchfit.demo.synth import Recipe, model_config
from branchfit.shape import ModelShape, checkpoint_tensors, groups
from branchfit.variants import Variant

Record = dict[str, Any]

SHAPES: Mapping[str, ModelShape] = {
    "llama-2-7b": ModelShape("llama", 4096, 11008, 32, 32, 32, 128, 32000, 4096),
    "llama-2-13b": ModelShape("llama", 5120, 13824, 40, 40, 40, 128, 32000, 4096),
    "llama-30b": ModelShape("llama", 6656, 17920, 60, 52, 52, 128, 32000, 2048),
    "llama-65b": ModelShape("llama", 8192, 22016, 80, 64, 64, 128, 32000, 2048),
    "codellama-34b": ModelShape("llama", 8192, 22016, 48, 64, 8, 128, 32000, 16384),
    "llama-2-70b": ModelShape("llama", 8192, 28672, 80, 64, 8, 128, 32000, 4096),
    "mistral-7b": ModelShape("mistral", 4096, 14336, 32, 32, 8, 128, 32000, 32768),
    "mixtral-8x7b": ModelShape("mixtral", 4096, 14336, 32, 32, 8, 128, 32000, 32768, experts=8),
    "qwen2.5-7b": ModelShape("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, 32768, attention_bias=True),
    "qwen2-0.5b": ModelShape("qwen2", 896, 4864, 24, 14, 2, 64, 151936, 32768, tied=True, attention_bias=True),
    "qwen3-8b": ModelShape("qwen3", 4096, 12288, 36, 32, 8, 128, 151936, 40960, qk_norm=True),
    "tiny": ModelShape("llama", 256, 512, 2, 4, 2, 64, 512, 512),
}
"""From each model's config.json; "tiny" is for trying the harness without a GPU. Llama 30B and 65B are only followed,
not measured."""

RECIPES: Mapping[str, Recipe] = {
    "main": Recipe(4, None, act_order=True),
    "gptq-4bit-32g-actorder_True": Recipe(4, 32, act_order=True),
    "gptq-4bit-64g-actorder_True": Recipe(4, 64, act_order=True),
    "gptq-4bit-128g-actorder_True": Recipe(4, 128, act_order=True),
    "gptq-4bit-128g-actorder_False": Recipe(4, 128),
    "gptq-3bit--1g-actorder_True": Recipe(3, None, act_order=True),
    "gptq-3bit-128g-actorder_True": Recipe(3, 128, act_order=True),
    "gptq-8bit-128g-actorder_True": Recipe(8, 128, act_order=True),
}
"""The seed's six, a common one without act order, and 8 bits."""

FITTED = frozenset({"llama-2-7b", "llama-2-70b"})
"""Shapes that constants were fitted on. All the others only judge."""

ACT_128G, ACT_32G = "gptq-4bit-128g-actorder_True", "gptq-4bit-32g-actorder_True"
THREE_BIT, EIGHT_BIT = "gptq-3bit--1g-actorder_True", "gptq-8bit-128g-actorder_True"


@dataclass(frozen=True)
class Case:
    """One load. `contexts` in tokens are read one after another where the runtime needs no new load for it.

    `switches` are "no_sdpa" (exllamav2's plain attention), "autosplit", "no_compile" (gptqmodel's torch kernel
    without torch.compile, whose compilers take a minute a shape), "cuda_first" (somebody used CUDA before gptqmodel was
    imported, so that the expandable segments that it asks for come too late), "late" (the same, and torch's allocator
    is told of them as branchfit does it) and "expandable" (the same, with those asked for by the environment).
    """

    runtime: str
    shape: str
    branch: str
    contexts: tuple[int, ...]
    cache: str = "fp16"
    switches: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        of = [self.runtime, self.shape, self.branch, self.cache, *self.switches]
        return " ".join(of)

    def record(self) -> Record:
        recipe = RECIPES[self.branch]
        made = {"bits": recipe.bits, "group_size": recipe.group_size, "act_order": recipe.act_order}
        return {**asdict(self), **made, "contexts": list(self.contexts), "switches": list(self.switches)}

    @classmethod
    def of(cls, record: Record) -> Case:
        given = {name: record[name] for name in ("runtime", "shape", "branch", "cache")}
        return cls(**given, contexts=tuple(record["contexts"]), switches=tuple(record["switches"]))


V2, TRITON, TORCH = "exllamav2", "gptqmodel:triton", "gptqmodel:torch"
LLAMA_V2, MARLIN = "gptqmodel:exllama_v2", "gptqmodel:marlin"


def _ranked() -> Iterator[Case]:
    short, long = (2048, 4096), (2048, 8192, 32768)
    # What needs no compiler first: that runs while the other kernels are compiled.
    yield Case(TRITON, "llama-2-7b", ACT_128G, short)
    yield Case(TRITON, "llama-2-70b", ACT_32G, short)
    yield Case(TRITON, "llama-2-70b", "main", short)
    yield Case(TORCH, "llama-2-70b", THREE_BIT, short, switches=("no_compile",))
    yield Case(TORCH, "llama-2-7b", ACT_128G, short, switches=("no_compile",))
    yield Case(TRITON, "mistral-7b", ACT_128G, long)
    yield Case(TRITON, "llama-2-13b", ACT_128G, short)
    yield Case(TORCH, "llama-2-13b", "gptq-3bit-128g-actorder_True", short, switches=("no_compile",))
    yield Case(TORCH, "mistral-7b", ACT_128G, long, switches=("no_compile",))
    yield Case(TRITON, "qwen2.5-7b", ACT_128G, long)
    yield Case(TORCH, "llama-2-7b", ACT_128G, short)
    yield Case(TRITON, "llama-2-7b", ACT_128G, short, switches=("expandable",))
    yield Case(TRITON, "mistral-7b", ACT_128G, long, switches=("expandable",))
    for cache in ("fp16", "q8", "q6", "q4"):
        yield Case(V2, "llama-2-7b", ACT_128G, short if cache in ("fp16", "q4") else (4096,), cache)
    yield Case(V2, "llama-2-70b", ACT_32G, (4096,))
    yield Case(V2, "llama-2-70b", "main", (2048,))
    yield Case(V2, "llama-2-13b", ACT_128G, short)
    yield Case(V2, "mistral-7b", ACT_128G, long)
    yield Case(LLAMA_V2, "llama-2-7b", ACT_128G, short)
    yield Case(LLAMA_V2, "llama-2-70b", ACT_32G, short)
    yield Case(LLAMA_V2, "llama-2-13b", ACT_128G, short)
    yield Case(LLAMA_V2, "mistral-7b", ACT_128G, long)
    yield Case(V2, "mixtral-8x7b", ACT_128G, (4096, 16384))
    yield Case(V2, "codellama-34b", ACT_128G, (4096, 16384))
    yield Case(V2, "mistral-7b", ACT_128G, (32768,), "q4")
    yield Case(V2, "qwen2.5-7b", ACT_128G, (4096, 32768))
    yield Case(TRITON, "codellama-34b", ACT_128G, (4096, 16384))
    yield Case(MARLIN, "llama-2-7b", ACT_128G, short)
    yield Case(MARLIN, "llama-2-70b", ACT_32G, short)
    yield Case(MARLIN, "llama-2-13b", ACT_128G, short)
    yield Case(MARLIN, "mistral-7b", ACT_128G, long)
    yield Case(TRITON, "llama-2-7b", EIGHT_BIT, short)
    yield Case(MARLIN, "llama-2-7b", EIGHT_BIT, short)
    yield Case(LLAMA_V2, "codellama-34b", ACT_128G, (4096, 16384))
    yield Case(LLAMA_V2, "qwen2.5-7b", ACT_128G, (4096, 16384))
    yield Case(TRITON, "qwen3-8b", ACT_128G, (4096, 16384))
    yield Case(TRITON, "qwen2-0.5b", "gptq-4bit-32g-actorder_True", (4096, 16384))
    yield Case(V2, "qwen2-0.5b", "gptq-4bit-32g-actorder_True", (4096, 16384))
    yield Case(V2, "qwen3-8b", ACT_128G, (4096,))
    yield Case(V2, "llama-2-7b", "main", (4096,))
    yield Case(V2, "llama-2-7b", "gptq-4bit-128g-actorder_False", (4096,))
    yield Case(V2, "llama-2-7b", ACT_128G, (4096,), switches=("autosplit",))
    yield Case(V2, "llama-2-7b", ACT_128G, (4096,), switches=("no_sdpa",))
    yield Case(V2, "llama-2-13b", ACT_128G, (4096,), "q4")
    yield Case(MARLIN, "qwen2.5-7b", ACT_128G, (4096, 16384))
    yield Case(TORCH, "llama-2-7b", "gptq-3bit-128g-actorder_True", short, switches=("no_compile",))
    yield Case(TORCH, "llama-2-7b", EIGHT_BIT, short, switches=("no_compile",))
    yield Case(TRITON, "llama-2-7b", "main", short)
    yield Case(TRITON, "llama-2-7b", ACT_32G, short)
    # Where torch's rules say that most is lost between tensors with marlin.
    yield Case(MARLIN, "llama-2-13b", ACT_128G, (1024, 1536))
    yield Case(MARLIN, "llama-2-7b", ACT_128G, (1024, 1536))


def _with_cuda_first() -> Iterator[Case]:
    for case in (ranked := list(_ranked())):
        yield case
    through_gptqmodel = [
        case for case in ranked if case.runtime.startswith("gptqmodel:") and "expandable" not in case.switches
    ]
    for switch in ("late", "cuda_first"):
        for case in through_gptqmodel:
            yield replace(case, switches=(*case.switches, switch))
    # Longer prompts that need less than shorter ones, by torch's rules.
    yield Case(TRITON, "llama-2-13b", ACT_128G, (2272, 3072, 3104), switches=("cuda_first",))


RANKED = tuple(_with_cuda_first())
"""All that is to be measured, the most telling first."""

TINY = (Case(TORCH, "tiny", ACT_32G, (128, 256)),)


def fitted(record: Record) -> bool:
    """Whether constants were fitted on this measurement, or only judged by it."""
    return record["shape"] in FITTED


def expandable(record: Record) -> bool:
    """Whether torch's allocator had expandable segments, which gptqmodel asks for when it is imported in time."""
    return record["runtime"].startswith("gptqmodel:") and "cuda_first" not in record["switches"]


def options_of(record: Record) -> dict[str, bool]:
    """What of the host branchfit's `terms` are to be told."""
    options = {"expandable": expandable(record)} if record["runtime"].startswith("gptqmodel:") else {}
    return {**options, **({"plain_attention": True} if "no_sdpa" in record["switches"] else {})}


def measured_bytes(record: Record) -> int:
    """What a load that ran needed of the card: the CUDA context as the driver counts it, and what torch's allocator
    could not do without.

    That is the most that was allocated at a time, and gaps between tensors that stay: those of the load where tensors
    are loaded one by one into blocks that cannot move (ExLlamaV2), all of the prompt's where K and V lie among them
    (transformers without expandable segments; with them it is the least that can be needed, and two loads of 32768
    tokens died with 150 MiB more). What the allocator only keeps in case it is asked again is not needed: it gives it
    back before it fails. It may be tens of GB, and is in the driver's peak (`peak_bytes`) all the same.
    """
    stages = [record[name] for name in ("load", "prefill", "decode")]
    if record["runtime"] == "exllamav2":
        gaps = record["load"]["reserved"] - record["load"]["allocated"]
        held = max(stage["peak_allocated"] for stage in stages) + gaps
    elif expandable(record):
        held = max(stage["peak_allocated"] for stage in stages)
    else:
        held = max(stage["peak_reserved"] for stage in stages)
    return int(record["context_bytes"] + held)


def taken_bytes(record: Record) -> int:
    """What a load took where nothing limited it: it cannot have needed more."""
    stages = [record[name] for name in ("load", "prefill", "decode")]
    return int(record["context_bytes"] + max(stage["peak_reserved"] for stage in stages))


def variant_of(record: Record) -> Variant:
    """What was loaded, as branchfit knows it from its files before a download."""
    shape, recipe = SHAPES[record["shape"]], RECIPES[record["branch"]]
    return Variant(
        record["branch"],
        bits=recipe.bits,
        group_size=recipe.group_size,
        act_order=recipe.act_order,
        shape=shape,
        size_bytes=checkpoint_bytes(shape, recipe.bits, recipe.group_size),
        model_type=shape.model_type,
    )


def write_sparse(folder: Path, shape_name: str, branch: str) -> None:
    """A checkpoint of real shape whose tensors are holes in the file, which read as zeros, but g_idx and own biases.

    No memory is decided by what a weight is, and 40 GB of holes take no disk and no time. Without g_idx an act-order
    branch would be none: the kernels look whether it is in order. A bias of zeros is one that exllamav2 leaves out.
    """
    shape, recipe = SHAPES[shape_name], RECIPES[branch]
    path = folder / "model.safetensors"
    if (folder / "config.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    ordered = file_order(checkpoint_tensors(shape, recipe.bits, recipe.group_size))
    header = file_header(ordered)
    orders = {rows: _order(rows, recipe) for rows in {linear.in_features for linear in shape.linears}}
    own_biases = {linear.name for linear in shape.linears if linear.bias}
    at = len(header)
    with path.open("wb") as file:
        file.write(header)
        for tensor in ordered:
            if tensor.name.endswith(".g_idx") and recipe.group_size is not None:
                file.seek(at)
                file.write(orders[tensor.shape[0]])
            elif tensor.name.endswith(".bias") and any(f".{name}." in tensor.name for name in own_biases):
                file.seek(at)
                file.write(b"\x00\x3c" * tensor.shape[0])  # 1.0 in fp16
            at += tensor.size_bytes
        file.truncate(at)
    config = model_config(shape, recipe)
    config["eos_token_id"] = shape.vocab - 1
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "generation_config.json").write_text("{}", encoding="utf-8")


def _order(rows: int, recipe: Recipe) -> bytes:
    """g_idx of that many rows: their groups, in a drawn order where the recipe has act order."""
    size = recipe.group_size or rows
    numbers = [row // size for row in range(rows)]
    assert len(set(numbers)) == groups(rows, recipe.group_size)
    if recipe.act_order:
        random.Random(rows).shuffle(numbers)
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def shortened(case: Case, contexts: tuple[int, ...]) -> Case:
    """The case with these contexts alone."""
    return replace(case, contexts=contexts)
