"""What this host can load with: its own loaders, found by looking, and the packages its Python has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from branchfit.gpus import Machine
from branchfit.loaders import RUNTIMES, Availability, Runtime, Verdict, as_installed, check_host, host_facts, this_host
from branchfit.loaders import Host as Packages

from ..host import Host

HOST_LOADERS: Mapping[str, tuple[str, ...]] = {
    "exllamav2": ("ExLlamav2_HF", "ExLlamav2"),
    "gptqmodel:exllama_v2": ("Transformers",),
    "exllama": ("ExLlama_HF", "ExLlama"),
    "gptqmodel:marlin": ("Transformers",),
    "gptqmodel:triton": ("Transformers",),
    "gptqmodel:torch": ("Transformers",),
    "auto_gptq": ("AutoGPTQ", "Transformers"),
    "gptq_for_llama": ("GPTQ-for-LLaMa",),
}
"""Runtime -> the host's loaders that play it, the better first. The _HF form comes first: the kernels and
the memory are the same, every sampler of the page works, and text goes through the model's own tokenizer."""

SETUP = "./install.sh --gptq"
"""BranchFit's own setup, which moves nothing of the webui; on Windows `py -m branchfit setup --gptq`."""

NOT_HERE = "which this webui does not have."


@dataclass(frozen=True)
class Offer:
    """A runtime this host really has: the host's `loader` that plays it, and that loader's parameter names."""

    runtime: Runtime
    loader: str
    params: tuple[str, ...]


def offers(host: Host, packages: Packages | None = None) -> tuple[tuple[Offer, ...], tuple[Verdict, ...]]:
    """What is offered, in order of preference, and for every other runtime why it is not there."""
    packages = this_host() if packages is None else packages
    loaders = host.offered_loaders()
    found, missing = [], []
    for runtime, verdict in zip(RUNTIMES, check_host(packages), strict=True):
        verdict = _with_the_hosts_builds(runtime, verdict, packages)
        listed = [loader for loader in HOST_LOADERS[runtime.name] if loader in loaders]
        lacks = {loader: _lack(runtime, loader, packages) for loader in listed}
        usable = [loader for loader in listed if not lacks[loader]]
        if verdict.can and usable:
            found.append(Offer(as_installed(runtime, packages), usable[0], loaders[usable[0]]))
            continue
        if not listed:
            names = " or ".join(HOST_LOADERS[runtime.name])
            why = f"{runtime.name} is played by the loader {names}, {NOT_HERE}"
        elif verdict.can or (not usable and packages.has("transformers")):
            why = f"{runtime.name} {lacks[listed[0]]}"
        else:
            why = _remedied(runtime, verdict.why, packages)
        missing.append(Verdict(runtime.name, runtime.loader, False, why))
    return tuple(found), tuple(missing)


def host_availability(host: Host, machine: Machine, packages: Packages | None = None) -> Availability:
    """The runtimes this webui can use, in order of preference; nothing is ever assumed.

    `missing` says why each of the others is not there, and what would help. GPTQ-for-LLaMa is left out
    as everywhere: only a file from before August 2023 that nothing else takes is given to it. What a
    runtime takes on the GPUs of `machine` is judged branch by branch, not here.
    """
    packages = this_host() if packages is None else packages
    found, missing = offers(host, packages)
    usable = [offer for offer in found if offer.runtime.name != "gptq_for_llama"]
    if usable:
        named = ", ".join(f"{offer.runtime.name} ({offer.loader})" for offer in usable)
        note = f"this webui can load GPTQ with {named}."
    else:
        note = "this webui cannot load GPTQ as it is."
        if any(SETUP in verdict.why for verdict in missing):
            note += f" `{SETUP}` installs what its Transformers loader needs for it, where that is known."
        else:
            # Of a loader that is there one says what it lacks; those this webui never had would only be noise.
            own = [verdict for verdict in missing if not verdict.why.endswith(NOT_HERE)]
            lacks = [verdict.why for verdict in own if HOST_LOADERS[verdict.runtime][0] != "Transformers"]
            note = " ".join([note, *lacks[:2]])
    if usable and not machine.gpus and not any("cpu" in offer.runtime.kinds for offer in usable):
        note += " None of them runs without a GPU, and there is none here."
    return Availability(tuple(offer.runtime for offer in usable), False, note, missing, **host_facts(packages))


def _with_the_hosts_builds(runtime: Runtime, verdict: Verdict, packages: Packages) -> Verdict:
    """What webuis of 2023 brought along: exllama as a wheel with its kernels built, or cloned into repositories/."""
    if verdict.can or runtime.name != "exllama":
        return verdict
    cloned = Path("repositories/exllama/model.py").is_file()
    has = (lambda name: name == "exllama" or packages.has(name)) if cloned else packages.has
    built = "exllama_ext" if packages.has("exllama_ext") else packages.nvcc
    again = check_host(replace(packages, has=has, nvcc=built))
    return next(other for other in again if other.runtime == runtime.name)


def _lack(runtime: Runtime, loader: str, packages: Packages) -> str:
    """What keeps the host's `loader` from playing the runtime though its packages are here; '' for nothing.

    Source: validate_environment in transformers' quantizer_gptq.py: 4.32 brought GPTQ, 4.48 gptqmodel,
    which it takes before auto_gptq where both are installed, and 4.49 the choice of its kernel
    (GPTQConfig.backend); optimum in all of them.
    """
    if loader != "Transformers":
        return ""
    found = packages.version("transformers")
    least = (4, 49) if runtime.name.startswith("gptqmodel:") else (4, 32)
    if _below(found, *least):
        return f"needs transformers {least[0]}.{least[1]} or newer in the Transformers loader; {found} is here."
    if runtime.name == "auto_gptq" and not packages.has("optimum"):
        return "needs optimum in the Transformers loader: pip install optimum."
    if runtime.name == "auto_gptq" and not _below(found, 4, 48) and packages.has("gptqmodel"):
        return "is passed over by transformers where gptqmodel is installed."
    return ""


def _remedied(runtime: Runtime, why: str, packages: Packages) -> str:
    """The verdict with BranchFit's own remedy: plain `pip install gptqmodel` would move the webui's transformers."""
    lack, pip, _ = why.partition(": pip install")
    if not pip:
        return why
    if not runtime.name.startswith("gptqmodel:"):
        return f"{lack}: the webui's own installer or update script brings it, if this version ships it."
    if packages.has("transformers") and packages.has("torch"):
        version = packages.version("transformers")
        fits = f" that go with this webui's transformers {version}" if version else ""
        return f"{lack}: `{SETUP}` installs versions of them{fits}."
    return f"{lack}: this webui's Python has no torch and transformers (a portable build has neither)."


def _below(version: str | None, *wanted: int) -> bool:
    numbers = re.match(r"[0-9]+(?:\.[0-9]+)*", version or "")
    return numbers is not None and tuple(int(part[:9]) for part in numbers[0].split(".")) < wanted
