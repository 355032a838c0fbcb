"""What a load really took, beside what was predicted: of this process, on each GPU, or in the machine's memory."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..gpus import Gpu, Machine, detect
from ..loaders import ask_late, expandable_now, this_host
from ..memory import Need
from ..memory.records import Card
from ..units import GIB, error_text, gib
from .spill import held, spilled


@dataclass(frozen=True)
class Measured:
    """`device` is "GPU 0", "2 GPUs" or "memory of this process". `peak_bytes` is the most that was needed since the
    load began, `resident_bytes` what is held now; None where this system does not tell. `predicted_bytes` and its
    `error_bytes` are the forecast's at the full context, None without one. `per_gpu_bytes` are the peaks by card.
    `reserved_bytes` is the driver's peak, with what torch keeps though nothing needs it, None on the CPU; `spill` what
    lies in system memory, in a sentence, "" for nothing.
    """

    device: str
    predicted_bytes: int | None
    peak_bytes: int | None
    resident_bytes: int | None
    error_bytes: int | None = None
    per_gpu_bytes: tuple[int, ...] = ()
    reserved_bytes: int | None = None
    spill: str = ""

    def line(self) -> str:
        """`VRAM: predicted 42.8 GiB +- 1.5 GiB, measured 42.1 GiB`, and what torch keeps beside it, if that is much."""
        what = self.device if self.device == PROCESS else "VRAM"
        predicted = ""
        if self.predicted_bytes is not None:
            spread = f" +- {error_text(self.error_bytes)}" if self.error_bytes is not None else ""
            predicted = f"predicted {gib(self.predicted_bytes)}{spread}, "
        if self.peak_bytes is None:
            return f"{what}: {predicted}not measured"
        kept = (self.reserved_bytes or 0) - self.peak_bytes
        more = f"; the allocator keeps {gib(kept)} more, and gives it back before it fails" if kept > MUCH_BYTES else ""
        return f"{what}: {predicted}measured {gib(self.peak_bytes)}{more}"


MUCH_BYTES = GIB
"""From what on it is said that torch keeps more than is needed: a choice, the least that somebody who reads nvidia-smi
beside our figure would take for an error of one of them."""

PROCESS = "memory of this process"


class Meter:
    """Begins to measure when it is made; `read` as often as wanted.

    `gpus` are torch's ordinals of the cards used, () for the CPU. On a card it counts what a forecast is of, since
    then: the CUDA context with the kernels in it, and the most that torch's allocator could not do without. The former
    is NVML's figure for this process less what torch reserves, or, where NVML does not know this process (in a
    container), how much less is free on the card than before. The latter is by `runtime`:

    - gptqmodel with expandable segments: what was allocated at a time;
    - exllamav2: that, and the gaps between the tensors of the load, which stay: those at the first reading;
    - all others: what was reserved, since K and V lie among what the prompt has left, and the gaps cannot be used.

    `expandable` says whether there are such segments, asked if not given; `torch` and `look` are there for tests.
    """

    def __init__(
        self,
        gpus: tuple[int, ...] = (),
        need: Need | None = None,
        *,
        runtime: str = "",
        expandable: bool | None = None,
        torch: Any = None,
        look: Callable[[], Machine] = detect,
        root: Path = Path("/"),
    ) -> None:
        self._gpus = gpus
        self._need = need
        self._look = look
        self._root = root
        self._torch = torch
        self._runtime = runtime
        self.expandable = bool(expandable)
        if not gpus:
            # 5 sets the peak (VmHWM) back to what is resident: proc(5).
            with contextlib.suppress(OSError):
                (root / "proc/self/clear_refs").write_text("5")
            self._peak_before = process_bytes(root)[0] or 0
            return
        if torch is None:
            self._torch = importlib.import_module("torch")
            self._torch.cuda.init()  # or the first load has no peak to reset: "did you call init?"
        cuda = self._torch.cuda
        self._before = {index: cuda.memory_reserved(index) for index in gpus}
        self._allocated = {index: cuda.memory_allocated(index) for index in gpus}
        self._cards = {gpu.index: gpu for gpu in look().gpus}
        self._gaps: dict[int, int] = {}
        self._held = held(Machine(tuple(self._cards.values()), (), 0, 0), self._torch)
        for index in gpus:
            cuda.reset_peak_memory_stats(index)
        if expandable is None:
            if runtime.startswith("gptqmodel:"):
                ask_late(this_host(), torch=self._torch)  # CUDA is in use from here on, with what it was told before
            self.expandable = expandable_now(this_host(), self._torch)
        if any(gpu.kind != "cuda" for index, gpu in self._cards.items() if index in gpus):
            self.expandable = False  # as forecasts have it (told_of)

    def read(self) -> Measured:
        """What it is now, and was at the most."""
        need = self._need
        predicted, error = (need.total_bytes, need.error_bytes) if need else (None, None)
        if not self._gpus:
            peak, resident = process_bytes(self._root)
            return Measured(PROCESS, predicted, peak, resident, error)
        machine = self._look()
        seen = {gpu.index: gpu for gpu in machine.gpus}
        peaks, residents, reserved = [], [], []
        for index in self._gpus:
            context = self._context_bytes(index, seen.get(index))
            peaks.append(self._peak(index) + context)
            residents.append(self._resident(index) + context)
            reserved.append(self._torch.cuda.max_memory_reserved(index) - self._before[index] + context)
        device = f"GPU {self._gpus[0]}" if len(self._gpus) == 1 else f"{len(self._gpus)} GPUs"
        spill = spilled(self._held, held(machine, self._torch), machine)
        said = spill.sentence if spill is not None else ""
        return Measured(device, predicted, sum(peaks), sum(residents), error, tuple(peaks), sum(reserved), said)

    @property
    def on_gpus(self) -> bool:
        return bool(self._gpus)

    def highest_bytes(self) -> int:
        """The peak so far by the counters that cost nothing to ask: a generation that nobody told of shows in it."""
        if not self._gpus:
            return process_bytes(self._root)[0] or 0
        return sum(map(self._peak, self._gpus))

    def cards(self, layers: Mapping[int, int]) -> tuple[Card, ...]:
        """The same for a record, with who else moved memory meanwhile; `layers` by GPU index, of the cards used.

        On the CPU it is one card, the machine's memory, whatever its index. () where a figure would be another's: a
        card that is gone, a peak that is from before this meter began and cannot be set back (macOS, some containers).
        """
        machine = self._look()
        if not self._gpus:
            peak, resident = process_bytes(self._root)
            if peak is None or peak <= self._peak_before:
                return ()
            cpu = machine.cpu
            held = resident if resident is not None else peak
            return (Card(cpu.name, cpu.total_bytes, sum(layers.values()), peak, held),)
        seen = {gpu.index: gpu for gpu in machine.gpus}
        if any(index not in seen or index not in self._cards for index in layers):
            return ()
        return tuple(self._card(index, seen[index], count) for index, count in layers.items())

    def _card(self, index: int, gpu: Gpu, layers: int) -> Card:
        before = self._cards[index]
        context = self._context_bytes(index, gpu)
        # Whether NVML knows this process at all shows only now: before, it may have had no context to be known by.
        own = _own_bytes(gpu)
        others_before = before.total_bytes - before.driver_free_bytes - (_own_bytes(before) or 0)
        return Card(
            gpu.name,
            gpu.total_bytes,
            layers,
            self._peak(index) + context,
            self._resident(index) + context,
            context,
            None if own is None else max(0, others_before),
            None if own is None else max(0, gpu.total_bytes - gpu.driver_free_bytes - own),
        )

    def _peak(self, index: int) -> int:
        """The most that torch could not do without since, of its own."""
        cuda = self._torch.cuda
        if self._runtime == "exllamav2" or (self._runtime.startswith("gptqmodel:") and self.expandable):
            return int(max(0, cuda.max_memory_allocated(index) - self._allocated[index] + self._gaps_of(index)))
        return int(cuda.max_memory_reserved(index) - self._before[index])

    def _resident(self, index: int) -> int:
        """What tensors hold now, with the gaps that stay."""
        return int(max(0, self._torch.cuda.memory_allocated(index) - self._allocated[index] + self._gaps_of(index)))

    def _gaps_of(self, index: int) -> int:
        """Of ExLlamaV2's load, at the first reading, which is right after it; 0 for others."""
        if self._runtime != "exllamav2":
            return 0
        if index not in self._gaps:
            reserved = self._torch.cuda.memory_reserved(index) - self._before[index]
            allocated = self._torch.cuda.memory_allocated(index) - self._allocated[index]
            self._gaps[index] = max(0, reserved - allocated)
        return self._gaps[index]

    def _context_bytes(self, index: int, gpu: Gpu | None) -> int:
        if gpu is None:
            return 0
        reserved = self._torch.cuda.memory_reserved(index)
        own = _own_bytes(gpu)
        if own is None:
            before = self._cards.get(index, gpu).driver_free_bytes
            own = before - gpu.driver_free_bytes + self._before[index]
        return int(max(0, own - reserved))


def _own_bytes(gpu: Gpu) -> int | None:
    """What the driver says this process holds; None where it does not know it (in a container), or will not say."""
    return next((holder.used_bytes for holder in gpu.holders if holder.pid == os.getpid()), None)


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
