"""AMD GPUs through the kernel's sysfs: amdgpu's memory files, and KFD's topology and processes.

Sources: the kernel's Documentation/gpu/amdgpu/driver-misc.rst (mem_info_vram_total, mem_info_vram_used,
mem_info_gtt_total, product_name), drivers/pci/pci-sysfs.c (max_link_speed, max_link_width), drivers/gpu/drm/amd/amdkfd
(topology nodes, proc/PID/vram_GPUID), ROCm's page "GPU isolation techniques". Untested on real hardware: no machine of
ours has such a card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..units import gib
from .machine import Gpu, Holder
from .nvml import Found
from .nvml_details import bus_bytes_per_s
from .system import process_name, read_number, read_text
from .visible import select

__all__ = ["read_rocm"]

AMD_VENDOR = "0x1002"

SMALL_VRAM_BYTES = 4 * 2**30
"""Less dedicated memory than any discrete card ROCm supports (8 GiB), more than the carve-out a BIOS
gives a processor's own graphics by default (512 MiB): with more GTT beside it, that is what it is."""


@dataclass(frozen=True)
class _Card:
    device: Path
    name: str
    total_bytes: int
    used_bytes: int
    gtt_bytes: int
    node: int | None
    gpu_id: int | None
    uuid: str

    @property
    def shares_ram(self) -> bool:
        return self.total_bytes < SMALL_VRAM_BYTES and self.gtt_bytes > self.total_bytes


def read_rocm(environ: Mapping[str, str], root: Path = Path("/")) -> Found:
    """Every AMD GPU that torch would see, in ROCm's order: that of KFD's nodes. Never raises.

    `root` is where /sys and /proc are looked for. ROCR_VISIBLE_DEVICES goes first, and what it leaves
    HIP_VISIBLE_DEVICES counts (CUDA_VISIBLE_DEVICES where that is not set).
    """
    notes: list[str] = []
    nodes = _kfd_nodes(root)
    drm = root / "sys/class/drm"
    try:
        folders = sorted(path for path in drm.iterdir() if re.fullmatch(r"card[0-9]+", path.name))
    except OSError:
        return Found((), ("no AMD GPU: /sys/class/drm is not there.",), absent=True)
    cards: list[_Card] = []
    for folder in folders:
        if read_text(folder / "device/vendor") == AMD_VENDOR:
            card = _read_card(folder, nodes, notes)
            cards += [card] if card else []
    if not cards:
        return Found((), tuple(notes) or ("no AMD GPU: none under /sys/class/drm.",), absent=not notes)
    if not nodes:
        notes.append(
            "the kernel's compute driver is not there (/sys/class/kfd), so ROCm cannot use the AMD GPUs; "
            "in a container, start it with `--device /dev/kfd --device /dev/dri`."
        )
    elif any(card.node is None for card in cards):
        hidden = ", ".join(card.name for card in cards if card.node is None)
        notes.append(f"{hidden}: the kernel's compute driver (KFD) does not know it, so ROCm cannot use it; left out.")
        cards = [card for card in cards if card.node is not None]
    cards.sort(key=lambda card: (card.node is None, card.node))
    cards = _visible(cards, environ, notes)
    gpus = []
    for index, card in enumerate(cards):
        if card.shares_ram:
            notes.append(
                f"{card.name} is part of the processor: only its {gib(card.total_bytes)} of own memory "
                f"count here; ROCm can also map up to {gib(card.gtt_bytes)} of the machine's RAM."
            )
        gpus.append(
            Gpu(
                index,
                card.name,
                card.total_bytes,
                card.total_bytes - card.used_bytes,
                None,
                "rocm",
                _holders(card, root),
                kind="rocm",
                unified=card.shares_ram,
                address=_address(card.device),
                bus_bytes_per_s=_bus_bytes_per_s(card.device),
            )
        )
    return Found(tuple(gpus), tuple(notes))


def _kfd_nodes(root: Path) -> dict[int, tuple[int, dict[str, int], int | None]]:
    """KFD's GPU nodes by render minor: (node number, properties, gpu_id). CPU nodes have no SIMD."""
    found: dict[int, tuple[int, dict[str, int], int | None]] = {}
    folder = root / "sys/class/kfd/kfd/topology/nodes"
    try:
        names = [path.name for path in folder.iterdir() if path.name.isdigit()]
    except OSError:
        return found
    for name in names:
        text = read_text(folder / name / "properties") or ""
        properties = {key: int(value) for key, value in re.findall(r"^(\w+) ([0-9]{1,20})$", text, re.MULTILINE)}
        if properties.get("simd_count") and "drm_render_minor" in properties:
            gpu_id = read_number(folder / name / "gpu_id")
            found[properties["drm_render_minor"]] = (int(name), properties, gpu_id)
    return found


def _read_card(
    folder: Path, nodes: Mapping[int, tuple[int, dict[str, int], int | None]], notes: list[str]
) -> _Card | None:
    """One card's files; None, and a note, where its memory files are missing or make no sense."""
    device = folder / "device"
    total, used = read_number(device / "mem_info_vram_total"), read_number(device / "mem_info_vram_used")
    if not total or used is None or used > total:
        said = "nothing" if total is None or used is None else f"{used:,} bytes used of {total:,}"
        notes.append(f"the AMD GPU {folder.name} is left out: the driver amdgpu says {said} about its memory.")
        return None
    node: int | None = None
    properties: dict[str, int] = {}
    gpu_id: int | None = None
    for path in device.glob("drm/renderD*"):
        minor = path.name.removeprefix("renderD")
        if minor.isdigit() and int(minor) in nodes:
            node, properties, gpu_id = nodes[int(minor)]
    target = _gfx(properties.get("gfx_target_version", 0))
    name = read_text(device / "product_name") or f"AMD GPU {read_text(device / 'device') or folder.name}"
    return _Card(
        device=device,
        name=f"{name} ({target})" if target else name,
        total_bytes=total,
        used_bytes=used,
        gtt_bytes=read_number(device / "mem_info_gtt_total") or 0,
        node=node,
        gpu_id=gpu_id,
        uuid=f"GPU-{properties['unique_id']:016x}" if properties.get("unique_id") else f"GPU-{folder.name}",
    )


def _address(device: Path) -> str | None:
    """The PCI address, as /proc/PID/fdinfo names the card too."""
    found = re.search(r"^PCI_SLOT_NAME=([0-9a-f:.]{7,16})$", read_text(device / "uevent") or "", re.MULTILINE)
    return found[1] if found else None


def _bus_bytes_per_s(device: Path) -> int | None:
    """By the kernel's max_link_speed ("16.0 GT/s PCIe") and max_link_width, the most that the card can do."""
    speed = re.match(r"([0-9]{1,3}(?:\.[0-9])?) GT/s", read_text(device / "max_link_speed") or "")
    generation = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5}.get(float(speed[1])) if speed else None
    return bus_bytes_per_s(generation, read_number(device / "max_link_width"))


def _gfx(version: int) -> str | None:
    """KFD's gfx_target_version as LLVM names the target: 110000 is gfx1100, 90010 is gfx90a."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}" if version else None


def _visible(cards: list[_Card], environ: Mapping[str, str], notes: list[str]) -> list[_Card]:
    second = "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in environ else "CUDA_VISIBLE_DEVICES"
    for variable in ("ROCR_VISIBLE_DEVICES", second):
        selection = select(variable, environ.get(variable), [card.uuid for card in cards])
        if selection.note:
            notes.append(selection.note)
        cards = [cards[position] for position in selection.chosen]
    return cards


def _holders(card: _Card, root: Path) -> tuple[Holder, ...]:
    """ROCm processes on the card, from KFD's proc/PID/vram_GPUID; graphics programs are not in it."""
    holders = []
    for path in root.glob(f"sys/class/kfd/kfd/proc/*/vram_{card.gpu_id}"):
        used, pid = read_number(path), path.parent.name
        if used and pid.isdigit():
            holders.append(Holder(int(pid), process_name(int(pid), root), used if used <= card.total_bytes else None))
    return tuple(sorted(holders, key=lambda holder: (-(holder.used_bytes or 0), holder.pid)))
