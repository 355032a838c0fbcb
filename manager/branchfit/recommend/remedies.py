"""What would help where memory does not reach, with what each frees: before a download, and after a load that died."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..gpus import Gpu
from ..memory import CONTEXT_STEP, Need, Terms, cache_types, fits, place
from ..memory.correcting import Correction, corrected
from ..memory.longest import longest_of
from ..memory.told import USUAL, Told
from ..units import gib
from ..variants import Variant
from .order import quality

__all__ = [
    "CACHE_PLACE",
    "Plan",
    "Remedy",
    "Way",
    "best_way",
    "cache_and_context",
    "closing",
    "helps",
    "least_short",
    "other_gpus",
    "saved",
    "shorter_context",
    "smaller_cache",
]

CACHE_PLACE = "cache type in the webui's loader settings"
"""Where a smaller cache is set: said once in an answer."""

MOST_PROGRAMS = 3
"""Programs named to be closed: the largest three. A desktop has dozens on its card, and a sentence has an end."""


@dataclass(frozen=True)
class Remedy:
    """A clause, and by how many bytes it lessens what is needed, or adds to what is free; 0 where nobody knows.

    `enough` is whether the forecast fits with it alone.
    """

    saves_bytes: int
    text: str
    enough: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Plan:
    """What was to be loaded: `variant` on `runtime` with this context and cache, over cards with `free_bytes` each.

    `told` is what its forecast knew of the host, `learned` what this machine's own loads added to it.
    """

    variant: Variant
    runtime: str
    context_tokens: int
    free_bytes: tuple[int, ...]
    cache: str = "fp16"
    told: Told = USUAL
    learned: Correction | None = None

    def need(self, context_tokens: int, cache: str) -> Need | None:
        """The plan's need with another context or cache, None where its size is unknown."""
        made = self._terms(context_tokens, cache)
        return None if made is None else place(made, self.free_bytes)

    def longest(self, cache: str, limit_tokens: int) -> int:
        """The longest context up to `limit_tokens` that fits with this cache type; 0 for none."""
        if limit_tokens < 1:
            return 0
        return longest_of(lambda tokens: self._terms(tokens, cache), self.free_bytes, limit_tokens)

    def _terms(self, context_tokens: int, cache: str) -> Terms | None:
        made = self.told.terms(self.variant, self.runtime, context_tokens, cache)
        return None if made is None else corrected(made, self.learned)


@dataclass(frozen=True)
class Way:
    """What a plan could be instead: with this cache type, this many tokens fit."""

    plan: Plan
    cache: str
    tokens: int

    @property
    def small_cache(self) -> bool:
        """Whether the cache is a smaller type than its runtime's usual one."""
        return self.cache != cache_types(self.plan.runtime)[0]


def best_way(plans: Sequence[Plan]) -> Way | None:
    """The longest context up to each plan's own that fits, by context and cache type together; None where none does.

    Of as many tokens the most exact cache is taken, then the branch of the best quality, then the first plan.
    """

    def rank(way: Way) -> tuple[object, ...]:
        return way.tokens, -cache_types(way.plan.runtime).index(way.cache), quality(way.plan.variant)

    return max((way for plan in plans for way in _ways(plan)), key=rank, default=None)


def _ways(plan: Plan) -> Iterator[Way]:
    for cache in reversed(cache_types(plan.runtime)):
        tokens = plan.longest(cache, plan.context_tokens)
        if not tokens:
            return  # a larger cache never leaves more room
        yield Way(plan, cache, tokens)


def least_short(plans: Sequence[Plan]) -> tuple[Way, int] | None:
    """The plan that comes nearest with its smallest cache and shortest context, and by how many bytes it is short."""
    tried = []
    for plan in plans:
        cache, tokens = cache_types(plan.runtime)[-1], min(CONTEXT_STEP, plan.context_tokens)
        need = plan.need(tokens, cache)
        if need is not None:
            tried.append((Way(plan, cache, tokens), -need.headroom_bytes(plan.free_bytes)))
    return min(tried, key=lambda one: one[1], default=None)


def helps(remedies: Iterator[Remedy] | Sequence[Remedy]) -> list[str]:
    """Their clauses, the one that frees most first."""
    return [one.text for one in sorted(remedies, key=lambda one: -one.saves_bytes)]


def saved(saves_bytes: int, need: Need) -> str:
    """`saves 2.5 GiB`, and over how many cards, where `need` lies on several."""
    cards = sum(1 for size in need.per_gpu_bytes if size)
    return f"saves {gib(saves_bytes)}" + (f" over {cards} cards" if cards > 1 else "")


def cache_and_context(plan: Plan | None, need: Need, context_tokens: int | None) -> Iterator[Remedy]:
    """A smaller cache type, and a shorter context, after a load that died: the forecast's promises are not repeated.

    A plan that fits by its forecast, and died, gets the next smaller cache and half the context. Without a plan the
    context's share of the KV cache is all that is known to fall away; `context_tokens` is what `need` is for.
    """
    now = plan.need(plan.context_tokens, plan.cache) if plan else None
    if plan is not None and now is not None:
        both = smaller_cache(plan, now, f"; {CACHE_PLACE}"), shorter_context(plan, now)
        yield from filter(None, both)
    elif context_tokens and need.kv_cache_bytes:
        fewer = _half(context_tokens)
        if fewer < context_tokens:
            saves = need.kv_cache_bytes * (context_tokens - fewer) // context_tokens
            yield Remedy(saves, f"a context of {fewer} tokens instead of {context_tokens} ({saved(saves, need)})")


def smaller_cache(plan: Plan, than: Need, more: str = "", judged: bool = False) -> Remedy | None:
    """The most exact cache type below the plan's that fits, else the smallest; None where there is none.

    `than` is the need that it is set beside, of this runtime or another. `more` stands behind what it saves. With
    `judged` it says whether it is enough alone: for before a load, not after one that died.
    """
    found = _cache(plan)
    return _remedy(plan, found[1], than, f"a {found[0]} cache instead of {plan.cache}", more, judged) if found else None


def shorter_context(plan: Plan, than: Need, more: str = "", judged: bool = False) -> Remedy | None:
    """The longest context below the plan's that fits, else half of it; arguments and answer as for `smaller_cache`."""
    now = plan.need(plan.context_tokens, plan.cache)
    if now is None:
        return None
    below = (plan.context_tokens - 1) // CONTEXT_STEP * CONTEXT_STEP
    fewer = (0 if fits(now, plan.free_bytes) else plan.longest(plan.cache, below)) or _half(plan.context_tokens)
    need = plan.need(fewer, plan.cache) if fewer < plan.context_tokens else None
    what = f"a context of {fewer} tokens instead of {plan.context_tokens}"
    return _remedy(plan, need, than, what, more, judged) if need is not None else None


def _remedy(plan: Plan, need: Need, than: Need, what: str, more: str, judged: bool) -> Remedy | None:
    saves, enough = than.total_bytes - need.total_bytes, fits(need, plan.free_bytes)
    if judged and saves <= 0:  # another runtime may take more, whatever its cache
        return None
    alone = (", and then it fits" if enough else ", not enough alone") if judged else ""
    return Remedy(saves, f"{what} ({saved(saves, than)}{alone}{more})", enough)


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
