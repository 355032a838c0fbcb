"""Keep the host from cutting a prompt: it drops tokens from the left, the template's head first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .refusal import too_long

_UNCOUNTED = 16
"""Tokens a tokenizer may add to what the text itself takes: BOS, a leading space's own. Generous."""


def fit(
    state: dict[str, Any], prompt: str, count: Callable[[], int], context_tokens: int | None, floor_tokens: int
) -> tuple[list[str], int | None]:
    """Lower `max_new_tokens` and `truncation_length` in `state` until the host cuts nothing from `prompt`.

    The host keeps the last `truncation_length - max_new_tokens` tokens (get_max_prompt_length in
    modules/text_generation.py), and none at all where that is negative. A smaller `truncation_length`
    than the context is kept, a larger one is brought down. `max_new_tokens` never falls below
    `floor_tokens`, or what was asked where that is less. Gives notes for the proof, and the prompt's
    tokens where they had to be counted. Raises Refused where the prompt does not fit.
    """
    notes: list[str] = []
    asked, source = _whole(state.get("truncation_length")), "the limit"
    limit = context_tokens or asked
    if asked is not None and asked > 0 and context_tokens:
        if asked < context_tokens:
            limit, source = asked, f"the truncation length asked for, of a context of {context_tokens:,},"
        elif asked > context_tokens:
            notes.append(f"truncation_length {asked:,} is beyond the context; {context_tokens:,} used")
            source = "the model's context"
        else:
            source = "the model's context"
    if not limit or limit <= 0:
        return notes, None
    state["truncation_length"] = limit
    new = _whole(state.get("max_new_tokens"))
    new = limit if new is None or new < 0 else new
    # ASCII text never takes more tokens than it has bytes, so most prompts need no counting here.
    if prompt.isascii() and len(prompt) + _UNCOUNTED <= limit - new:
        return notes, None
    tokens = count()
    room, floor = limit - tokens, min(floor_tokens, new)
    if room < max(floor, 1):
        raise too_long(tokens, limit, max(floor, 1), source)
    if new > room:
        notes.append(f"max_new_tokens lowered from {new:,} to {room:,}, which is what the context leaves")
        state["max_new_tokens"] = room
    return notes, tokens


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value == value and abs(value) < 2**62 else None
