"""Bytes as people read them. The only place where a size becomes GB or GiB."""

from __future__ import annotations

KB, MB, GB = 10**3, 10**6, 10**9
MIB, GIB = 2**20, 2**30


def gb(size_bytes: int | None) -> str:
    """A file's or a download's size, decimal, as the Hub and the cards print them."""
    if size_bytes is None:
        return "?"
    for unit, name in ((GB, "GB"), (MB, "MB"), (KB, "kB")):
        # Half a gigabyte is still told in GB, as the cards do; below that the smaller unit reads better.
        if abs(size_bytes) >= unit // 2:
            return f"{size_bytes / unit:.2f} {name}"
    return f"{size_bytes} B"


def gib(size_bytes: int | None) -> str:
    """Memory, binary, as drivers print it."""
    if size_bytes is None:
        return "?"
    return f"{size_bytes / GIB:.1f} GiB" if abs(size_bytes) >= GIB // 10 else f"{size_bytes / MIB:.0f} MiB"


def error_text(size_bytes: int) -> str:
    """What a forecast may be off by: in MiB below 1 GiB, where a tenth of a GiB would hide a third of 150 MiB."""
    mib = round(size_bytes / MIB)
    return f"{mib} MiB" if mib < GIB // MIB else gib(size_bytes)
