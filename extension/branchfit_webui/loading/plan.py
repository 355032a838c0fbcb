"""A folder and what was asked for -> the loader and settings of this host that do it, checked before anything moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchfit.errors import LoadError
from branchfit.gpus import Gpu, Machine
from branchfit.loaders import LOADERS, RUNTIMES, by_name, this_host
from branchfit.loaders import Host as Packages
from branchfit.memory import Need
from branchfit.recommend import DEFAULT_CONTEXT_TOKENS

from ..host import Host
from .facts import NOT_QUANTISED, Facts, facts_of
from .offers import HOST_LOADERS, Offer, offers
from .parameters import parameters
from .sharing import loader_told, shared_out

if TYPE_CHECKING:
    from branchfit.running.folder import ModelFolder

UNQUANTISED = "transformers"
"""The runtime of a model whose weights are as they were trained."""


@dataclass(frozen=True)
class LoadPlan:
    """What to load, with what.

    `model` is the folder's name as the host's menu has it; `loader` the host's own name; `runtime`
    branchfit's; `settings` the host's parameter names with values as its page would send them;
    `kernel` the gptqmodel backend that is laid over the config in memory, None where the loader has
    but one; `reason` one sentence: what was asked for and what it became here.
    """

    model: str
    loader: str
    runtime: str
    settings: Mapping[str, Any]
    kernel: str | None
    reason: str
    notes: tuple[str, ...]


def plan_load(
    host: Host,
    folder: Path,
    *,
    runtime: str | None,
    context_tokens: int | None,
    gpu_split_bytes: Sequence[int] = (),
    machine: Machine,
    cache_type: str = "fp16",
    packages: Packages | None = None,
    need: Need | None = None,
) -> LoadPlan:
    """How this host loads `folder`.

    `runtime` is branchfit's name of one, or of a loader ("ExLlama", "AutoGPTQ"), or None for the best
    there is. Where the host does not have it, or it cannot take these files on these GPUs, another of
    the same loader is taken, then any; the reason says so. `context_tokens` None: the model's own, at
    most 4096. `cache_type` is fp16, fp8, q8, q6 or q4, for the loaders that have a choice. `need` is the
    forecast whose layers are to lie on several GPUs as it has them; without it `gpu_split_bytes` bounds each.
    Raises LoadError, with why each runtime cannot, or where this loader would fill a GPU beyond what is free.
    """
    from branchfit.running.folder import read_folder

    model = read_folder(folder)
    facts = facts_of(model)
    notes = list(model.notes)
    gpus = _used(machine, gpu_split_bytes)
    if facts.format == NOT_QUANTISED:
        offer, reason = (
            _unquantised(host, folder),
            f"{folder.name} is not quantised, so the Transformers loader takes it.",
        )
        name = UNQUANTISED
    else:
        offer, reason = _chosen(host, model, facts, runtime, gpus, packages)
        name = offer.runtime.name
    tokens = context_tokens or min(facts.trained_tokens or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)
    packages = this_host() if packages is None else packages
    told = loader_told(name, model, need, machine, tokens, packages)
    shared = shared_out(told, need, machine, offer.loader) if told is not None and need is not None else ()
    settings, more = parameters(
        offer,
        facts,
        context_tokens=tokens,
        gpu_split_bytes=gpu_split_bytes,
        machine=machine,
        cache_type=cache_type,
        exllamav2=packages.version("exllamav2"),
        told=told,
    )
    more = (*shared, *more)
    if name.startswith("gptqmodel:") and not machine.gpus:
        more = (*more, "There is no GPU, so its torch kernel computes in float32 on the CPU.")
    kernel = name.partition(":")[2] or None
    return LoadPlan(folder.name, offer.loader, name, settings, kernel, reason, (*notes, *more))


def transformers_runtime(
    host: Host,
    model: ModelFolder,
    machine: Machine,
    wished: str | None,
    *,
    on_cpu: bool = False,
    packages: Packages | None = None,
) -> str:
    """The runtime for a GPTQ folder that the host's Transformers loader is about to load, on all GPUs there are.

    `wished` where it is one, else the first that takes these files. Raises LoadError with why none does.
    """
    found, missing = offers(host, packages)
    gpus = (machine.cpu,) if on_cpu or not machine.gpus else machine.gpus
    facts = facts_of(model)
    through = [offer for offer in found if "Transformers" in HOST_LOADERS[offer.runtime.name]]
    whys = [verdict.why for verdict in missing if "Transformers" in HOST_LOADERS[verdict.runtime]]
    for offer in sorted(through, key=lambda offer: offer.runtime.name != wished):
        verdict = facts.taken_by(offer.runtime, gpus)
        if verdict.can:
            return offer.runtime.name
        whys.append(verdict.why)
    raise LoadError(f"the Transformers loader cannot load {model.folder.name} ({facts.words}): {' '.join(whys)}")


def _used(machine: Machine, split: Sequence[int]) -> tuple[Gpu, ...]:
    """The devices the model will lie on: those with a share, the first without a split, the CPU without a GPU."""
    if not machine.gpus:
        return (machine.cpu,)
    shared = tuple(gpu for gpu, share in zip(machine.gpus, split, strict=False) if share > 0)
    return shared or machine.gpus[:1]


def _unquantised(host: Host, folder: Path) -> Offer:
    params = host.offered_loaders().get("Transformers")
    if params is None:
        raise LoadError(f"{folder.name} is not quantised, and this webui has no Transformers loader to load it with.")
    return Offer(by_name("gptqmodel:torch"), "Transformers", params)  # of the runtime only the loader is used


def _chosen(
    host: Host,
    model: ModelFolder,
    facts: Facts,
    asked: str | None,
    gpus: tuple[Gpu, ...],
    packages: Packages | None,
) -> tuple[Offer, str]:
    """The offer to load with, and why it is this one."""
    found, missing = offers(host, packages)
    # By its exact spelling: `exllama` is a runtime of the loader `ExLlama`.
    loader = asked if asked in LOADERS else None
    exact = by_name(asked).name if asked is not None and loader is None else None
    wanted_loader = loader or (by_name(exact).loader if exact else None)
    # Stable: the order of preference holds within each, and GPTQ-for-LLaMa is the last of all.
    ranked = sorted(
        found,
        key=lambda offer: (
            offer.runtime.name != exact,
            wanted_loader is not None and offer.runtime.loader != wanted_loader,
        ),
    )
    refusals = {verdict.runtime: verdict.why for verdict in missing}
    for offer in ranked:
        verdict = facts.taken_by(offer.runtime, gpus)
        files = _wrong_files(offer, model)
        if verdict.can and not files:
            return offer, _reason(offer, verdict.why, asked, exact, wanted_loader, refusals)
        refusals[offer.runtime.name] = verdict.why if not verdict.can else files
    whys = [refusals[runtime.name] for runtime in RUNTIMES if runtime.name in refusals]
    if facts.format != "gptq":
        whys = [
            f"it is {facts.words}, and BranchFit loads GPTQ (and EXL2 through ExLlamav2); the webui's Model tab may."
        ]
    raise LoadError(f"nothing here can load {model.folder.name} ({facts.words}): {' '.join(whys)}")


def _wrong_files(offer: Offer, model: ModelFolder) -> str:
    """What keeps a loader that looks for its files by itself from taking this folder; '' for nothing.

    AutoGPTQ, GPTQ-for-LLaMa and ExLlama glob for *.safetensors and take the last that the file system names
    (modules/AutoGPTQ_loader.py, GPTQ_loader.py, exllama.py); exllamav2 reads all of them (config.py).
    Their names, `quantization_config` and `is_marlin_format` do not matter to any.
    """
    if offer.loader == "Transformers":
        return ""
    there = sorted(path.name for path in model.folder.glob("*.safetensors"))
    if there != sorted(model.weight_files):
        return (
            f"{offer.runtime.name} would be given the wrong file by the webui's {offer.loader} loader: of {len(there)} "
            f".safetensors files {', '.join(model.weight_files)} is the model. Move the others elsewhere."
        )
    if len(there) > 1 and not offer.loader.startswith("ExLlamav2"):
        return (
            f"{offer.runtime.name} is given one file by the webui's {offer.loader} loader, and these are {len(there)}."
        )
    return ""


def _reason(
    offer: Offer, why: str, asked: str | None, exact: str | None, loader: str | None, refusals: Mapping[str, str]
) -> str:
    here = f"{offer.runtime.name} through the webui's {offer.loader} loader"
    takes = why.removeprefix(f"{offer.runtime.name} ").rstrip(".")
    if asked is None:
        return f"nothing was asked for: it becomes {here}, the first of what this webui has, which {takes}."
    if offer.runtime.name == exact:
        return f"{offer.runtime.loader} is {here}, which {takes}."
    if loader == offer.runtime.loader and exact is None:
        return f"{loader} is {here}, which {takes}."
    refusal = refusals.get(exact or "", "").rstrip(".") or f"nothing of {loader} here takes it"
    return f"{asked} was asked for, but {refusal}: it becomes {here}, which {takes}."
