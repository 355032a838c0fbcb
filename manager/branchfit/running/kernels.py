"""The one quantization_config with which transformers uses exactly the kernel that was chosen, and how it is told
afterwards which one it was."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from ..errors import LoadError, WrongKernel
from ..loaders import by_name
from .folder import ModelFolder

BACKENDS = {
    "gptqmodel:exllama_v2": ("exllama_v2", "ExllamaV2"),
    "gptqmodel:marlin": ("marlin", "Marlin"),
    "gptqmodel:triton": ("triton", "TritonV2"),
    "gptqmodel:torch": ("torch", "Torch"),
}
"""Runtime -> the name in gptqmodel's BACKEND (utils/backend.py; these are all versions', 7.x maps them to gptq_*),
and how its class begins: ExllamaV2Linear since 5.x, ExllamaV2QuantLinear before (nn_modules/qlinear/)."""

THROUGH_TRANSFORMERS = (*BACKENDS, "auto_gptq")

_BACKEND_SINCE = (4, 49)
"""transformers' GPTQConfig has `backend` since then (4.48.3 has not, 4.57.6 has; utils/quantization_config.py)."""

_USE_EXLLAMA_SINCE = (4, 35)
"""GPTQConfig.use_exllama; 4.34.1 has disable_exllama alone."""

_GPTQ_SINCE = (4, 32)
"""GPTQConfig is there since then; 4.31 has none."""


def quantization_config(model: ModelFolder, runtime: str, transformers_version: str | None = None) -> dict[str, Any]:
    """The quantization_config to lay over `model`'s config.json so that transformers takes `runtime`'s kernel.

    Never "auto", whose first choice is not what was asked for. `transformers_version` is the installed one
    if not given. Raises LoadError for a model that is not GPTQ, a runtime that transformers does not lead to, or
    a transformers too old or too new for it; UsageError for a runtime nobody knows.
    """
    by_name(runtime)
    if model.quantization is None:
        raise LoadError(f"{model.folder.name} is not quantised by GPTQ: {runtime} loads nothing else.")
    if runtime not in THROUGH_TRANSFORMERS:
        raise LoadError(
            f"{runtime} is not used through transformers; what is: {', '.join(THROUGH_TRANSFORMERS)}. In the webui, "
            f"{runtime} is a loader of its own."
        )
    text = transformers_version or _installed()
    version = _numbers(text)
    base = {**model.quantization, "quant_method": "gptq"}
    if runtime in BACKENDS:
        if version < _BACKEND_SINCE:
            raise LoadError(
                f"transformers {text} cannot be told which of gptqmodel's kernels to use; 4.49 and newer can: "
                f"pip install 'transformers>=4.49'."
            )
        return {**base, "backend": BACKENDS[runtime][0]}
    if not _GPTQ_SINCE <= version < (5,):
        raise LoadError(
            f"auto_gptq is loaded by transformers 4.32 up to, not including, 5; this is {text}: use gptqmodel, or an "
            f"environment of its own (pip install '.[autogptq]' in BranchFit's folder)."
        )
    # auto_gptq's own kernels, which take every number of bits; ExLlama's inside it take 4 only.
    return {**base, "use_exllama": False} if version >= _USE_EXLLAMA_SINCE else {**base, "disable_exllama": True}


def check_kernel(runtime: str, modules: Iterable[Any]) -> None:
    """Raises WrongKernel where one of these quantised modules is of another kernel than `runtime`'s.

    A runtime that is not loaded through transformers is not judged.
    """
    if runtime not in THROUGH_TRANSFORMERS:
        return
    wrong = sorted({_described(type(module)) for module in modules if not _plays(runtime, type(module))})
    if wrong:
        raise WrongKernel(runtime, " and ".join(wrong))


def _plays(runtime: str, kind: type) -> bool:
    package = kind.__module__.partition(".")[0]
    if runtime == "auto_gptq":
        # qlinear_cuda and qlinear_cuda_old; the other files there are ExLlama's, Triton's and Marlin's kernels.
        return package == "auto_gptq" and "qlinear_cuda" in kind.__module__
    return package == "gptqmodel" and re.sub(r"(Quant)?Linear$", "", kind.__name__) == BACKENDS[runtime][1]


def _described(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _installed() -> str:
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        raise LoadError("transformers is not installed: pip install '.[gptq]' in BranchFit's folder.") from None


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    return tuple(int(part[:9]) for part in match[0].split(".")) if match else ()
