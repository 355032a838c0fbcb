"""Which runtime a model is loaded with here, and where each layer goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..errors import LoadError, NothingFits, UsageError
from ..gpus import Machine
from ..loaders import RUNTIMES, Availability, as_installed, by_name, check_host, host_facts, this_host
from ..memory import Need
from ..memory.correcting import corrections_here
from ..recommend import Recommendation, recommend
from ..shape import KNOWN_LAYOUTS
from ..variants import Variant, VariantList
from .kernels import THROUGH_TRANSFORMERS

_PIP = "pip install '.[gptq]' in BranchFit's folder"


@dataclass(frozen=True)
class Plan:
    """What to load with: `need` is the forecast, `answer` the recommendation it came from."""

    variant: Variant
    runtime: str
    need: Need | None
    answer: Recommendation


def usable_runtimes(runtime: str | None) -> Availability:
    """Those installed here that transformers leads to, in order of preference; only `runtime`, if given.

    Raises LoadError saying what is missing and how it is installed, or which runtimes do come into question;
    UsageError for a name nobody knows.
    """
    host = this_host()
    verdicts = {verdict.runtime: verdict for verdict in check_host(host)}
    usable = [one for one in RUNTIMES if one.name in THROUGH_TRANSFORMERS and verdicts[one.name].can]
    if runtime is not None:
        name = by_name(runtime).name
        if name not in THROUGH_TRANSFORMERS:
            raise LoadError(
                f"{name} has models of its own kind, and this gives a transformers model. It can use: "
                f"{', '.join(one.name for one in usable) or 'nothing that is installed here'}."
            )
        if not verdicts[name].can:
            raise LoadError(f"{verdicts[name].why.rstrip('.')}. All that it needs: {_PIP}.")
        usable = [by_name(name)]
    if not usable:
        missing = verdicts["gptqmodel:torch"].why.rstrip(".")
        raise LoadError(f"no GPTQ runtime is installed here that transformers can use ({missing}): {_PIP}.")
    return Availability(tuple(as_installed(one, host) for one in usable), False, "", (), **host_facts(host))


def usable_machine(machine: Machine, torch: Any, device: str | None) -> Machine:
    """The machine as this torch can use it, or the one device of it that was asked for.

    Raises UsageError for a device that is not there; the remedy says which are.
    """
    seen = bool(torch.cuda.is_available())
    mps = getattr(getattr(torch, "backends", None), "mps", None)
    apple = bool(mps is not None and mps.is_available())
    gpus = tuple(
        gpu for gpu in machine.gpus if (seen and gpu.kind in ("cuda", "rocm")) or (apple and gpu.kind == "mps")
    )
    if device is None:
        return replace(machine, gpus=gpus)
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return replace(machine, gpus=())
    chosen = tuple(
        gpu
        for gpu in gpus
        if {"rocm": "cuda"}.get(gpu.kind, gpu.kind) == kind and (not index or str(gpu.index) == index)
    )
    if not chosen:
        there = ", ".join(["cpu", *(f"{'mps' if gpu.kind == 'mps' else f'cuda:{gpu.index}'}" for gpu in gpus)])
        raise UsageError(f"device {device}: there is none such for this torch. There are: {there}.")
    return replace(machine, gpus=chosen)


def choose(
    listed: VariantList,
    branch: str | None,
    machine: Machine,
    available: Availability,
    context_tokens: int | None,
    check_memory: bool,
) -> Plan:
    """The branch (the recommended one, for None) and the first runtime that loads it here and has room.

    Raises NothingFits, with what would help; LoadError where no runtime here takes it at all. Without
    `check_memory` the first that takes it is it.
    """
    learned = corrections_here()
    answer = recommend(listed, machine, available, context_tokens=context_tokens, branch=branch, corrections=learned)
    if answer.choice is not None:
        taken = next(one for one in answer.assessments if one.variant.branch == answer.choice.branch)
        return Plan(taken.variant, answer.choice.runtime, taken.need, answer)
    asked = [one for one in answer.assessments if branch is None or one.variant.branch == branch]
    loadable = [one for one in asked if one.runtime is not None]
    if not loadable:
        raise LoadError(answer.reason)
    if check_memory:
        raise NothingFits(answer.repo, answer.reason)
    best = max(loadable, key=lambda one: one.room_bytes)
    return Plan(best.variant, best.runtime or "", best.need, answer)


def device_map(plan: Plan, machine: Machine, model_type: str) -> Any:
    """transformers' device_map: one device, or each module where the forecast placed it.

    The embedding lies on the first card used, norm and head on the last, though that may have no layer; a head tied
    to the embedding lies with it, as accelerate's own maps have it, since on another card it would be a copy. "auto"
    for an architecture whose modules are not named as Llama's.
    """
    if not machine.gpus:
        return {"": "cpu"}
    need = plan.need
    placed = (
        [
            (gpu, count)
            for gpu, count, size in zip(machine.gpus, need.layers_per_gpu, need.per_gpu_bytes, strict=True)
            if size
        ]
        if need
        else []
    )
    names = [("mps" if gpu.kind == "mps" else gpu.index, count) for gpu, count in placed]
    if len(names) <= 1:
        gpu = machine.gpus[0]
        return {"": names[0][0] if names else ("mps" if gpu.kind == "mps" else gpu.index)}
    if model_type not in KNOWN_LAYOUTS:
        return "auto"
    first, last = names[0][0], names[-1][0]
    placement: dict[str, Any] = {"model.embed_tokens": first, "model.rotary_emb": first}
    layer = 0
    for name, count in names:
        for _ in range(count):
            placement[f"model.layers.{layer}"] = name
            layer += 1
    tied = plan.variant.shape is not None and plan.variant.shape.tied
    return {**placement, "model.norm": last, "lm_head": first if tied else last}
