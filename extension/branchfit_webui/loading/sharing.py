"""How a loader of the host is told to share a model out over several GPUs, and what it would make of that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from branchfit.errors import BranchFitError, LoadError
from branchfit.gpus import Machine
from branchfit.loaders import Host as Packages
from branchfit.memory import Need
from branchfit.memory.splits import LoaderSplit, loader_split, overfilled, stored_modules
from branchfit.shape import read_shape
from branchfit.units import gib

if TYPE_CHECKING:
    from branchfit.running.folder import ModelFolder

FLASH_ATTENTION = (2, 2, 1)
"""The oldest flash-attn that exllamav2 takes: attn.py. Of xformers it takes any that has the mask it wants."""

BY_LEAF = (5, 18)
"""The transformers that balances with room for the largest leaf, not just the largest layer: compared in the wheels of
5.6.2 to 5.23 (integrations/accelerate.py, get_balanced_memory; 5.17 has it not, 5.18 has)."""


def loader_told(
    runtime: str, model: ModelFolder, need: Need | None, machine: Machine, context_tokens: int, packages: Packages
) -> LoaderSplit | None:
    """The split in the loader's own count that puts each layer where `need` has it, from the folder's own tensors.

    None for one GPU, without a forecast for these GPUs, and for a model whose tensors are not named as Llama's.
    """
    if need is None or len(machine.gpus) < 2 or len(need.layers_per_gpu) != len(machine.gpus):
        return None
    # gptqmodel drops AutoGPTQ's biases of zeros; all others hold or count what is in the file.
    counted = not runtime.startswith("gptqmodel:")
    modules = stored_modules({name: one.size_bytes for name, one in model.tensors.items()}, zero_bias=counted)
    if modules is None or len(modules.layers) != sum(need.layers_per_gpu):
        return None
    try:
        shape = read_shape(model.config)
    except BranchFitError:
        return None
    flash = _version(packages, "flash_attn") >= FLASH_ATTENTION or packages.has("xformers")
    by_leaf = _version(packages, "transformers") >= BY_LEAF
    return loader_split(runtime, modules, shape, need, context_tokens, flash_attention=flash, by_leaf=by_leaf)


def shared_out(told: LoaderSplit, need: Need, machine: Machine, loader: str) -> tuple[str, ...]:
    """What is to be said of where the layers will lie; nothing where it is as forecast.

    accelerate cannot be told everything: below its bounds it keeps all GPUs but the last near an equal share. Raises
    LoadError where that takes more of a GPU than is free, which the remedy avoids.
    """
    laid = told.layers_per_gpu
    if laid is None or laid == need.layers_per_gpu:
        return ()
    said = (
        f"the webui's {loader} loader leaves the layers to accelerate, which keeps all GPUs but the last near an equal "
        f"share: {_list(laid)} of them on GPU {_list([gpu.index for gpu in machine.gpus])}, where "
        f"{_list(need.layers_per_gpu)} were planned"
    )
    over = overfilled(laid, need, [gpu.free_bytes for gpu in machine.gpus])
    if over is not None:
        gpu, wanted = machine.gpus[over[0]], over[1]
        order = sorted(range(len(machine.gpus)), key=lambda place: machine.gpus[place].free_bytes)
        visible = ",".join(str(machine.gpus[place].index) for place in order)
        raise LoadError(
            f"{said}; GPU {gpu.index} would need {gib(wanted)} and has {gib(gpu.free_bytes)} free. Start the webui "
            f"with the GPUs in another order, the one with most room last: CUDA_VISIBLE_DEVICES={visible}."
        )
    return (f"{said[0].upper()}{said[1:]}.",)


def _list(numbers: Sequence[int]) -> str:
    found = [str(number) for number in numbers]
    return " and ".join([", ".join(found[:-1]), found[-1]]) if len(found) > 1 else found[0]


def _version(packages: Packages, name: str) -> tuple[int, ...]:
    """As numbers, () where it is not installed or does not say."""
    numbers = re.match(r"[0-9]+(?:\.[0-9]+)*", (packages.version(name) if packages.has(name) else None) or "")
    return tuple(int(part[:9]) for part in numbers[0].split(".")) if numbers else ()
