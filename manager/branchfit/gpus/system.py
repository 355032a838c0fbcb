"""The machine's own memory, without psutil: /proc and cgroups, GlobalMemoryStatusEx, sysctl and vm_stat."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..units import gib

__all__ = ["Memory", "Run", "is_wsl", "process_name", "read_memory", "read_number", "read_text", "run_command"]

Run = Callable[[Sequence[str]], str]
"""Runs a command and gives its standard output; raises OSError where there is none to give."""

COMMAND_TIMEOUT_S = 5.0
"""sysctl and vm_stat answer in milliseconds; after this the system is not answering at all."""

NO_LIMIT_BYTES = 2**60
"""cgroup v1 writes "no limit" as the largest page-aligned 64-bit number (9223372036854771712, seen on
this project's build machines); anything of that order is none."""


@dataclass(frozen=True)
class Memory:
    """RAM in bytes. `free_bytes` is what may still be taken; `notes` say what limits or hides it."""

    total_bytes: int
    free_bytes: int
    notes: tuple[str, ...] = ()


def run_command(command: Sequence[str]) -> str:
    """Standard output of a command. Raises OSError if it is missing, fails, or does not answer in time."""
    import subprocess  # costs 10 ms, and only a Mac needs it

    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, errors="replace", timeout=COMMAND_TIMEOUT_S, check=True
        )
    except subprocess.SubprocessError as error:
        raise OSError(str(error)) from error
    return done.stdout


def read_text(path: Path) -> str | None:
    """The text of a small file of /proc or /sys, None where it is absent or not to be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """The whole number a small file holds, None where there is none."""
    text = read_text(path)
    return int(text) if text and re.fullmatch(r"[0-9]{1,20}", text) else None


def process_name(pid: int, root: Path = Path("/")) -> str:
    """A process's name by /proc, `unknown` where it has gone, is hidden, or there is no /proc."""
    return read_text(root / f"proc/{pid}/comm") or "unknown"


def is_wsl(root: Path = Path("/")) -> bool:
    """Whether this Linux is Windows' own: Microsoft's kernels name it in their version."""
    return "microsoft" in (read_text(root / "proc/version") or "").lower()


def read_memory(
    platform: str = sys.platform, root: Path = Path("/"), run: Run = run_command, windll: Any = None
) -> Memory:
    """RAM of this machine, or what is left of it to this container. Never raises for a strange system.

    `root` is where /proc and /sys are looked for, `run` what runs a command, `windll` ctypes.windll:
    the tests give recorded ones.
    """
    try:
        if platform == "darwin":
            return _mac(run)
        if platform == "win32":
            return _windows(windll)
        return _linux(root)
    except (OSError, ValueError, KeyError) as error:
        return Memory(0, 0, (f"the size of this machine's memory could not be read: {error}.",))


def _linux(root: Path) -> Memory:
    """MemTotal and MemAvailable, within the tightest cgroup limit.

    A cgroup's file cache (inactive_file) is given back on demand, so it counts as free, as kubelet's
    working set and `docker stats` count it.
    """
    text = read_text(root / "proc/meminfo") or ""
    values = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+([0-9]{1,15}) kB", text, re.MULTILINE)}
    if "MemTotal" not in values:
        raise ValueError("/proc/meminfo has no MemTotal")
    total = values["MemTotal"]
    free = min(total, values.get("MemAvailable", values.get("MemFree", 0)))
    notes: tuple[str, ...] = ()
    for limit, used in _cgroup_limits(root):
        if limit < total:
            limited = f"{gib(limit)} of the machine's {gib(values['MemTotal'])} of RAM"
            notes = (f"a cgroup limits this process to {limited}.",)
            total = limit
        free = min(free, max(0, limit - used))
    return Memory(total, free, notes)


def _cgroup_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used without reclaimable file cache) of every limited cgroup this process is in."""
    memberships = (read_text(root / "proc/self/cgroup") or "").splitlines()
    for line in memberships:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        # A limit on a parent binds its children; inside a container the path may lead nowhere and
        # the mount's own root is this process's cgroup.
        for depth in range(len(parts), -1, -1):
            folder = base.joinpath(*parts[:depth])
            limit = read_number(folder / names[0])
            if limit is None or limit >= NO_LIMIT_BYTES:
                continue
            cache = re.search(rf"^{names[2]} ([0-9]{{1,20}})$", read_text(folder / "memory.stat") or "", re.MULTILINE)
            used = (read_number(folder / names[1]) or 0) - (int(cache[1]) if cache else 0)
            yield limit, max(0, used)


def _mac(run: Run) -> Memory:
    """hw.memsize, and of vm_stat the pages that are free or given back on demand.

    Free, speculative and inactive, as psutil counts `available` (psutil/_psutil_osx.py); vm_stat
    prints free without speculative (Apple's system_cmds, vm_stat.c).
    """
    total = int(run(["sysctl", "-n", "hw.memsize"]).strip())
    text = run(["vm_stat"])
    page = re.search(r"page size of ([0-9]{1,9}) bytes", text)
    if not page:
        raise ValueError("vm_stat does not say its page size")
    counts = re.findall(r"^Pages (?:free|speculative|inactive):\s+([0-9]{1,15})\.", text, re.MULTILINE)
    return Memory(total, min(total, sum(map(int, counts)) * int(page[1])))


def _windows(windll: Any) -> Memory:
    """GlobalMemoryStatusEx of MEMORYSTATUSEX (sysinfoapi.h); a return of 0 is its failure."""
    import ctypes  # costs 10 ms, and only Windows needs it here

    sizes = ("total", "free", "page_total", "page_free", "virtual_total", "virtual_free", "virtual_extended")

    class MemoryStatus(ctypes.Structure):
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [(n, ctypes.c_ulonglong) for n in sizes]

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    library = vars(ctypes)["windll"] if windll is None else windll  # only Windows' ctypes has it
    if not library.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("GlobalMemoryStatusEx failed")
    return Memory(int(status.total), int(status.free))
