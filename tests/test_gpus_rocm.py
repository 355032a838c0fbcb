"""AMD GPUs through sysfs, from trees written down from documentation and reports; see recordings/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from branchfit.gpus import Holder
from branchfit.gpus.rocm import read_rocm
from recordings.nvml_player import FOLDER

GIB = 2**30


def tree(root: Path, recording: str, **changes: str | None) -> Path:
    """The recording's files under `root`; `changes` give other text by the end of a path, None for no file."""
    for path, text in json.loads((FOLDER / recording).read_text(encoding="utf-8"))["files"].items():
        for end, other in changes.items():
            text = other if text is not None and path.replace("/", "_").endswith(end) else text
        if text is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
    return root


def test_a_radeon_has_its_name_target_and_sizes_in_kfds_order(tmp_path: Path) -> None:
    found = read_rocm({}, tree(tmp_path, "rocm-rx7900xtx.json"))
    first, second = found.gpus
    assert (first.index, first.name) == (0, "Radeon RX 7900 XTX (gfx1100)")
    assert (first.total_bytes, first.free_bytes) == (25_753_026_560, 20_000_000_000)
    assert (first.source, first.kind, first.compute_capability) == ("rocm", "rocm", None)
    # card0 in /sys/class/drm, but node 2 of KFD, whose order ROCm counts in.
    assert (second.index, second.name) == (1, "AMD GPU 0x164e (gfx1036)")


def test_rocm_processes_are_named_with_what_they_hold(tmp_path: Path) -> None:
    first, second = read_rocm({}, tree(tmp_path, "rocm-rx7900xtx.json")).gpus
    assert first.holders == (Holder(901, "python3", 4_000_000_000),)
    assert second.holders == ()


def test_a_processors_own_graphics_are_told_from_a_card(tmp_path: Path) -> None:
    found = read_rocm({}, tree(tmp_path, "rocm-strix-halo.json"))
    (gpu,) = found.gpus
    assert (gpu.name, gpu.total_bytes) == ("AMD GPU 0x1586 (gfx1151)", GIB // 2)
    assert "only its 0.5 GiB of own memory" in found.notes[0]
    assert "up to 61.4 GiB" in found.notes[0]


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"HIP_VISIBLE_DEVICES": "1"}, ["AMD GPU 0x164e (gfx1036)"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["AMD GPU 0x164e (gfx1036)"]),
        ({"CUDA_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, ["Radeon RX 7900 XTX (gfx1100)"]),
        ({"ROCR_VISIBLE_DEVICES": "1,0", "HIP_VISIBLE_DEVICES": "0"}, ["AMD GPU 0x164e (gfx1036)"]),
        # unique_id 7809984429061111111 is 0x6c62a3758b84fd47
        ({"ROCR_VISIBLE_DEVICES": "GPU-6c62a3758b84fd47"}, ["Radeon RX 7900 XTX (gfx1100)"]),
        ({"HIP_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_the_variables_apply_one_after_the_other(tmp_path: Path, environ: dict[str, str], names: list[str]) -> None:
    found = read_rocm(environ, tree(tmp_path, "rocm-rx7900xtx.json"))
    assert [gpu.name for gpu in found.gpus] == names
    assert [gpu.index for gpu in found.gpus] == list(range(len(names)))


def test_a_card_without_kfd_is_listed_with_the_remedy(tmp_path: Path) -> None:
    found = read_rocm({}, tree(tmp_path, "rocm-strix-halo.json", properties=None, gpu_id=None))
    assert len(found.gpus) == 1
    assert "--device /dev/kfd" in found.notes[0]


def test_a_card_that_kfd_does_not_know_is_left_out(tmp_path: Path) -> None:
    found = read_rocm({}, tree(tmp_path, "rocm-rx7900xtx.json", nodes_2_properties="simd_count 0\n"))
    assert [gpu.name for gpu in found.gpus] == ["Radeon RX 7900 XTX (gfx1100)"]
    assert "AMD GPU 0x164e: the kernel's compute driver (KFD) does not know it" in found.notes[0]


@pytest.mark.parametrize(
    ("used", "said"),
    [
        ("99999999999\n", "99,999,999,999 bytes used of 536,870,912"),
        ("rubbish\n", "says nothing"),
        (None, "says nothing"),
    ],
)
def test_sizes_that_cannot_be_leave_the_card_out(tmp_path: Path, used: str | None, said: str) -> None:
    found = read_rocm({}, tree(tmp_path, "rocm-strix-halo.json", mem_info_vram_used=used))
    assert found.gpus == ()
    assert said in found.notes[0]
    assert not found.absent


def test_rubbish_in_kfds_files_raises_nothing(tmp_path: Path) -> None:
    found = read_rocm({}, tree(tmp_path, "rocm-strix-halo.json", properties="\x00\xff simd_count -1 \n\n=", gpu_id="x"))
    assert len(found.gpus) == 1


def test_other_makers_cards_are_not_amds(tmp_path: Path) -> None:
    found = read_rocm({}, tree(tmp_path, "rocm-strix-halo.json", vendor="0x8086\n"))
    assert found.gpus == ()
    assert found.absent


def test_a_machine_without_sysfs_has_no_amd_gpu(tmp_path: Path) -> None:
    assert read_rocm({}, tmp_path).absent


def test_targets_are_named_as_llvm_names_them() -> None:
    from branchfit.gpus.rocm import _gfx

    assert [_gfx(version) for version in (110000, 90010, 100306, 90402, 110501, 0)] == [
        "gfx1100",
        "gfx90a",
        "gfx1036",
        "gfx942",
        "gfx1151",
        None,
    ]


def test_a_cards_place_and_bus_are_read_and_a_processors_graphics_share_its_memory(tmp_path: Path) -> None:
    root = tree(tmp_path, "rocm-rx7900xtx.json")
    for device in root.glob("sys/class/drm/card*/device"):
        if (device / "mem_info_vram_total").read_text().strip() == "25753026560":
            (device / "uevent").write_text("DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_SLOT_NAME=0000:03:00.0\n")
            (device / "max_link_speed").write_text("16.0 GT/s PCIe\n")
            (device / "max_link_width").write_text("16\n")
    first, second = read_rocm({}, root).gpus
    # 16 GT/s x 16 lanes x 128/130 / 8
    assert (first.address, first.bus_bytes_per_s, first.unified) == ("0000:03:00.0", 31_507_692_307, False)
    assert (second.address, second.bus_bytes_per_s) == (None, None)


def test_a_processors_own_graphics_have_the_machines_memory(tmp_path: Path) -> None:
    (gpu,) = read_rocm({}, tree(tmp_path, "rocm-strix-halo.json")).gpus
    assert gpu.unified
