"""The sentences: why a branch was taken, why it was not, and what would help where nothing fits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from ..card import Sister
from ..gpus import Gpu
from ..memory import Need, fits, place
from ..memory.correcting import Correction, corrected
from ..units import GIB, gib
from .answer import Assessment
from .order import quality
from .remedies import Plan, Remedy, cache_and_context, closing, helps


def need_words(need: Need | None, context: int, correction: Correction | None = None) -> str:
    if need is None:
        return f"needs an unknown amount at {context} tokens"
    per_gpu = [size for size in need.per_gpu_bytes if size]
    cards = f" ({' + '.join(gib(size) for size in per_gpu)})" if len(per_gpu) > 1 else ""
    learned = f", {correction.words}" if correction is not None else ""
    return f"needs {gib(need.total_bytes)}{cards} at {context} tokens, give or take {gib(need.error_bytes)}{learned}"


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


def why_nothing(
    assessed: Sequence[Assessment], gpus: Sequence[Gpu], context: int, sisters: Sequence[Sister], branch: str | None
) -> str:
    """What was wanted, what there is, and what would help, the cheapest remedy first."""
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
    room = nearest.room_bytes
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
        f"{free} free {'in' if cpu else 'on'} {where}{f' ({held})' if held else ''}, short by {gib(-room)}."
    ]
    longest = max(loadable, key=lambda a: (a.max_context_tokens, quality(a.variant)))
    helping = helps(_remedies(nearest, gpus, context))
    if helping:
        words.append(f"What helps, the most first: {'; '.join(helping)}.")
    if longest.max_context_tokens and longest is not nearest:
        words.append(f"{longest.variant.branch} fits with a context of {longest.max_context_tokens} tokens.")
    further = None if gpus[0].kind not in ("cuda", "rocm") else _further_gpu_gib(nearest, context)
    if further is not None:
        words.append(f"One more GPU with {further} GiB free would take it.")
    return " ".join(words) + fitting + _sister_words(sisters)


def _remedies(nearest: Assessment, gpus: Sequence[Gpu], context: int) -> Iterator[Remedy]:
    """What would free memory for the branch that is nearest; what this process holds is the webui's to count."""
    if nearest.need is None or nearest.runtime is None:
        return
    cpu = gpus[0].kind == "cpu"
    plan = Plan(nearest.variant, nearest.runtime, context, nearest.free_bytes, told=nearest.told)
    yield from cache_and_context(plan, nearest.need, context, promise=", and then it fits")
    for gpu, usable in zip(gpus, nearest.free_bytes, strict=True):
        if usable and not cpu:
            yield from closing(gpu, os.getpid(), f" on GPU {gpu.index}" if len(gpus) > 1 else "", own_too=False)


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
