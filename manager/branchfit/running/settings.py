"""The GPTQ settings a checkpoint really has: what its JSON says, checked against its tensors, cleaned."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import LoadError
from .headers import Stored
from .layout import Layout, gptq_layout, is_marlin_packed, reads_act_order, reads_symmetric

GPTQ_METHODS = frozenset({"gptq", "gptq_v2", "marlin"})
"""quant_method of files that AutoGPTQ or gptqmodel wrote."""


def _true_or_false(value: Any) -> bool:
    return isinstance(value, bool)


_CARRIED: Mapping[str, Callable[[Any], bool]] = {
    # GPTQConfig.post_init raises for a damp_percent that is none between 0 and 1.
    "damp_percent": lambda value: isinstance(value, float) and 0 < value < 1,
    "true_sequential": _true_or_false,
    "static_groups": _true_or_false,
    "lm_head": _true_or_false,
    "meta": lambda value: isinstance(value, dict),
    "modules_in_block_to_quantize": lambda value: isinstance(value, list),
    "block_name_to_quantize": lambda value: isinstance(value, str),
}
"""What is handed on beside the settings proper, where it holds what transformers' GPTQConfig takes. The rest is
left out: a kernel chosen by whoever quantised (use_exllama, disable_exllama), a data set's name."""


@dataclass(frozen=True)
class Settings:
    """`cleaned` None: not quantised by GPTQ. `override`: config.json does not lead transformers to them."""

    cleaned: Mapping[str, Any] | None
    override: bool
    notes: tuple[str, ...]


def read_settings(
    config: Mapping[str, Any], quantize_config: Mapping[str, Any] | None, tensors: Mapping[str, Stored]
) -> Settings:
    """What to load these tensors with. Raises LoadError where they cannot be loaded, or it cannot be told how."""
    stated = _stated(config.get("quantization_config"))
    method = str((stated or {}).get("quant_method") or "").lower()
    if method and method not in GPTQ_METHODS:
        return Settings(None, False, ())
    said = stated if stated and "bits" in stated else quantize_config or {}
    if is_marlin_packed(tensors):
        raise LoadError(
            "its linears are packed for the Marlin kernel of AutoGPTQ 0.7, which nothing that is kept up reads: take a "
            "branch in GPTQ's own format."
        )
    layout = gptq_layout(tensors)
    if layout is None:
        if method or (quantize_config and "bits" in quantize_config) or config.get("quantization_config"):
            other = any(name.endswith(".qweight") for name in tensors)
            raise LoadError(
                "its settings say GPTQ, and "
                + ("its tensors are laid out as AWQ's" if other else "none of its tensors is a packed one (.qweight)")
                + ": weights and settings are not of the same model; pull the branch again."
            )
        if any(name.endswith(".qweight") for name in tensors):
            raise LoadError("its linears are packed, but not as GPTQ packs them, and no config.json says how.")
        return Settings(None, False, ())
    found = _checked(said, layout, tensors, from_config=said is stated)
    if isinstance(config.get("quantization_config"), str):
        said_so = "config.json's quantization_config is a text, not an object: it is read all the same"
        found = replace(found, override=True, notes=(said_so, *found.notes))
    return found


def _checked(
    said: Mapping[str, Any],
    layout: Layout,
    tensors: Mapping[str, Stored],
    from_config: bool,
) -> Settings:
    notes = []
    source = "config.json" if from_config else "quantize_config.json"
    if not from_config:
        where = "taken from quantize_config.json" if said else "worked out from the tensors"
        notes.append(f"config.json has no usable quantization_config: it is {where}")
    bits, group = layout.bits, _whole(said.get("group_size"), none=-1)
    wrong = []
    if said and _whole(said.get("bits")) != bits:
        wrong.append(f"{said.get('bits')!r} bits where the tensors have {bits}")
    if group is None or not _is_size(group) or not layout.explained_by(group):
        if said:
            wrong.append(f"group size {said.get('group_size', 'none given')!r} where the tensors have a group of")
        group = layout.group_size
        if said:
            wrong[-1] += f" {group}" if group != -1 else "... all inputs (-1)"
    ordered = said.get("desc_act")
    if ordered is not True:
        found = reads_act_order(layout, tensors, group)
        if found is None and not isinstance(ordered, bool):
            raise LoadError(
                f"whether it has act order cannot be told: no setting says so and there is no g_idx beside its groups "
                f"of {group}. Its quantize_config.json is missing; take it from the repo."
            )
        if found and ordered is False:
            wrong.append("no act order where g_idx has one")
        elif not isinstance(ordered, bool) and said:
            wrong.append("nothing of act order")
        ordered = bool(found)
    symmetric, form = said.get("sym"), said.get("checkpoint_format", said.get("format"))
    if not isinstance(symmetric, bool):
        symmetric, shown = reads_symmetric(layout, tensors)
        form = form or (shown if not said else None)
    if wrong:
        notes.append(f"{source} says {'; '.join(wrong)}: the tensors are right")
    cleaned: dict[str, Any] = {"quant_method": "gptq", "bits": bits, "group_size": group}
    cleaned.update(desc_act=ordered, sym=symmetric)
    if isinstance(form, str) and form.lower() in ("gptq", "gptq_v2"):
        cleaned["checkpoint_format"] = form.lower()
    cleaned.update({name: said[name] for name, holds in _CARRIED.items() if name in said and holds(said[name])})
    marlin = "is_marlin_format" in said or "marlin" in (form, said.get("quant_method"))
    if marlin:
        notes.append(
            "is_marlin_format is left out: the tensors are in GPTQ's own format, and gptqmodel takes no such setting"
        )
    override = not from_config or bool(wrong) or marlin or _rejected(said)
    return Settings(cleaned, override, tuple(notes))


def _rejected(said: Mapping[str, Any]) -> bool:
    """Whether transformers would stumble over a value, lack one it needs, or take a kernel from it."""
    kernels = {"use_exllama", "disable_exllama", "exllama_config", "backend", "dataset"} & {
        name for name, value in said.items() if value is not None
    }
    bad = any(name in said and not holds(said[name]) for name, holds in _CARRIED.items() if name == "damp_percent")
    exact = all(type(said.get(name)) is int for name in ("bits", "group_size"))
    whole = all(isinstance(said.get(name), bool) for name in ("desc_act", "sym")) and said.get("quant_method") == "gptq"
    return bool(kernels) or bad or not exact or not whole


def _stated(value: Any) -> Mapping[str, Any] | None:
    """config.json's quantization_config: an object, or one written as text; None for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) and value else None


def _whole(value: Any, none: int | None = None) -> int | None:
    """A whole number, as a number or as text; `none` for null."""
    if value is None:
        return none
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        return int(value)
    return value if type(value) is int else None


def _is_size(group: int) -> bool:
    return group == -1 or group > 0
