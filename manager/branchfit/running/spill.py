"""Whether a load went past the card into system memory, how far, and what that costs a token.

NVIDIA's driver for Windows does so instead of failing when a card is nearly full, since 536.40 (NVIDIA's answer 5490,
"System Memory Fallback"); Windows moves out what is beyond a process's budget; amdgpu moves buffers out of a full card.
Linux' NVIDIA driver does not: there a load fails. A chip whose memory is the machine's has nowhere to spill to.

    before = held(machine)  # then the load
    spill = spilled(before, held(machine_now), machine_now)

Windows' part has run on no Windows of ours, and amdgpu's on no card of ours: they are tested on their documented forms.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..gpus import Gpu, Machine
from ..gpus.system import is_wsl, read_text
from ..units import GB, gib

if TYPE_CHECKING:
    from ..gpus.wddm import Budget

__all__ = ["Held", "Spill", "Spilled", "held", "spilled"]

LEAST_BYTES = 2**28
"""A quarter of a GiB: less is not called a spill. A choice of ours: Windows counts a process's pinned buffers and its
CUDA context's own system memory on the same counter, and neither costs a token anything."""

_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20}
"""The units of fdinfo's memory keys: the kernel's Documentation/gpu/drm-usage-stats.rst."""


@dataclass(frozen=True)
class Held:
    """This process at one moment, by torch's ordinals; a card that nothing is told of is missing.

    `outside_bytes` is what the system says of this process's memory of that card lies in system memory: of Windows'
    non-local segment group, where pinned buffers count too, or amdgpu's evicted VRAM, which is exact.
    `torch_bytes` is what torch's allocator has reserved on it.
    """

    outside_bytes: Mapping[int, int] = field(default_factory=dict)
    torch_bytes: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Spilled:
    """Bytes of one card that lie in system memory."""

    gpu: Gpu
    size_bytes: int

    @property
    def bus_s(self) -> float | None:
        """The least a token waits that reads all of it, over the bus; None where its speed is unknown."""
        return self.size_bytes / self.gpu.bus_bytes_per_s if self.gpu.bus_bytes_per_s else None

    @property
    def card_s(self) -> float | None:
        """What it would have waited for the card's own memory."""
        return self.size_bytes / self.gpu.memory_bytes_per_s if self.gpu.memory_bytes_per_s else None


@dataclass(frozen=True)
class Spill:
    """All cards with something outside, and a sentence each."""

    cards: tuple[Spilled, ...]
    windows: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(card.size_bytes for card in self.cards)

    @property
    def sentence(self) -> str:
        words = [_words(card) for card in self.cards]
        if self.windows and any(card.gpu.kind == "cuda" for card in self.cards):
            words.append(
                "A smaller branch, cache or context keeps it on the card; with `CUDA - Sysmem Fallback Policy: Prefer "
                "No Sysmem Fallback` in NVIDIA's control panel such a load fails instead."
            )
        return " ".join(words)


def held(
    machine: Machine,
    torch: Any = None,
    *,
    platform: str = sys.platform,
    root: Path = Path("/"),
    budgets: Sequence[Budget] | None = None,
) -> Held:
    """What this process has, inside and outside, now. Never raises, and imports nothing heavy.

    `torch` is the module where it is loaded already, taken from sys.modules if not given; `budgets` is what Windows
    says, asked here where this is Windows or WSL; `root` is where /proc is looked for.
    """
    torch = sys.modules.get("torch") if torch is None else torch
    outside: dict[int, int] = {}
    if any(gpu.kind == "rocm" for gpu in machine.gpus):
        evicted = _evicted(root)
        outside = {gpu.index: evicted[gpu.address] for gpu in machine.gpus if gpu.address in evicted}
    elif machine.gpus and (platform == "win32" or is_wsl(root)):
        if budgets is None:
            from ..gpus.wddm import read_budgets  # ctypes costs 10 ms, and only Windows and WSL need it

            budgets = read_budgets(platform, root)
        for gpu in machine.gpus:
            there = [one.outside_bytes for one in budgets if _is_at(gpu.address, one)]
            if len(there) == 1:
                outside[gpu.index] = there[0]
    return Held(outside, _reserved(machine, torch))


def spilled(before: Held, after: Held, machine: Machine) -> Spill | None:
    """What went outside between the two; None where nothing did, or nothing is told. `machine` is read after the load.

    Two ways to know it. The system's own counter grew: on Windows by more than the card has left, since what would
    have found room there was put outside on purpose (pinned). Or torch has more than is taken on the card by everyone.
    """
    cards = []
    for gpu in machine.gpus:
        if gpu.unified:
            continue
        told = 0
        if gpu.index in after.outside_bytes and gpu.index in before.outside_bytes:
            told = after.outside_bytes[gpu.index] - before.outside_bytes[gpu.index]
        if gpu.kind == "cuda" and told <= gpu.free_bytes:
            told = 0
        sure = 0
        if gpu.kind == "cuda" and gpu.index in after.torch_bytes:
            taken = gpu.total_bytes - gpu.driver_free_bytes - (gpu.reserved_bytes or 0)
            sure = after.torch_bytes[gpu.index] - taken
        size = max(told, sure)
        if size >= LEAST_BYTES:
            cards.append(Spilled(gpu, size))
    windows = any(gpu.kind == "cuda" and gpu.index in after.outside_bytes for gpu in machine.gpus)
    return Spill(tuple(cards), windows) if cards else None


def _words(card: Spilled) -> str:
    gpu = card.gpu
    said = f"{gib(card.size_bytes)} of what this process has on GPU {gpu.index} ({gpu.name}) lie in system memory."
    if card.bus_s is None or gpu.bus_bytes_per_s is None:
        return f"{said} What that costs cannot be said: the driver does not tell how fast the bus is."
    against = ""
    if card.card_s is not None and gpu.memory_bytes_per_s is not None:
        against = f", against {card.card_s:.2g} s from the card's own memory ({gpu.memory_bytes_per_s / GB:.0f} GB/s)"
    return (
        f"{said} A token that reads all of it waits for {card.size_bytes / GB:.1f} GB over a bus of at most "
        f"{gpu.bus_bytes_per_s / GB:.1f} GB/s: at least {card.bus_s:.2g} s a token{against}."
    )


def _is_at(address: str | None, budget: Budget) -> bool:
    return address is not None and address[5:10] == f"{budget.bus:02x}:{budget.device:02x}"


def _reserved(machine: Machine, torch: Any) -> dict[int, int]:
    """torch's own figure by card, where both call the card the same: else their orders may differ."""
    found: dict[int, int] = {}
    with contextlib.suppress(RuntimeError, AssertionError, AttributeError, ValueError):  # a torch without CUDA, or none
        if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
            return {}
        for gpu in machine.gpus:
            if gpu.index < torch.cuda.device_count() and torch.cuda.get_device_name(gpu.index) == gpu.name:
                found[gpu.index] = int(torch.cuda.memory_reserved(gpu.index))
    return found


def _evicted(root: Path) -> dict[str, int]:
    """PCI address -> bytes that amdgpu would keep in VRAM and does not, of this process's files in /proc/self/fdinfo.

    Keys: drm-driver, drm-pdev, drm-client-id (drm-usage-stats.rst; a client that is open twice counts once) and
    amd-evicted-vram (amdgpu_fdinfo.c).
    """
    clients: dict[tuple[str, str], int] = {}
    with contextlib.suppress(OSError):
        for path in (root / "proc/self/fdinfo").iterdir():
            text = read_text(path) or ""
            keys = dict(re.findall(r"^([a-z-]+):\s*(.*?)\s*$", text, re.MULTILINE))
            size = re.fullmatch(r"([0-9]{1,15}) ?(KiB|MiB)?", keys.get("amd-evicted-vram", ""))
            if keys.get("drm-driver") == "amdgpu" and size:
                client = (keys.get("drm-pdev", ""), keys.get("drm-client-id", ""))
                clients[client] = max(clients.get(client, 0), int(size[1]) * _UNITS[size[2] or ""])
    found: dict[str, int] = {}
    for (address, _), evicted in clients.items():
        found[address] = found.get(address, 0) + evicted
    return found
