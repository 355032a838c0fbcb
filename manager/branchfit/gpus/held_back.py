"""What of a card's free memory a model is not given: what Windows keeps from one process, or the desktop's room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..units import gib
from .nvml_details import Details

if TYPE_CHECKING:
    from .wddm import Budget

__all__ = ["DISPLAY_RESERVE_BYTES", "held_back"]

DISPLAY_RESERVE_BYTES = 2 * 3 * 3840 * 2160 * 4
"""Left free on a card that drives a display: two more full-screen windows of a 4K screen, 4 bytes a pixel, three
buffers each, 190 MiB. A choice of ours, not a measurement: a desktop that gets no memory stalls or loses its windows,
and a model that fills the card to the last byte would have it so."""


def held_back(label: str, free_bytes: int, details: Details, budgets: Sequence[Budget]) -> tuple[int, list[str]]:
    """(bytes of what the driver calls free that are not counted, sentences that say why).

    Windows' budget has the desktop's share in it already, so one of the two counts, not both. TCC is outside it.
    """
    budget = None if details.windows_managed is False else _of(details.address, budgets)
    if budget is not None and budget.budget_bytes > 0:
        held = max(0, free_bytes - budget.left_bytes)
        if not held:
            return 0, []
        has = f", and it has {gib(budget.used_bytes)} of them" if budget.used_bytes else ""
        return held, [
            f"Windows lets one process have {gib(budget.budget_bytes)} of {label} at this moment{has}: {gib(held)} of "
            "what is free there are not counted (the budget of D3DKMTQueryVideoMemoryInfo)."
        ]
    notes = []
    if details.windows_managed:
        notes.append(
            f"Windows keeps a part of {label} from each process; how much could not be asked, so all that is free "
            "there counts."
        )
    if not details.display:
        return 0, notes
    held = min(free_bytes, DISPLAY_RESERVE_BYTES)
    notes.append(
        f"{label} drives a display: {gib(held)} of what is free there are left to it, room for two more full-screen "
        "windows (our choice, not a measurement)."
    )
    return held, notes


def _of(address: str | None, budgets: Sequence[Budget]) -> Budget | None:
    """The one adapter in that PCI slot: Windows says no domain, so two in slots alike are not told apart."""
    if address is None:
        return None
    bus, device = int(address.split(":")[1], 16), int(address.split(":")[2].split(".")[0], 16)
    there = [budget for budget in budgets if (budget.bus, budget.device) == (bus, device)]
    return there[0] if len(there) == 1 else None
