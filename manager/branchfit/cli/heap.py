"""The memory that a download leaves with the C library, kept small; for our own process, never a webui's."""

from __future__ import annotations

import contextlib
import ctypes
import sys

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""glibc's malloc.h: blocks from this size on are mapped by themselves; so much free at a heap's end goes back."""

THRESHOLD_BYTES = 128 * 1024
"""glibc's own first value for both, which it raises with each larger block that is freed."""


def keep_small() -> None:
    """Hold glibc to its first thresholds: its heaps, one a thread, held 50 MB of free blocks with 16 connections."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no mallopt, and no such habit
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
            mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
