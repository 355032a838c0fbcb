"""Whatever a load raised -> one sentence: what was needed, what was free, and what helps."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import BranchFitError, LoadError, OutOfMemory
from ..gpus import Gpu, Machine
from ..memory import Need
from ..recommend import Assessment, Recommendation
from ..units import GIB, gib

_UNITS = {"bytes": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = r"(?P<{}>[0-9]+(?:\.[0-9]+)?) (?P<{}_unit>bytes|B|KiB|MiB|GiB)"

# torch 1.x and 2.0 (c10/cuda/CUDACachingAllocator.cpp): "Tried to allocate 1.69 GiB (GPU 0; 14.56 GiB total
# capacity; 649.97 MiB already allocated; 1.31 GiB free; 1.01 GiB reserved in total by PyTorch)". Since 2.1: "Tried
# to allocate 22.78 GiB. GPU 0 has a total capacity of 31.47 GiB of which 12.73 GiB is free. [...] 9.35 GiB is
# reserved by PyTorch but unallocated" ("capacty" up to 2.1).
_TRIED = re.compile("[Tt]ried to allocate " + _SIZE.format("tried", "tried"))
_GPU = re.compile(r"GPU (?P<gpu>[0-9]{1,4})\b")
_FREE = re.compile(r"(?:of which|allocated;) " + _SIZE.format("free", "free") + r"(?: is)? free")
_UNUSED = re.compile(_SIZE.format("unused", "unused") + r" is reserved by PyTorch but unallocated")
_MANY = re.compile(
    r"out of memory|can't allocate memory|Cannot allocate memory|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)

_PIP = "pip install '.[gptq]' in BranchFit's folder"

_PACKAGES = ("optimum", "gptqmodel", "auto_gptq", "auto-gptq", "accelerate", "transformers", "torch")


@dataclass(frozen=True)
class _Remedy:
    saves_bytes: int
    text: str


def explain(
    error: BaseException,
    *,
    what: str = "the model",
    need: Need | None = None,
    machine: Machine | None = None,
    recommendation: Recommendation | None = None,
    branch: str | None = None,
    context_tokens: int | None = None,
    own_pid: int | None = None,
    install: str = _PIP,
) -> LoadError:
    """The error to raise instead of `error`; nothing is asked or imported for it.

    `what` is the sentence's subject; `need` what the load was expected to take; `machine` what was free before
    it; `recommendation` where the other branches, and `branch` there, come from; `context_tokens` what `need` is
    for; `own_pid` this process, where it is another than the one running; `install` the command that brings missing
    packages in the right versions. A LoadError is given back as it is.
    """
    if isinstance(error, LoadError):
        return error
    if isinstance(error, BranchFitError):
        return LoadError(f"{what} could not be loaded: {error}")
    text = str(error).strip()
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or _MANY.search(text):
        pid = os.getpid() if own_pid is None else own_pid
        return _out_of_memory(error, text, what, need, machine, recommendation, branch, context_tokens, pid)
    return LoadError(f"{what} could not be loaded: {_why(error, text, install)}")


def _why(error: BaseException, text: str, install: str) -> str:
    """A clause with its remedy, ending in a full stop."""
    kind = type(error).__name__
    first = " ".join(text.split())[:300].rstrip(".") or "it gave no reason"
    if kind == "SafetensorError" or "safetensors" in type(error).__module__:
        return (
            f"a weight file is damaged ({first}). `branchfit verify` says which, `branchfit repair` fetches it again."
        )
    if isinstance(error, ImportError) or (isinstance(error, NameError) and "QuantizeConfig" in text):
        named = error.name if isinstance(error, ImportError) and error.name else ""
        package = next((one for one in _PACKAGES if one in (named or text)), named)
        if not package and "QuantizeConfig" in text:
            package = "gptqmodel"  # what transformers 5 says without it, auto_gptq or not
        if package in ("auto_gptq", "auto-gptq"):
            return f"{package} cannot be imported ({first}). It needs transformers below 5; for gptqmodel: {install}."
        if package in _PACKAGES:
            return f"{package} is missing or of a version that does not go with the others ({first}). {install}."
        return f"a package is missing ({first}). " + (f"pip install {package}." if package else f"{install}.")
    if "trust_remote_code" in text or "contains custom code" in text:
        return "the repo wants Python code of its own run, which BranchFit never does. Take another model."
    if "does not recognize this architecture" in text or (isinstance(error, KeyError) and _is_word(text)):
        return (
            f"this transformers does not know {first}, a model type or a setting in its config.json: take a newer "
            f"transformers, or another model."
        )
    if re.search(r"nvcc|CUDA_HOME|ninja|c\+\+|g\+\+|cl\.exe", text):
        return (
            f"a kernel could not be compiled ({first}). Install the CUDA toolkit of torch's CUDA version and a "
            f"compiler, or take a runtime that needs none: gptqmodel:triton or gptqmodel:torch."
        )
    if "size mismatch" in text or "ignore_mismatched_sizes" in text:
        return (
            f"config.json and the weights are of different models ({first}). `branchfit verify` tells whether both "
            "are as published."
        )
    return f"{kind}: {first}."


def _is_word(text: str) -> bool:
    return re.fullmatch(r"'[A-Za-z0-9_.-]{1,80}'", text) is not None


def _out_of_memory(
    error: BaseException,
    text: str,
    what: str,
    need: Need | None,
    machine: Machine | None,
    recommendation: Recommendation | None,
    branch: str | None,
    context_tokens: int | None,
    own_pid: int,
) -> OutOfMemory:
    on_cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in text or not (machine is None or machine.gpus)
    named = _GPU.search(text)
    index = None if on_cpu else int(named["gpu"]) if named else _tightest(need, machine)
    device = "this machine" if index is None else f"GPU {index}"
    gpus = machine.gpus if machine else ()
    gpu = next((one for one in gpus if one.index == index), None) if index is not None else None
    place = 0 if index is None else next((at for at, one in enumerate(gpus) if one.index == index), 0)
    tried, then_free = _bytes(_TRIED, "tried", text), _bytes(_FREE, "free", text)
    forecast = need.per_gpu_bytes[place] if need and place < len(need.per_gpu_bytes) else None
    spread = need.error_per_gpu_bytes[place] if need and place < len(need.error_per_gpu_bytes) else 0
    free = gpu.free_bytes if gpu else machine.system_free_bytes if machine and index is None else then_free
    needed = forecast if forecast else tried
    short = None if needed is None or free is None else needed - free
    if (short is None or short <= 0) and tried is not None and then_free is not None:
        short = tried - then_free
    short = short if short is not None and short > 0 else None
    facts = []
    if forecast:
        facts.append(f"{gib(forecast)} needed there, give or take {gib(spread)}")
        if free is not None:
            facts.append(f"{gib(free)} free before the load")
    if tried is not None:
        facts.append(
            f"{gib(tried)} were asked for last" + (f", {gib(then_free)} free then" if then_free is not None else "")
        )
    elif free is not None and not forecast:
        facts.append(f"{gib(free)} free")
    if short:
        facts.append(f"short by {gib(short)}")
    remedies = sorted(
        _remedies(need, machine, gpu, recommendation, branch, context_tokens, own_pid, text),
        key=lambda one: -one.saves_bytes,
    )
    numbers = f": {'; '.join(facts)}" if facts else ""
    helps = f" What helps, the most first: {'; '.join(one.text for one in remedies)}." if remedies else ""
    return OutOfMemory(
        f"{what} does not fit into the memory of {device}{numbers}.{helps}",
        device=device,
        needed_bytes=needed,
        free_bytes=free,
        short_bytes=short,
        remedies=[one.text for one in remedies],
    )


def _remedies(
    need: Need | None,
    machine: Machine | None,
    gpu: Gpu | None,
    recommendation: Recommendation | None,
    branch: str | None,
    context_tokens: int | None,
    own_pid: int,
    text: str,
) -> Iterator[_Remedy]:
    chosen = branch or (recommendation.choice.branch if recommendation and recommendation.choice else None)
    smaller = _next_smaller(need, recommendation, chosen)
    if smaller is not None and smaller.need is not None and need is not None:
        saves = need.total_bytes - smaller.need.total_bytes
        yield _Remedy(saves, f"branch {smaller.variant.branch} (saves {gib(saves)})")
    context = context_tokens or (recommendation.context_tokens if recommendation else None)
    if need is not None and context and need.kv_cache_bytes:
        fewer = max(256, context // 2 // 256 * 256)
        if fewer < context:
            saves = need.kv_cache_bytes * (context - fewer) // context
            yield _Remedy(saves, f"a context of {fewer} tokens instead of {context} (saves {gib(saves)})")
    gpus = machine.gpus if machine else ()
    if need is not None and gpu is not None:
        room = need.total_bytes + need.error_bytes
        other = max((one for one in gpus if one.index != gpu.index), key=lambda one: one.free_bytes, default=None)
        if other is not None and other.free_bytes >= room:
            yield _Remedy(room, f"GPU {other.index}, which has {gib(other.free_bytes)} free")
    for holder in gpu.holders if gpu else ():
        if not holder.used_bytes:
            continue
        if holder.pid == own_pid:
            yield _Remedy(holder.used_bytes, f"unloading what this process holds already ({gib(holder.used_bytes)})")
        else:
            yield _Remedy(
                holder.used_bytes, f"closing {holder.name} (pid {holder.pid}), which holds {gib(holder.used_bytes)}"
            )
    unused = _bytes(_UNUSED, "unused", text)
    if unused is not None and unused > GIB // 2:
        yield _Remedy(
            unused,
            f"PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, {gib(unused)} are reserved in pieces too small to use",
        )


def _next_smaller(need: Need | None, recommendation: Recommendation | None, branch: str | None) -> Assessment | None:
    """The largest branch that fits and takes less than what was tried."""
    if recommendation is None or need is None:
        return None
    fitting = [
        one
        for one in recommendation.assessments
        if one.fits and one.need and one.variant.branch != branch and one.need.total_bytes < need.total_bytes
    ]
    return max(fitting, key=lambda one: one.need.total_bytes if one.need else 0, default=None)


def _tightest(need: Need | None, machine: Machine | None) -> int:
    """The GPU that is shortest by the forecast, where the error names none."""
    if need is None or machine is None or not machine.gpus:
        return 0
    pairs = zip(machine.gpus, need.per_gpu_bytes, strict=False)
    return min(((gpu.free_bytes - size, gpu.index) for gpu, size in pairs if size), default=(0, 0))[1]


def _bytes(pattern: re.Pattern[str], name: str, text: str) -> int | None:
    match = pattern.search(text)
    return int(float(match[name]) * _UNITS[match[f"{name}_unit"]]) if match else None
