"""What a load took, what it goes on to take as prompts are read, and letting go of what a failed one left."""

from __future__ import annotations

import traceback
import weakref
from typing import TYPE_CHECKING, Any

from branchfit.gpus import Machine
from branchfit.memory import Need, cache_types
from branchfit.recommend import Recommendation

from ..heard import listen
from ..host import Host
from .plan import LoadPlan

if TYPE_CHECKING:
    from branchfit.running.measured import Measured, Meter
    from branchfit.running.recording import Recorder

_recorded: list[tuple[weakref.ref[Any], Recorder]] = []
"""The model that is loaded now, where its load is recorded, and what records it."""


def meter(plan: LoadPlan, machine: Machine, need: Need | None) -> Meter | None:
    """What measures this load; None where it cannot be measured, which is no reason not to load."""
    from branchfit.running.early import import_gptqmodel
    from branchfit.running.measured import Meter

    import_gptqmodel(plan.runtime)  # the meter uses CUDA
    used = need.per_gpu_bytes if need is not None else ()
    gpus = tuple(
        gpu.index
        for place, gpu in enumerate(machine.gpus)
        if gpu.kind in ("cuda", "rocm") and not plan.settings.get("cpu") and (place >= len(used) or used[place])
    )
    try:
        return Meter(gpus, need, runtime=plan.runtime)
    except Exception:  # noqa: BLE001 - torch without CUDA beside a GPU, a driver that says no
        return None


def read(meter: Meter | None) -> Measured | None:
    try:
        return meter.read() if meter is not None else None
    except Exception:  # noqa: BLE001 - the model is loaded; only its figure is missing
        return None


def record(
    meter: Meter | None,
    model: Any,
    plan: LoadPlan,
    machine: Machine,
    need: Need | None,
    recommendation: Recommendation | None,
) -> None:
    """Begin to record what this load takes on this machine, for the next forecast. Never a failure of the load.

    Nothing is recorded where the forecast is of another runtime or cache than what was loaded.
    """
    _recorded.clear()
    found = None
    if recommendation is not None and need is not None:
        found = next((each for each in recommendation.assessments if each.need is need), None)
    cache = cache_of(plan)
    if recommendation is None or found is None or found.runtime != plan.runtime or cache is None:
        return
    try:
        from branchfit.running.recording import recorder

        made = recorder(
            meter,
            variant=found.variant,
            runtime=plan.runtime,
            need=need,
            machine=machine,
            context_tokens=recommendation.context_tokens,
            cache=cache,
            process="webui",
        )
        if made is not None:
            made.loaded()
            _recorded.append((weakref.ref(model), made))
            listen(listener)
    except Exception:  # noqa: BLE001 - the model is loaded; only its figure is not kept
        return


def listener(host: Host) -> Recorder | None:
    """What records the model that is loaded now; None for one that the host loaded by itself since."""
    return next((made for ref, made in _recorded if host.model is not None and ref() is host.model), None)


def close(host: Host) -> None:
    """The model is about to be unloaded: its longest prompt is written down."""
    made = listener(host)
    if made is not None:
        made.close()
    _recorded.clear()


def cache_of(plan: LoadPlan) -> str | None:
    """What the K and V of this load are kept as, by the names of `cache_types`; None for one that is none of them."""
    settings = plan.settings
    name = settings.get("cache_type", "fp16")
    name = "q4" if settings.get("cache_4bit") else "fp8" if settings.get("cache_8bit") else name
    return name if name in cache_types(plan.runtime) else None


def let_go(error: BaseException) -> None:
    """Clear the frames of an error and of those behind it: they hold what was loaded so far."""
    seen: set[int] = set()
    behind: BaseException | None = error
    while behind is not None and id(behind) not in seen:
        seen.add(id(behind))
        traceback.clear_frames(behind.__traceback__)
        behind = behind.__cause__ or behind.__context__
