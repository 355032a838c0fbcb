"""Apple silicon's unified memory, as Metal lets a process use it. Untested on real hardware."""

from __future__ import annotations

from ..units import gib
from .machine import Gpu
from .nvml import Found
from .system import Memory, Run

__all__ = ["read_apple", "working_set_bytes"]

LARGE_MAC_BYTES = 32 * 2**30
"""Up to here Metal's limit is two thirds of the RAM, above it three quarters.

Metal's `recommendedMaxWorkingSetSize` as llama.cpp printed it on users' machines: 10922 MiB of
16 GiB (M1 Pro), 17180 MB of 24 GiB, 49152 MiB of 64 GiB (M1 Max, llama.cpp issue 1870), 73728 MiB of
96 GiB (M2 Max, issue 3213). macOS 26 gives an M4 of 16 GiB more (12713 MB), so this errs low.
"""


def working_set_bytes(total_bytes: int) -> int:
    """Bytes of a Mac's RAM that Metal lets the GPU use by default; see LARGE_MAC_BYTES."""
    return total_bytes * 2 // 3 if total_bytes <= LARGE_MAC_BYTES else total_bytes * 3 // 4


def read_apple(memory: Memory, run: Run) -> Found:
    """The GPU of an Apple-silicon Mac. Never raises; an Intel Mac has none that is used here.

    The total is Metal's limit: sysctl iogpu.wired_limit_mb where the user set one (0 is "the
    default"), else the default. What is free of it is bounded by what the machine has left.
    """
    try:
        brand = run(["sysctl", "-n", "machdep.cpu.brand_string"]).strip()
    except (OSError, ValueError) as error:
        return Found((), (f"the chip of this Mac could not be read: {error}.",))
    if not brand.startswith("Apple"):
        return Found((), (f"no GPU that is used here: this Mac has an {brand or 'unnamed processor'}.",))
    if not memory.total_bytes:
        return Found((), (f"this Mac ({brand}) does not say how much memory it has, so its GPU is left out.",))
    limit = working_set_bytes(memory.total_bytes)
    try:
        wired_mib = int(run(["sysctl", "-n", "iogpu.wired_limit_mb"]).strip())
    except (OSError, ValueError):  # macOS before 14 has no such setting
        wired_mib = 0
    if wired_mib > 0:
        limit = min(memory.total_bytes, wired_mib * 2**20)
    note = (
        f"{brand} shares its {gib(memory.total_bytes)} with the CPU; Metal gives the GPU at most "
        f"{gib(limit)} of it (sysctl iogpu.wired_limit_mb)."
    )
    gpu = Gpu(0, brand, limit, min(limit, memory.free_bytes), None, "mps", kind="mps")
    return Found((gpu,), (note,))
