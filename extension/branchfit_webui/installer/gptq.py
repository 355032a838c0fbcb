"""Which optimum and gptqmodel go with a host's transformers, where its Transformers loader reads GPTQ by them.

gptqmodel's own requirements name newer torchao and pillow than the webui pins. Those it was seen to run
without are waived; everything else it needs is resolved as always, with nothing of the host's moved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .host_python import HostPython
from .layout import Layout
from .packages import PackagePlan, plan_packages

__all__ = ["Offer", "offer", "plan_gptq"]


@dataclass(frozen=True)
class Pairing:
    """Versions that were seen to load and run a GPTQ model together.

    `transformers` are the versions [from, to) it goes with; `alone` is installed without its dependencies,
    `resolved` are those that it needs and `least` what it needs of packages that the host has to have.
    """

    transformers: tuple[tuple[int, ...], tuple[int, ...]]
    alone: tuple[tuple[str, str], ...]
    resolved: tuple[str, ...]
    least: tuple[tuple[str, tuple[int, ...]], ...]
    source: str


PAIRINGS = (
    Pairing(
        transformers=((5, 3), (5, 7)),
        alone=(("gptqmodel", "7.6.0"),),
        resolved=(
            "optimum==2.3.0",
            "defuser>=0.0.28",
            "device-smi>=0.5.7",
            "logbar>=0.4.15",
            "pypcre>=0.6.4",
            "tokenicer>=0.0.14",
            "threadpoolctl>=3.6.0",
            "packaging>=24.2",
            "protobuf>=5",
        ),
        least=(("torch", (2, 8)), ("accelerate", (1, 12)), ("safetensors", (0, 7)), ("datasets", (3, 6))),
        source="run on the CPU beside transformers 5.3 (accelerate 1.12), 5.5 and 5.6.2 (1.13): six GPTQ branches of "
        "3 and 4 bits load and agree with their reference; in v4.7.3 too, with torchao 0.15.0 and pillow 10.4.0 (0.18 "
        "and 11.3 are demanded), without maturin and ninja. gptqmodel 5.8.0 and 6.0.3 load 3 bits wrongly, 7.0 to 7.4 "
        "need torchvision, 7.5 a newer transformers",
    ),
)

BUILD = {"BUILD_CUDA_EXT": "0", "GPTQMODEL_BUILD_CUDA_EXT": "0"}
"""gptqmodel's setup.py: no CUDA extension is compiled, so neither nvcc nor a compiler is needed."""

OPTIONS = ("--no-build-isolation",)
"""gptqmodel's build looks for the torch that is there."""


@dataclass(frozen=True)
class Offer:
    """What can be said of GPTQ in this host. `pairing` is None where nothing is to be installed."""

    why: str
    pairing: Pairing | None = None


def offer(host: HostPython, layout: Layout) -> Offer:
    """What this host reads GPTQ with, or what would have to be installed so that it does."""
    if layout.kind == "portable":
        return Offer(
            "portable builds run llama.cpp alone, which reads GGUF and no GPTQ: take the model's GGUF sister "
            "(`branchfit recommend` names it), or a full install of the webui"
        )
    if (layout.root / "modules" / "exllamav2.py").is_file() and "exllamav2" in host.packages:
        return Offer(f"ExLlamav2 {host.packages['exllamav2']} reads GPTQ here; nothing more is needed")
    for name, module in (("auto-gptq", "AutoGPTQ_loader.py"), ("exllama", "exllama.py")):
        if name in host.packages and (layout.root / "modules" / module).is_file():
            return Offer(f"{name} {host.packages[name]} reads GPTQ here; nothing more is needed")
    transformers = host.packages.get("transformers")
    if transformers is None:
        return Offer("this Python has no transformers, so no loader here reads GPTQ; take the model's GGUF sister")
    if {"optimum", "gptqmodel"} <= host.packages.keys():
        return Offer(
            f"optimum {host.packages['optimum']} and gptqmodel {host.packages['gptqmodel']} read GPTQ here, through "
            f"the Transformers loader"
        )
    if _numbers(transformers) < (5,):
        return Offer(
            "this webui brings its own GPTQ loaders (ExLlama, ExLlamav2 or AutoGPTQ, by its age), and their packages "
            "are not in its Python; its update script brings them"
        )
    for pairing in PAIRINGS:
        if pairing.transformers[0] <= _numbers(transformers) < pairing.transformers[1]:
            lacking = [
                f"{name} {'.'.join(map(str, least))} or newer"
                for name, least in pairing.least
                if _numbers(host.packages.get(name, "0")) < least
            ]
            if lacking:
                return Offer(f"gptqmodel needs {', '.join(lacking)}, which this webui has not; update the webui")
            named = " and ".join([pairing.resolved[0].replace("==", " "), *(" ".join(pair) for pair in pairing.alone)])
            return Offer(f"{named} let the Transformers loader read GPTQ with transformers {transformers}", pairing)
    return Offer(f"no optimum and gptqmodel are known to go with transformers {transformers}; docs/setup.md says more")


def plan_gptq(host: HostPython, found: Offer) -> PackagePlan:
    """What would be added for `found.pairing`. Raises what `plan_packages` does."""
    pairing = found.pairing
    assert pairing is not None
    plan = plan_packages(host, pairing.resolved, BUILD, OPTIONS)
    return replace(plan, added=tuple(sorted({*plan.added, *pairing.alone})))


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
