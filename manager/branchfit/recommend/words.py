"""The sentences: why a branch was taken, why it was not, and what would help where nothing fits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..card import Sister
from ..gpus import Gpu
from ..memory import Need, fits, place
from ..memory.correcting import Correction, corrected
from ..units import GIB, error_text, gib
from .answer import Assessment
from .order import quality
from .remedies import (
    CACHE_PLACE,
    Plan,
    Remedy,
    Way,
    best_way,
    closing,
    helps,
    least_short,
    shorter_context,
    smaller_cache,
)


def need_words(need: Need | None, context: int, correction: Correction | None = None) -> str:
    if need is None:
        return f"needs an unknown amount at {context} tokens"
    per_gpu = [size for size in need.per_gpu_bytes if size]
    cards = f" ({' + '.join(gib(size) for size in per_gpu)})" if len(per_gpu) > 1 else ""
    learned = f", {correction.words}" if correction is not None else ""
    error = error_text(need.error_bytes)
    return f"needs {gib(need.total_bytes)}{cards} at {context} tokens, give or take {error}{learned}"


def margin_only(need: Need, free_bytes: Sequence[int]) -> str:
    """`only its margin is missing: 22 of 150 MiB`, where the need alone fits on every card; else ''."""
    cards = zip(free_bytes, need.per_gpu_bytes, need.error_per_gpu_bytes, strict=True)
    left = [(free - size - error, error) for free, size, error in cards if size]
    if not left or any(spare + error < 0 for spare, error in left):
        return ""
    spare, error = min(left)
    short, whole = error_text(-spare), error_text(error)
    if short.endswith("MiB") and whole.endswith("MiB"):
        short = short.removesuffix(" MiB")
    return f"only its margin is missing: {short} of {whole}"


def why_chosen(
    chosen: Assessment,
    assessed: Sequence[Assessment],
    gpus: Sequence[Gpu],
    context: int,
    prefer: str | None,
    asked: str | None,
    sisters: Sequence[Sister],
) -> str:
    """One sentence with the numbers."""
    need = chosen.need
    if need is None or chosen.headroom_bytes is None:
        return chosen.detail
    used = [gpu.free_bytes for gpu, size in zip(gpus, need.per_gpu_bytes, strict=True) if size]
    tightest = " on the tightest" if len(used) > 1 else ""
    if gpus[0].kind == "cpu":
        where = "of system memory (no GPU: this will be slow)"
    else:
        where = f"of the {gib(sum(used))} free on {f'{len(used)} GPUs' if len(used) > 1 else 'one GPU'}"
    rest = (
        f"with {chosen.runtime} it {need_words(need, context, chosen.correction)}, {where}, "
        f"{gib(chosen.headroom_bytes)} to spare{tightest}"
    )
    if asked is not None:
        return f"{chosen.variant.branch}, which you asked for, fits: {rest}."
    by = chosen.loader if prefer in (None, "speed") else "any loader here"
    instead = ""
    if prefer is None and chosen.loader != "ExLlama":
        short = [a for a in assessed if a.loader == "ExLlama" and not a.fits]
        nearest = max(short, key=lambda a: a.room_bytes, default=None)
        if nearest is not None:
            instead = f" (of ExLlama's, {nearest.variant.branch} is nearest and short by {gib(-nearest.room_bytes)})"
    cpu_way = _sister_words(sisters) if gpus[0].kind == "cpu" else ""
    best = {
        "speed": f"has the fewest bytes to read for each token of all that {by} can run here",
        "context": f"has as long a context as any that can run here ({chosen.max_context_tokens} tokens), "
        f"and the best quality of those",
    }.get(prefer or "", f"is the best quality that {by} can run here")
    return f"{chosen.variant.branch} {best}: {rest}{instead}.{cpu_way}"


def why_not(assessment: Assessment, chosen: Assessment, prefer: str | None, asked: str | None) -> str:
    """Why a branch that fits was not taken, or that it was."""
    other, taken = assessment.variant, chosen.variant
    if assessment is chosen:
        return "taken"
    if asked is not None:
        why = f"you asked for {asked}"
    elif prefer is None and assessment.loader != chosen.loader:
        why = f"it needs {assessment.loader}, and {taken.branch} runs on {chosen.loader}"
    elif prefer == "context" and assessment.max_context_tokens < chosen.max_context_tokens:
        tokens, fewer = chosen.max_context_tokens, assessment.max_context_tokens
        why = f"{taken.branch} leaves room for {tokens} tokens, this for {fewer}"
    elif prefer == "speed" and assessment.loader == chosen.loader:
        why = f"{taken.branch} has fewer bytes to read for each token"
    elif prefer == "speed":
        why = f"{taken.branch} runs on {chosen.loader}"
    elif quality(other) < quality(taken):
        why = f"{taken.branch} is of better quality"
    elif assessment.loader != chosen.loader:
        why = f"{taken.branch} runs on {chosen.loader}"
    else:
        why = f"{taken.branch} is of the same quality and no larger"
    return f"not taken: {why}"


def _short_words(nearest: Assessment, gpus: Sequence[Gpu]) -> str:
    """What is missing, card by card where that is on several: what one lacks another cannot make up for."""
    need = nearest.need
    assert need is not None
    missing = [
        (gpu.index, wanted + error - free)
        for gpu, wanted, error, free in zip(
            gpus, need.per_gpu_bytes, need.error_per_gpu_bytes, nearest.free_bytes, strict=True
        )
        if wanted + error > free
    ]
    if len(missing) < 2:
        return gib(-nearest.room_bytes)
    each = [f"{gib(short)} on GPU {index}" for index, short in missing]
    return f"{', '.join(each[:-1])} and {each[-1]}"


def why_nothing(
    assessed: Sequence[Assessment],
    each: Sequence[Assessment],
    gpus: Sequence[Gpu],
    context: int,
    sisters: Sequence[Sister],
    branch: str | None,
) -> str:
    """What was wanted, what there is, what fits instead, and what would help, the most first.

    `assessed` is every branch on the runtime that suits it best, `each` those in question on every one that loads them.
    """
    asked = [a for a in assessed if branch is None or a.variant.branch == branch]
    if not asked:
        return "No branch to choose from: none is listed." + _sister_words(sisters)
    others = [a.variant.branch for a in sorted(assessed, key=lambda a: quality(a.variant), reverse=True) if a.fits]
    fitting = f" Fits: {', '.join(others[:3])}." if others else ""
    loadable = [a for a in asked if a.need is not None]
    if not loadable:
        reasons = dict.fromkeys(a.detail for a in asked)
        why = ". ".join(
            f"{next(a.variant.branch for a in asked if a.detail == reason)}: {reason}" for reason in [*reasons][:3]
        )
        return f"No branch can be loaded here. {why}.{_sister_words(sisters)}" if not others else f"{why}.{fitting}"
    nearest = max(loadable, key=lambda a: a.room_bytes)
    margin = margin_only(nearest.need, nearest.free_bytes) if nearest.need is not None else ""
    missing = f"; {margin}" if margin else f", short by {_short_words(nearest, gpus)}"
    cpu = gpus[0].kind == "cpu"
    usable = [size for size in nearest.free_bytes if size]
    free = gib(sum(usable))
    where = "system memory" if cpu else f"{len(usable)} GPU{'s' if len(usable) != 1 else ''}"
    holders = sorted(
        (holder for gpu in gpus for holder in gpu.holders if holder.used_bytes),
        key=lambda each: -(each.used_bytes or 0),
    )
    held = ", ".join(f"{gib(each.used_bytes or 0)} held by pid {each.pid}, {each.name}" for each in holders[:3])
    subject = (
        f"Nothing fits: the nearest, {nearest.variant.branch}," if branch is None else f"{branch} does not fit: it"
    )
    words = [
        f"{subject} {need_words(nearest.need, context, nearest.correction)}; "
        f"{free} free {'in' if cpu else 'on'} {where}{f' ({held})' if held else ''}{missing}."
    ]
    words += _instead(nearest, each, gpus, context)
    further = None if gpus[0].kind not in ("cuda", "rocm") else _further_gpu_gib(nearest, context)
    if further is not None:
        words.append(f"One more GPU with {further} GiB free would take it.")
    return " ".join(words) + fitting + _sister_words(sisters)


def _instead(nearest: Assessment, each: Sequence[Assessment], gpus: Sequence[Gpu], context: int) -> Iterator[str]:
    """What fits with another cache and context together, what helps by itself, and what is short with all of it."""
    plans = [
        Plan(one.variant, one.runtime, context, one.free_bytes, told=one.told, learned=one.correction)
        for one in each
        if one.need is not None and one.runtime is not None
    ]
    way = best_way(plans)
    if way is not None:
        yield f"{_fit_words(way, nearest)}."
    ends = _closing(nearest, gpus, context)
    alone = [*_cache_and_context(nearest, plans, way), *(remedy for _, remedy in ends)]
    if alone:
        yield f"What helps, the most first: {'; '.join(helps(alone))}."
    if way is not None or any(remedy.enough for remedy in alone):
        return
    freed = [sum(remedy.saves_bytes for at, remedy in ends if at == place) for place in range(len(gpus))]
    plans = [
        replace(plan, free_bytes=tuple(free and free + more for free, more in zip(plan.free_bytes, freed, strict=True)))
        for plan in plans
    ]
    closed = best_way(plans) if ends else None
    least = least_short(plans)
    if closed is not None:
        yield f"With all of these closed: {_fit_words(closed, nearest, first=False)}."
    elif least is not None:
        most = f"a {least[0].cache} cache and " if least[0].small_cache else ""
        most += f"{least[0].tokens} tokens{' and all of these closed' if ends else ''}"
        plan = least[0].plan
        yield f"Even with {most}, {plan.variant.branch} is short by {gib(least[1])} ({plan.runtime})."


def _fit_words(way: Way, nearest: Assessment, first: bool = True) -> str:
    """`With a q4 cache (...), 2048 tokens fit (exllamav2)`; the branch is named where it is not the nearest."""
    branch = way.plan.variant.branch
    by = way.plan.runtime if branch == nearest.variant.branch else f"{branch}, {way.plan.runtime}"
    cache = f"with a {way.cache} cache ({CACHE_PLACE}), " if way.small_cache else ""
    text = f"{cache}{way.tokens} tokens fit ({by})"
    return text[0].upper() + text[1:] if first else text


def _cache_and_context(nearest: Assessment, plans: Sequence[Plan], way: Way | None) -> Iterator[Remedy]:
    """Of all runtimes of the nearest branch, the smaller cache and the shorter context that come to most.

    What the sentence about `way` has said is left out.
    """
    need = nearest.need
    own = [plan for plan in plans if plan.variant.branch == nearest.variant.branch]
    if need is None or not own:
        return
    caches, contexts = [], []
    for plan in own:
        on = "" if plan.runtime == nearest.runtime else f"; on {plan.runtime}"
        there = "" if way is not None and way.small_cache else f"; {CACHE_PLACE}"
        caches.append(smaller_cache(plan, need, on + there, judged=True))
        contexts.append(shorter_context(plan, need, on, judged=True))
    said_cache = way is not None and way.small_cache and way.tokens == own[0].context_tokens
    said_context = way is not None and not way.small_cache
    for remedies, said in ((caches, said_cache), (contexts, said_context)):
        known = [one for one in remedies if one is not None and not said]
        if known:
            yield max(known, key=lambda one: (one.enough, one.saves_bytes if not one.enough else -one.saves_bytes))


def _closing(nearest: Assessment, gpus: Sequence[Gpu], context: int) -> list[tuple[int, Remedy]]:
    """Programs to be closed, with the place of their card; what this process holds is the webui's to count."""
    if nearest.runtime is None or gpus[0].kind == "cpu":
        return []
    found = []
    for at, (gpu, usable) in enumerate(zip(gpus, nearest.free_bytes, strict=True)):
        where = f" on GPU {gpu.index}" if len(gpus) > 1 else ""
        for one in closing(gpu, os.getpid(), where, own_too=False) if usable else ():
            free = (*nearest.free_bytes[:at], usable + one.saves_bytes, *nearest.free_bytes[at + 1 :])
            plan = Plan(nearest.variant, nearest.runtime, context, free, told=nearest.told, learned=nearest.correction)
            need = plan.need(context, plan.cache)
            enough = need is not None and fits(need, free)
            alone = ", and then it fits" if enough else ", not enough alone"
            found.append((at, Remedy(one.saves_bytes, f"{one.text}{alone}", enough)))
    return found


def _further_gpu_gib(assessment: Assessment, context: int) -> int | None:
    """The smallest whole number of GiB that one more card needs to have free, tried out, at most 96."""
    made = assessment.told.terms(assessment.variant, assessment.runtime, context) if assessment.runtime else None
    if made is None:
        return None
    made = corrected(made, assessment.correction)
    for size_gib in range(1, 97):  # 96 GiB: the largest workstation card there is
        cards = (*assessment.free_bytes, size_gib * GIB)
        if fits(place(made, cards), cards):
            return size_gib
    return None


def _sister_words(sisters: Sequence[Sister]) -> str:
    gguf = next((s for s in sisters if s.kind == "gguf"), None) or next((s for s in sisters if s.kind == "ggml"), None)
    if gguf is None:
        return ""
    return f" {gguf.repo} has the model as {gguf.kind.upper()}, which llama.cpp splits between GPU and system memory."
