"""Which bytes of a file are here: disjoint ranges, in order, that never touch each other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Extents:
    """A set of offsets, kept as [start, stop) ranges. Not safe to use from several threads by itself."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.total_bytes = 0
        for start, stop in ranges:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def add(self, start: int, stop: int) -> None:
        """These are here now, too."""
        if start >= stop:
            return
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self.total_bytes += stop - start - self._between(first, last)
        self._starts[first:last], self._stops[first:last] = [start], [stop]

    def remove(self, start: int, stop: int) -> None:
        """These are not."""
        if start >= stop:
            return
        first, last = bisect_right(self._stops, start), bisect_left(self._starts, stop)
        if first >= last:
            return
        left = (self._starts[first], start)
        right = (stop, self._stops[last - 1])
        kept = [one for one in (left, right) if one[0] < one[1]]
        self.total_bytes += sum(one[1] - one[0] for one in kept) - self._between(first, last)
        self._starts[first:last], self._stops[first:last] = [one[0] for one in kept], [one[1] for one in kept]

    def end_of(self, offset: int) -> int:
        """Where the range that holds `offset` ends; `offset` itself where none does."""
        index = bisect_right(self._starts, offset) - 1
        return self._stops[index] if index >= 0 and self._stops[index] > offset else offset

    def gap(self, start: int, stop: int) -> tuple[int, int] | None:
        """The first range between `start` and `stop` of which nothing is here; None where all of it is."""
        start = self.end_of(start)
        if start >= stop:
            return None
        index = bisect_right(self._starts, start)
        return start, min(stop, self._starts[index]) if index < len(self._starts) else stop

    def gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        """All ranges between `start` and `stop` of which nothing is here, in order."""
        found = []
        while (gap := self.gap(start, stop)) is not None:
            found.append(gap)
            start = gap[1]
        return found

    def _between(self, first: int, last: int) -> int:
        return sum(self._stops[first:last]) - sum(self._starts[first:last])
