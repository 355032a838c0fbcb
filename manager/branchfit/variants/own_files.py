"""What a branch's own files say: which are weights, and how they were quantised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..hub import weight_headers
from ..shape import ModelShape, groups

if TYPE_CHECKING:
    from ..hub import BranchState, TensorEntry

MAX_SETTING = 10**6
"""Above any bits or group size there is; the widest linear of any model has fewer inputs."""

WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".ggml", ".bin", ".pt", ".pth", ".ckpt")
"""How weight files are called."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Those of them that torch.load reads: listed, never pulled."""

_NOT_WEIGHTS = re.compile(r"(^|/)(training_args|optimizer|scheduler|rng_state|trainer_state)[^/]*\.(bin|pt|pth)$")
"""Pickles that trainers leave beside weights (transformers' Trainer writes these names)."""


@dataclass(frozen=True)
class Quantisation:
    """What a branch's own files say of how it was quantised. None: they do not say."""

    format: str | None = None
    bits: float | None = None
    group_size: int | None = None
    group_known: bool = False
    in_features: int = 0
    groups: int = 0
    act_order: bool | None = None
    symmetric: bool | None = None
    damp_percent: float | None = None


def weight_files(state: BranchState) -> tuple[str, ...]:
    """The paths of a branch's weight files, those a loader takes: safetensors where there are any, else the rest."""
    chosen, _ = weight_headers(state.files)
    if chosen:
        return tuple(file.path for file in chosen if file.size_bytes > 0)
    found = [
        file.path
        for file in state.files
        if file.path.lower().endswith(WEIGHT_SUFFIXES) and not _NOT_WEIGHTS.search(file.path) and file.size_bytes > 0
    ]
    best = [path for path in found if path.lower().endswith(".safetensors")]
    return tuple(best or found)


def missing_weights(state: BranchState) -> str:
    """Why a branch's weights cannot be had, as a clause; "" where they can."""
    chosen, odd = weight_headers(state.files)
    if not chosen and odd:
        return odd
    found = weight_files(state)
    if not found:
        return "it holds no weights"
    if all(path.lower().endswith(PICKLES) for path in found):
        return f"its only weights are pickles ({', '.join(found[:3])}), which can run code and are never fetched"
    return ""


def read_quantisation(state: BranchState, config: Mapping[str, Any]) -> Quantisation:
    """config.json's quantization_config, else quantize_config.json, checked against the header."""
    quantization = config.get("quantization_config")
    given = quantization if isinstance(quantization, Mapping) else state.quantize_config
    names = weight_files(state)
    if given is None:
        given = {}
        if names and all(path.lower().endswith((".gguf", ".ggml")) for path in names):
            return Quantisation(format="gguf")
    method = given.get("quant_method")
    format_: str | None = str(method).lower() if method else ("gptq" if "bits" in given else None)
    header = _read_header(state.tensors) if state.tensors else Quantisation()
    if format_ is None:
        format_ = header.format
    if (format_ == "gptq" and given.get("checkpoint_format") == "marlin") or given.get("is_marlin_format"):
        format_ = "marlin"
    if format_ not in ("gptq", "marlin", "awq", "exl2", "exl3"):
        return Quantisation(format=format_ or ("fp16" if state.tensors else None))
    bits, group = _number(given.get("bits")), _number(given.get("group_size"))
    bits = bits if bits is not None and bits > 0 else None
    group = group if group != 0 else None
    known = group is not None or header.group_known
    group_size = int(group) if group is not None and group > 0 else None
    if header.group_known and (group_size is None or groups(header.in_features, group_size) != header.groups):
        group_size = header.group_size
    return Quantisation(
        format=format_,
        bits=header.bits or (bits if bits is None or bits != int(bits) else int(bits)),
        group_size=group_size,
        group_known=known,
        act_order=given["desc_act"] if isinstance(given.get("desc_act"), bool) else None,
        symmetric=given["sym"] if isinstance(given.get("sym"), bool) else None,
        damp_percent=_number(given.get("damp_percent")),
    )


def _number(value: object) -> float | None:
    """A finite number of a size that a setting can have, else None. JSON admits NaN and 10**400."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -MAX_SETTING <= value <= MAX_SETTING else None


def _read_header(tensors: Iterable[TensorEntry]) -> Quantisation:
    """Bits and group size as the tensors' own shapes tell them, from the first quantised linear.

    qweight is [in*bits/32, out] and qzeros and scales are [groups, out...]: the layout of shape.py.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    for name, qweight in by_name.items():
        if not name.endswith(".qweight") or len(qweight.shape) != 2:
            continue
        stem = name[: -len("qweight")]
        g_idx, scales = by_name.get(stem + "g_idx"), by_name.get(stem + "scales")
        if g_idx is None or scales is None or len(g_idx.shape) != 1 or len(scales.shape) != 2:
            return Quantisation()
        in_features, rows = g_idx.shape[0], scales.shape[0]
        if not in_features or not rows or qweight.shape[0] * 32 % in_features:
            return Quantisation()
        return Quantisation(
            format="gptq",
            bits=qweight.shape[0] * 32 // in_features,
            group_size=None if rows == 1 else -(-in_features // rows),
            group_known=True,
            in_features=in_features,
            groups=rows,
        )
    return Quantisation()


def has_zero_bias(tensors: Iterable[TensorEntry], shape: ModelShape | None) -> bool:
    """Whether the file holds a bias where the model has none, as AutoGPTQ writes it."""
    names = {tensor.name for tensor in tensors}
    without = next((linear.name for linear in shape.linears if not linear.bias), None) if shape else "mlp.down_proj"
    return without is not None and any(name.endswith(f"{without}.bias") for name in names)
