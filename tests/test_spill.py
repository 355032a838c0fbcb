"""What of a load lies in system memory, by Windows' figures, amdgpu's files and torch's own, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from branchfit.gpus import Gpu, Machine
from branchfit.gpus.wddm import Budget
from branchfit.running.spill import LEAST_BYTES, Held, held, spilled

MIB, GIB = 2**20, 2**30
CARD = Gpu(
    0,
    "NVIDIA GeForce RTX 3090",
    24 * GIB,
    GIB,
    "8.6",
    "nvml",
    reserved_bytes=GIB // 2,
    address="0000:01:00.0",
    bus_bytes_per_s=25 * 10**9,
    memory_bytes_per_s=936 * 10**9,
)
RADEON = replace(CARD, name="Radeon", kind="rocm", source="rocm", compute_capability=None, memory_bytes_per_s=None)


def machine(*gpus: Gpu) -> Machine:
    return Machine(gpus, (), 64 * GIB, 32 * GIB)


def outside(size: int) -> Held:
    return Held({0: size})


def torch(name: str = CARD.name, reserved: int = 0, ready: bool = True) -> Any:
    """torch's own counters, for one card."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: ready,
        device_count=lambda: 1,
        get_device_name=lambda index: name,
        memory_reserved=lambda index: reserved,
    )
    return SimpleNamespace(cuda=cuda)


def test_what_windows_counts_outside_after_a_load_is_a_spill_with_its_cost() -> None:
    spill = spilled(outside(200 * MIB), outside(200 * MIB + 5 * 10**9), machine(CARD))
    assert spill is not None
    assert spill.size_bytes == 5 * 10**9
    # 5 GB at 25 GB/s, and at 936 GB/s.
    assert (spill.cards[0].bus_s, spill.cards[0].card_s) == (0.2, pytest.approx(0.00534, abs=1e-5))
    assert spill.sentence == (
        "4.7 GiB of what this process has on GPU 0 (NVIDIA GeForce RTX 3090) lie in system memory. A token that reads "
        "all of it waits for 5.0 GB over a bus of at most 25.0 GB/s: at least 0.2 s a token, against 0.0053 s from the "
        "card's own memory (936 GB/s). A smaller branch, cache or context keeps it on the card; with `CUDA - Sysmem "
        "Fallback Policy: Prefer No Sysmem Fallback` in NVIDIA's control panel such a load fails instead."
    )


def test_what_would_have_found_room_on_the_card_was_put_outside_on_purpose() -> None:
    assert spilled(outside(0), outside(3 * GIB), machine(replace(CARD, free_bytes=8 * GIB))) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [(0, LEAST_BYTES - 1), (4 * GIB, 4 * GIB), (4 * GIB, GIB)],
    ids=["too little", "as before", "less than before"],
)
def test_what_did_not_grow_is_no_spill(before: int, after: int) -> None:
    assert spilled(outside(before), outside(after), machine(replace(CARD, free_bytes=0))) is None


def test_where_nothing_is_told_nothing_is_said() -> None:
    assert spilled(Held(), Held(), machine(CARD)) is None
    assert spilled(Held(), outside(5 * GIB), machine(CARD)) is None  # nobody knows what there was before


def test_torch_having_more_than_is_taken_on_the_card_is_a_spill_whoever_else_is_there() -> None:
    # 24 less 1 free less 0.5 of the driver: 22.5 GiB are anybody's, and torch has 25.
    spill = spilled(Held(), Held({}, {0: 25 * GIB}), machine(CARD))
    assert spill is not None
    assert spill.size_bytes == 2 * GIB + GIB // 2
    assert "control panel" not in spill.sentence
    assert spilled(Held(), Held({}, {0: 22 * GIB}), machine(CARD)) is None


def test_what_is_held_back_counts_as_free_and_not_as_taken() -> None:
    held_back = replace(CARD, free_bytes=0, held_back_bytes=GIB)
    spill = spilled(Held(), Held({}, {0: 25 * GIB}), machine(held_back))
    assert spill is not None and spill.size_bytes == 2 * GIB + GIB // 2


def test_a_chip_whose_memory_is_the_machines_has_nowhere_to_spill_to() -> None:
    unified = replace(CARD, unified=True, free_bytes=0)
    assert spilled(outside(0), Held({0: 9 * GIB}, {0: 99 * GIB}), machine(unified)) is None


def test_without_a_bus_speed_the_cost_is_not_guessed() -> None:
    spill = spilled(outside(0), outside(5 * GIB), machine(replace(CARD, bus_bytes_per_s=None)))
    assert spill is not None
    assert "What that costs cannot be said" in spill.sentence and "GB/s" not in spill.sentence


def test_without_the_memorys_speed_only_the_buss_is_said() -> None:
    spill = spilled(outside(0), outside(5 * 10**9), machine(replace(CARD, memory_bytes_per_s=None)))
    assert spill is not None
    assert "at least 0.2 s a token." in spill.sentence


def test_windows_is_asked_by_the_cards_place() -> None:
    budgets = [Budget(2, 0, "", 9, 9, 111), Budget(1, 0, "", 9, 9, 222)]
    assert held(machine(CARD), torch(), platform="win32", budgets=budgets).outside_bytes == {0: 222}
    assert held(machine(replace(CARD, address=None)), torch(), platform="win32", budgets=budgets).outside_bytes == {}


def test_linux_with_an_nvidia_card_has_no_such_figure(tmp_path: Path) -> None:
    assert held(machine(CARD), torch(), platform="linux", root=tmp_path, budgets=[Budget(1, 0, "", 9, 9, 222)]) == Held(
        {}, {0: 0}
    )


def test_torch_is_believed_only_where_both_call_the_card_the_same(tmp_path: Path) -> None:
    def torch_bytes(module: Any) -> Any:
        return held(machine(CARD), module, platform="linux", root=tmp_path).torch_bytes

    assert torch_bytes(torch(reserved=7)) == {0: 7}
    assert torch_bytes(torch(name="NVIDIA GeForce GTX 1080", reserved=7)) == {}
    assert torch_bytes(torch(reserved=7, ready=False)) == {}
    assert torch_bytes(SimpleNamespace()) == {}


def fdinfo(root: Path, **files: str) -> Path:
    folder = root / "proc/self/fdinfo"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.strip("f")).write_text(text)
    return root


# The lines of amdgpu_show_fdinfo, with its tabs.
AMDGPU = (
    "pos:\t0\nflags:\t02100002\ndrm-driver:\tamdgpu\ndrm-pdev:\t0000:01:00.0\ndrm-client-id:\t{}\n"
    "drm-memory-vram:\t8388608 KiB\ndrm-memory-gtt: \t4194304 KiB\namd-evicted-vram:\t{}\n"
    "amd-requested-gtt:\t1024 KiB\n"
)


def test_amdgpu_tells_what_was_moved_out_once_for_each_client(tmp_path: Path) -> None:
    root = fdinfo(
        tmp_path,
        f3=AMDGPU.format(7, "2097152 KiB"),
        f4=AMDGPU.format(7, "2097152 KiB"),  # the same client, opened twice
        f5=AMDGPU.format(8, "512 MiB"),
        f6=AMDGPU.format(9, "99 KiB").replace("amdgpu", "i915"),
        f7="pos:\t0\nflags:\t02\n",
        f8=AMDGPU.format(10, "rubbish"),
    )
    found = held(machine(RADEON), torch(), platform="linux", root=root)
    assert found.outside_bytes == {0: 2 * GIB + GIB // 2}
    spill = spilled(Held({0: 0}), found, machine(RADEON))
    assert spill is not None and spill.size_bytes == 2 * GIB + GIB // 2
    assert "control panel" not in spill.sentence


def test_without_the_files_an_amd_card_tells_nothing(tmp_path: Path) -> None:
    assert held(machine(RADEON), torch(), platform="linux", root=tmp_path).outside_bytes == {}


def test_several_cards_are_said_one_by_one() -> None:
    second = replace(CARD, index=1, name="NVIDIA GeForce RTX 4090")
    spill = spilled(Held({0: 0, 1: 0}), Held({0: 2 * GIB, 1: 3 * GIB}), machine(CARD, second))
    assert spill is not None
    assert spill.size_bytes == 5 * GIB
    assert "2.0 GiB of what this process has on GPU 0" in spill.sentence
    assert "3.0 GiB of what this process has on GPU 1" in spill.sentence
    assert spill.sentence.count("control panel") == 1


def test_this_machine_is_asked_without_an_error() -> None:
    found = held(machine())
    assert spilled(found, found, machine()) is None
