"""This machine -> its GPUs: total and free memory, who holds the rest, compute capability.

NVIDIA through NVML, AMD through the kernel's sysfs, Apple silicon through sysctl; or any machine by
`--gpu`. Nothing is imported from a driver before `detect()` is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .apple import read_apple
from .given import parse_gpus
from .machine import Gpu, Holder, Machine
from .nvml import read_nvml
from .rocm import read_rocm
from .shares import headline, shares
from .system import Run, is_wsl, read_memory, run_command

if TYPE_CHECKING:
    from .wddm import Budget

__all__ = ["Gpu", "Holder", "Machine", "detect", "headline", "parse_gpus", "shares"]


def detect(
    environ: Mapping[str, str] = os.environ,
    platform: str = sys.platform,
    root: Path = Path("/"),
    run: Run = run_command,
) -> Machine:
    """The machine this runs on, read now; every GPU with the ordinal torch would give it.

    Never raises for a missing or broken driver: `notes` say what was found instead. A torch build
    serves one maker's GPUs, so where NVIDIA's are found, AMD's are only mentioned. `environ`,
    `platform`, `root` (of /proc, /sys, /dev) and `run` are there for recorded machines.
    """
    memory = read_memory(platform, root, run)
    if platform == "darwin":
        found = [read_apple(memory, run)]
    else:
        found = [read_nvml(environ, memory, root, _budgets(platform, root))]
        if platform != "win32":
            found.append(read_rocm(environ, root))
    gpus = next((one.gpus for one in found if one.gpus), ())
    notes = list(memory.notes)
    for one in found:
        if one.gpus and one.gpus is not gpus:
            names = ", ".join(gpu.name for gpu in one.gpus)
            notes.append(f"{names}: not counted, since torch serves either NVIDIA's GPUs or AMD's.")
        elif not (gpus and one.absent):
            notes += one.notes
    if not gpus:
        notes.append("no GPU was found: models can only run on the CPU, slowly, in the machine's own memory.")
    return Machine(gpus, tuple(notes), memory.total_bytes, memory.free_bytes)


def _budgets(platform: str, root: Path) -> tuple[Budget, ...]:
    if platform != "win32" and not is_wsl(root):
        return ()
    from .wddm import read_budgets  # ctypes costs 10 ms, and only Windows and WSL need it here

    return read_budgets(platform, root)
