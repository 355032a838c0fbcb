"""What Windows lets one process have of a card: its graphics kernel's structures, filled as its headers say.

The four functions are played by Python: what is held here is that the structures have the headers' sizes, that the
calls come in the documented order and with the documented values, and that handles are closed. No Windows has run it.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from branchfit.gpus import detect, wddm
from branchfit.gpus.wddm import Budget, read_budgets
from recordings.nvml_player import Player

GIB = 2**30
BUFFER_TOO_SMALL = -1073741789  # STATUS_BUFFER_TOO_SMALL, 0xC0000023
INVALID_PARAMETER = -1073741811  # STATUS_INVALID_PARAMETER, 0xC000000D


class GraphicsKernel:
    """Gdi32.dll's four functions for adapters given as (bus, device, luid, budget, used, outside)."""

    def __init__(self, *adapters: tuple[int, int, tuple[int, int], int, int, int], most: int = 16) -> None:
        self.adapters = dict(enumerate(adapters, start=0x40000000))
        self.most = most
        self.open: list[int] = []
        self.failing = ""

    def D3DKMTEnumAdapters2(self, reference: Any) -> int:
        listed = reference._obj
        if self.failing == "enum":
            return INVALID_PARAMETER
        if not listed.adapters:
            listed.count = self.most
            return 0
        if listed.count < len(self.adapters):
            return BUFFER_TOO_SMALL
        for place, (handle, adapter) in enumerate(self.adapters.items()):
            listed.adapters[place].handle = handle
            listed.adapters[place].luid.high, listed.adapters[place].luid.low = adapter[2]
            self.open.append(handle)
        listed.count = len(self.adapters)
        return 0

    def D3DKMTQueryAdapterInfo(self, reference: Any) -> int:
        query = reference._obj
        assert (query.type, query.size) == (6, 12)  # KMTQAITYPE_ADAPTERADDRESS, three UINT
        if self.failing == "address":
            return INVALID_PARAMETER
        bus, device = self.adapters[query.adapter][:2]
        ctypes.memmove(query.data, (ctypes.c_uint32 * 3)(bus, device, 0), 12)
        return 0

    def D3DKMTQueryVideoMemoryInfo(self, reference: Any) -> int:
        query = reference._obj
        assert query.process is None  # the process that asks
        if self.failing == "memory":
            return INVALID_PARAMETER
        budget, used, outside = self.adapters[query.adapter][3:]
        query.budget, query.usage = (budget, used) if query.group == 0 else (32 * GIB, outside)
        return 0

    def D3DKMTCloseAdapter(self, reference: Any) -> int:
        self.open.remove(reference._obj.adapter)
        return 0


CARD = (1, 0, (0, 0xD1A2), 11 * GIB, 2 * GIB, GIB // 2)


def test_the_structures_have_the_sizes_of_d3dkmthk() -> None:
    sizes = {
        wddm._AdapterInfo: 20,
        wddm._AdapterAddress: 12,
        wddm._EnumAdapters2: 16,
        wddm._QueryAdapterInfo: 24,
        wddm._QueryVideoMemoryInfo: 56,
        wddm._CloseAdapter: 4,
    }
    assert {structure: ctypes.sizeof(structure) for structure in sizes} == sizes


def test_each_adapter_says_its_place_its_luid_and_this_processs_share() -> None:
    kernel = GraphicsKernel(CARD, (0, 2, (-1, 1), GIB, 0, 0))
    assert read_budgets("win32", library=kernel) == (
        Budget(1, 0, "0x0_0xd1a2", 11 * GIB, 2 * GIB, GIB // 2),
        Budget(0, 2, "0xffffffff_0x1", GIB, 0, 0),
    )
    assert kernel.open == []


def test_what_is_left_of_a_budget_is_never_below_nothing() -> None:
    assert Budget(1, 0, "", 3 * GIB, GIB, 0).left_bytes == 2 * GIB
    assert Budget(1, 0, "", GIB, 3 * GIB, 0).left_bytes == 0


@pytest.mark.parametrize("failing", ["enum", "address", "memory"])
def test_a_graphics_kernel_that_refuses_leaves_nothing_open(failing: str) -> None:
    kernel = GraphicsKernel(CARD)
    kernel.failing = failing
    assert read_budgets("win32", library=kernel) == ()
    assert kernel.open == []


def test_no_more_adapters_are_asked_for_than_a_machine_has() -> None:
    assert len(read_budgets("win32", library=GraphicsKernel(CARD, most=2**31))) == 1


def test_a_library_without_the_functions_is_no_error() -> None:
    assert read_budgets("win32", library=object()) == ()


def test_elsewhere_than_on_windows_and_wsl_nothing_is_asked(tmp_path: Path) -> None:
    assert read_budgets("linux", tmp_path) == ()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/version").write_text("Linux version 5.15.167.4-microsoft-standard-WSL2 (gcc)\n")
    assert read_budgets("linux", tmp_path) == ()  # WSL without Windows' libraries
    library = tmp_path / wddm.DXCORE
    library.parent.mkdir(parents=True)
    library.write_text("no library")
    assert read_budgets("linux", tmp_path) == ()


@pytest.mark.skipif(sys.platform == "win32", reason="plays a Windows where there is none")
def test_a_windows_whose_graphics_kernel_cannot_be_asked_is_still_detected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    player = Player("nvml-wddm.json").set("nvmlDeviceGetDriverModel", "gpu0", [pynvml.NVML_DRIVER_WDDM, 0])
    monkeypatch.setitem(sys.modules, "pynvml", player)
    machine = detect({}, "win32", tmp_path)
    assert machine.gpus[0].free_bytes == 10 * GIB
    assert any("Windows keeps a part of GPU 0 (NVIDIA GeForce RTX 4070)" in note for note in machine.notes)
