"""After a load: is what is in memory what the files hold? transformers fills what it does not find with random
numbers and goes on, so this looks at every tensor of the model, with or without its loading_info."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import LoadedWrong
from .folder import ModelFolder
from .headers import Stored
from .kernels import check_kernel
from .layout import QUANTISED

NAMES_SHOWN = 3

SAMPLED = 8
"""Numbers compared of each tensor that is not packed: enough to tell any two tensors of trained weights apart."""

CLOSE = 2**-6
"""How far a number may move by its dtype's change alone: bfloat16 has 8 bits of mantissa."""

_PACKED = frozenset({"qweight", "qzeros", "scales", "g_idx", "bias", "weight"})
"""What of a quantised linear's state comes from a file; the rest a kernel makes for itself."""

_MADE = re.compile(r"(rotary_emb\.inv_freq|rotary_emb\.original_inv_freq|\.attn\.masked_bias|\.attn\.bias)$")
"""Buffers that models compute and that some versions of transformers kept in files: modeling_llama.py up to 4.3x,
modeling_gpt2.py's causal mask (`_keys_to_ignore_on_load_unexpected`)."""

_PLAIN = frozenset({"Linear", "Conv1D", "Embedding", "NoneType"})


def check_loaded(
    model: Any, folder: ModelFolder, loading_info: Mapping[str, Any] | None = None, runtime: str | None = None
) -> tuple[str, ...]:
    """Raises LoadedWrong where the model in memory is not what the files hold; else remarks, in sentences.

    Every `X.qweight` of the files needs a quantised module X; every parameter and persistent buffer has to
    come from a file, or be one object with one that does (tied weights); nothing may be left on the meta
    device; the first numbers of what is not packed have to be the file's; a bias that the architecture has no
    place for has to be zero. With `runtime`, its kernel has to be the one in every quantised module
    (WrongKernel). `loading_info` is what from_pretrained gives with output_loading_info=True.
    """
    if model is None:
        raise LoadedWrong(f"{folder.folder.name} was not loaded: there is no model in memory. See the log above.")
    modules = dict(model.named_modules())
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    stored = _by_model_name(model, folder.tensors, state)
    packed = _quantised(folder, stored, modules, runtime)
    if runtime is not None and packed:
        check_kernel(runtime, packed.values())
    if folder.quantization is not None or loading_info is not None:
        # transformers 5 renames and fuses tensors of unquantised models as it loads them: only it knows what came.
        _check_all_came(model, folder, stored, state, packed, loading_info, runtime)
    _check_no_meta(model, folder)
    _check_numbers(folder, stored, state, packed)
    return _zero_biases(folder, stored, packed)


def _by_model_name(model: Any, tensors: Mapping[str, Stored], state: Mapping[str, Any]) -> dict[str, Stored]:
    """The files' tensors by the names the model has for them: with or without its prefix, renamed as its class says."""
    prefix = f"{getattr(model, 'base_model_prefix', '') or ''}."
    renames = getattr(model, "_checkpoint_conversion_mapping", None) or {}
    heads = {name.partition(".")[0] for name in state}
    found = {}
    for name, stored in tensors.items():
        for pattern, replacement in renames.items():
            name = re.sub(pattern, replacement, name)
        if prefix != "." and name.partition(".")[0] not in heads:
            shorter = name.removeprefix(prefix)
            name = shorter if shorter.partition(".")[0] in heads else prefix + name
        found[name] = stored
    return found


def _quantised(
    folder: ModelFolder, stored: Mapping[str, Stored], modules: Mapping[str, Any], runtime: str | None
) -> dict[str, Any]:
    """The quantised modules of the model by name; all that the files have a qweight for."""
    if folder.quantization is None:
        return {}
    names = [name.removesuffix(QUANTISED) for name in stored if name.endswith(QUANTISED)]
    wrong = [name for name in names if _is_plain(modules.get(name))]
    if wrong:
        kind = type(modules[wrong[0]]).__name__ if wrong[0] in modules else "no module"
        raise LoadedWrong(
            f"{folder.folder.name} is loaded wrong: {_some(wrong, len(names), 'quantised linears')} came up as {kind}, "
            f"whose weights are random numbers. {_remedy(runtime)}",
            wrong,
        )
    return {name: modules[name] for name in names}


def _is_plain(module: Any) -> bool:
    return type(module).__name__ in _PLAIN or not (hasattr(module, "qweight") or hasattr(module, "B"))


def _check_all_came(
    model: Any,
    folder: ModelFolder,
    stored: Mapping[str, Stored],
    state: Mapping[str, Any],
    packed: Mapping[str, Any],
    loading_info: Mapping[str, Any] | None,
    runtime: str | None,
) -> None:
    """Raises LoadedWrong naming what is in the model and in no file."""
    present = {id(tensor) for name, tensor in state.items() if name in stored}
    ignored = [re.compile(one) for one in getattr(model, "_keys_to_ignore_on_load_missing", None) or ()]
    missing = [
        name
        for name, tensor in state.items()
        if name not in stored
        and id(tensor) not in present
        and not _MADE.search(name)
        and not any(one.search(name) for one in ignored)
        and not _made_by_kernel(name, tensor, stored, packed)
    ]
    told = [name for name in (loading_info or {}).get("missing_keys") or () if name not in missing]
    missing += [name for name in told if name in state and id(state[name]) not in present and not _MADE.search(name)]
    # What transformers says it did not find, though the files have it: under a name it does not know.
    missing += [name for name in told if name in stored]
    if missing:
        missing = list(dict.fromkeys(missing))
        raise LoadedWrong(
            f"{folder.folder.name} is loaded wrong: {_some(missing, len(state), 'tensors of the model')} came from no "
            f"file and hold random numbers. {_remedy(runtime)}",
            missing,
        )
    mismatched = [str(key) for key in (loading_info or {}).get("mismatched_keys") or ()]
    if mismatched:
        raise LoadedWrong(
            f"{folder.folder.name} is loaded wrong: {_some(mismatched, len(state), 'tensors')} have another shape in "
            f"the files than in the model: config.json is of another model.",
            mismatched,
        )


def _made_by_kernel(name: str, tensor: Any, stored: Mapping[str, Stored], packed: Mapping[str, Any]) -> bool:
    module, _, leaf = name.rpartition(".")
    if module not in packed:
        return False
    # A kernel without act order may drop g_idx, and one that AutoGPTQ wrote a bias for may make a zero one.
    return leaf not in _PACKED or (leaf in ("bias", "g_idx") and _all_zero(tensor))


def _check_no_meta(model: Any, folder: ModelFolder) -> None:
    """Raises LoadedWrong for tensors that were never given memory; what is offloaded on purpose is let through."""
    placed = getattr(model, "hf_device_map", None) or {}
    offloaded = [str(name) for name, device in placed.items() if str(device) in ("cpu", "disk")]
    meta = [
        name
        for name, tensor in _parameters_and_buffers(model)
        if getattr(tensor, "is_meta", False)
        and not any(part == "" or name == part or name.startswith(part + ".") for part in offloaded)
    ]
    if meta:
        raise LoadedWrong(
            f"{folder.folder.name} is not loaded: {_some(meta, None, 'tensors')} have no memory (they are on the meta "
            f"device). {_RELOAD}",
            meta,
        )


def _parameters_and_buffers(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _check_numbers(
    folder: ModelFolder, stored: Mapping[str, Stored], state: Mapping[str, Any], packed: Mapping[str, Any]
) -> None:
    """Raises LoadedWrong where the first numbers of what is not packed are not those of the file."""
    wrong = []
    for name, one in stored.items():
        tensor = state.get(name)
        if tensor is None or name.rpartition(".")[0] in packed or getattr(tensor, "is_meta", False):
            continue
        wanted = one.first(SAMPLED)
        if wanted is None or tuple(tensor.shape) != one.shape:
            continue
        found = tensor.detach().flatten()[:SAMPLED].tolist()
        if any(not _close(a, b) for a, b in zip(wanted, found, strict=True)):
            wrong.append(name)
    if wrong:
        raise LoadedWrong(
            f"{folder.folder.name} is loaded wrong: {_some(wrong, len(stored), 'tensors')} do not hold the numbers "
            f"that the files have. {_RELOAD}",
            wrong,
        )


def _close(wanted: float, found: float) -> bool:
    if math.isnan(wanted) or math.isnan(found):
        return math.isnan(wanted) and math.isnan(found)
    # Denormal halves may be flushed to zero: 2^-14 is the smallest normal one.
    return math.isclose(wanted, found, rel_tol=CLOSE, abs_tol=2**-14)


def _zero_biases(folder: ModelFolder, stored: Mapping[str, Stored], packed: Mapping[str, Any]) -> tuple[str, ...]:
    """The remark on AutoGPTQ's biases. Raises LoadedWrong for one that is not zero and was dropped."""
    dropped = [
        stored[f"{name}.bias"]
        for name, module in packed.items()
        if f"{name}.bias" in stored and getattr(module, "bias", None) is None
    ]
    lost = [bias.name for bias in dropped if not bias.is_zero]
    if lost:
        raise LoadedWrong(
            f"{folder.folder.name} is loaded wrong: {_some(lost, len(dropped), 'biases')} in the files are not zero, "
            f"and this architecture has no place for them: they were dropped. Its config.json is of another model.",
            lost,
        )
    if not dropped:
        return ()
    return (f"{len(dropped)} biases in the files are zero, as AutoGPTQ writes them, and are left out: harmless.",)


def _all_zero(tensor: Any) -> bool:
    return not bool((tensor != 0).any())


_RELOAD = "Unload it, and load it through BranchFit, which lays what is missing over its config.json."


def _remedy(runtime: str | None) -> str:
    """What helps: where the kernel was named already, loading it so again would come to the same."""
    if runtime is None:
        return _RELOAD
    return f"{runtime} in this version does not read such files: take another runtime, or another repo of the model."


def _some(names: Iterable[str], of: int | None, what: str) -> str:
    """`21 of 30 quantised linears (a, b, c ...)`."""
    listed = list(names)
    more = " ..." if len(listed) > NAMES_SHOWN else ""
    count = f"{len(listed)} of {of}" if of is not None else str(len(listed))
    return f"{count} {what} ({', '.join(listed[:NAMES_SHOWN])}{more})"
