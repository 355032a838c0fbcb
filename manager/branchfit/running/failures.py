"""Whatever a load raised -> one sentence: what was needed, what was free, and what helps."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace

from ..errors import BranchFitError, LoadError, OutOfMemory
from ..gpus import Machine
from ..memory import Need
from ..recommend import Assessment, Recommendation
from ..recommend.remedies import Plan, Remedy, cache_and_context, closing, helps, other_gpus, saved
from ..units import GIB, error_text, gib

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
    runtime: str | None = None,
    cache: str = "fp16",
) -> LoadError:
    """The error to raise instead of `error`; nothing is asked or imported for it.

    `what` is the sentence's subject; `need` what the load was expected to take; `machine` what was free before
    it; `recommendation` where the other branches, and `branch` there, come from; `context_tokens` what `need` is
    for; `own_pid` this process, where it is another than the one running; `install` the command that brings missing
    packages in the right versions; `runtime` and `cache` what the branch was loaded with, where `runtime` is not the
    recommendation's own for it. A LoadError is given back as it is.
    """
    if isinstance(error, LoadError):
        return error
    if isinstance(error, BranchFitError):
        return LoadError(f"{what} could not be loaded: {error}")
    text = str(error).strip()
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or _MANY.search(text):
        pid = os.getpid() if own_pid is None else own_pid
        plan = _plan(machine, recommendation, branch, context_tokens, runtime, cache)
        return _out_of_memory(error, text, what, need, machine, recommendation, plan, branch, context_tokens, pid)
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
    plan: Plan | None,
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
        facts.append(f"{gib(forecast)} needed there, give or take {error_text(spread)}")
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
    context = context_tokens or (recommendation.context_tokens if recommendation else None)
    if plan is not None and forecast and place < len(plan.free_bytes):
        # What died is what counts: as much is missing there as it was short by, though the forecast said that it fits.
        there = min(plan.free_bytes[place], max(0, forecast - (short or 0)))
        plan = replace(plan, free_bytes=(*plan.free_bytes[:place], there, *plan.free_bytes[place + 1 :]))
    remedies: list[Remedy] = []
    if need is not None:
        remedies += _smaller_branch(need, recommendation, branch)
        remedies += cache_and_context(plan, need, context)
        if gpu is not None:
            remedies += other_gpus(plan, need, gpus, place)
    if gpu is not None:
        remedies += closing(gpu, own_pid)
    remedies += _in_pieces(text)
    clauses = helps(remedies)
    numbers = f": {'; '.join(facts)}" if facts else ""
    helping = f" What helps, the most first: {'; '.join(clauses)}." if clauses else ""
    return OutOfMemory(
        f"{what} does not fit into the memory of {device}{numbers}.{helping}",
        device=device,
        needed_bytes=needed,
        free_bytes=free,
        short_bytes=short,
        remedies=clauses,
    )


def _plan(
    machine: Machine | None,
    recommendation: Recommendation | None,
    branch: str | None,
    context_tokens: int | None,
    runtime: str | None,
    cache: str,
) -> Plan | None:
    """What was loaded, for the remedies that have to be worked out; None where nobody said which branch."""
    if recommendation is None or machine is None:
        return None
    loaded = branch or (recommendation.choice.branch if recommendation.choice else None)
    found = next((one for one in recommendation.assessments if one.variant.branch == loaded), None)
    by = runtime or (found.runtime if found else None)
    if found is None or by is None:
        return None
    gpus = machine.gpus or (machine.cpu,)
    free = tuple(gpu.free_bytes for gpu in gpus)
    if len(found.free_bytes) == len(free):  # 0 is a card that the runtime cannot use
        free = tuple(now if then else 0 for now, then in zip(free, found.free_bytes, strict=True))
    context = context_tokens or recommendation.context_tokens
    told = replace(found.told, cpu=not machine.gpus)
    if by != found.runtime:  # its version is another package's
        told = replace(told, version=None)
    return Plan(found.variant, by, context, free, cache, told, found.correction if by == found.runtime else None)


def _smaller_branch(need: Need, recommendation: Recommendation | None, branch: str | None) -> Iterator[Remedy]:
    chosen = branch or (recommendation.choice.branch if recommendation and recommendation.choice else None)
    smaller = _next_smaller(need, recommendation, chosen)
    if smaller is not None and smaller.need is not None:
        saves = need.total_bytes - smaller.need.total_bytes
        yield Remedy(saves, f"branch {smaller.variant.branch} ({saved(saves, need)})")


def _in_pieces(text: str) -> Iterator[Remedy]:
    """What torch holds and cannot use, where its error says so."""
    unused = _bytes(_UNUSED, "unused", text)
    if unused is not None and unused > GIB // 2:
        yield Remedy(
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
