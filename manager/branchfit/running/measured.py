"""What a load really took, beside what was predicted: of this process, on each GPU, or in the machine's memory."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..gpus import Machine, detect
from ..memory import Need
from ..units import GIB, gib


@dataclass(frozen=True)
class Measured:
    """`device` is "GPU 0", "2 GPUs" or "memory of this process". `peak_bytes` is the most since the load began,
    `resident_bytes` what is held now; None where this system does not tell. `predicted_bytes` and its
    `error_bytes` are the forecast's at the full context, None without one. `per_gpu_bytes` are the peaks by card.
    """

    device: str
    predicted_bytes: int | None
    peak_bytes: int | None
    resident_bytes: int | None
    error_bytes: int | None = None
    per_gpu_bytes: tuple[int, ...] = ()

    def line(self) -> str:
        """`VRAM: predicted 42.8 GiB +- 1.5, measured 42.1 GiB`."""
        what = self.device if self.device == PROCESS else "VRAM"
        predicted = ""
        if self.predicted_bytes is not None:
            spread = f" +- {self.error_bytes / GIB:.1f}" if self.error_bytes is not None else ""
            predicted = f"predicted {gib(self.predicted_bytes)}{spread}, "
        return f"{what}: {predicted}" + (
            "not measured" if self.peak_bytes is None else f"measured {gib(self.peak_bytes)}"
        )


PROCESS = "memory of this process"


class Meter:
    """Begins to measure when it is made; `read` as often as wanted.

    `gpus` are torch's ordinals of the cards used, () for the CPU. On a card it counts what torch reserved at the
    most since, less what it had reserved before, and the CUDA context with the kernels in it: NVML's figure for
    this process less what torch reserves, or, where NVML does not know this process (in a container), how much less
    is free on the card than before. `torch` and `look` are there for tests.
    """

    def __init__(
        self,
        gpus: tuple[int, ...] = (),
        need: Need | None = None,
        *,
        torch: Any = None,
        look: Callable[[], Machine] = detect,
        root: Path = Path("/"),
    ) -> None:
        self._gpus = gpus
        self._need = need
        self._look = look
        self._root = root
        self._torch = torch
        if not gpus:
            # 5 sets the peak (VmHWM) back to what is resident: proc(5).
            with contextlib.suppress(OSError):
                (root / "proc/self/clear_refs").write_text("5")
            return
        if torch is None:
            self._torch = importlib.import_module("torch")
        self._before = {index: self._torch.cuda.memory_reserved(index) for index in gpus}
        self._free = {gpu.index: gpu.free_bytes for gpu in look().gpus}
        for index in gpus:
            self._torch.cuda.reset_peak_memory_stats(index)

    def read(self) -> Measured:
        """What it is now, and was at the most."""
        need = self._need
        predicted, error = (need.total_bytes, need.error_bytes) if need else (None, None)
        if not self._gpus:
            peak, resident = process_bytes(self._root)
            return Measured(PROCESS, predicted, peak, resident, error)
        seen = {gpu.index: gpu for gpu in self._look().gpus}
        peaks, residents = [], []
        for index in self._gpus:
            reserved = self._torch.cuda.memory_reserved(index)
            context = self._context_bytes(index, reserved, seen.get(index))
            peaks.append(self._torch.cuda.max_memory_reserved(index) - self._before[index] + context)
            residents.append(reserved - self._before[index] + context)
        device = f"GPU {self._gpus[0]}" if len(self._gpus) == 1 else f"{len(self._gpus)} GPUs"
        return Measured(device, predicted, sum(peaks), sum(residents), error, tuple(peaks))

    def _context_bytes(self, index: int, reserved: int, gpu: Any) -> int:
        if gpu is None:
            return 0
        own = next((holder.used_bytes for holder in gpu.holders if holder.pid == os.getpid()), None)
        if own is None:
            own = self._free.get(index, gpu.free_bytes) - gpu.free_bytes + self._before[index]
        return int(max(0, own - reserved))


def process_bytes(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """(peak, resident) bytes of this process: /proc on Linux, elsewhere getrusage's peak alone, on Windows neither."""
    with contextlib.suppress(OSError):
        text = (root / "proc/self/status").read_text(encoding="utf-8", errors="replace")
        found = {
            name: int(kib) * 1024 for name, kib in re.findall(r"^(VmHWM|VmRSS):\s+([0-9]+) kB", text, re.MULTILINE)
        }
        if found:
            return found.get("VmHWM"), found.get("VmRSS")
    try:
        import resource
    except ImportError:
        return None, None
    # getrusage(2): kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024), None
