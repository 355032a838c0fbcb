"""How many connections: on lines that are simulated second by second, so that the whole course can be looked at."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from branchfit.download.fetch.connections import HOLD_S, MOST, SETTLE_S, WINDOW_S, Connections

STEP_S = 0.1
MB = 1_000_000


def course(
    line: Callable[[int], float], first: int, seconds: float, waiting_share: float = 1.0
) -> tuple[list[int], Connections]:
    """The number of connections at each step, where `line` says the bytes a second that so many get together."""
    connections, now_s, done, waited_s, seen = Connections(first), 0.0, 0.0, 0.0, []
    while now_s < seconds:
        number = connections.target
        now_s, done = now_s + STEP_S, done + line(number) * STEP_S
        waited_s += number * waiting_share * STEP_S
        seen.append(connections.sample(now_s, int(done), waited_s))
    return seen, connections


def test_a_cap_on_each_connection_brings_more_of_them_until_the_line_is_full() -> None:
    seen, _ = course(lambda number: min(number * 50, 420) * MB, first=2, seconds=8)
    assert sorted(set(seen)) == [2, 4, 8, 16]
    assert seen[-1] == 8  # 16 brought nothing more, and went again
    assert seen.index(8) * STEP_S < 3.0


def test_a_line_that_one_connection_fills_keeps_one() -> None:
    seen, _ = course(lambda number: 12 * MB, first=1, seconds=HOLD_S[0])
    assert set(seen) == {1, 2}
    assert seen.count(2) * STEP_S < 1.5  # the trial
    assert seen[-1] == 1


def test_a_line_that_loses_packets_is_tried_with_four_times_as_many() -> None:
    seen, _ = course(lambda number: min(number * 0.35, 12.5) * MB, first=2, seconds=10)
    assert sorted(set(seen)) == [2, 8, 32, MOST]
    assert seen[-1] == MOST
    # What pays so clearly is not looked at for as long as what does not.
    assert seen.index(8) * STEP_S < 0.8
    assert (seen.index(32) - seen.index(8)) * STEP_S < 0.9 < SETTLE_S + WINDOW_S


def test_a_trial_that_pays_a_little_is_looked_at_for_all_of_its_time() -> None:
    seen, _ = course(lambda number: min(number * 1.0, 2.8) * MB, first=2, seconds=10)
    tried = seen.index(8)
    assert all(number == 8 for number in seen[tried : tried + int((SETTLE_S + WINDOW_S) / STEP_S)])


def test_a_start_that_no_loss_had_reached_yet_is_not_what_a_trial_is_judged_by() -> None:
    """TCP's slow start: the first two get 8 MB/s for a while, then 0.7; 32 get what the line has."""
    step = iter(range(10**6))

    def line(number: int) -> float:
        burst = 8.0 if next(step) < 12 else 0.0
        return max(burst, min(number * 0.35, 9.5)) * MB

    seen, _ = course(line, first=2, seconds=8)
    assert seen[-1] == MOST
    assert seen.index(MOST) * STEP_S < 4


def test_a_trial_is_looked_at_again_only_when_its_connections_are_gone() -> None:
    """Those too many end with their ranges; what they still bring is not the fewer ones'."""
    connections, now_s, done = Connections(2), 0.0, 0
    rates = {2: 12.0, 4: 13.2}
    seen = []
    for _ in range(60):
        number = connections.target
        now_s += STEP_S
        lingering = number == 2 and 4 in seen and seen.count(2) < 30
        living = 4 if lingering else number
        done += int((0.5 if lingering else rates[number]) * MB * STEP_S)
        seen.append(connections.sample(now_s, done, now_s * number, living))
    assert set(seen) == {2, 4}
    assert seen[-1] == 2


def test_a_third_more_is_worth_four_times_as_many() -> None:
    seen, _ = course(lambda number: min(number * 1.0, 11) * MB, first=8, seconds=10)
    assert seen[-1] == 32  # and half as many again brought nothing


def test_where_this_machine_is_the_limit_no_more_are_tried() -> None:
    seen, _ = course(lambda number: 900 * MB, first=2, seconds=60, waiting_share=0.3)
    assert set(seen) == {2}


def test_trials_that_were_not_worth_it_become_rarer() -> None:
    seen, _ = course(lambda number: 12 * MB, first=1, seconds=400)
    starts = [at for at, (before, after) in enumerate(pairwise(seen)) if after > before]
    gaps = [(later - earlier) * STEP_S for earlier, later in pairwise(starts)]
    assert len(starts) == len(HOLD_S) + 1
    for gap, hold in zip(gaps, HOLD_S, strict=True):
        assert hold <= gap < hold + 5


def test_noise_of_a_fifth_is_no_reason_for_more() -> None:
    noisy = iter([1.0, 1.2, 0.85, 1.15, 0.9] * 1000)
    seen, _ = course(lambda number: 12 * MB * next(noisy), first=2, seconds=60)
    assert seen[-1] == 2


@pytest.mark.parametrize(("first", "then"), [(8, 4), (1, 1)])
def test_a_server_that_refuses_gets_half_as_many_and_is_left_in_peace(first: int, then: int) -> None:
    connections = Connections(first)
    assert connections.refused(1.0) == then
    done = 0
    for step in range(11, int(HOLD_S[0] / STEP_S)):
        done += 5 * MB
        assert connections.sample(step * STEP_S, done, step * STEP_S * then) == then
