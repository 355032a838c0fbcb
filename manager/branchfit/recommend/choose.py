"""Variants, a machine and its runtimes -> one recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..card import Sister
from ..gpus import Machine
from ..loaders import Availability
from ..memory.correcting import Correction, Corrections
from ..variants import VariantList
from .answer import DEFAULT_CONTEXT_TOKENS, Choice, Recommendation
from .assess import assess, each_runtime
from .order import rank
from .sharing import order_words, told_words
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
    corrections: Corrections | None = None,
) -> Recommendation:
    """The best branch for this machine among those that a loader here can load and that fit.

    `context_tokens` None is the smaller of the model's own and 4096. `prefer` None is the best
    quality that ExLlama runs, then the best that AutoGPTQ runs; `quality` is the best of either,
    `speed` the fewest bytes to read for each token, ExLlama first, `context` the longest context.
    `branch` asks about that one only. `corrections` are what loads on this machine have taught
    (`memory.correcting.corrections_here()`), None for the formulas alone.
    """
    gpus = machine.gpus or (machine.cpu,)
    context = planned_context(listed, context_tokens)
    assessed = [assess(variant, gpus, available, context, corrections) for variant in listed.variants]
    notes = [*remarks(listed, machine, available, context), *lessons([(a.runtime, a.correction) for a in assessed])]
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
        notes += filter(None, [told_words(chosen, context), order_words(chosen, gpus)])
        assessed = [replace(a, verdict=why_not(a, chosen, prefer, branch)) if a.fits else a for a in assessed]
    else:
        assessed = [
            replace(a, verdict=f"not taken: you asked for {branch}, and this fits") if a.fits else a for a in assessed
        ]
        asked = [variant for variant in listed.variants if branch is None or variant.branch == branch]
        each = [one for variant in asked for one in each_runtime(variant, gpus, available, context, corrections)]
        reason = why_nothing(assessed, each, gpus, context, sisters, branch)
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


def planned_context(listed: VariantList, context_tokens: int | None) -> int:
    """What is planned for: what was asked for, else the smaller of the model's own and 4096."""
    return context_tokens or min(_own_context(listed) or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)


def remarks(listed: VariantList, machine: Machine, available: Availability, context: int) -> list[str]:
    """What has to be said beside any answer: where its figures come from, and what it assumes."""
    notes = [*listed.notes, *machine.notes]
    if available.note:
        notes.append(available.note)
    if any(variant.shape is None and variant.holds_weights for variant in listed.variants):
        notes.append(
            "no config.json was read: memory is worked out for a Llama of that size without grouped-query attention, "
            "which may be several GiB too much; its config.json says what it really is"
        )
    own = _own_context(listed)
    if own and context > own:
        notes.append(f"{context} tokens are more than the model's own {own}: it was not trained to read that far")
    return notes


def lessons(found: Sequence[tuple[str | None, Correction | None]]) -> list[str]:
    """What this machine's own loads added to each runtime's figures, said once, of the first branch it was used for."""
    learned = {runtime: correction.words for runtime, correction in reversed(found) if correction is not None}
    return [f"what {runtime} needs is {words} (`branchfit doctor` counts them)" for runtime, words in learned.items()]


def _own_context(listed: VariantList) -> int | None:
    return next((v.shape.max_context_tokens for v in listed.variants if v.shape and v.shape.max_context_tokens), None)
