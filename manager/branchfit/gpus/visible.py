"""CUDA_VISIBLE_DEVICES and its kin, read as torch reads them, so that ordinals agree with torch's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Selection", "select"]

_LEADING_NUMBER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class Selection:
    """Which devices are left, as positions in the list that was asked about, and in which order.

    `note` is a sentence where the variable hides something, None where it hides nothing.
    """

    chosen: tuple[int, ...]
    note: str | None = None


def select(variable: str, value: str | None, uuids: Sequence[str], prefix: str = "GPU-") -> Selection:
    """The devices that `variable`=`value` leaves of those with these `uuids`.

    Source: torch.cuda._parse_visible_devices and _transform_uuid_to_ordinals (torch 2.13): a list of
    ordinals, or of (starts of) UUIDs that begin with `prefix`; the first invalid or negative entry
    ends the list; a device named twice leaves none. None is a variable that is not set.
    """
    everything = tuple(range(len(uuids)))
    if value is None:
        return Selection(everything)
    by_uuid = value.startswith(prefix)
    chosen: list[int] = []
    why = ""
    for entry in value.split(","):
        ordinal = _by_uuid(entry.strip(), uuids) if by_uuid else _by_number(entry.strip())
        if not 0 <= ordinal < len(uuids):
            why = f" `{entry.strip()}` is no device here, which ends the list."
            break
        if ordinal in chosen:
            chosen, why = [], f" `{entry.strip()}` stands there twice, which leaves none."
            break
        chosen.append(ordinal)
    if tuple(chosen) == everything and not why:
        return Selection(everything)
    return Selection(
        tuple(chosen),
        f"{variable}={value!r} leaves {len(chosen)} of {len(uuids)} GPU{'s' if len(uuids) != 1 else ''} visible.{why}",
    )


def _by_number(entry: str) -> int:
    """What C's strtoul makes of it (`1gpu` is 1), -1 for no number: CUDA reads it so."""
    found = _LEADING_NUMBER.match(entry[:20])
    return int(found[0]) if found else -1


def _by_uuid(entry: str, uuids: Sequence[str]) -> int:
    """The one device whose UUID starts so; -1 for none, and for more than one."""
    matches = [ordinal for ordinal, uuid in enumerate(uuids) if entry and uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else -1
