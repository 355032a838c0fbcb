"""Which runtimes a Python environment has, and what the others lack; found without importing any."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .runtimes import RUNTIMES, Runtime, Verdict

__all__ = ["Host", "as_installed", "check_host", "this_host"]


@dataclass(frozen=True)
class Host:
    """A Python environment, as far as runtimes ask: this one, a webui's, or a recorded one.

    `has` says whether an import name can be found (without importing it), `version` the version of a
    distribution or None, `nvcc` the compiler's path or None, `platform` sys.platform, `python` (3, 11).
    """

    has: Callable[[str], bool]
    version: Callable[[str], str | None]
    nvcc: str | None
    platform: str
    python: tuple[int, int]


def this_host() -> Host:
    """The environment of the running Python. Imports none of the packages it looks for."""
    return Host(_has, _version, _find_nvcc(os.environ), sys.platform, (sys.version_info[0], sys.version_info[1]))


def check_host(host: Host) -> tuple[Verdict, ...]:
    """For each runtime, in the table's order, whether `host` has it; if not, what it lacks."""
    verdicts = []
    for runtime in RUNTIMES:
        lack = _lack(runtime, host)
        why = f"{runtime.name} {lack}" if lack else f"{runtime.name} is installed{_versions(runtime, host)}."
        verdicts.append(Verdict(runtime.name, runtime.loader, not lack, why))
    return tuple(verdicts)


def as_installed(runtime: Runtime, host: Host) -> Runtime:
    """The runtime with the version that `host` has, as far as that can be trusted.

    Before gptqmodel 7.6 files of 3 bits load without a word and answer nonsense: logits off by 11.8 on both
    3-bit branches of the demo's repo, with 5.8.0 and 6.0.3 (transformers 5.6, CPU); right with 7.6.0 and 7.7.0. Its
    conversion of AutoGPTQ's zero points was rewritten there.
    """
    found = replace(runtime, version=host.version(runtime.packages[0]))
    if runtime.name.startswith("gptqmodel:") and not at_least(found.version, 7, 6):
        return replace(found, bits=runtime.bits - {3})
    return found


def _lack(runtime: Runtime, host: Host) -> str:
    """What keeps the runtime from working on this host, with the remedy; "" for nothing."""
    if runtime.linux_only and not host.platform.startswith("linux"):
        return f"runs on Linux only, and this is {host.platform}."
    missing = [package for package in runtime.packages if not host.has(package)]
    if missing:
        return _missing(runtime, missing, host)
    torch = host.version("torch") or ""
    if "+cpu" in torch and "cpu" not in runtime.kinds:
        return f"needs a GPU build of torch; torch {torch} is built for the CPU."
    if "+rocm" in torch and "rocm" not in runtime.kinds:
        return f"needs a CUDA build of torch; torch {torch} is built for ROCm."
    old = _too_old(runtime, host)
    if old:
        return old
    built = runtime.name == "exllamav2" and host.has("exllamav2_ext")
    if runtime.needs_nvcc and not built and host.nvcc is None:
        return (
            "compiles its kernels with nvcc, which is not found: install the CUDA toolkit of torch's CUDA version, or "
            "set CUDA_HOME to it"
            + (", or install a wheel that holds exllamav2_ext." if runtime.name == "exllamav2" else ".")
        )
    return ""


def _missing(runtime: Runtime, missing: list[str], host: Host) -> str:
    lack = f"lacks {', '.join(missing)}"
    if "auto_gptq" in missing and host.python > (3, 11):
        return f"{lack}: auto-gptq has wheels for Python up to 3.11, and this is {host.python[0]}.{host.python[1]}."
    if "gptq_for_llama" in missing:
        return f"{lack}: it came with webuis of 2023 and is not on PyPI."
    packages = " ".join(package.replace("_", "-") for package in missing)
    return f"{lack}: pip install {packages}."


def _too_old(runtime: Runtime, host: Host) -> str:
    """Versions that are known not to work together.

    transformers 5 broke auto_gptq 0.7.1's import (no_init_weights), measured; transformers'
    quantizer_gptq.py asks for gptqmodel 1.4.3 and optimum 1.24; optimum 2.3's import_utils.py asks
    for gptqmodel 7.0.
    """
    transformers = host.version("transformers")
    if runtime.name == "auto_gptq" and at_least(transformers, 5):
        return f"does not import beside transformers {transformers}: it needs transformers below 5, or use gptqmodel."
    if not runtime.name.startswith("gptqmodel:"):
        return ""
    optimum, gptqmodel = host.version("optimum"), host.version("gptqmodel")
    if not at_least(optimum, 1, 24) or not at_least(gptqmodel, 1, 4, 3):
        return f"needs optimum 1.24 and gptqmodel 1.4.3 or newer; optimum {optimum} and gptqmodel {gptqmodel} are here."
    if at_least(optimum, 2, 3) and not at_least(gptqmodel, 7):
        return f"needs gptqmodel 7.0 or newer beside optimum {optimum}; gptqmodel {gptqmodel} is here."
    return ""


def at_least(version: str | None, *wanted: int) -> bool:
    """Whether a version's leading numbers are at least `wanted`. One that is unknown is let through."""
    if version is None:
        return True
    numbers = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return numbers is not None and tuple(int(part[:9]) for part in numbers[0].split(".")) >= wanted


def _versions(runtime: Runtime, host: Host) -> str:
    found = [f"{name} {version}" for name in runtime.packages if (version := host.version(name))]
    return f" ({', '.join(found)})" if found else ""


def _has(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # ValueError: a module in sys.modules without a spec
        return False


def _version(name: str) -> str | None:
    from importlib import metadata  # costs 20 ms

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _find_nvcc(environ: Mapping[str, str]) -> str | None:
    """nvcc where torch.utils.cpp_extension looks: CUDA_HOME, CUDA_PATH, the PATH, /usr/local/cuda."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        for name in ("nvcc", "nvcc.exe"):
            if environ.get(variable) and (Path(environ[variable]) / "bin" / name).is_file():
                return str(Path(environ[variable]) / "bin" / name)
    found = shutil.which("nvcc", path=environ.get("PATH"))
    usual = Path("/usr/local/cuda/bin/nvcc")
    return found or (str(usual) if usual.is_file() else None)
