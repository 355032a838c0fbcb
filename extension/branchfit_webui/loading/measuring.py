"""What a load took, and letting go of what a failed one left."""

from __future__ import annotations

import importlib
import traceback
from typing import TYPE_CHECKING

from branchfit.gpus import Machine
from branchfit.memory import Need

from .plan import LoadPlan

if TYPE_CHECKING:
    from branchfit.running.measured import Measured, Meter


def meter(plan: LoadPlan, machine: Machine, need: Need | None) -> Meter | None:
    """What measures this load; None where it cannot be measured, which is no reason not to load."""
    from branchfit.running.measured import Meter

    used = need.per_gpu_bytes if need is not None else ()
    gpus = tuple(
        gpu.index
        for place, gpu in enumerate(machine.gpus)
        if gpu.kind in ("cuda", "rocm") and not plan.settings.get("cpu") and (place >= len(used) or used[place])
    )
    try:
        if gpus:
            # Or the first load of a webui has no peak to reset: "did you call init?"
            importlib.import_module("torch").cuda.init()
        return Meter(gpus, need)
    except Exception:  # noqa: BLE001 - torch without CUDA beside a GPU, a driver that says no
        return None


def read(meter: Meter | None) -> Measured | None:
    try:
        return meter.read() if meter is not None else None
    except Exception:  # noqa: BLE001 - the model is loaded; only its figure is missing
        return None


def let_go(error: BaseException) -> None:
    """Clear the frames of an error and of those behind it: they hold what was loaded so far."""
    seen: set[int] = set()
    behind: BaseException | None = error
    while behind is not None and id(behind) not in seen:
        seen.add(id(behind))
        traceback.clear_frames(behind.__traceback__)
        behind = behind.__cause__ or behind.__context__
