"""What NVML tells of a GPU beyond its size: the driver's reserve, ECC, a screen, its driver model, its two buses.

Each is asked on its own and None where the driver, the card or an older nvidia-ml-py does not know it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import GpuError

__all__ = ["BROKEN", "Details", "bus_bytes_per_s", "read_details"]

BROKEN = (OSError, ValueError, TypeError, AttributeError, IndexError, GpuError)
"""What a broken driver or an older pynvml raises besides NVMLError: missing functions, text that is no
text, numbers that are none."""

WDM = 1
"""NVML_DRIVER_WDM: TCC, where NVIDIA's driver and not Windows manages the memory. WDDM is 0, MCDM 2 (nvml.h)."""

LANE_BYTES_PER_S = {1: 250e6, 2: 500e6, 3: 8e9 * 128 / 130 / 8, 4: 16e9 * 128 / 130 / 8, 5: 32e9 * 128 / 130 / 8}
"""Bytes a second of one PCI Express lane by generation, one way, before packets: transfers a second and the line code
(8b/10b at 2.5 and 5 GT/s, 128b/130b at 8, 16 and 32 GT/s) of the PCI Express Base Specification. A generation that is
not here gives no figure."""

WIDEST_LANES = 32
"""The widest link the PCI Express Base Specification knows; a driver that says more is not believed."""

FASTEST_MEMORY_BYTES_PER_S = 10**14
"""100 TB/s: no card of 2026 has a tenth of it, so more is a driver's slip and no figure."""


@dataclass(frozen=True)
class Details:
    """`reserved_bytes` is nvidia-smi's Reserved. `ecc` is (now, after the next reboot). `windows_managed` is whether
    Windows manages the memory (WDDM, MCDM), None where there is no such question. The rest as in `Gpu`."""

    reserved_bytes: int | None = None
    ecc: tuple[bool, bool] | None = None
    display: bool | None = None
    windows_managed: bool | None = None
    address: str | None = None
    bus_bytes_per_s: int | None = None
    memory_bytes_per_s: int | None = None


def read_details(nvml: Any, handle: Any, total_bytes: int, free_bytes: int) -> Details:
    """Everything above for one device or MIG instance. Never raises.

    Sources: NVIDIA's NVML API reference. nvmlMemory_v2_t's `reserved` is "reserved for system use (driver or
    firmware)"; its `used` holds the reserve in some driver versions' reference and not in others', so it is not
    read. nvmlDeviceGetDisplayActive is whether a display is initialised there, a monitor or not.
    """

    def ask(function: str, *arguments: Any) -> Any:
        with contextlib.suppress(nvml.NVMLError, *BROKEN):
            return getattr(nvml, function)(handle, *arguments)
        return None

    with contextlib.suppress(nvml.NVMLError, *BROKEN):
        return Details(
            reserved_bytes=_reserved(nvml, ask, total_bytes - free_bytes),
            ecc=_ecc(ask("nvmlDeviceGetEccMode")),
            display=_flag(ask("nvmlDeviceGetDisplayActive")),
            windows_managed=_windows_managed(ask("nvmlDeviceGetDriverModel")),
            address=_address(ask("nvmlDeviceGetPciInfo")),
            bus_bytes_per_s=bus_bytes_per_s(
                ask("nvmlDeviceGetMaxPcieLinkGeneration"), ask("nvmlDeviceGetMaxPcieLinkWidth")
            ),
            memory_bytes_per_s=_memory_bytes_per_s(nvml, ask),
        )
    return Details()


def bus_bytes_per_s(generation: Any, lanes: Any) -> int | None:
    """What a PCI Express link carries one way at the most, None for a link that cannot be.

    The most that card and slot can do: the link of the moment is slower while the card idles.
    """
    if not isinstance(generation, int) or not isinstance(lanes, int) or not 1 <= lanes <= WIDEST_LANES:
        return None
    lane = LANE_BYTES_PER_S.get(generation)
    return None if lane is None else int(lane * lanes)


def _memory_bytes_per_s(nvml: Any, ask: Callable[..., Any]) -> int | None:
    """Two transfers a clock over the bus' width: 2 x 9751 MHz x 384 bits are a GeForce RTX 3090's 936 GB/s.

    Source: CUDA's sample deviceQuery and its programming blog ("Peak Memory Bandwidth", 2 x clock x width / 8).
    """
    clock_mhz, width_bits = ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM), ask("nvmlDeviceGetMemoryBusWidth")
    if not isinstance(clock_mhz, int) or not isinstance(width_bits, int):
        return None
    found = 2 * clock_mhz * 10**6 * width_bits // 8
    return found if 0 < found <= FASTEST_MEMORY_BYTES_PER_S else None


def _reserved(nvml: Any, ask: Callable[..., Any], taken_bytes: int) -> int | None:
    version = getattr(nvml, "nvmlMemory_v2", None)  # nvidia-ml-py 11.495 has none
    info = None if version is None else ask("nvmlDeviceGetMemoryInfo", version)
    reserved = getattr(info, "reserved", None)
    return int(reserved) if reserved is not None and 0 <= int(reserved) <= taken_bytes else None


def _ecc(modes: Any) -> tuple[bool, bool] | None:
    return (bool(modes[0]), bool(modes[1])) if isinstance(modes, (list, tuple)) and len(modes) == 2 else None


def _flag(answer: Any) -> bool | None:
    return None if answer not in (0, 1) else bool(answer)


def _windows_managed(models: Any) -> bool | None:
    return bool(models[0] != WDM) if isinstance(models, (list, tuple)) and models else None


def _address(info: Any) -> str | None:
    """`0000:01:00.0`, as the kernel and Windows count: NVML has the domain and leaves out the function, always 0."""
    if info is None:
        return None
    domain, bus, device = int(info.domain), int(info.bus), int(info.device)
    return f"{domain:04x}:{bus:02x}:{device:02x}.0"
