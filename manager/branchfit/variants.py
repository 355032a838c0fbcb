"""One true list of variants: the card, the Hub's refs and each branch's own files, held together.

Where they disagree the branch's own files win, and the disagreement is kept: a card is written
once and its branches are replaced later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .card import BranchRow, ModelCard
from .checkpoint import checkpoint_bytes
from .errors import ConfigError
from .shape import ModelShape, read_shape

if TYPE_CHECKING:
    from .hub import BranchState, TensorEntry

WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".ggml", ".bin", ".pt", ".pth", ".ckpt")
"""How weight files are called. `.bin`, `.pt`, `.pth` and `.ckpt` are pickles: listed, never pulled."""

_NOT_WEIGHTS = re.compile(r"(^|/)(training_args|optimizer|scheduler|rng_state|trainer_state)[^/]*\.(bin|pt|pth)$")
"""Pickles that trainers leave beside weights (transformers' Trainer writes these names)."""


@dataclass(frozen=True)
class Disagreement:
    """The card says one thing, the branch's own files (`actual`) another. `branch` None: the repo."""

    branch: str | None
    field: str
    card: object
    actual: object


@dataclass(frozen=True)
class Variant:
    """One branch of a repo: one way the model was quantised.

    `bits` may be fractional (EXL2). `group_size` None is no grouping. `size_bytes` is what its
    weights take on the Hub; `size_source` says who says so: `headers` (the safetensors headers),
    `files` (the Hub's listing), `config` (worked out from the shape) or `card`.
    `exllama` is whether the ExLlama family takes it, as far as format, bits and card tell.
    `holds_weights` False is a branch that must never be recommended; `problem` says why.
    """

    branch: str
    commit: str | None = None
    format: str = "gptq"
    bits: float | None = None
    group_size: int | None = None
    act_order: bool | None = None
    symmetric: bool | None = None
    damp_percent: float | None = None
    dataset: str | None = None
    sequence_length: int | None = None
    size_bytes: int | None = None
    size_source: str | None = None
    download_bytes: int | None = None
    exllama: bool | None = None
    description: str = ""
    model_type: str | None = None
    shape: ModelShape | None = None
    zero_bias: bool = True
    holds_weights: bool = True
    problem: str = ""


@dataclass(frozen=True)
class VariantList:
    """Every variant of a repo, and every point on which its sources disagree."""

    repo: str
    commit: str | None
    variants: tuple[Variant, ...]
    disagreements: tuple[Disagreement, ...] = ()
    notes: tuple[str, ...] = ()

    def get(self, branch: str) -> Variant | None:
        return next((variant for variant in self.variants if variant.branch == branch), None)


@dataclass(frozen=True)
class _Quantisation:
    """What a branch's own files say of how it was quantised. None: they do not say."""

    format: str | None = None
    bits: float | None = None
    group_size: int | None = None
    group_known: bool = False
    act_order: bool | None = None
    symmetric: bool | None = None
    damp_percent: float | None = None


def from_card(
    card: ModelCard, config: Mapping[str, Any] | None, repo: str = "", source: str = "config.json"
) -> VariantList:
    """The variants a card alone lists, with sizes from `config` where it is given. No network.

    Raises ConfigError where `config` is there and does not describe a model.
    """
    shape = read_shape(config, source) if config is not None else None
    built = [_merge(row.branch, row, None, shape, card.model_type, {}) for row in card.rows]
    return VariantList(
        repo, None, tuple(v for v, _ in built), tuple(d for _, found in built for d in found), tuple(card.notes)
    )


def from_hub(repo: str, card: ModelCard | None, branches: Iterable[BranchState]) -> VariantList:
    """The variants of a repo on the Hub: every branch that is there, with what the card adds.

    A row whose branch is gone is kept, marked as holding no weights, and reported.
    """
    rows = {row.branch: row for row in card.rows} if card else {}
    states = {state.branch: state for state in branches}
    card_type = card.model_type if card else None
    built: list[tuple[Variant, list[Disagreement]]] = []
    notes = list(card.notes) if card else []
    order = [*rows, *(name for name in states if name not in rows)]
    for name in order:
        state, row = states.get(name), rows.get(name)
        if state is None:
            gone = _merge(name, row, None, None, card_type, {})[0]
            vanished = replace(gone, holds_weights=False, problem="the card lists it, the Hub has no such branch")
            built.append((vanished, [Disagreement(name, "branch", "listed", "not on the Hub")]))
            continue
        config = state.config or {}
        shape = None
        if state.config is not None:
            try:
                shape = read_shape(config, f"{repo}:{name}/config.json")
            except ConfigError as error:
                notes.append(str(error))
        notes += [f"{name}: {problem}" for problem in state.problems]
        built.append(_merge(name, row, state, shape, str(config.get("model_type") or "") or card_type, config))
    main = states.get("main") or next(iter(states.values()), None)
    return VariantList(
        repo,
        main.commit if main else None,
        tuple(variant for variant, _ in built),
        tuple(found for _, founds in built for found in founds),
        tuple(notes),
    )


def _merge(
    branch: str,
    row: BranchRow | None,
    state: BranchState | None,
    shape: ModelShape | None,
    model_type: str | None,
    config: Mapping[str, Any],
) -> tuple[Variant, list[Disagreement]]:
    """One branch's variant, and what its card row and its own files disagree about."""
    own = _quantisation(state, config) if state is not None else _Quantisation()
    weights = weight_files(state) if state is not None else ()
    differences: list[Disagreement] = []

    def settle(name: str, card_value: object, own_value: object, own_known: bool) -> Any:
        if not own_known:
            return card_value
        if row is not None and card_value is not None and card_value != own_value:
            differences.append(Disagreement(branch, name, card_value, own_value))
        return own_value

    bits = settle("bits", row.bits if row else None, own.bits, own.bits is not None)
    if own.group_known and row is not None and row.group_size != own.group_size:
        differences.append(Disagreement(branch, "group_size", row.group_size, own.group_size))
    group_size = own.group_size if own.group_known else (row.group_size if row else None)
    act_order = settle("act_order", row.act_order if row else None, own.act_order, own.act_order is not None)
    damp = settle("damp_percent", row.damp_percent if row else None, own.damp_percent, own.damp_percent is not None)
    format_ = own.format or ("gptq" if row is not None else "unknown")

    zero_bias = _has_zero_bias(state.tensors, shape) if state is not None and state.tensors else True
    size_bytes, size_source = _size(row, state, weights, shape, bits, group_size, format_, zero_bias)
    printed = row.size_bytes if row is not None else None
    if (
        row is not None
        and printed
        and size_bytes
        and not _same_size(printed, row.size_resolution_bytes or 1, size_bytes)
    ):
        differences.append(Disagreement(branch, "size_bytes", printed, size_bytes))

    exllama = row.exllama if row else None
    if own.format is not None or exllama is None:
        # 4-bit GPTQ is all that ExLlama v1 and v2 read of GPTQ (facts in loaders.py).
        reads = (format_ == "gptq" and bits == 4) if bits is not None and format_ != "unknown" else None
        if exllama and reads is False:
            differences.append(Disagreement(branch, "exllama", exllama, reads))
            exllama = False
        elif exllama is None:
            exllama = reads
    problem = ""
    if state is not None and not weights:
        problem = "it holds no weights"
    variant = Variant(
        branch=branch,
        commit=state.commit if state else None,
        format="none" if problem else format_,
        bits=bits,
        group_size=group_size,
        act_order=act_order,
        symmetric=own.symmetric,
        damp_percent=damp,
        dataset=row.dataset if row else None,
        sequence_length=row.sequence_length if row else None,
        size_bytes=size_bytes,
        size_source=size_source,
        download_bytes=sum(file.size_bytes for file in state.files) if state else None,
        exllama=exllama,
        description=row.description if row else "",
        model_type=model_type,
        shape=shape,
        zero_bias=zero_bias,
        holds_weights=not problem,
        problem=problem,
    )
    return variant, differences


def weight_files(state: BranchState) -> tuple[str, ...]:
    """The paths of a branch's weight files: the safetensors where there are any, else the rest."""
    found = [
        file.path
        for file in state.files
        if file.path.lower().endswith(WEIGHT_SUFFIXES) and not _NOT_WEIGHTS.search(file.path) and file.size_bytes > 0
    ]
    best = [path for path in found if path.lower().endswith(".safetensors")]
    return tuple(best or found)


def _quantisation(state: BranchState, config: Mapping[str, Any]) -> _Quantisation:
    """config.json's quantization_config, else quantize_config.json, checked against the header."""
    quantization = config.get("quantization_config")
    given = quantization if isinstance(quantization, Mapping) else state.quantize_config
    names = weight_files(state)
    if given is None:
        given = {}
        if names and all(path.lower().endswith((".gguf", ".ggml")) for path in names):
            return _Quantisation(format="gguf")
    method = given.get("quant_method")
    format_: str | None = str(method).lower() if method else ("gptq" if "bits" in given else None)
    header = _read_header(state.tensors) if state.tensors else _Quantisation()
    if format_ is None:
        format_ = header.format
    if (format_ == "gptq" and given.get("checkpoint_format") == "marlin") or given.get("is_marlin_format"):
        format_ = "marlin"
    if format_ not in ("gptq", "marlin", "awq", "exl2", "exl3"):
        return _Quantisation(format=format_ or ("fp16" if state.tensors else None))
    bits, group = _number(given.get("bits")), _number(given.get("group_size"))
    known = group is not None or header.group_known
    group_size = int(group) if group is not None and group > 0 else None
    return _Quantisation(
        format=format_,
        bits=header.bits or (bits if bits is None or bits != int(bits) else int(bits)),
        group_size=header.group_size if header.group_known else group_size,
        group_known=known,
        act_order=given["desc_act"] if isinstance(given.get("desc_act"), bool) else None,
        symmetric=given["sym"] if isinstance(given.get("sym"), bool) else None,
        damp_percent=_number(given.get("damp_percent")),
    )


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _read_header(tensors: Iterable[TensorEntry]) -> _Quantisation:
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
            return _Quantisation()
        in_features, rows = g_idx.shape[0], scales.shape[0]
        if not in_features or not rows or qweight.shape[0] * 32 % in_features:
            return _Quantisation()
        return _Quantisation(
            format="gptq",
            bits=qweight.shape[0] * 32 // in_features,
            group_size=None if rows == 1 else -(-in_features // rows),
            group_known=True,
        )
    return _Quantisation()


def _has_zero_bias(tensors: Iterable[TensorEntry], shape: ModelShape | None) -> bool:
    """Whether the file holds a bias where the model has none, as AutoGPTQ writes it."""
    names = {tensor.name for tensor in tensors}
    without = next((linear.name for linear in shape.linears if not linear.bias), None) if shape else "mlp.down_proj"
    return without is not None and any(name.endswith(f"{without}.bias") for name in names)


def _size(
    row: BranchRow | None,
    state: BranchState | None,
    weights: tuple[str, ...],
    shape: ModelShape | None,
    bits: float | None,
    group_size: int | None,
    format_: str,
    zero_bias: bool,
) -> tuple[int | None, str | None]:
    """Bytes of the weights, from the best source there is, and which that was."""
    if state is not None and weights:
        listed = {file.path: file.size_bytes for file in state.files}
        total = sum(listed[path] for path in weights)
        if state.tensors is not None and all(path.lower().endswith(".safetensors") for path in weights):
            return total, "headers"
        return total, "files"
    if shape is not None and shape.known_layout and format_ == "gptq" and bits in (2, 3, 4, 8):
        return checkpoint_bytes(shape, int(bits or 0), group_size, zero_bias), "config"
    if row is not None and row.size_bytes:
        return row.size_bytes, "card"
    return None, None


def _same_size(card_bytes: int, resolution_bytes: int, actual_bytes: int) -> bool:
    """Whether a printed size and a real one are the same but for rounding and small change.

    Half a percent is what bias tensors, vocabulary padding and the header make at most
    (facts: 0.04 % at 70B, 0.3 % at 1B), and far less than any other branch's size differs by.
    """
    return abs(card_bytes - actual_bytes) <= resolution_bytes + actual_bytes // 200
