"""`--gpu SIZE[@CAPABILITY][xN]`: a machine as the user describes it, for hardware that is not here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from ..errors import GpuArgumentError
from .machine import Gpu, Machine
from .system import Memory, read_memory

__all__ = ["parse_gpus"]

UNITS_BYTES = {
    "": 2**30,  # cards are sold as "24 GB" and hold 24 GiB, so a bare number is GiB
    "g": 2**30,
    "gib": 2**30,
    "gb": 10**9,
    "m": 2**20,
    "mib": 2**20,
    "mb": 10**6,
    "t": 2**40,
    "tib": 2**40,
    "tb": 10**12,
}
"""What a unit means in bytes. GB is 10^9 and GiB 2^30, as everywhere in this project."""

SMALLEST_BYTES = 2**20
"""1 MiB: no card ever had less, so less is a slip of the unit."""

LARGEST_BYTES = 10 * 2**40
"""10 TiB, fifty times the largest card of 2026 (288 GB): more is a slip of the unit."""

LARGEST_BARE_GIB = 512
"""A bare number above it is no card's memory but its name: 3090, 4090. 288 is the most of 2026."""

MOST_CARDS = 64
"""torch itself numbers at most 64 devices (`torch.cuda._parse_visible_devices`)."""

CAPABILITIES = (Fraction(3), Fraction(16))
"""Lowest compute capability torch ever shipped kernels for (3.0, Kepler), and one above the highest
we let through: 12.1 is the newest on sale, 15.9 leaves room."""

_SIZE = re.compile(r"(?P<number>[0-9]{1,12}(?:\.[0-9]{1,12})?)\s*(?P<unit>[a-z]*)")
_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")
_DECIMAL = re.compile(r"[0-9]\s*gb")
_COUNT = re.compile(r"[0-9]{1,6}")


def parse_gpus(arguments: Sequence[str], memory: Memory | None = None) -> Machine:
    """The machine that `--gpu` arguments describe; every card all free, in the order given.

    `24GiB`, `24GB` (10^9), `24576MiB`, `11.5GiB`, `24G` and bare `24` (both GiB), then `@8.6` for the
    compute capability and `x2` for two alike; capitals do not matter; commas separate as several
    `--gpu` do. Without `@CAPABILITY` it is None: unknown, and no loader is ruled out by it. `none`
    alone is a machine without a GPU. `memory` is the machine's RAM; read from this one if not given.
    Raises GpuArgumentError naming the argument, what is wrong with it, and the grammar.
    """
    texts = [piece for argument in arguments for piece in argument.split(",")]
    if not texts:
        raise GpuArgumentError("", "there is no argument")
    memory = read_memory() if memory is None else memory
    if any(text.strip().lower() == "none" for text in texts):
        if len(texts) > 1:
            raise GpuArgumentError(",".join(texts), "`none` stands alone: a machine has GPUs or it has none")
        note = "--gpu none: a machine without a GPU, with the memory of this one."
        return Machine((), (note,), memory.total_bytes, memory.free_bytes)
    cards: list[tuple[int, str | None]] = []
    for text in texts:
        size_bytes, capability, count = _read(text)
        if len(cards) + count > MOST_CARDS:
            raise GpuArgumentError(text, f"more than {MOST_CARDS} cards in all")
        cards += [(size_bytes, capability)] * count
    gpus = tuple(
        Gpu(index, _name(size_bytes), size_bytes, size_bytes, capability, source="given")
        for index, (size_bytes, capability) in enumerate(cards)
    )
    decimal = next((text.strip() for text in texts if _DECIMAL.search(text.lower())), None)
    notes = () if decimal is None else (f"{decimal}: GB is 10^9 bytes here; a card sold as 12 GB has 12GiB.",)
    return Machine(gpus, notes, memory.total_bytes, memory.free_bytes)


def _read(text: str) -> tuple[int, str | None, int]:
    """(size_bytes, capability or None, count) of one SIZE[@CAPABILITY][xN]."""
    plain = text.strip().lower()
    if not plain:
        raise GpuArgumentError(repr(text), "it is empty")
    if not plain.isascii():
        raise GpuArgumentError(text, "only plain digits and letters are read")
    rest, x, count_text = plain.partition("x")
    size_text, at, capability_text = rest.partition("@")
    return (
        _size_bytes(text, size_text.strip()),
        _capability(text, capability_text.strip()) if at else None,
        _count(text, count_text.strip()) if x else 1,
    )


def _size_bytes(text: str, size: str) -> int:
    found = _SIZE.fullmatch(size)
    if not found:
        raise GpuArgumentError(text, f"`{size}` is not a size")
    number, unit = found["number"], found["unit"]
    if unit not in UNITS_BYTES:
        raise GpuArgumentError(text, f"`{unit}` is not a unit; GiB, GB, MiB, MB, TiB and TB are")
    size_bytes = int(Fraction(number) * UNITS_BYTES[unit])
    if size_bytes < SMALLEST_BYTES:
        raise GpuArgumentError(text, f"{size} is {size_bytes:,} bytes, less than the 1 MiB any card has")
    if not unit and size_bytes > LARGEST_BARE_GIB * 2**30:
        raise GpuArgumentError(text, f"{number} GiB? Give the card's memory, such as 24GiB, not its model's number")
    if size_bytes > LARGEST_BYTES:
        raise GpuArgumentError(text, f"{size} is more than 10 TiB")
    return size_bytes


def _capability(text: str, capability: str) -> str:
    if not _CAPABILITY.fullmatch(capability) or not CAPABILITIES[0] <= Fraction(capability) < CAPABILITIES[1]:
        raise GpuArgumentError(
            text, f"`{capability}` is not a compute capability; 3.0 to 15.9 are, such as 8.6 for an RTX 3090"
        )
    return str(float(capability))


def _count(text: str, count: str) -> int:
    if not _COUNT.fullmatch(count) or not 1 <= int(count) <= MOST_CARDS:
        raise GpuArgumentError(text, f"`{count}` is not a number of cards; 1 to {MOST_CARDS} are")
    return int(count)


def _name(size_bytes: int) -> str:
    if size_bytes % 10**9 == 0 and size_bytes % 2**30:
        return f"given GPU, {size_bytes // 10**9} GB"
    return f"given GPU, {size_bytes / 2**30:.4g} GiB"
