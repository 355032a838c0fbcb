"""NVIDIA GPUs through NVML, played from recordings with the real pynvml's errors and structures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pynvml
import pytest

from branchfit.gpus import Holder, detect
from branchfit.gpus.nvml import Found, read_nvml
from branchfit.gpus.system import Memory
from branchfit.gpus.wddm import Budget
from recordings import record_nvml
from recordings.nvml_player import FOLDER, LATER, Player

MEMORY_V2 = getattr(pynvml, "nvmlMemory_v2", 0)
needs_newer_pynvml = pytest.mark.skipif(
    not MEMORY_V2 or not hasattr(pynvml, "nvmlDeviceGetMemoryBusWidth"),
    reason="it needs an nvidia-ml-py that can ask for the reserve and the bus width (11.495 cannot)",
)

GIB = 2**30
RAM = Memory(64 * GIB, 60 * GIB)
RECORDINGS = sorted(FOLDER.glob("nvml-*.json"))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    def start(
        player: Player,
        environ: dict[str, str] | None = None,
        memory: Memory = RAM,
        budgets: tuple[Budget, ...] = (),
    ) -> Found:
        monkeypatch.setitem(sys.modules, "pynvml", player)
        return read_nvml(environ or {}, memory, tmp_path, budgets)

    return start


def test_a_card_has_its_name_sizes_capability_and_source(play) -> None:  # type: ignore[no-untyped-def]
    found = play(Player("nvml-rtx3090.json"))
    (gpu,) = found.gpus
    assert (gpu.index, gpu.name, gpu.compute_capability) == (0, "NVIDIA GeForce RTX 3090", "8.6")
    assert (gpu.total_bytes, gpu.free_bytes) == (25_769_803_776, 21_474_836_480)
    assert (gpu.source, gpu.kind) == ("nvml", "cuda")


def test_a_recorded_h200_is_read_with_what_another_process_held(play) -> None:  # type: ignore[no-untyped-def]
    (gpu,) = play(Player("nvml-h200.json")).gpus
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA H200", "9.0")
    # used 12,031,229,952 of which the driver's own reserve is not the process's 11,377,049,600.
    assert (gpu.total_bytes, gpu.free_bytes) == (150_754_820_096, 138_723_590_144)
    assert gpu.holders == (Holder(404, "process", 11_377_049_600),)


def test_two_recorded_h200s_are_two_cards_without_a_note(play) -> None:  # type: ignore[no-untyped-def]
    found = play(Player("nvml-h200-x2.json"))
    assert [(gpu.index, gpu.name, gpu.compute_capability) for gpu in found.gpus] == [
        (0, "NVIDIA H200", "9.0"),
        (1, "NVIDIA H200", "9.0"),
    ]
    assert {(gpu.total_bytes, gpu.free_bytes) for gpu in found.gpus} == {(150_754_820_096, 150_109_880_320)}
    assert found.notes == () and not any(gpu.holders for gpu in found.gpus)


def test_holders_are_named_merged_by_pid_and_the_largest_comes_first(play) -> None:  # type: ignore[no-untyped-def]
    (gpu,) = play(Player("nvml-rtx3090.json")).gpus
    # pid 5150 is in the compute and the graphics list with the same 1 GiB: once, not twice.
    assert gpu.holders == (Holder(4121, "Xorg", 2 * GIB), Holder(5150, "python3", 1 * GIB))


def test_a_gigabyte_nobody_holds_is_below_the_notes_threshold(play) -> None:  # type: ignore[no-untyped-def]
    assert play(Player("nvml-rtx3090.json")).notes == ()


def test_memory_held_by_processes_out_of_sight_is_said(play) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-rtx3090.json").set("nvmlDeviceGetComputeRunningProcesses", "gpu0", [])
    player.set("nvmlDeviceGetGraphicsRunningProcesses", "gpu0", [])
    found = play(player)
    assert found.gpus[0].holders == ()
    assert "4.0 GiB on GPU 0 (NVIDIA GeForce RTX 3090) are held by processes that cannot be seen" in found.notes[0]


def test_a_process_whose_name_nvml_does_not_know_is_named_by_proc(play, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "proc/4121").mkdir(parents=True)
    (tmp_path / "proc/4121/comm").write_text("gnome-shell\n")
    player = Player("nvml-rtx3090.json").set("nvmlSystemGetProcessName", "4121", {"error": pynvml.NVML_ERROR_NOT_FOUND})
    player.set("nvmlSystemGetProcessName", "5150", {"error": pynvml.NVML_ERROR_NO_PERMISSION})
    (gpu,) = play(player).gpus
    assert [holder.name for holder in gpu.holders] == ["gnome-shell", "unknown"]


@pytest.mark.parametrize("value", [None, 2**64 - 1, 25 * GIB])
def test_a_size_the_driver_does_not_give_is_none(play, value: int | None) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-rtx3090.json").set(
        "nvmlDeviceGetGraphicsRunningProcesses", "gpu0", [{"pid": 4121, "usedGpuMemory": value}]
    )
    found = play(player)
    assert Holder(4121, "Xorg", None) in found.gpus[0].holders
    assert any("does not say how much each process holds" in note for note in found.notes)


def test_windows_hides_what_processes_hold_and_that_is_said(play) -> None:  # type: ignore[no-untyped-def]
    found = play(Player("nvml-wddm.json"))
    assert found.gpus[0].holders == (Holder(1234, "dwm.exe", None), Holder(5678, "unknown", None))
    assert "on Windows it never does" in found.notes[0]


def test_a_path_with_spaces_is_still_a_programs_name(play) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-wddm.json").set("nvmlSystemGetProcessName", "1234", "C:\\Program Files\\A B\\my game.exe")
    assert play(player).gpus[0].holders[0].name == "my game.exe"


def test_wsl_is_said(play, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/version").write_text("Linux version 5.15.167.4-microsoft-standard-WSL2 (gcc)\n")
    assert any("this is WSL" in note for note in play(Player("nvml-rtx3090.json")).notes)


def test_different_cards_without_a_pci_order_are_warned_about(play) -> None:  # type: ignore[no-untyped-def]
    found = play(Player("nvml-two-cards.json"))
    assert [gpu.compute_capability for gpu in found.gpus] == ["6.1", "8.9"]
    assert any("CUDA_DEVICE_ORDER=PCI_BUS_ID" in note for note in found.notes)
    assert play(Player("nvml-two-cards.json"), {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).notes == ()


def test_only_visible_cards_are_listed_and_count_from_zero(play) -> None:  # type: ignore[no-untyped-def]
    found = play(Player("nvml-two-cards.json"), {"CUDA_VISIBLE_DEVICES": "1"})
    (gpu,) = found.gpus
    assert (gpu.index, gpu.name) == (0, "NVIDIA GeForce RTX 4090")
    assert found.notes == ("CUDA_VISIBLE_DEVICES='1' leaves 1 of 2 GPUs visible.",)


def test_visible_cards_may_be_named_by_the_start_of_their_uuid(play) -> None:  # type: ignore[no-untyped-def]
    found = play(Player("nvml-two-cards.json"), {"CUDA_VISIBLE_DEVICES": "GPU-3333,GPU-2222"})
    assert [gpu.name for gpu in found.gpus] == ["NVIDIA GeForce RTX 4090", "NVIDIA GeForce GTX 1080"]


def test_a_process_gets_one_mig_instance_and_the_others_are_named(play) -> None:  # type: ignore[no-untyped-def]
    found = play(Player("nvml-a100-mig.json"))
    (gpu,) = found.gpus
    assert gpu.name == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    assert (gpu.total_bytes, gpu.free_bytes) == (19968 * 2**20, 19960 * 2**20)
    assert "MIG-66666666-6666-6666-6666-666666666666 (NVIDIA A100-SXM4-40GB MIG 1g.5gb)" in found.notes[0]
    assert "set CUDA_VISIBLE_DEVICES" in found.notes[0]


def test_a_mig_instance_is_chosen_by_its_uuid(play) -> None:  # type: ignore[no-untyped-def]
    (gpu,) = play(Player("nvml-a100-mig.json"), {"CUDA_VISIBLE_DEVICES": "MIG-6666"}).gpus
    assert gpu.total_bytes == 4864 * 2**20


def test_a_card_in_mig_mode_without_instances_is_no_gpu(play) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-a100-mig.json").set("nvmlDeviceGetMaxMigDeviceCount", "gpu0", {"error": 999})
    found = play(player)
    assert found.gpus == ()
    assert any("in MIG mode and has no instance" in note for note in found.notes)


def test_an_nvidia_ml_py_older_than_mig_still_lists_cards(play) -> None:  # type: ignore[no-untyped-def]
    assert len(play(Player("nvml-rtx3090.json").without("nvmlDeviceGetMigMode")).gpus) == 1


def test_a_chip_that_shares_the_machines_memory_gets_its_size(play) -> None:  # type: ignore[no-untyped-def]
    found = play(Player("nvml-gb10.json"), memory=Memory(127600748 * 1024, 118566368 * 1024))
    (gpu,) = found.gpus
    assert (gpu.total_bytes, gpu.free_bytes) == (130_663_165_952, 121_411_960_832)
    assert "NVIDIA GB10" in found.notes[0]
    assert "say how much with --gpu" in found.notes[0]


def test_a_gpu_that_disappears_while_it_is_read_is_left_out_and_the_rest_stay(play) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-two-cards.json").set(
        "nvmlDeviceGetMemoryInfo", "gpu0", {"error": pynvml.NVML_ERROR_GPU_IS_LOST}
    )
    found = play(player)
    assert [(gpu.index, gpu.name) for gpu in found.gpus] == [(1, "NVIDIA GeForce RTX 4090")]
    assert found.notes == (
        "GPU 0 (NVIDIA GeForce GTX 1080) disappeared while it was read (GPU is lost (NVML error 15)) and is left out; "
        "see `nvidia-smi`, or reboot.",
    )


def test_a_gpu_that_does_not_open_is_left_out_and_the_rest_stay(play) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-two-cards.json").set(
        "nvmlDeviceGetHandleByIndex", "0", {"error": pynvml.NVML_ERROR_GPU_IS_LOST}
    )
    found = play(player)
    assert [gpu.name for gpu in found.gpus] == ["NVIDIA GeForce RTX 4090"]
    assert "GPU 0 cannot be opened and is left out: GPU is lost (NVML error 15)" in found.notes[0]


@pytest.mark.parametrize(
    ("total", "free"), [(0, 0), (24 * GIB, 25 * GIB), (2**64 - 1, 0), (11 * 2**40, 1), (24 * GIB, 2**64 - 1)]
)
def test_sizes_that_cannot_be_leave_the_gpu_out_with_the_numbers(play, total: int, free: int) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-rtx3090.json").set(
        "nvmlDeviceGetMemoryInfo", "gpu0", {"total": total, "free": free, "used": 0}
    )
    found = play(player)
    assert found.gpus == ()
    assert f"the driver says {free:,} bytes are free of {total:,}" in found.notes[0]


def test_a_capability_that_cannot_be_is_unknown(play) -> None:  # type: ignore[no-untyped-def]
    for nonsense in ([-1, 0], [8, 77], ["a", "b"], 7, {"error": 999}):
        player = Player("nvml-rtx3090.json").set("nvmlDeviceGetCudaComputeCapability", "gpu0", nonsense)
        assert play(player).gpus[0].compute_capability is None


def test_names_given_as_bytes_are_read_too(play) -> None:  # type: ignore[no-untyped-def]
    (gpu,) = play(Player("nvml-rtx3090.json").set("nvmlDeviceGetName", "gpu0", b"Tesla T4\xff")).gpus
    assert gpu.name == "Tesla T4\N{REPLACEMENT CHARACTER}"


def test_processes_the_driver_will_not_list_are_a_note(play) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-rtx3090.json").set("nvmlDeviceGetComputeRunningProcesses", "gpu0", {"error": 4})
    found = play(player)
    assert len(found.gpus) == 1
    assert any("Insufficient Permissions (NVML error 4)" in note for note in found.notes)


@pytest.mark.parametrize("code", sorted(pynvml.NVMLError._valClassMapping))
def test_whatever_error_nvml_starts_with_is_a_sentence(play, code: int) -> None:  # type: ignore[no-untyped-def]
    found = play(Player("nvml-rtx3090.json").set("nvmlInit", "", {"error": code}))
    assert found.gpus == ()
    (note,) = found.notes
    assert note.endswith(".")


@pytest.mark.parametrize("code", sorted(pynvml.NVMLError._valClassMapping))
@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetCount",
        "nvmlDeviceGetHandleByIndex",
        "nvmlDeviceGetName",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetGraphicsRunningProcesses",
        "nvmlSystemGetProcessName",
        "nvmlDeviceGetEccMode",
        "nvmlDeviceGetDisplayActive",
        "nvmlDeviceGetDriverModel",
        "nvmlDeviceGetPciInfo",
        "nvmlDeviceGetMaxPcieLinkGeneration",
        "nvmlDeviceGetMaxPcieLinkWidth",
        "nvmlDeviceGetMaxClockInfo",
        "nvmlDeviceGetMemoryBusWidth",
        "nvmlShutdown",
    ],
)
def test_whatever_error_any_call_gives_nothing_is_raised(play, function: str, code: int) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-rtx3090.json")
    for key in ("", "0", "gpu0", f"gpu0,{MEMORY_V2}", f"gpu0,{pynvml.NVML_CLOCK_MEM}", "4121", "5150"):
        player.set(function, key, {"error": code})
    found = play(player)
    assert found.gpus or found.notes


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA GPU"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "modprobe nvidia"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "/dev/nvidiactl"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error (NVML error 999)"),
        (pynvml.NVML_ERROR_UNINITIALIZED, "Uninitialized (NVML error 1)"),
        (pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost (NVML error 15)"),
    ],
)
def test_the_sentence_says_what_to_do(play, code: int, words: str) -> None:  # type: ignore[no-untyped-def]
    assert words in play(Player("nvml-rtx3090.json").set("nvmlInit", "", {"error": code})).notes[0]


def test_a_container_with_a_driver_and_no_nvml_is_told_how_to_start(play, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15\n")
    player = Player("nvml-rtx3090.json").set("nvmlInit", "", {"error": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND})
    found = play(player)
    assert "--gpus all" in found.notes[0]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in found.notes[0]
    assert not found.absent


def test_without_nvidia_ml_py_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = read_nvml({}, RAM)
    assert found.absent
    assert "pip install nvidia-ml-py" in found.notes[0]


def test_the_real_library_missing_is_said_by_the_real_nvidia_ml_py(tmp_path: Path) -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        found = read_nvml({}, RAM, tmp_path)
        assert found == Found((), ("no NVIDIA GPU: its driver's library NVML is not installed.",), absent=True)
    except pynvml.NVMLError as error:
        pytest.skip(f"needs a machine without NVML; this one's answers {error}")
    else:
        pytest.skip("needs a machine without NVML; this one has it")


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs an NVIDIA GPU and nvidia-smi")
def test_a_real_gpu_has_the_size_that_nvidia_smi_prints() -> None:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    gpus = detect(environ={}).gpus
    assert [f"{gpu.name}, {gpu.total_bytes >> 20}, {gpu.compute_capability}" for gpu in gpus] == lines
    assert all(0 < gpu.free_bytes <= gpu.total_bytes for gpu in gpus)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_recording_says_where_it_comes_from_and_plays(path: Path, play) -> None:  # type: ignore[no-untyped-def]
    recording = json.loads(path.read_text(encoding="utf-8"))
    assert recording["kind"] in ("recorded", "reported", "documented")
    assert recording["source"]
    # What is asked only where the package has it (LATER) an older one lacks; the player then has no answer to give.
    assert all(callable(getattr(pynvml, function)) for function in recording["calls"] if function not in LATER)
    assert f"`{path.name}` | {recording['kind']}" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert play(Player(path.name)).gpus


@needs_newer_pynvml
@pytest.mark.parametrize("name", ["nvml-rtx3090.json", "nvml-a100-mig.json", "nvml-gb10.json"])
def test_recording_a_played_machine_gives_the_same_machine(
    name: str,
    play,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = Player(name).set("nvmlSystemGetDriverVersion", "", "580.159.04")
    monkeypatch.setattr(record_nvml, "pynvml", original)
    record_nvml.main()
    again = json.loads(capsys.readouterr().out)
    assert again["kind"] == "recorded"
    assert "driver 580.159.04" in again["source"]
    copy = Player(name)
    copy._calls = again["calls"]
    first, second = play(Player(name)), play(copy)
    assert [(gpu.name, gpu.total_bytes, gpu.free_bytes) for gpu in first.gpus] == [
        (gpu.name, gpu.total_bytes, gpu.free_bytes) for gpu in second.gpus
    ]
    assert [holder.pid for holder in second.gpus[0].holders] == [holder.pid for holder in first.gpus[0].holders]


def test_the_driver_is_let_go_of_also_when_reading_it_failed(play) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-rtx3090.json")
    play(player)
    assert player.asked[-1] == "nvmlShutdown()"
    player = Player("nvml-rtx3090.json").set("nvmlDeviceGetCount", "", {"error": pynvml.NVML_ERROR_UNKNOWN})
    play(player)
    assert player.asked[-1] == "nvmlShutdown()"


@pytest.mark.parametrize("error_type", [None, 5, int])
def test_another_package_of_the_name_pynvml_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error_type: object
) -> None:
    stranger = ModuleType("pynvml")
    if error_type is not None:
        stranger.NVMLError = error_type  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", stranger)
    found = read_nvml({}, RAM, tmp_path)
    assert found.gpus == () and "pip install nvidia-ml-py" in found.notes[0]
    assert detect({}, "linux", tmp_path).gpus == ()


def test_a_pynvml_that_fails_in_its_own_way_when_imported_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pynvml.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.delitem(sys.modules, "pynvml")
    monkeypatch.syspath_prepend(tmp_path)
    assert "half installed" in read_nvml({}, RAM, tmp_path).notes[0]


def test_an_nvidia_ml_py_that_does_not_know_an_error_s_name_still_words_the_others(play) -> None:  # type: ignore[no-untyped-def]
    class Older(Player):
        def __getattr__(self, name: str) -> Any:
            if name == "NVML_ERROR_LIBRARY_NOT_FOUND":
                raise AttributeError(name)
            return super().__getattr__(name)

    player = Older("nvml-rtx3090.json").set("nvmlInit", "", {"error": pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
    assert "modprobe nvidia" in play(player).notes[0]


def detailed(name: str = "nvml-rtx3090.json", **answers: Any) -> Player:
    """The recording with what newer calls answer for its first card, an answer None as a driver without the call."""
    player = Player(name)
    for call, answer in answers.items():
        if call == "reserved":
            info = {"total": 25_769_803_776, "free": 21_474_836_480, "reserved": answer}
            player.set("nvmlDeviceGetMemoryInfo", f"gpu0,{MEMORY_V2}", info)
        elif call == "MaxClockInfo":
            player.set("nvmlDeviceGetMaxClockInfo", f"gpu0,{pynvml.NVML_CLOCK_MEM}", answer)
        else:
            player.set(f"nvmlDeviceGet{call}", "gpu0", answer)
    return player


@needs_newer_pynvml
def test_the_drivers_own_reserve_is_told_and_is_nobodys(play) -> None:  # type: ignore[no-untyped-def]
    (gpu,) = play(detailed(reserved=450 * 2**20)).gpus
    assert gpu.reserved_bytes == 450 * 2**20
    assert (gpu.total_bytes, gpu.free_bytes) == (24 * GIB, 20 * GIB)
    # 4 GiB are taken: 2 by Xorg, 1 by python3, 450 MiB by the driver; the rest has no name.
    assert gpu.unnamed_bytes == GIB - 450 * 2**20


@needs_newer_pynvml
def test_a_large_reserve_is_not_taken_for_processes_out_of_sight(play) -> None:  # type: ignore[no-untyped-def]
    player = detailed(reserved=7 * GIB // 2)
    player.set("nvmlDeviceGetComputeRunningProcesses", "gpu0", [])
    assert play(player.set("nvmlDeviceGetGraphicsRunningProcesses", "gpu0", [])).notes == ()


@needs_newer_pynvml
@pytest.mark.parametrize("nonsense", [5 * GIB, 2**64 - 1])
def test_a_reserve_larger_than_what_is_taken_is_not_believed(play, nonsense: int) -> None:  # type: ignore[no-untyped-def]
    assert play(detailed(reserved=nonsense)).gpus[0].reserved_bytes is None


def test_a_card_that_drives_a_display_keeps_room_for_the_desktop(play) -> None:  # type: ignore[no-untyped-def]
    found = play(detailed(DisplayActive=1))
    (gpu,) = found.gpus
    held = 2 * 3 * 3840 * 2160 * 4
    assert gpu.display is True
    assert (gpu.held_back_bytes, gpu.free_bytes, gpu.driver_free_bytes) == (held, 20 * GIB - held, 20 * GIB)
    assert found.notes == (
        "GPU 0 (NVIDIA GeForce RTX 3090) drives a display: 0.2 GiB of what is free there are left to it, room for two "
        "more full-screen windows (our choice, not a measurement).",
    )
    assert play(detailed(DisplayActive=0)).gpus[0].free_bytes == 20 * GIB


def test_no_more_is_held_back_than_is_free(play) -> None:  # type: ignore[no-untyped-def]
    player = detailed(DisplayActive=1, MemoryInfo={"total": 24 * GIB, "free": 2**20, "used": 24 * GIB - 2**20})
    (gpu,) = play(player).gpus
    assert (gpu.free_bytes, gpu.held_back_bytes) == (0, 2**20)


def test_ecc_is_said_and_the_total_stays_the_drivers(play) -> None:  # type: ignore[no-untyped-def]
    found = play(detailed(EccMode=[1, 1]))
    assert found.gpus[0].ecc is True
    assert (found.gpus[0].total_bytes, found.notes) == (24 * GIB, ())
    assert play(detailed(EccMode=[0, 0])).gpus[0].ecc is False
    assert play(detailed()).gpus[0].ecc is None
    assert (
        "ECC of GPU 0 (NVIDIA GeForce RTX 3090) goes on at the next reboot" in play(detailed(EccMode=[0, 1])).notes[0]
    )


@needs_newer_pynvml
def test_the_buses_are_worked_out_from_clocks_and_widths(play) -> None:  # type: ignore[no-untyped-def]
    made = detailed(MaxPcieLinkGeneration=4, MaxPcieLinkWidth=16, MaxClockInfo=9751, MemoryBusWidth=384)
    (gpu,) = play(made).gpus
    # 16 GT/s x 16 lanes x 128/130 / 8; 2 x 9751 MHz x 384 / 8, NVIDIA's 936 GB/s of an RTX 3090.
    assert gpu.bus_bytes_per_s == 31_507_692_307
    assert gpu.memory_bytes_per_s == 936_096_000_000


@pytest.mark.parametrize(("generation", "lanes"), [(0, 16), (9, 16), (4, 0), (4, 1000), ("4", 16), (None, None)])
def test_a_bus_that_cannot_be_has_no_speed(play, generation: Any, lanes: Any) -> None:  # type: ignore[no-untyped-def]
    (gpu,) = play(detailed(MaxPcieLinkGeneration=generation, MaxPcieLinkWidth=lanes)).gpus
    assert gpu.bus_bytes_per_s is None


PLACE = {"domain": 0, "bus": 1, "device": 0}


def windows(play, budgets: tuple[Budget, ...], **answers: Any) -> Found:  # type: ignore[no-untyped-def]
    return play(detailed(PciInfo=PLACE, **answers), budgets=budgets)  # type: ignore[no-any-return]


def test_what_windows_keeps_from_one_process_is_not_free(play) -> None:  # type: ignore[no-untyped-def]
    found = windows(play, (Budget(1, 0, "0x0_0xd1a2", 19 * GIB, GIB, 0),), DriverModel=[0, 0], DisplayActive=1)
    (gpu,) = found.gpus
    # 20 GiB are free; of its 19 this process has 1, so 18 are left. The desktop's share is in the budget already.
    assert (gpu.free_bytes, gpu.held_back_bytes, gpu.address) == (18 * GIB, 2 * GIB, "0000:01:00.0")
    assert found.notes == (
        "Windows lets one process have 19.0 GiB of GPU 0 (NVIDIA GeForce RTX 3090) at this moment, and it has 1.0 GiB "
        "of them: 2.0 GiB of what is free there are not counted (the budget of D3DKMTQueryVideoMemoryInfo).",
    )


def test_a_budget_larger_than_what_is_free_changes_nothing(play) -> None:  # type: ignore[no-untyped-def]
    found = windows(play, (Budget(1, 0, "0x0_0xd1a2", 23 * GIB, 0, 0),), DriverModel=[0, 0])
    assert (found.gpus[0].free_bytes, found.notes) == (20 * GIB, ())


@pytest.mark.parametrize(
    ("budgets", "model"),
    [
        ((), [0, 0]),
        ((Budget(2, 0, "0x0_0x1", GIB, 0, 0),), [0, 0]),
        ((Budget(1, 0, "0x0_0x1", GIB, 0, 0), Budget(1, 0, "0x0_0x2", GIB, 0, 0)), [0, 0]),
        ((Budget(1, 0, "0x0_0x1", 0, 0, 0),), [0, 0]),
        ((Budget(1, 0, "0x0_0x1", GIB, 0, 0),), [1, 1]),
    ],
    ids=["none", "of another slot", "two in one slot", "empty", "TCC, which Windows has no hand in"],
)
def test_a_budget_that_is_not_this_cards_is_not_used(play, budgets: tuple[Budget, ...], model: list[int]) -> None:  # type: ignore[no-untyped-def]
    found = windows(play, budgets, DriverModel=model)
    assert found.gpus[0].free_bytes == 20 * GIB
    assert any("how much could not be asked" in note for note in found.notes) == (model == [0, 0])


@needs_newer_pynvml
def test_a_mig_instance_has_its_own_reserve_and_no_desktop(play) -> None:  # type: ignore[no-untyped-def]
    player = Player("nvml-a100-mig.json")
    (plain,) = play(player).gpus
    mig = next(key for key, info in player._calls["nvmlDeviceGetMemoryInfo"].items() if key.startswith("mig"))
    player.set("nvmlDeviceGetDisplayActive", mig, 1)
    info = {"total": plain.total_bytes, "free": plain.free_bytes, "reserved": 5 * 2**20}
    (gpu,) = play(player.set("nvmlDeviceGetMemoryInfo", f"{mig},{MEMORY_V2}", info)).gpus
    assert gpu.reserved_bytes == 5 * 2**20
    assert (gpu.free_bytes, gpu.held_back_bytes, gpu.total_bytes) == (plain.free_bytes, 0, plain.total_bytes)


def test_an_nvidia_ml_py_from_before_all_this_still_lists_the_card(play) -> None:  # type: ignore[no-untyped-def]
    class Older(Player):
        def __getattr__(self, name: str) -> Any:
            if name in ("nvmlMemory_v2", "NVML_CLOCK_MEM", "nvmlDeviceGetMemoryBusWidth", "nvmlDeviceGetDisplayActive"):
                raise AttributeError(name)
            return super().__getattr__(name)

    (gpu,) = play(Older("nvml-rtx3090.json").set("nvmlDeviceGetEccMode", "gpu0", [1, 1])).gpus
    assert (gpu.free_bytes, gpu.reserved_bytes, gpu.display) == (20 * GIB, None, None)
