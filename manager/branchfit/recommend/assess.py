"""One branch on one machine: which runtime would load it, what it needs, whether that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from ..gpus import Gpu
from ..loaders import Availability, Runtime, Verdict, by_name, can_load
from ..memory import Need, Terms, cache_types, fits, place
from ..memory.correcting import Correction, Corrections, corrected
from ..memory.longest import longest_of
from ..memory.told import Told
from ..units import gib
from ..variants import Variant
from .answer import DEFAULT_CONTEXT_TOKENS, Assessment
from .words import margin_only, need_words


def assess(
    variant: Variant,
    gpus: Sequence[Gpu],
    available: Availability,
    context: int,
    corrections: Corrections | None = None,
) -> Assessment:
    """The first runtime of the preference order that loads and fits; else the first that loads.

    `corrections` are what this machine's own loads say (`corrections_here()`); None predicts by the formulas alone.
    """
    if not variant.holds_weights:
        return Assessment(variant, None, None, False, None, None, 0, variant.problem, "not taken")
    verdicts: list[Verdict] = []
    best: Assessment | None = None
    smaller_cache = ""
    for runtime in available.runtimes:
        each = [_verdict(runtime, variant, gpu) for gpu in gpus]
        verdicts.append(next((verdict for verdict in each if verdict.can), each[0]))
        if not verdicts[-1].can:
            continue
        # A card this runtime cannot use counts as full: nothing is placed on it.
        free = tuple(gpu.free_bytes if verdict.can else 0 for gpu, verdict in zip(gpus, each, strict=True))
        told = told_of(available, runtime, gpus, free)
        used = [gpu for gpu, verdict in zip(gpus, each, strict=True) if verdict.can]
        correction = corrections.of(variant, runtime.name, used, told.expandable) if corrections is not None else None
        found = _measure(variant, runtime, free, context, told, correction)
        if found.fits:
            return found
        smaller_cache = smaller_cache or _smaller_cache(variant, runtime.name, free, context, told, correction)
        if best is None or found.room_bytes > best.room_bytes:
            best = found
    if best is not None:
        return replace(best, verdict="; ".join(filter(None, (best.verdict, smaller_cache))))
    why = "; ".join(dict.fromkeys(verdict.why.rstrip(".") for verdict in verdicts))
    why = why or available.note.rstrip(".") or "no runtime is available"
    return Assessment(variant, None, None, False, None, None, 0, why, "not taken")


def each_runtime(
    variant: Variant,
    gpus: Sequence[Gpu],
    available: Availability,
    context: int,
    corrections: Corrections | None = None,
) -> list[Assessment]:
    """`assess` for each runtime by itself that loads the branch, in the order of preference."""
    alone = (replace(available, runtimes=(runtime,)) for runtime in available.runtimes)
    each = (assess(variant, gpus, only, context, corrections) for only in alone)
    return [one for one in each if one.runtime is not None]


def _verdict(runtime: Runtime, variant: Variant, gpu: Gpu) -> Verdict:
    rows = {linear.in_features for linear in variant.shape.linears} if variant.shape else ()
    return can_load(
        runtime,
        format=variant.format,
        bits=variant.bits,
        group_size=variant.group_size,
        act_order=variant.act_order,
        symmetric=variant.symmetric,
        model_type=variant.model_type,
        gpu=gpu,
        in_features=rows,
        branch=variant.branch,
    )


def told_of(available: Availability, runtime: Runtime, gpus: Sequence[Gpu], free: Sequence[int]) -> Told:
    """What a prediction for `runtime` is told of this host; 0 bytes free is a card that is not in use."""
    # On ROCm nobody has seen expandable segments: there the gaps are counted.
    segments = available.expandable and all(gpu.kind == "cuda" for gpu, room in zip(gpus, free, strict=True) if room)
    return Told(
        cpu=gpus[0].kind == "cpu",
        triton=runs_through_triton(available, gpus, free),
        expandable=segments or not runtime.name.startswith("gptqmodel:"),
        plain_attention=runtime.name == "exllamav2" and not available.flash,
        version=runtime.version,
    )


def runs_through_triton(available: Availability, gpus: Sequence[Gpu], free: Sequence[int]) -> bool:
    """Whether gptqmodel's torch kernel finds triton on every card in use; 0 bytes free is a card that is not."""
    return available.triton and all(_runs_triton(gpu) for gpu, room in zip(gpus, free, strict=True) if room)


def _runs_triton(gpu: Gpu) -> bool:
    """Whether gptqmodel's torch kernel dequantises through triton there: NVIDIA, 7.0 and up (see runtimes.py)."""
    least = by_name("gptqmodel:triton").min_capability or "0"
    known = gpu.compute_capability
    return gpu.kind == "cuda" and (known is None or Fraction(known) >= Fraction(least))


def _measure(
    variant: Variant,
    by: Runtime,
    free: tuple[int, ...],
    context: int,
    told: Told,
    learned: Correction | None,
) -> Assessment:
    runtime, loader = by.name, by.loader
    need, room, longest = _layout(variant, runtime, free, context, told, learned)
    if need is None:
        why = "its size is unknown: neither its files, a config.json nor the card tell"
        return Assessment(variant, loader, runtime, False, None, None, 0, why, "not taken", free, None, told)
    if fits(need, free):
        detail = f"with {runtime} it {need_words(need, context, learned)}, {gib(room)} to spare"
        return Assessment(variant, loader, runtime, True, need, room, longest, detail, "", free, learned, told)
    verdict = margin_only(need, free) or f"does not fit: short by {gib(-room)}"
    if longest:
        verdict += f"; up to {longest} tokens would fit"
    detail = f"with {runtime} it {need_words(need, context, learned)}, {gib(sum(free))} free"
    return Assessment(variant, loader, runtime, False, need, room, longest, detail, verdict, free, learned, told)


@lru_cache(maxsize=4096)
def _layout(
    variant: Variant,
    runtime: str,
    free: tuple[int, ...],
    context: int,
    told: Told,
    learned: Correction | None,
) -> tuple[Need | None, int, int]:
    """Need, headroom and longest context: asked again at every change of preference, so kept."""

    def made(tokens: int) -> Terms | None:
        found = told.terms(variant, runtime, tokens)
        return corrected(found, learned) if found is not None else None

    whole = made(context)
    if whole is None:
        return None, 0, 0
    need = place(whole, free)
    longest = longest_of(made, free, furthest(variant, context))
    # The search goes by steps; what was asked may lie between two.
    return need, need.headroom_bytes(free), max(longest, context) if fits(need, free) else longest


def furthest(variant: Variant, context: int) -> int:
    """How far the longest context is looked for: the model's own, 4096 where that is unknown, `context` if longer."""
    own = variant.shape.max_context_tokens if variant.shape else None
    return max(own or DEFAULT_CONTEXT_TOKENS, context)


@lru_cache(maxsize=4096)
def _smaller_cache(
    variant: Variant, runtime: str, free: tuple[int, ...], context: int, told: Told, learned: Correction | None
) -> str:
    """What a quantised cache would do for a branch that does not fit with an fp16 one: the most exact that helps."""
    for cache in cache_types(runtime)[1:]:

        def made(tokens: int, cache: str = cache) -> Terms | None:
            found = told.terms(variant, runtime, tokens, cache)
            return corrected(found, learned) if found is not None else None

        whole = made(context)
        if whole is not None and fits(place(whole, free), free):
            longest = longest_of(made, free, furthest(variant, context))
            return f"with a {cache} cache on {runtime} up to {max(longest, context)} tokens would fit"
    return ""
