"""Card, refs and the branches' own files, held together into one list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..card import BranchRow, ModelCard
from ..checkpoint import checkpoint_bytes
from ..errors import ConfigError
from ..loaders import RUNTIMES, can_load, of_loader
from ..shape import ModelShape, read_shape
from .model import Disagreement, Variant, VariantList
from .own_files import Quantisation, has_zero_bias, missing_weights, read_quantisation, weight_files

if TYPE_CHECKING:
    from ..hub import BranchState


_CARD_NAMES = {"tinyllama": "llama"}
"""What cards put for `model_type` where the config.json of the same repo says something else."""


def from_card(
    card: ModelCard, config: Mapping[str, Any] | None, repo: str = "", source: str = "config.json"
) -> VariantList:
    """The variants a card alone lists, with sizes from `config` where it is given. No network.

    Raises ConfigError where `config` is there and does not describe a model.
    """
    shape = read_shape(config, source) if config is not None else None
    model_type = (shape.model_type if shape else "") or _CARD_NAMES.get(card.model_type or "", card.model_type)
    built = [_merge(row.branch, row, None, shape, model_type, {}) for row in card.rows]
    notes = list(card.notes)
    if not built:
        notes.append("the card has no table of GPTQ branches")
    return VariantList(
        repo, None, tuple(v for v, _ in built), tuple(d for _, found in built for d in found), tuple(notes)
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
        shape, unfit = None, ""
        if state.config is not None:
            try:
                shape = read_shape(config)
            except ConfigError as error:
                unfit = str(error)
        notes += [f"{name}: {problem}" for problem in state.problems]
        variant, found = _merge(name, row, state, shape, str(config.get("model_type") or "") or card_type, config)
        if unfit and variant.holds_weights:
            # Without its config no loader can make the model, and its memory could only be guessed.
            variant = replace(variant, holds_weights=False, problem=unfit)
        built.append((variant, found))
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
    own = read_quantisation(state, config) if state is not None else Quantisation()
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

    zero_bias = has_zero_bias(state.tensors, shape) if state is not None and state.tensors else True
    size_bytes, size_source = _size(row, state, weights, shape, bits, group_size, format_, zero_bias)
    printed = row.size_bytes if row is not None else None
    if (
        row is not None
        and printed
        and size_bytes
        and not _same_size(printed, row.size_resolution_bytes or 1, size_bytes)
    ):
        differences.append(Disagreement(branch, "size_bytes", printed, size_bytes))

    # A card's "no" was true of the ExLlama of its day, and its "yes" may be a slip: where the branch's
    # own files or a config tell what it is, the runtimes' own tables say who reads it.
    exllama = row.exllama if row else None
    if own.format is not None or shape is not None or row is None:
        reads = _exllama_reads(format_, bits, group_size, act_order, own.symmetric, model_type)
        exllama = settle("exllama", exllama, reads, reads is not None)
    problem = missing_weights(state) if state is not None else ""
    variant = Variant(
        branch=branch,
        commit=state.commit if state else None,
        format=format_ if weights or state is None else "none",
        bits=bits,
        group_size=group_size,
        act_order=act_order,
        symmetric=own.symmetric,
        damp_percent=damp,
        dataset=row.dataset if row else None,
        sequence_length=row.sequence_length if row else None,
        size_bytes=size_bytes,
        size_source=size_source,
        exllama=exllama,
        description=row.description if row else "",
        model_type=model_type,
        shape=shape,
        zero_bias=zero_bias,
        holds_weights=not problem,
        problem=problem,
    )
    return variant, differences


def _exllama_reads(
    format_: str,
    bits: float | None,
    group_size: int | None,
    act_order: bool | None,
    symmetric: bool | None,
    model_type: str | None,
) -> bool | None:
    """Whether any runtime of the ExLlama family takes such a branch, on some GPU; None where it cannot be told."""
    if bits is None or format_ == "unknown":
        return None
    return any(
        can_load(
            runtime,
            format=format_,
            bits=bits,
            group_size=group_size,
            act_order=act_order,
            symmetric=symmetric,
            model_type=model_type,
        ).can
        for runtime in of_loader(RUNTIMES, "ExLlama")
    )


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
