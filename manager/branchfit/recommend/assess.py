"""One branch on one machine: which runtime would load it, what it needs, whether that fits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ..gpus import Gpu
from ..loaders import Availability, Runtime, Verdict, can_load
from ..memory import Need, fits, longest_context, place, terms
from ..variants import Variant
from .answer import Assessment
from .words import gib, need_words


def assess(variant: Variant, gpus: Sequence[Gpu], available: Availability, context: int) -> Assessment:
    """The first runtime of the preference order that loads and fits; else the first that loads."""
    if not variant.holds_weights:
        return Assessment(variant, None, None, False, None, None, 0, f"not taken: {variant.problem}")
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
        found = _measure(variant, runtime.name, runtime.loader, free, context, cpu)
        if found.fits:
            return found
        if best is None or found.room_bytes > best.room_bytes:
            best = found
    if best is not None:
        return best
    why = "; ".join(dict.fromkeys(verdict.why.rstrip(".") for verdict in verdicts)) or "no runtime is available"
    return Assessment(variant, None, None, False, None, None, 0, f"not taken: {why}")


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


def _measure(variant: Variant, runtime: str, loader: str, free: tuple[int, ...], context: int, cpu: bool) -> Assessment:
    need, room, longest = _layout(variant, runtime, free, context, cpu)
    if need is None:
        why = "its size is unknown: neither its files, a config.json nor the card tell"
        return Assessment(variant, loader, runtime, False, None, None, 0, f"not taken: {why}")
    if fits(need, free):
        why = f"fits with {runtime}: {need_words(need, context)}, {gib(room)} to spare"
    else:
        short = f"{gib(sum(free))} free, short by {gib(-room)}"
        why = f"does not fit with {runtime}: {need_words(need, context)}, {short}"
        if longest:
            why += f"; fits up to {longest} tokens"
    return Assessment(variant, loader, runtime, fits(need, free), need, room, longest, why)


@lru_cache(maxsize=4096)
def _layout(
    variant: Variant, runtime: str, free: tuple[int, ...], context: int, cpu: bool
) -> tuple[Need | None, int, int]:
    """Need, headroom and longest context: asked again at every change of preference, so kept."""
    made = terms(variant, runtime, context, cpu)
    if made is None:
        return None, 0, 0
    need = place(made, free)
    own = variant.shape.max_context_tokens if variant.shape else None
    return need, need.headroom_bytes(free), longest_context(variant, runtime, free, own, cpu)
