"""What Windows lets one process have of a card, and how much of it lies in system memory: asked of its graphics kernel.

Under WDDM Windows manages the card's memory, not NVIDIA's driver: each process has a budget, and what goes beyond is
moved out. There is no fixed share (reports go from 5 % to 20 % by card and version of Windows), so it is asked.

Functions and structures: learn.microsoft.com, d3dkmthk.h (D3DKMTEnumAdapters2, D3DKMTQueryAdapterInfo,
D3DKMTQueryVideoMemoryInfo, D3DKMTCloseAdapter in Gdi32.dll). WSL has the same ones in libdxcore.so, as ROCm's
librocdxg opens them. Untested on a real Windows: no machine of ours has one.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .system import is_wsl

__all__ = ["Budget", "read_budgets"]

DXCORE = "usr/lib/wsl/lib/libdxcore.so"
"""Where WSL mounts Windows' own libraries for Linux."""

ADAPTER_ADDRESS = 6
"""KMTQAITYPE_ADAPTERADDRESS of KMTQUERYADAPTERINFOTYPE (d3dkmthk.h; the same in Linux' dxgkrnl, d3dkmthk.h)."""

LOCAL, NON_LOCAL = 0, 1
"""D3DKMT_MEMORY_SEGMENT_GROUP: the card's own memory, and system memory that the card reads."""

MOST_ADAPTERS = 64
"""As many as torch numbers devices at most; Windows is asked for no more, whatever number it supports."""


class _Luid(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint32), ("high", ctypes.c_int32)]


class _AdapterInfo(ctypes.Structure):
    _fields_ = [
        ("handle", ctypes.c_uint32),
        ("luid", _Luid),
        ("sources", ctypes.c_uint32),
        ("present_regions", ctypes.c_int32),
    ]


class _EnumAdapters2(ctypes.Structure):
    _fields_ = [("count", ctypes.c_uint32), ("adapters", ctypes.POINTER(_AdapterInfo))]


class _AdapterAddress(ctypes.Structure):
    _fields_ = [("bus", ctypes.c_uint32), ("device", ctypes.c_uint32), ("function", ctypes.c_uint32)]


class _QueryAdapterInfo(ctypes.Structure):
    _fields_ = [
        ("adapter", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint32),
    ]


class _QueryVideoMemoryInfo(ctypes.Structure):
    _fields_ = [
        ("process", ctypes.c_void_p),  # none: the process that asks
        ("adapter", ctypes.c_uint32),
        ("group", ctypes.c_uint32),
        ("budget", ctypes.c_uint64),
        ("usage", ctypes.c_uint64),
        ("reservation", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        ("physical_adapter", ctypes.c_uint32),
    ]


class _CloseAdapter(ctypes.Structure):
    _fields_ = [("adapter", ctypes.c_uint32)]


@dataclass(frozen=True)
class Budget:
    """One adapter, as Windows sees this process on it.

    `bus` and `device` are its PCI place, `luid` what its performance counters are named by (`0x0_0xd1a2`, high and
    low). `budget_bytes` is what this process may have of its own memory, `used_bytes` what it has there, and
    `outside_bytes` what it has in system memory on that adapter's account.
    """

    bus: int
    device: int
    luid: str
    budget_bytes: int
    used_bytes: int
    outside_bytes: int

    @property
    def left_bytes(self) -> int:
        return max(0, self.budget_bytes - self.used_bytes)


def read_budgets(platform: str = sys.platform, root: Path = Path("/"), library: Any = None) -> tuple[Budget, ...]:
    """Every adapter that answers; none where this is not Windows or WSL, or its graphics kernel does not say.

    `library` is what has the four functions, for tests. Never raises.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError, ctypes.ArgumentError):
        library = _library(platform, root) if library is None else library
        return () if library is None else _read(library)
    return ()


def _library(platform: str, root: Path) -> Any:
    if platform == "win32":
        windll = vars(ctypes).get("windll")  # only Windows' ctypes has it
        return None if windll is None else windll.gdi32
    if is_wsl(root) and (root / DXCORE).exists():
        return ctypes.CDLL(str(root / DXCORE))
    return None


def _read(library: Any) -> tuple[Budget, ...]:
    """The first call says how many adapters Windows supports, the second lists those there are."""
    listed = _EnumAdapters2(0, None)
    if library.D3DKMTEnumAdapters2(ctypes.byref(listed)):
        return ()
    array = (_AdapterInfo * max(1, min(listed.count, MOST_ADAPTERS)))()
    listed = _EnumAdapters2(len(array), array)
    if library.D3DKMTEnumAdapters2(ctypes.byref(listed)):
        return ()
    found = []
    for info in array[: min(listed.count, len(array))]:
        try:
            budget = _budget(library, info)
            found += [budget] if budget is not None else []
        finally:  # the handles are the caller's to close
            library.D3DKMTCloseAdapter(ctypes.byref(_CloseAdapter(info.handle)))
    return tuple(found)


def _budget(library: Any, info: _AdapterInfo) -> Budget | None:
    address = _AdapterAddress()
    query = _QueryAdapterInfo(
        info.handle, ADAPTER_ADDRESS, ctypes.cast(ctypes.byref(address), ctypes.c_void_p), ctypes.sizeof(address)
    )
    if library.D3DKMTQueryAdapterInfo(ctypes.byref(query)):
        return None
    local = _QueryVideoMemoryInfo(adapter=info.handle, group=LOCAL)
    outside = _QueryVideoMemoryInfo(adapter=info.handle, group=NON_LOCAL)
    if any(library.D3DKMTQueryVideoMemoryInfo(ctypes.byref(each)) for each in (local, outside)):
        return None
    luid = f"0x{info.luid.high & 0xFFFFFFFF:x}_0x{info.luid.low:x}"
    return Budget(address.bus, address.device, luid, local.budget, local.usage, outside.usage)
