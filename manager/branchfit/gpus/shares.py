"""Where a card's memory is: lines for a person, the largest first, that add up to its total."""

from __future__ import annotations

import os

from ..units import MIB, gib
from .machine import Gpu

__all__ = ["headline", "shares"]


def headline(gpu: Gpu) -> str:
    """`GPU 0: NVIDIA GeForce RTX 3090, 19.8 GiB free of 24.0 GiB, drives a display`."""
    what = "No GPU: system memory" if gpu.kind == "cpu" else f"GPU {gpu.index}: {gpu.name}"
    words = [f"{what}, {gib(gpu.free_bytes)} free of {gib(gpu.total_bytes)}"]
    if gpu.ecc:
        words.append("ECC on (what it takes is off that total already)")
    if gpu.display:
        words.append("drives a display")
    return ", ".join(words)


def shares(gpu: Gpu, gives_back: dict[int, str] | None = None) -> list[str]:
    """Who holds what is not free: processes by name and bytes, the driver's reserve, what is held back, the rest.

    `gives_back` is pid -> a clause on what it would give back. Largest first; what is unknown comes last.
    """
    own = os.getpid()
    found: list[tuple[int, str]] = []
    for holder in gpu.holders:
        used = gib(holder.used_bytes) if holder.used_bytes is not None else "an unknown amount"
        extra = (gives_back or {}).get(holder.pid) or ("this process itself" if holder.pid == own else "")
        line = f"{used} held by pid {holder.pid}, {holder.name}{f': {extra}' if extra else ''}"
        found.append((-1 if holder.used_bytes is None else holder.used_bytes, line))
    if gpu.reserved_bytes:
        line = f"{gib(gpu.reserved_bytes)} kept by the driver for itself: no program can have it"
        found.append((gpu.reserved_bytes, line))
    if gpu.held_back_bytes:
        found.append((gpu.held_back_bytes, f"{gib(gpu.held_back_bytes)} free too, and not counted: the notes say why"))
    # Where the driver hides the processes' sizes, the rest is theirs; below a MiB it is rounding.
    if gpu.unnamed_bytes >= MIB and gpu.kind != "mps" and not gpu.unified:
        hidden = any(holder.used_bytes is None for holder in gpu.holders)
        whose = "held by the processes of unknown amounts" if hidden else "held by nobody who can be seen from here"
        found.append((gpu.unnamed_bytes, f"{gib(gpu.unnamed_bytes)} {whose}"))
    return [line for _, line in sorted(found, key=lambda one: -one[0])]
