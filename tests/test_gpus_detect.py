"""detect(): which maker's GPUs count, and that no machine makes it raise."""

from __future__ import annotations

import sys
from pathlib import Path

import pynvml
import pytest

from branchfit.gpus import detect
from recordings.nvml_player import Player
from test_gpus_rocm import tree
from test_gpus_system import MEMINFO, Mac, write

GIB = 2**30


@pytest.fixture
def no_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player("nvml-rtx3090.json").set("nvmlInit", "", {"error": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND})
    monkeypatch.setitem(sys.modules, "pynvml", player)


def test_this_machine_is_detected_without_an_error() -> None:
    machine = detect()
    assert machine.system_total_bytes >= machine.system_free_bytes > 0
    assert machine.gpus or machine.notes


def test_a_machine_without_a_gpu_says_so_plainly(no_nvidia: None, tmp_path: Path) -> None:
    machine = detect({}, "linux", write(tmp_path, proc__meminfo=MEMINFO))
    assert machine.gpus == ()
    assert machine.notes[-1].startswith("no GPU was found: models can only run on the CPU")
    assert any("NVIDIA" in note for note in machine.notes)
    assert any("AMD" in note for note in machine.notes)
    assert (machine.cpu.total_bytes, machine.cpu.free_bytes) == (64 * GIB, 40 * GIB)


def test_amd_gpus_count_where_there_is_no_nvidia_driver(no_nvidia: None, tmp_path: Path) -> None:
    machine = detect({}, "linux", tree(write(tmp_path, proc__meminfo=MEMINFO), "rocm-rx7900xtx.json"))
    assert [gpu.source for gpu in machine.gpus] == ["rocm", "rocm"]
    assert not any("NVIDIA" in note for note in machine.notes)


def test_nvidia_gpus_count_and_amds_are_mentioned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Player("nvml-rtx3090.json"))
    machine = detect({}, "linux", tree(write(tmp_path, proc__meminfo=MEMINFO), "rocm-rx7900xtx.json"))
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA GeForce RTX 3090"]
    assert any("Radeon RX 7900 XTX (gfx1100)" in note and "not counted" in note for note in machine.notes)


def test_a_broken_nvidia_driver_beside_an_amd_gpu_is_still_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    player = Player("nvml-rtx3090.json").set("nvmlInit", "", {"error": pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
    monkeypatch.setitem(sys.modules, "pynvml", player)
    machine = detect({}, "linux", tree(write(tmp_path, proc__meminfo=MEMINFO), "rocm-strix-halo.json"))
    assert [gpu.source for gpu in machine.gpus] == ["rocm"]
    assert any("not loaded" in note for note in machine.notes)


def test_windows_is_asked_through_nvml_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Player("nvml-wddm.json"))
    machine = detect({}, "win32", tree(tmp_path, "rocm-strix-halo.json"))
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA GeForce RTX 4070"]


def test_a_mac_has_metals_share_of_its_memory(tmp_path: Path) -> None:
    machine = detect({}, "darwin", tmp_path, Mac())
    assert [(gpu.kind, gpu.name) for gpu in machine.gpus] == [("mps", "Apple M1 Pro")]
    assert machine.system_total_bytes == 16 * GIB


def test_a_dgx_spark_counts_the_machines_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Player("nvml-gb10.json"))
    machine = detect({}, "linux", tree(tmp_path, "nvml-gb10.json"))
    assert machine.gpus[0].free_bytes == 118566368 * 1024
