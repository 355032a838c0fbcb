"""The longest context that fits, found by trying: what is returned was laid out, and so was what no longer fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..variants import Variant
from .parts import Terms
from .placement import spare_bytes

CONTEXT_STEP = 256
"""Contexts are searched in steps of 256 tokens: ExLlamaV2's cache pages are that long."""


def longest_context(
    variant: Variant,
    runtime: str,
    free_bytes: Sequence[int],
    limit_tokens: int,
    *,
    cache: str = "fp16",
    version: str | None = None,
    cpu: bool = False,
    triton: bool = True,
) -> int:
    """The longest context in tokens that fits these cards: a multiple of 256, or the limit itself.

    `limit_tokens` is the longest that is of interest, the model's own. 0 where not even 256 tokens fit, there is no
    card, or nobody knows the variant's size: a limit below that counts as 256. The other arguments are those of
    `terms`.
    """
    from . import terms  # this room's own front, which imports this module

    def made(tokens: int) -> Terms | None:
        return terms(variant, runtime, tokens, cache=cache, version=version, cpu=cpu, triton=triton)

    return longest_of(made, free_bytes, limit_tokens)


def longest_of(made: Callable[[int], Terms | None], free_bytes: Sequence[int], limit_tokens: int) -> int:
    """The same for any terms as a function of the context, None where they are unknown.

    `low` has been tried and fits, `high` has been tried and does not, all the way until they are neighbours: so the
    answer fits and one step more does not, whatever the terms look like in between. Most of them are straight lines,
    hence a guess where the memory left over would be none finds the place in four tries; where they are stairs, every
    third try halves what is left.
    """
    free = tuple(free_bytes)

    def left(tokens: int) -> tuple[bool, int]:
        terms = made(tokens) if free else None
        if terms is None:
            return False, 0
        spare = spare_bytes(terms, free)
        return spare >= 0, spare

    whole, short = left(max(limit_tokens, CONTEXT_STEP))
    if whole:
        return limit_tokens
    # In steps: the limit itself stands as the one after the last whole step below it.
    low, high = 1, (limit_tokens - 1) // CONTEXT_STEP + 1
    if high <= low:
        return 0
    some, spare = left(CONTEXT_STEP)
    if not some:
        return 0
    tries = 0
    while high - low > 1:
        tries += 1
        guess = (low + high) // 2 if tries % 3 == 0 else low + (high - low) * spare // max(spare - short, 1)
        guess = min(max(guess, low + 1), high - 1)
        good, room = left(guess * CONTEXT_STEP)
        if good:
            low, spare = guess, room
        else:
            high, short = guess, room
    return low * CONTEXT_STEP
