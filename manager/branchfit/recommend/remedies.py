"""What would help where memory does not reach, with what each frees: before a download, and after a load that died."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..gpus import Gpu
from ..memory import CONTEXT_STEP, Need, cache_types, fits, place
from ..memory.longest import longest_of
from ..memory.told import USUAL, Told
from ..units import gib
from ..variants import Variant

__all__ = ["Plan", "Remedy", "cache_and_context", "closing", "helps", "other_gpus", "saved"]

MOST_PROGRAMS = 3
"""Programs named to be closed: the largest three. A desktop has dozens on its card, and a sentence has an end."""


@dataclass(frozen=True)
class Remedy:
    """A clause, and by how many bytes it lessens what is needed, or adds to what is free; 0 where nobody knows."""

    saves_bytes: int
    text: str


@dataclass(frozen=True)
class Plan:
    """What was to be loaded: `variant` on `runtime` with this context and cache, over cards with `free_bytes` each.

    `told` is what its forecast knew of the host.
    """

    variant: Variant
    runtime: str
    context_tokens: int
    free_bytes: tuple[int, ...]
    cache: str = "fp16"
    told: Told = USUAL

    def need(self, context_tokens: int, cache: str) -> Need | None:
        """The plan's need with another context or cache, None where its size is unknown."""
        made = self.told.terms(self.variant, self.runtime, context_tokens, cache)
        return None if made is None else place(made, self.free_bytes)

    def longest(self) -> int:
        """The longest context below the plan's that fits; 0 for none."""
        limit = (self.context_tokens - 1) // CONTEXT_STEP * CONTEXT_STEP
        if limit < CONTEXT_STEP:
            return 0
        return longest_of(
            lambda tokens: self.told.terms(self.variant, self.runtime, tokens, self.cache), self.free_bytes, limit
        )


def helps(remedies: Iterator[Remedy] | Sequence[Remedy]) -> list[str]:
    """Their clauses, the one that frees most first."""
    return [one.text for one in sorted(remedies, key=lambda one: -one.saves_bytes)]


def saved(saves_bytes: int, need: Need) -> str:
    """`saves 2.5 GiB`, and over how many cards, where `need` lies on several."""
    cards = sum(1 for size in need.per_gpu_bytes if size)
    return f"saves {gib(saves_bytes)}" + (f" over {cards} cards" if cards > 1 else "")


def cache_and_context(plan: Plan | None, need: Need, context_tokens: int | None, promise: str = "") -> Iterator[Remedy]:
    """A smaller cache type, and a shorter context: the most of each that fits, else the smallest and half.

    A plan that fits by its forecast, and died, gets the next smaller cache and half the context. Without a plan the
    context's share of the KV cache is all that is known to fall away; `context_tokens` is what `need` is for.
    `promise` is a clause for those with which the plan fits: for before a load, not after one that died.
    """
    now = plan.need(plan.context_tokens, plan.cache) if plan else None
    if plan is not None and now is not None:
        fitted = fits(now, plan.free_bytes)
        cache = _cache(plan)
        fewer = (0 if fitted else plan.longest()) or _half(plan.context_tokens)
        shorter = plan.need(fewer, plan.cache) if fewer < plan.context_tokens else None
        for other, what in (
            (cache[1] if cache else None, f"a {cache[0]} cache instead of {plan.cache}" if cache else ""),
            (shorter, f"a context of {fewer} tokens instead of {plan.context_tokens}"),
        ):
            if other is not None:
                saves = now.total_bytes - other.total_bytes
                then = promise if fits(other, plan.free_bytes) else ""
                yield Remedy(saves, f"{what} ({saved(saves, need)}{then})")
    elif context_tokens and need.kv_cache_bytes:
        fewer = _half(context_tokens)
        if fewer < context_tokens:
            saves = need.kv_cache_bytes * (context_tokens - fewer) // context_tokens
            yield Remedy(saves, f"a context of {fewer} tokens instead of {context_tokens} ({saved(saves, need)})")


def other_gpus(plan: Plan | None, need: Need, gpus: Sequence[Gpu], short: int) -> Iterator[Remedy]:
    """Another card for all of it, else more cards for a part; `short` is the place of the card that was too small."""
    room = need.total_bytes + need.error_bytes
    others = [gpu for index, gpu in enumerate(gpus) if index != short]
    other = max(others, key=lambda gpu: gpu.free_bytes, default=None)
    if other is None:
        return
    on_it = need.per_gpu_bytes[short] if short < len(need.per_gpu_bytes) else need.total_bytes
    if other.free_bytes >= room:
        yield Remedy(on_it, f"GPU {other.index}, which has {gib(other.free_bytes)} free")
        return
    spread = plan.need(plan.context_tokens, plan.cache) if plan is not None else None
    if plan is None or spread is None:
        return
    used = [(gpu, size) for gpu, size in zip(gpus, spread.per_gpu_bytes, strict=True) if size]
    if len(used) > sum(1 for size in need.per_gpu_bytes if size) and fits(spread, plan.free_bytes):
        saves = on_it - spread.per_gpu_bytes[short]
        which = " and ".join(f"GPU {gpu.index}" for gpu, _ in used)
        each = " + ".join(gib(size) for _, size in used)
        yield Remedy(saves, f"{which} together ({each}; {gib(saves)} less on GPU {gpus[short].index})")


def closing(gpu: Gpu, own_pid: int, where: str = "", own_too: bool = True) -> Iterator[Remedy]:
    """What the programs on a card would free if they were closed; this process is told apart, or left out.

    `where` names the card, for a sentence about several.

    Where the driver hides what each holds (Windows), all that is taken there is theirs together.
    """
    known = [holder for holder in gpu.holders if holder.used_bytes]
    own = next((holder for holder in known if holder.pid == own_pid), None)
    if own is not None and own_too:
        size = own.used_bytes or 0
        yield Remedy(size, f"unloading what this process holds already ({gib(size)}{where})")
    others = sorted((one for one in known if one is not own), key=lambda one: -(one.used_bytes or 0))
    for holder in others[:MOST_PROGRAMS]:
        size = holder.used_bytes or 0
        yield Remedy(size, f"closing {holder.name} (pid {holder.pid}), which holds {gib(size)}{where}")
    hidden = [holder for holder in gpu.holders if holder.used_bytes is None and holder.pid != own_pid]
    if hidden and gpu.unnamed_bytes:
        what = f"{hidden[0].name} (pid {hidden[0].pid})" if len(hidden) == 1 else f"the {len(hidden)} programs on it"
        yield Remedy(
            gpu.unnamed_bytes, f"closing {what}: at most {gib(gpu.unnamed_bytes)}{where}, the system does not say whose"
        )


def _cache(plan: Plan) -> tuple[str, Need] | None:
    """The most exact cache type after the plan's with which it fits, else the smallest; None where that is all."""
    types = cache_types(plan.runtime)
    after = types[types.index(plan.cache) + 1 :] if plan.cache in types else ()
    laid = [(each, need) for each in after if (need := plan.need(plan.context_tokens, each)) is not None]
    return next((one for one in laid if fits(one[1], plan.free_bytes)), laid[-1] if laid else None)


def _half(context_tokens: int) -> int:
    return max(CONTEXT_STEP, context_tokens // 2 // CONTEXT_STEP * CONTEXT_STEP)
