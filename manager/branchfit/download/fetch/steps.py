"""Which bytes of an earlier day are right, by the hashes of the file's beginnings that were written down then.

The hash of a beginning speaks for its last step only where the steps before it are right: so they are judged in order,
each wrong one fetched again before the next is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..extents import Extents
from ..hashing import prefix_step_bytes

MOST_REFUSED = 2
"""So often a step that is not as recorded is fetched again. What comes twice the same shows that the record is wrong;
what comes otherwise each time is for the hash of the whole file to judge."""


class Steps:
    """The steps of one part. `known` is what was recorded (see `PartMap.prefixes`), `old` what is here since before.

    Not safe to use from several threads by itself.
    """

    def __init__(self, known: Mapping[int, str], old: Extents, size_bytes: int) -> None:
        self._known = dict(known)
        self._old = Extents(old)
        self._step_bytes = prefix_step_bytes(size_bytes)
        self._refused: dict[int, list[str]] = {}
        self._wrong_in_a_row = 0
        self._wrong_to = 0

    def is_known(self, steps: int, found: str) -> bool:
        """Whether it is recorded that the first `steps` steps have the hash `found`."""
        return self._known.get(steps) == found

    def wrong(self, steps: int, found: str) -> list[tuple[int, int]]:
        """What is to be fetched again now that the first `steps` steps turn out to have the hash `found`.

        The last of these steps, where another hash was recorded; after several in a row, so many of the next as well:
        a file that is quite another from here on should not come step by step.
        """
        start, stop = (steps - 1) * self._step_bytes, steps * self._step_bytes
        if steps not in self._known:
            return []
        if self.is_known(steps, found):
            self._old.remove(start, stop)
            return []
        refused = self._refused.setdefault(steps, [])
        if found in refused or len(refused) == MOST_REFUSED:
            self._known.clear()
            return []
        refused.append(found)
        self._old.remove(start, stop)
        if len(refused) > 1:
            return [(start, stop)]
        if start != self._wrong_to:
            self._wrong_in_a_row = 0
        self._wrong_to = stop + self._wrong_in_a_row * self._step_bytes
        self._wrong_in_a_row = 1 + 2 * self._wrong_in_a_row
        return [(start, stop), *self._take_old(stop, self._wrong_to)]

    def unproven(self) -> list[tuple[int, int]]:
        """What is here since before and not as recorded, nothing being recorded of it; from now on it is not here."""
        return self._take_old(0, max((stop for _, stop in self._old), default=0))

    def _take_old(self, start: int, stop: int) -> list[tuple[int, int]]:
        found = [(max(one[0], start), min(one[1], stop)) for one in self._old if one[0] < stop and one[1] > start]
        self._old.remove(start, stop)
        return found
