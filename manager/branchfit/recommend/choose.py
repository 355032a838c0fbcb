"""Variants, a machine and its runtimes -> one recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..card import Sister
from ..gpus import Machine
from ..loaders import Availability
from ..variants import VariantList
from .answer import DEFAULT_CONTEXT_TOKENS, Choice, Recommendation
from .assess import assess
from .order import rank
from .words import why_chosen, why_not, why_nothing


def recommend(
    listed: VariantList,
    machine: Machine,
    available: Availability,
    *,
    context_tokens: int | None = None,
    prefer: str | None = None,
    branch: str | None = None,
    sisters: Sequence[Sister] = (),
) -> Recommendation:
    """The best branch for this machine among those that a loader here can load and that fit.

    `context_tokens` None is the smaller of the model's own and 4096. `prefer` None is the best
    quality that ExLlama runs, then the best that AutoGPTQ runs; `quality` is the best of either,
    `speed` the fewest bytes to read for each token, ExLlama first, `context` the longest context.
    `branch` asks about that one only.
    """
    gpus = machine.gpus or (machine.cpu,)
    own = next((v.shape.max_context_tokens for v in listed.variants if v.shape and v.shape.max_context_tokens), None)
    context = context_tokens or min(own or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)
    assessed = [assess(variant, gpus, available, context) for variant in listed.variants]
    notes = [*listed.notes, *machine.notes]
    if available.note:
        notes.append(available.note)
    if any(variant.shape is None and variant.holds_weights for variant in listed.variants):
        notes.append(
            "no config.json was read: memory is worked out for a Llama of that size without grouped-query attention, "
            "which may be several GiB too much; its config.json says what it really is"
        )
    if own and context > own:
        notes.append(f"{context} tokens are more than the model's own {own}: it was not trained to read that far")
    candidates = [a for a in assessed if a.fits and (branch is None or a.variant.branch == branch)]
    chosen = max(candidates, key=lambda a: rank(a, prefer), default=None)
    choice = None
    if chosen is not None and chosen.need is not None:
        reason = why_chosen(chosen, assessed, gpus, context, prefer, branch, sisters)
        choice = Choice(
            chosen.variant.branch,
            chosen.loader or "",
            chosen.runtime or "",
            reason,
            chosen.need.split_bytes,
            chosen.max_context_tokens,
        )
        assessed = [replace(a, verdict=why_not(a, chosen, prefer, branch)) if a.fits else a for a in assessed]
    else:
        assessed = [
            replace(a, verdict=f"not taken: you asked for {branch}, and this fits") if a.fits else a for a in assessed
        ]
        reason = why_nothing(assessed, gpus, context, sisters, branch)
    commit = chosen.variant.commit if chosen is not None else listed.commit
    return Recommendation(
        listed.repo,
        commit or listed.commit,
        context,
        machine,
        choice,
        reason,
        tuple(assessed),
        listed.disagreements,
        tuple(sisters),
        tuple(dict.fromkeys(notes)),
    )
