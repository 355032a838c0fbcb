"""Bytes that came before it is their turn to be hashed, kept in a piece of memory that never grows.

One mapping for all files of a download, cut into slots. Small objects of all sizes from many threads would take
several times their size from the system: 32 MiB of them took 100 MB of heap.
"""

from __future__ import annotations

import mmap
import threading
from dataclasses import dataclass

AHEAD_BYTES = 16 * 2**20
"""What may wait for its turn, of all files: with 45 MB for Python and its libraries, and as much as 30 that the
C library keeps for as many threads, a download stays below 100."""

SLOT_BYTES = 64 * 2**10
"""What one read of a socket brings, by order of magnitude; pages of a slot that nothing was written to take nothing."""


@dataclass(frozen=True)
class Kept:
    """Some bytes that wait: views of them, in order, until they are given to `Ahead.free`."""

    pieces: tuple[memoryview, ...]
    slots: tuple[int, ...]


class Ahead:
    """Room for bytes that wait. Safe for threads."""

    def __init__(self, size_bytes: int = AHEAD_BYTES) -> None:
        self._slots = list(range(size_bytes // SLOT_BYTES))
        self._memory = memoryview(mmap.mmap(-1, size_bytes)) if self._slots else memoryview(b"")
        self._lock = threading.Lock()

    def keep(self, data: bytes | memoryview) -> Kept | None:
        """Copy them; None where there is no room."""
        with self._lock:
            needed = -(-len(data) // SLOT_BYTES)
            if needed > len(self._slots):
                return None
            slots = tuple(self._slots.pop() for _ in range(needed))
        pieces = []
        whole = memoryview(data)
        for number, slot in enumerate(slots):
            piece = whole[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]
            view = self._memory[slot * SLOT_BYTES : slot * SLOT_BYTES + len(piece)]
            view[:] = piece
            pieces.append(view)
        return Kept(tuple(pieces), slots)

    def free(self, kept: Kept) -> None:
        """Their turn has come; the views are not to be used any more."""
        with self._lock:
            self._slots += kept.slots

    @property
    def free_bytes(self) -> int:
        return len(self._slots) * SLOT_BYTES
