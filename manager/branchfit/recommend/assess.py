"""One branch on one machine: which runtime would load it, what it needs, whether that fits."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from ..gpus import Gpu
from ..loaders import Availability, Runtime, Verdict, by_name, can_load
from ..memory import Need, fits, longest_context, place, terms
from ..units import gib
from ..variants import Variant
from .answer import DEFAULT_CONTEXT_TOKENS, Assessment
from .words import need_words


def assess(variant: Variant, gpus: Sequence[Gpu], available: Availability, context: int) -> Assessment:
    """The first runtime of the preference order that loads and fits; else the first that loads."""
    if not variant.holds_weights:
        return Assessment(variant, None, None, False, None, None, 0, variant.problem, "not taken")
    cpu = gpus[0].kind == "cpu"
    verdicts: list[Verdict] = []
    best: Assessment | None = None
    for runtime in available.runtimes:
        each = [_verdict(runtime, variant, gpu) for gpu in gpus]
        verdicts.append(next((verdict for verdict in each if verdict.can), each[0]))
        if not verdicts[-1].can:
            continue
        # A card this runtime cannot use counts as full: nothing is placed on it.
        free = tuple(gpu.free_bytes if verdict.can else 0 for gpu, verdict in zip(gpus, each, strict=True))
        triton = available.triton and all(_runs_triton(gpu) for gpu, room in zip(gpus, free, strict=True) if room)
        found = _measure(variant, runtime, free, context, cpu, triton)
        if found.fits:
            return found
        if best is None or found.room_bytes > best.room_bytes:
            best = found
    if best is not None:
        return best
    why = "; ".join(dict.fromkeys(verdict.why.rstrip(".") for verdict in verdicts))
    why = why or available.note.rstrip(".") or "no runtime is available"
    return Assessment(variant, None, None, False, None, None, 0, why, "not taken")


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


def _runs_triton(gpu: Gpu) -> bool:
    """Whether gptqmodel's torch kernel dequantises through triton there: NVIDIA, 7.0 and up (see runtimes.py)."""
    least = by_name("gptqmodel:triton").min_capability or "0"
    known = gpu.compute_capability
    return gpu.kind == "cuda" and (known is None or Fraction(known) >= Fraction(least))


def _measure(variant: Variant, by: Runtime, free: tuple[int, ...], context: int, cpu: bool, triton: bool) -> Assessment:
    runtime, loader = by.name, by.loader
    need, room, longest = _layout(variant, runtime, free, context, cpu, triton)
    if need is None:
        why = "its size is unknown: neither its files, a config.json nor the card tell"
        return Assessment(variant, loader, runtime, False, None, None, 0, why, "not taken", free)
    if fits(need, free):
        detail = f"with {runtime} it {need_words(need, context)}, {gib(room)} to spare"
        return Assessment(variant, loader, runtime, True, need, room, longest, detail, "", free)
    verdict = f"does not fit: short by {gib(-room)}"
    if longest:
        verdict += f"; up to {longest} tokens would fit"
    detail = f"with {runtime} it {need_words(need, context)}, {gib(sum(free))} free"
    return Assessment(variant, loader, runtime, False, need, room, longest, detail, verdict, free)


@lru_cache(maxsize=4096)
def _layout(
    variant: Variant, runtime: str, free: tuple[int, ...], context: int, cpu: bool, triton: bool
) -> tuple[Need | None, int, int]:
    """Need, headroom and longest context: asked again at every change of preference, so kept."""
    made = terms(variant, runtime, context, cpu=cpu, triton=triton)
    if made is None:
        return None, 0, 0
    need = place(made, free)
    own = variant.shape.max_context_tokens if variant.shape else None
    limit = max(own or DEFAULT_CONTEXT_TOKENS, context)
    longest = longest_context(variant, runtime, free, limit, cpu=cpu, triton=triton)
    # The search goes by steps; what was asked may lie between two.
    return need, need.headroom_bytes(free), max(longest, context) if fits(need, free) else longest
