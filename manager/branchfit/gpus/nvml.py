"""NVIDIA GPUs through NVML (nvidia-ml-py): sizes, compute capability, and who holds the memory.

Function, field and exception names are those of nvidia-ml-py 13.615 (`pynvml.py`). Whatever a driver
answers instead of a number becomes a sentence; one GPU's trouble never hides the others.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import GpuError
from ..units import gib
from .given import LARGEST_BYTES
from .held_back import held_back
from .machine import Gpu
from .nvml_details import BROKEN, read_details
from .nvml_holders import read_holders, said, text
from .system import Memory, is_wsl
from .visible import select

if TYPE_CHECKING:
    from .wddm import Budget

__all__ = ["Found", "read_nvml"]

UNSEEN_BYTES = 2**30
"""Memory in use beyond the driver's reserve and what the listed processes hold, above which a note says so. Where the
reserve is not told (nvidia-smi's `Reserved`, some hundred MiB) it is in there, and is nobody's doing."""

MAX_DEVICES = 120
"""GPUs, or MIG instances of one, that are looked at: C10_COMPILE_TIME_MAX_GPUS in torch's c10/cuda/CUDAMacros.h.
torch takes no more; a driver that claims a billion is not asked for each."""


@dataclass(frozen=True)
class Found:
    """GPUs found, sentences about the rest, and whether there is simply no driver of this maker."""

    gpus: tuple[Gpu, ...]
    notes: tuple[str, ...]
    absent: bool = False


@dataclass(frozen=True)
class _Device:
    """A GPU of NVML's list, or a MIG instance of one; `label` names it in sentences."""

    handle: Any
    uuid: str
    label: str
    name: str
    instances: tuple[_Device, ...] = ()
    mig: bool = False


def load_pynvml() -> Any:
    """The module `pynvml`; imported when asked for, since it costs 50 ms. Raises ImportError."""
    return importlib.import_module("pynvml")


def read_nvml(
    environ: Mapping[str, str], memory: Memory, root: Path = Path("/"), budgets: Sequence[Budget] = ()
) -> Found:
    """Every NVIDIA GPU that torch would see, in torch's order. Never raises for a broken driver.

    `memory` is the machine's, for chips that share it; `root` is where /proc and /dev are looked for; `budgets` is
    what Windows lets this process have of each adapter, where it is Windows or WSL.
    """
    try:
        nvml = load_pynvml()
    except Exception as error:  # noqa: BLE001 - another package of that name may do anything when it is imported
        return Found((), (f"NVIDIA GPUs were not looked for: {error} (pip install nvidia-ml-py).",), absent=True)
    error_type = getattr(nvml, "NVMLError", None)
    if not isinstance(error_type, type) or not issubclass(error_type, Exception):
        say = "NVIDIA GPUs were not looked for: the installed pynvml is another package (pip install nvidia-ml-py)."
        return Found((), (say,))
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return _no_nvml(nvml, error, root)
    except BROKEN as error:
        return Found((), (f"NVML could not be started: {error}.",))
    try:
        return _read_all(nvml, environ, memory, root, budgets)
    finally:
        with contextlib.suppress(nvml.NVMLError, *BROKEN):
            nvml.nvmlShutdown()


def _no_nvml(nvml: Any, error: Exception, root: Path) -> Found:
    """Why NVML did not start, in a sentence with what to do about it."""
    if _is(nvml, error, "NVML_ERROR_LIBRARY_NOT_FOUND"):
        if not (root / "proc/driver/nvidia/version").exists() and not (root / "dev/nvidiactl").exists():
            return Found((), ("no NVIDIA GPU: its driver's library NVML is not installed.",), absent=True)
        say = (
            "an NVIDIA driver is loaded, but its library NVML (libnvidia-ml.so.1) is not to be seen from here. In a "
            "container, start it with `--gpus all` through the NVIDIA container toolkit, with the driver capability "
            "`utility` (NVIDIA_DRIVER_CAPABILITIES=compute,utility)."
        )
    elif _is(nvml, error, "NVML_ERROR_DRIVER_NOT_LOADED"):
        say = "the NVIDIA driver is installed but not loaded: run `modprobe nvidia` or reboot, then see `nvidia-smi`."
    elif _is(nvml, error, "NVML_ERROR_NO_PERMISSION"):
        say = "the NVIDIA driver refuses this user: check the rights on /dev/nvidiactl and /dev/nvidia0."
    elif _is(nvml, error, "NVML_ERROR_LIB_RM_VERSION_MISMATCH"):
        say = "the NVIDIA driver was updated and the old one is still running: reboot."
    else:
        say = f"the NVIDIA driver did not start: {said(error)}. See what `nvidia-smi` says; a reboot often helps."
    return Found((), (say,))


def _read_all(nvml: Any, environ: Mapping[str, str], memory: Memory, root: Path, budgets: Sequence[Budget]) -> Found:
    notes: list[str] = []
    try:
        count = int(nvml.nvmlDeviceGetCount())
    except (nvml.NVMLError, *BROKEN) as error:
        return Found((), (f"the NVIDIA driver does not say how many GPUs there are: {said(error)}.",))
    devices = [device for index in range(min(count, MAX_DEVICES)) if (device := _open(nvml, index, notes)) is not None]
    if not devices:
        return Found((), (*notes, "the NVIDIA driver runs and knows of no usable GPU."))
    gpus: list[Gpu] = []
    for ordinal, device in enumerate(_seen_by_torch(devices, environ, notes)):
        try:
            gpus.append(_read(nvml, device, ordinal, memory, notes, root, budgets))
        except nvml.NVMLError as error:
            gone = _is(nvml, error, "NVML_ERROR_GPU_IS_LOST") or _is(nvml, error, "NVML_ERROR_NOT_FOUND")
            what = "disappeared while it was read" if gone else "does not answer"
            notes.append(f"{device.label} {what} ({said(error)}) and is left out; see `nvidia-smi`, or reboot.")
        except BROKEN as error:
            notes.append(f"{device.label} is left out: {said(error)}; see `nvidia-smi`.")
    if len({gpu.name for gpu in gpus}) > 1 and environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST") != "PCI_BUS_ID":
        notes.append(
            "the GPUs differ, and CUDA numbers the fastest first while they are listed here in the order of their "
            "slots: set CUDA_DEVICE_ORDER=PCI_BUS_ID so that both count alike."
        )
    if is_wsl(root):
        notes.append("this is WSL: programs on the Windows side hold GPU memory too, and are not listed.")
    return Found(tuple(gpus), tuple(notes))


def _open(nvml: Any, index: int, notes: list[str]) -> _Device | None:
    """NVML's GPU `index` with its MIG instances; None, and a note, if it does not open."""
    label = f"GPU {index}"
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = text(nvml.nvmlDeviceGetName(handle))
        uuid = text(nvml.nvmlDeviceGetUUID(handle))
    except (nvml.NVMLError, *BROKEN) as error:
        notes.append(f"{label} cannot be opened and is left out: {said(error)}; see `nvidia-smi`, or reboot.")
        return None
    try:
        mig = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except (nvml.NVMLError, *BROKEN):  # cards and drivers older than MIG say so this way
        mig = False
    instances = _instances(nvml, handle, label) if mig else ()
    return _Device(handle, uuid, f"{label} ({name})", name, instances, mig)


def _instances(nvml: Any, parent: Any, label: str) -> tuple[_Device, ...]:
    """MIG instances; the slots that hold none answer Not Found."""
    found = []
    slots = 0
    with contextlib.suppress(nvml.NVMLError, *BROKEN):
        slots = int(nvml.nvmlDeviceGetMaxMigDeviceCount(parent))
    for slot in range(min(slots, MAX_DEVICES)):
        with contextlib.suppress(nvml.NVMLError, *BROKEN):
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, slot)
            name, uuid = text(nvml.nvmlDeviceGetName(handle)), text(nvml.nvmlDeviceGetUUID(handle))
            found.append(_Device(handle, uuid, f"MIG instance {slot} of {label} ({name}, {uuid})", name, mig=True))
    return tuple(found)


def _seen_by_torch(devices: list[_Device], environ: Mapping[str, str], notes: list[str]) -> list[_Device]:
    """CUDA_VISIBLE_DEVICES and MIG applied: what a CUDA process gets, in its order.

    NVIDIA's MIG user guide: however many instances there are, one CUDA process enumerates one. So the
    first is taken, or the one CUDA_VISIBLE_DEVICES names, and the others are named in a note.
    """
    variable, value = "CUDA_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES")
    instances = [instance for device in devices for instance in device.instances]
    if value is not None and value.startswith("MIG-"):
        selection = select(variable, value, [instance.uuid for instance in instances], prefix="MIG-")
        seen = [instances[position] for position in selection.chosen]
    else:
        selection = select(variable, value, [device.uuid for device in devices])
        seen = []
        for position in selection.chosen:
            device = devices[position]
            seen += device.instances if device.mig else (device,)
            if device.mig and not device.instances:
                notes.append(f"{device.label} is in MIG mode and has no instance: make one with `nvidia-smi mig`.")
    if selection.note:
        notes.append(selection.note)
    first = next((device for device in seen if device.mig), None)
    others = [instance for instance in instances if instance is not first]
    if first is not None and others:
        notes.append(
            f"CUDA gives a process one MIG instance, here {first.label}; to use another set CUDA_VISIBLE_DEVICES to "
            + " or ".join(f"{instance.uuid} ({instance.name})" for instance in others)
            + "."
        )
    return [device for device in seen if not device.mig or device is first]


def _read(
    nvml: Any,
    device: _Device,
    index: int,
    memory: Memory,
    notes: list[str],
    root: Path,
    budgets: Sequence[Budget],
) -> Gpu:
    """One device's numbers. Raises NVMLError, and GpuError for numbers that cannot be."""
    unified = False
    try:
        info = nvml.nvmlDeviceGetMemoryInfo(device.handle)
        total, free = int(info.total), int(info.free)
    except nvml.NVMLError as error:
        unified = _is(nvml, error, "NVML_ERROR_NOT_SUPPORTED")
        if not unified or device.mig or not memory.total_bytes:
            raise
        # So answer GB10 (DGX Spark) and Jetson, where one memory serves both.
        total, free = memory.total_bytes, memory.free_bytes
        notes.append(
            f"the driver gives no memory size for {device.label}, as for chips that share the machine's memory: the "
            "machine's RAM is counted. If it has memory of its own, say how much with --gpu."
        )
    if not 0 < total <= LARGEST_BYTES or not 0 <= free <= total:
        raise GpuError(f"the driver says {free:,} bytes are free of {total:,}")
    details = read_details(nvml, device.handle, total, free)
    # A MIG instance has no screen and, on Linux alone, no budget; a shared memory is the whole machine's.
    held, why = (0, []) if device.mig or unified else held_back(device.label, free, details, budgets)
    gpu = Gpu(
        index,
        device.name,
        total,
        free - held,
        _capability(nvml, device.handle),
        source="nvml",
        holders=read_holders(nvml, device.handle, device.label, total, notes, root),
        reserved_bytes=details.reserved_bytes,
        held_back_bytes=held,
        ecc=details.ecc[0] if details.ecc else None,
        display=details.display,
        unified=unified,
        address=details.address,
        bus_bytes_per_s=details.bus_bytes_per_s,
        memory_bytes_per_s=details.memory_bytes_per_s,
    )
    if any(holder.used_bytes is None for holder in gpu.holders):
        notes.append(
            f"the driver does not say how much each process holds on {device.label} (on Windows it never does)."
        )
    elif gpu.unnamed_bytes > UNSEEN_BYTES and not unified:
        notes.append(
            f"{gib(gpu.unnamed_bytes)} on {device.label} are held by processes that cannot be seen from here "
            "(outside this container, or another user's)."
        )
    if details.ecc and details.ecc[0] != details.ecc[1]:
        notes.append(
            f"ECC of {device.label} goes {'on' if details.ecc[1] else 'off'} at the next reboot, and its size may "
            "change with it."
        )
    notes += why
    return gpu


def _capability(nvml: Any, handle: Any) -> str | None:
    with contextlib.suppress(nvml.NVMLError, *BROKEN):
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        if 1 <= int(major) <= 99 and 0 <= int(minor) <= 9:
            return f"{int(major)}.{int(minor)}"
    return None


def _is(nvml: Any, error: Exception, name: str) -> bool:
    """Whether this is NVML's error of that name; an older nvidia-ml-py may not know the name."""
    return getattr(error, "value", None) == getattr(nvml, name, object())
