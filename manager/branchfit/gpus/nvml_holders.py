"""Who holds a GPU's memory, by NVML: the processes with compute or graphics contexts, by name and bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .machine import Holder
from .nvml_details import BROKEN
from .system import process_name

__all__ = ["read_holders", "said", "text"]


def read_holders(nvml: Any, handle: Any, label: str, total: int, notes: list[str], root: Path) -> tuple[Holder, ...]:
    """Processes with compute or graphics contexts, merged by pid, the largest first.

    A process with both is in both lists with the same number, so the larger is taken, not the sum.
    """
    held: dict[int, int | None] = {}
    calls: tuple[Callable[[Any], Any], ...] = ()
    with contextlib.suppress(AttributeError):
        calls = (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses)
    for call in calls:
        try:
            for process in call(handle):
                pid, used = int(process.pid), process.usedGpuMemory
                known = None if used is None or not 0 <= int(used) <= total else int(used)
                before = held.get(pid)
                held[pid] = known if before is None else max(before, known or 0)
        except (nvml.NVMLError, *BROKEN) as error:
            say = f"not every process that holds memory on {label} is known: {said(error)}."
            if say not in notes:
                notes.append(say)
    holders = (Holder(pid, _process(nvml, pid, root), used) for pid, used in held.items())
    return tuple(sorted(holders, key=lambda holder: (-(holder.used_bytes or 0), holder.pid)))


def _process(nvml: Any, pid: int, root: Path) -> str:
    """A process's name without its folder, by NVML or /proc; `unknown` if neither has it."""
    with contextlib.suppress(nvml.NVMLError, *BROKEN):
        line = text(nvml.nvmlSystemGetProcessName(pid))
        # Windows gives a path, which may hold spaces; Linux a command line.
        name = line.rsplit("\\", 1)[-1] if "\\" in line else line.split(" ")[0].rsplit("/", 1)[-1]
        if name:
            return name
    return process_name(pid, root)


def text(answer: Any) -> str:
    """pynvml before 11.5 gave bytes where it now gives str."""
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)


def said(error: Exception) -> str:
    """An error in the driver's own words, with NVML's code where it has one."""
    value = getattr(error, "value", None)
    return f"{error} (NVML error {value})" if isinstance(value, int) else f"{error}" or type(error).__name__
