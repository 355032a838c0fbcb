"""Layers onto cards: as the loaders place them, in order, the head on the last card used."""

from __future__ import annotations

from collections.abc import Sequence

from .parts import MIB, Need, Terms


def place(terms: Terms, free_bytes: Sequence[int]) -> Need:
    """The need on cards with `free_bytes` each, on as few of them as will do.

    Cards are taken by free memory, the most first, and used in their own order. Within a
    placement the layers are spread so that the tightest card has as much left as can be. Where no
    placement fits, the one that is least short is given. A card with nothing free is left out.

    The first card used holds the embedding, the last the head, be there a layer or not; each has its own
    context and buffers. `memory/splits.py` has what each loader is told to do the same.
    """
    if not free_bytes:
        return _need(terms, [terms.layers], [0], 1)
    usable = [index for index, free in enumerate(free_bytes) if free > 0] or [0]
    by_free = sorted(usable, key=lambda index: (-free_bytes[index], index))
    nearest: list[Need] = []
    for count in range(1, len(usable) + 1):
        cards = sorted(by_free[:count])
        free = [free_bytes[card] for card in cards]
        layers = _spread(terms, free)
        if layers is not None:
            return _need(terms, layers, cards, len(free_bytes))
        nearest.append(_need(terms, _overfill(terms, free), cards, len(free_bytes)))
    return max(nearest, key=lambda need: need.headroom_bytes(tuple(free_bytes)))


def fits(need: Need, free_bytes: Sequence[int]) -> bool:
    """Card by card: need plus error within what is free. Never by pooled memory."""
    return len(free_bytes) > 0 and need.headroom_bytes(tuple(free_bytes)) >= 0


def spare_bytes(terms: Terms, free_bytes: Sequence[int]) -> int:
    """What the tightest card has left where the layers are laid out first to last; negative: about what is missing.

    Fitting is as with `place`, which evens out what fits, and takes ten times as long over many cards.
    """
    usable = [index for index, free in enumerate(free_bytes) if free > 0]
    by_free = sorted(usable, key=lambda index: (-free_bytes[index], index))
    missing = terms.layers
    for count in range(1, len(usable) + 1):
        cards = sorted(by_free[:count])
        layers = _fill(terms, [free_bytes[card] for card in cards])
        if sum(layers) == terms.layers:
            need = _need(terms, layers, cards, len(free_bytes))
            return need.headroom_bytes(tuple(free_bytes))
        if len(usable) == 1:
            return _need(terms, [terms.layers], cards, len(free_bytes)).headroom_bytes(tuple(free_bytes))
        missing = min(missing, terms.layers - sum(layers))
    return -missing * max(1, terms.layer_bytes + terms.kv_layer_bytes)


def _spread(terms: Terms, free_bytes: list[int]) -> list[int] | None:
    """Layers for each of these cards, None where they do not all find a place."""
    best = _fill(terms, free_bytes)
    if sum(best) < terms.layers:
        return None
    if len(free_bytes) == 1:
        return best
    low, high = 0, max(free_bytes) // MIB
    while low < high:
        spare = (low + high + 1) // 2
        tried = _fill(terms, [free - spare * MIB for free in free_bytes])
        if sum(tried) == terms.layers:
            low, best = spare, tried
        else:
            high = spare - 1
    return best


def _overfill(terms: Terms, free_bytes: list[int]) -> list[int]:
    """Layers for each of these cards though they do not fit: as if each had a bit more, until they do."""
    step = max(terms.layer_bytes + terms.kv_layer_bytes, MIB)
    short = step
    while sum(layers := _fill(terms, [free + short for free in free_bytes])) < terms.layers:
        short += step
    return layers


def _fill(terms: Terms, free_bytes: list[int]) -> list[int]:
    """As many layers as each card takes, first to last, up to all of them."""
    left, placed = terms.layers, []
    each = terms.layer_bytes + terms.kv_layer_bytes + terms.layer_error_bytes
    for index, free in enumerate(free_bytes):
        room = free - _card_bytes(terms, index == 0, index == len(free_bytes) - 1) - terms.error_bytes
        # Floor division of a negative room is negative: the card cannot even hold its own buffers.
        count = min(left, room // each if each > 0 else left)
        placed.append(max(0, count))
        if count < 0:
            return [0] * len(free_bytes)
        left -= count
    return placed


def _card_bytes(terms: Terms, first: bool, last: bool) -> int:
    """What a card takes before its first layer."""
    return (
        terms.context_bytes
        + terms.fixed_bytes
        + terms.transient_bytes(first)
        + (terms.first_bytes if first else 0)
        + (terms.last_bytes + terms.logits_bytes if last else 0)
    )


def _need(terms: Terms, layers: Sequence[int], cards: Sequence[int], count: int) -> Need:
    per_gpu, errors, split, placed = [0] * count, [0] * count, [0] * count, [0] * count
    weights = kv_cache = scratch = context = 0
    for position, (card, number) in enumerate(zip(cards, layers, strict=True)):
        first, last = position == 0, position == len(cards) - 1
        on_card = number * terms.layer_bytes
        on_card += (terms.first_bytes if first else 0) + (terms.last_bytes if last else 0)
        buffers = terms.fixed_bytes + terms.transient_bytes(first) + (terms.logits_bytes if last else 0)
        weights += on_card
        kv_cache += number * terms.kv_layer_bytes
        scratch += buffers
        context += terms.context_bytes
        split[card] = on_card + number * terms.kv_layer_bytes + buffers
        per_gpu[card] = split[card] + terms.context_bytes
        errors[card] = terms.error_bytes + number * terms.layer_error_bytes
        placed[card] = number
    return Need(weights, kv_cache, scratch, context, tuple(per_gpu), tuple(errors), tuple(placed), tuple(split))
