"""Who holds how much under Windows, where NVML keeps it to itself: from the performance counters of Task Manager.

`typeperf` prints names such as `GPU Process Memory(pid_1234_luid_0x00000000_0x0000D1A2_phys_0)` and a line of numbers;
`tasklist` has the programs' names. Both take a second or two, so they are asked where a person waits for the answer
(`branchfit doctor`), not at every look. A Windows in another language names its counters in it: then typeperf finds
none, and nothing is said. Untested on a real Windows.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .machine import Gpu, Holder, Machine
from .system import Run, run_command

__all__ = ["by_process", "parse_counters", "parse_tasks"]

COUNTER = r"\GPU Process Memory(*)\Dedicated Usage"

_INSTANCE = re.compile(
    r"pid_(?P<pid>[0-9]{1,10})_luid_0x(?P<high>[0-9A-Fa-f]{1,8})_0x(?P<low>[0-9A-Fa-f]{1,8})_phys_[0-9]{1,3}\)"
)


def by_process(
    machine: Machine, platform: str = sys.platform, run: Run = run_command, luids: dict[str, str] | None = None
) -> Machine:
    """The machine with what each process holds, where Windows tells it and NVML does not; else as it is.

    `luids` is PCI address -> luid, asked of Windows if not given. A process whose counter says nothing keeps None.
    Never raises.
    """
    hidden = [gpu for gpu in machine.gpus if any(holder.used_bytes is None for holder in gpu.holders)]
    if platform != "win32" or not hidden:
        return machine
    luids = _luids(platform, machine.gpus) if luids is None else luids
    try:
        held = parse_counters(run(["typeperf", COUNTER, "-sc", "1"]))
        names = parse_tasks(run(["tasklist", "/FO", "CSV", "/NH"]))
    except OSError:
        return machine
    gpus = tuple(
        _named(gpu, held.get(luids.get(gpu.address or "", ""), {}), names) if gpu in hidden else gpu
        for gpu in machine.gpus
    )
    return replace(machine, gpus=gpus)


def parse_counters(text: str) -> dict[str, dict[int, int]]:
    """luid (`0x0_0xd1a2`) -> pid -> bytes, of what typeperf prints; instances without a number are left out."""
    rows = [row for row in csv.reader(text.splitlines()) if len(row) > 1]
    if len(rows) < 2:
        return {}
    found: dict[str, dict[int, int]] = {}
    for title, value in zip(rows[0], rows[1], strict=False):
        instance = _INSTANCE.search(title)
        number = re.fullmatch(r"([0-9]{1,15})(?:[.,][0-9]+)?", value.strip())
        if instance and number:
            luid = f"0x{int(instance['high'], 16):x}_0x{int(instance['low'], 16):x}"
            pids = found.setdefault(luid, {})
            pids[int(instance["pid"])] = pids.get(int(instance["pid"]), 0) + int(number[1])
    return found


def parse_tasks(text: str) -> dict[int, str]:
    """pid -> name, of `tasklist /FO CSV /NH`: "dwm.exe","1234","Console","1","120,000 K"."""
    return {int(row[1]): row[0] for row in csv.reader(text.splitlines()) if len(row) > 1 and row[1].isdigit()}


def _named(gpu: Gpu, held: dict[int, int], names: dict[int, str]) -> Gpu:
    """Windows' figures are larger than what is on the card where programs share a surface; none above the card's."""
    holders = {holder.pid: holder for holder in gpu.holders}
    for pid, size in held.items():
        known = holders.get(pid)
        if 0 < size <= gpu.total_bytes and (known is None or known.used_bytes is None):
            name = known.name if known is not None and known.name != "unknown" else names.get(pid, "unknown")
            holders[pid] = Holder(pid, name, size)
    ordered: Sequence[Holder] = sorted(holders.values(), key=lambda each: (-(each.used_bytes or 0), each.pid))
    return replace(gpu, holders=tuple(ordered))


def _luids(platform: str, gpus: Sequence[Gpu], root: Path = Path("/")) -> dict[str, str]:
    from .wddm import read_budgets  # ctypes costs 10 ms

    budgets = read_budgets(platform, root)
    found = {}
    for gpu in gpus:
        for budget in budgets:
            if gpu.address is not None and gpu.address[5:10] == f"{budget.bus:02x}:{budget.device:02x}":
                found[gpu.address] = budget.luid
    return found
