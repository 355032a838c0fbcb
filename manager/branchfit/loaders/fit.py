"""Whether a runtime takes a branch on a GPU: format, bits, groups, act order, architecture, device."""

from __future__ import annotations

from collections.abc import Collection
from fractions import Fraction

from ..gpus import Gpu
from .runtimes import Runtime, Verdict

__all__ = ["can_load"]

SLOW_FP16_CAPABILITY = "7.0"
"""Below it (Pascal) fp16 arithmetic is slow or replaced by atomics in software: exllama's README."""

_KIND_NAMES = {"cuda": "NVIDIA GPUs", "rocm": "AMD GPUs", "mps": "Apple silicon", "cpu": "the CPU"}


def can_load(
    runtime: Runtime,
    *,
    format: str,
    bits: float | None,
    group_size: int | None,
    act_order: bool | None,
    symmetric: bool | None = None,
    model_type: str | None = None,
    gpu: Gpu | None = None,
    in_features: Collection[int] = (),
    branch: str | None = None,
) -> Verdict:
    """Whether `runtime` loads such a branch on `gpu`, and why, in one sentence. Never raises.

    `format` is "gptq", "exl2", "awq"...; `group_size` None is no grouping; `symmetric` None is unsaid,
    and counts as symmetric (the default of AutoGPTQ's and gptqmodel's quantise configs); `model_type`
    is config.json's, None if unknown, which rules nothing out; nor does an unknown compute
    capability, nor `gpu` None. `in_features` are the rows of the model's linears, where known:
    groups have to divide them for some kernels. Whether the runtime is installed is
    `available_runtimes`' business, and whether it fits is memory's.
    """
    assumptions: list[str] = []
    why = (
        _wrong_format(runtime, format, bits)
        or _wrong_device(runtime, gpu, assumptions)
        or _wrong_architecture(runtime, format, model_type)
    )
    if not why and format == "gptq":
        why = _wrong_quantisation(runtime, bits, group_size, act_order, symmetric, in_features, branch, assumptions)
    if why:
        return Verdict(runtime.name, runtime.loader, False, f"{runtime.name} {why}.")
    what = f"{bits:g}-bit {format.upper()}" if bits is not None else format.upper()
    if format == "gptq":
        what += f", group size {group_size}" if group_size is not None else ", no grouping"
        what += ", act order" if act_order else ""
    note = f" ({'; '.join(assumptions)})" if assumptions else ""
    return Verdict(runtime.name, runtime.loader, True, f"{runtime.name} takes {what}{note}.")


def _wrong_format(runtime: Runtime, format: str, bits: float | None) -> str:
    if format not in runtime.formats:
        known = " and ".join(name.upper() for name in sorted(runtime.formats))
        return f"reads {known}, not {format.upper() or 'an unknown format'}"
    if format == "gptq":
        if bits is None:
            return "cannot be judged: nothing says how many bits this branch has"
        if bits not in runtime.bits:
            return f"takes {_numbers(runtime.bits)} bits, not {bits:g}"
    return ""


def _wrong_device(runtime: Runtime, gpu: Gpu | None, assumptions: list[str]) -> str:
    if gpu is None:
        return ""
    if gpu.kind not in runtime.kinds:
        kinds = " and ".join(_KIND_NAMES[kind] for kind in _KIND_NAMES if kind in runtime.kinds)
        return f"runs on {kinds}, not on {gpu.name}"
    if gpu.kind != "cuda":
        return ""
    found = _capability(gpu.compute_capability)
    if found is None:
        if runtime.min_capability:
            assumptions.append(
                f"if the GPU's compute capability, which is unknown, is {runtime.min_capability} or more"
            )
        return ""
    needed = _capability(runtime.min_capability)
    if needed is not None and found < needed:
        return (
            f"needs compute capability {runtime.min_capability} or more; GPU {gpu.index} ({gpu.name}) "
            f"has {gpu.compute_capability}"
        )
    if found < (_capability(SLOW_FP16_CAPABILITY) or found):
        assumptions.append(f"slowly: compute capability {gpu.compute_capability} has little fp16 arithmetic")
    return ""


def _wrong_architecture(runtime: Runtime, format: str, model_type: str | None) -> str:
    why = dict(runtime.refused).get((model_type or "").lower())
    if why:
        return f"does not load {model_type}: {why}"
    known = runtime.exl2_architectures if format == "exl2" else runtime.architectures
    if not model_type or known is None or model_type.lower() in known:
        return ""
    names = ", ".join(sorted(known)) if len(known) <= 4 else f"{len(known)} architectures"
    return f"loads {names}; {model_type} is not among them"


def _wrong_quantisation(
    runtime: Runtime,
    bits: float | None,
    group_size: int | None,
    act_order: bool | None,
    symmetric: bool | None,
    in_features: Collection[int],
    branch: str | None,
    assumptions: list[str],
) -> str:
    if group_size is not None and runtime.group_sizes is not None and group_size not in runtime.group_sizes:
        return f"takes group sizes {_numbers(runtime.group_sizes)} or none, not {group_size}"
    if group_size is not None and runtime.groups_divide_rows:
        uneven = next((rows for rows in sorted(in_features) if rows % group_size), None)
        if uneven is not None:
            return f"needs groups that divide each linear's rows; {uneven} rows are not a multiple of {group_size}"
    if runtime.needs_symmetric:
        if symmetric is False:
            return "takes symmetric quantisation only, and this branch is asymmetric"
        if symmetric is None:
            assumptions.append("if it is symmetric, the default, which nothing here contradicts")
    if runtime.name == "gptq_for_llama":
        if branch not in (None, "main"):
            return f"is for `main` branches from before August 2023, not for {branch}"
        if act_order and group_size is not None:
            return "does not take act order together with a group size"
        assumptions.append("if its files are from before August 2023")
    return ""


def _capability(text: str | None) -> Fraction | None:
    """8.6 and 12.0 compare as numbers; NVIDIA has had one digit behind the point since 1.0."""
    return None if text is None else Fraction(text)


def _numbers(numbers: Collection[int]) -> str:
    ordered = [str(number) for number in sorted(numbers)]
    return ordered[0] if len(ordered) == 1 else f"{', '.join(ordered[:-1])} or {ordered[-1]}"
