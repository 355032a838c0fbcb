"""The values of a host loader's own parameters, as its page would send them.

Read in modules/loaders.py, models_settings.py and each loader's module, v1.5 to v4.7.3; which of them
a host has is looked up in its `loaders_and_params`. Whatever is set here replaces what the model
before left in `shared.args`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from branchfit.errors import LoadError
from branchfit.gpus import Machine
from branchfit.memory.splits import LoaderSplit, split_text
from branchfit.units import GIB

from .facts import Facts
from .offers import Offer

OFF = (
    "autosplit",  # makes the loaders ignore gpu_split
    "enable_tp",
    "cfg_cache",  # a second cache
    "load_in_4bit",
    "load_in_8bit",
    "bf16",  # GPTQ's scales are fp16
    "disk",
    "auto_devices",
    "triton",
    "use_double_quant",
    "torch_compile",
)
"""Switches that would undo what was worked out: another split, another size, another kernel."""

UNFUSED = ("no_inject_fused_attention", "no_inject_fused_mlp")
"""AutoGPTQ's fused attention takes no grouped queries, which Llama-2-70B has (its quantiser's card says to turn
it off), and both take more memory."""

BLIND = ((0, 2, 9), (0, 3, 2))
"""Versions of exllamav2, first and last, that read a prompt without a causal mask where torch's SDPA attends, which is
where neither flash-attn nor xformers is there: attn.py `_attn_torch` takes `get_block_diag_mask` for every causal
layer, which is None. Logits were off by 6 to 9 on an H100 (0.3.2), with no exception; right with no_sdpa, and as fast
as before within a fifth. 0.3.2 is the last there is."""

MIB = 2**20


def parameters(
    offer: Offer,
    facts: Facts,
    *,
    context_tokens: int,
    gpu_split_bytes: Sequence[int],
    machine: Machine,
    cache_type: str,
    exllamav2: str | None = None,
    told: LoaderSplit | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Parameter -> value, and remarks. `exllamav2` is that package's version where it is installed.

    `told` is the split in this loader's own count (`sharing.loader_told`); without it, it gets `gpu_split_bytes`.

    Raises LoadError for a cache that this loader does not have.
    """
    params = offer.params
    on_cpu = not machine.gpus
    values: dict[str, Any] = {name: False for name in OFF if name in params}
    values |= {name: True for name in UNFUSED if name in params}
    if "cpu" in params:
        values["cpu"] = on_cpu
    if "cpu_memory" in params:
        values["cpu_memory"] = 0
    for name in ("ctx_size", "max_seq_len"):
        if name in params:
            values[name] = context_tokens
    # Not a loader's parameter but read from the same places by all versions; since November 2023 load_model takes
    # ExLlama's from the above and everybody else's from here.
    values["truncation_length"] = context_tokens
    values |= _cache(params, cache_type, offer.loader)
    values |= _autogptq(offer, facts, context_tokens, on_cpu)
    if "no_sdpa" in params and offer.runtime.name == "exllamav2":
        values["no_sdpa"] = _is_blind(exllamav2)  # flash-attn and xformers go before it where they are
    split, notes = _split(offer, gpu_split_bytes, machine, told)
    return values | split, notes


def _is_blind(version: str | None) -> bool:
    numbers = re.match(r"\d+(?:\.\d+)*", version or "")
    return numbers is not None and BLIND[0] <= tuple(int(part[:9]) for part in numbers[0].split(".")) <= BLIND[1]


def _cache(params: Sequence[str], cache_type: str, loader: str) -> dict[str, Any]:
    """cache_type since v2.0; cache_8bit and cache_4bit before; nothing to choose in the Transformers loader."""
    if "cache_type" in params:
        return {"cache_type": cache_type}
    switches = {name: False for name in ("cache_8bit", "cache_4bit") if name in params}
    if cache_type == "fp16":
        return switches
    name = {"fp8": "cache_8bit", "q4": "cache_4bit"}.get(cache_type, "")
    if name not in switches:
        raise LoadError(f"{loader} of this webui has no {cache_type} cache: ask for fp16.")
    return {**switches, name: True}


def _autogptq(offer: Offer, facts: Facts, context_tokens: int, on_cpu: bool) -> dict[str, Any]:
    """What AutoGPTQ and GPTQ-for-LLaMa are told of the files, and which kernel AutoGPTQ takes.

    The former reads wbits, groupsize and desc_act only without a quantize_config.json. Kernels: the
    exllamav2 one for 4 bits on a GPU where the version has it, which is what its memory was worked
    out for; the older exllama kernel only without act order, since with it it stops at 2048 tokens
    (auto_gptq's exllama_set_max_input_length); the CUDA one for the rest.
    """
    params = offer.params
    values: dict[str, Any] = {}
    if "wbits" in params:
        values["wbits"] = int(facts.bits or 0)
        values["groupsize"] = facts.group_size if facts.group_size is not None else -1
    if "desc_act" in params:
        values["desc_act"] = bool(facts.act_order)
    if "model_type" in params:
        values["model_type"] = facts.model_type or "llama"
    if "pre_layer" in params:
        values["pre_layer"] = 0
    fast = facts.format == "gptq" and facts.bits == 4 and not on_cpu
    if offer.loader == "Transformers":  # hosts that list these there have the AutoGPTQ loader for GPTQ
        return values | {name: False for name in ("disable_exllama", "disable_exllamav2") if name in params}
    if "disable_exllamav2" in params:
        values["disable_exllamav2"] = not fast
        values["disable_exllama"] = True
    elif "disable_exllama" in params:
        values["disable_exllama"] = not fast or bool(facts.act_order)
    if "no_use_cuda_fp16" in params:
        values["no_use_cuda_fp16"] = False
    return values


def _split(
    offer: Offer, split: Sequence[int], machine: Machine, told: LoaderSplit | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """How the model is laid over several GPUs. One GPU alone is told nothing, and takes all of it.

    `gpu_split` is GB of 2^30 a card for all loaders that have it (Transformers' since v3.0: its `cpu_memory is not
    None` always holds); before that Transformers and AutoGPTQ have sliders in MiB, which also bring an allowance of
    99 GiB for the CPU. `told` places every layer where the forecast has it. Without it `split` is an upper bound, and
    how many layers lie below it is the loader's to say, since it counts otherwise (memory/splits.py).
    """
    params = offer.params
    shares = told.per_gpu_bytes if told is not None else split
    several = len(machine.gpus) > 1 and any(share > 0 for share in shares)
    values: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if "gpu_split" in params:
        texts = split_text(shares) if told is not None else ",".join(_gib(share) for share in split)
        values["gpu_split"] = texts if several else ""
    if any(name.startswith("gpu_memory") for name in params):
        filled = [*shares, *([0] * (len(machine.gpus) - len(shares)))] if several else [0] * len(machine.gpus)
        # To the next MiB: a module is a hundred times that, and the threshold stands in the middle of one.
        values |= {f"gpu_memory_{index}": math.ceil(share / MIB) for index, share in enumerate(filled)}
    if told is None and several:
        notes = (
            f"The split is an upper bound for each GPU; {offer.loader} lays the layers below it as it counts them.",
        )
    return values, notes


def _gib(share: int) -> str:
    """Rounded up by at most 10 MiB, so that the layers that were counted go in."""
    return f"{math.ceil(share / GIB * 100) / 100:g}"
