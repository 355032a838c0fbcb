"""Which bytes are here: compared with a set of offsets, whatever is added and removed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from branchfit.download.extents import Extents

SIZE = 40
RANGES = st.tuples(st.booleans(), st.integers(0, SIZE), st.integers(0, SIZE))


@given(st.lists(RANGES, max_size=12), st.integers(0, SIZE - 1))
def test_ranges_are_the_offsets_that_were_added_and_not_removed(steps: list[tuple[bool, int, int]], at: int) -> None:
    found, expected = Extents(), set[int]()
    for added, start, stop in steps:
        if added:
            found.add(start, stop)
            expected |= set(range(start, stop))
        else:
            found.remove(start, stop)
            expected -= set(range(start, stop))
        ranges = list(found)
        assert {offset for one in ranges for offset in range(*one)} == expected
        assert found.total_bytes == len(expected)
        # Disjoint, in order, and merged where they touch.
        assert all(before[1] < after[0] for before, after in pairwise(ranges))
    end = next(offset for offset in range(at, SIZE + 1) if offset not in expected)
    assert found.end_of(at) == end
    gap = found.gap(at, SIZE)
    if end == SIZE:
        assert gap is None
    else:
        stop = next((offset for offset in range(end, SIZE) if offset in expected), SIZE)
        assert gap == (end, stop)


def test_an_empty_set_is_one_gap() -> None:
    assert Extents().gap(3, 9) == (3, 9)
    assert Extents([(0, 9)]).gap(3, 9) is None
    assert list(Extents([(5, 7), (0, 5), (9, 9)])) == [(0, 7)]
