"""Who fetches what: ranges as long as a connection's rate and the rest of the file make worth it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from branchfit.download.fetch import board as board_module
from branchfit.download.fetch.board import LAST_BYTES, LAST_S, LEAST_BYTES, Board, Work
from branchfit.download.fetch.part import Part
from branchfit.download.fetch.reading import Growing, Hand
from branchfit.download.lockfile import LockedFile
from branchfit.download.staging import Staging
from downloads import MIB

CONNECTIONS = 32


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    staging = Staging(tmp_path / "staging", tmp_path / "models" / "m")
    staging.parts.mkdir(parents=True)
    return staging


def opened(staging: Staging, size_bytes: int) -> tuple[Board, Growing]:
    """A board of one file that is open, with as many connections as there may be."""
    file = LockedFile("model.safetensors", size_bytes, "0" * 64, None)
    board = Board([file], CONNECTIONS, living=CONNECTIONS)
    first = board.next(Hand())
    assert first is not None and first.begin is file
    growing = Growing(Part(staging, staging.part(file), file))
    board.opened(growing)
    return board, growing


def asked_bytes(board: Board, bytes_per_s: float) -> int:
    give_up = threading.Timer(5.0, board.stop)  # it waits where there is no work
    give_up.start()
    work: Work | None = board.next(Hand(bytes_per_s=bytes_per_s))
    give_up.cancel()
    assert work is not None and work.fetch is not None
    return work.fetch[1].left_bytes


@pytest.mark.parametrize(
    ("bytes_per_s", "asked"),
    [(0.0, LEAST_BYTES[0]), (350_000.0, 700_000), (50e6, 2 * LEAST_BYTES[1])],
)
def test_a_range_is_two_seconds_of_its_connection_as_far_as_others_have_their_share(
    staging: Staging, bytes_per_s: float, asked: int
) -> None:
    board, growing = opened(staging, 4000 * MIB)
    with growing.part:
        assert asked_bytes(board, bytes_per_s) == asked


@pytest.mark.parametrize(("bytes_per_s", "least"), [(350_000.0, 175_000), (1_000.0, LEAST_BYTES[0])])
def test_towards_the_end_ranges_of_slow_connections_are_short(staging: Staging, bytes_per_s: float, least: int) -> None:
    """All of them are to come to the end together, and a megabyte takes 350 kB/s three seconds."""
    board, growing = opened(staging, 4 * MIB)
    with growing.part:
        assert asked_bytes(board, bytes_per_s) == least


def test_a_range_that_all_wait_for_is_halved_as_long_as_a_half_is_worth_a_request(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "HELP_S", 0.0)
    board, growing = opened(staging, 2 * MIB)
    with growing.part:
        for _ in range(4):
            asked_bytes(board, 1e6)  # half a second each
        assert growing.part.unclaimed_bytes() == 2 * MIB - 4 * 500_000
        asked_bytes(board, 1e6)
        assert not growing.part.unclaimed_bytes()
        assert asked_bytes(board, 350_000.0) == 250_000
        assert asked_bytes(board, 350_000.0) == 250_000


def test_a_range_that_is_nearly_here_by_its_own_pace_is_left_to_its_connection(staging: Staging) -> None:
    _, growing = opened(staging, 2 * MIB)
    with growing.part as part:
        now_s = time.monotonic()
        quick, slow = part.claim(MIB), part.claim(MIB)
        assert quick is not None and slow is not None
        quick.began_s = slow.began_s = now_s - 2.0
        part.write(quick, bytes(MIB - 300_000))
        part.write(slow, bytes(400_000))
        assert quick.left_s(now_s) < 1.0 < slow.left_s(now_s)
        half = part.split(256 * 1024, 1.0)
        assert half is not None and half.start > slow.at and half.stop == 2 * MIB
        assert part.split(256 * 1024, 100.0) is None


def test_the_very_last_is_helped_where_it_hangs_but_neither_long_ranges_nor_what_comes_at_once(
    staging: Staging,
) -> None:
    board, growing = opened(staging, 6 * MIB)
    with growing.part as part:
        long, stuck, quick, unanswered = (part.claim(size) for size in (3 * MIB, MIB, MIB, MIB))
        assert long is not None and stuck is not None and quick is not None and unanswered is not None
        now_s = time.monotonic()
        for claim, elapsed_s, left_bytes in ((long, 1.0, 1_200_000), (stuck, 1.0, 300_000), (quick, 0.1, 300_000)):
            part.write(claim, bytes(claim.left_bytes - left_bytes))
            claim.began_s, claim.first_s = now_s - elapsed_s - 0.05, now_s - elapsed_s
        unanswered.began_s = now_s - 0.9  # a server far away: another request would wait as long
        board._open[0].hands = 4
        before = stuck.stop
        assert asked_bytes(board, 350_000.0) == 150_000
        assert stuck.stop == before - 150_000
        assert part.split(LAST_BYTES[0], LAST_S, LAST_BYTES[1]) is None  # 150,000 bytes are a fifth of a second now


def test_what_hangs_no_longer_than_another_request_would_wait_is_left_alone(staging: Staging) -> None:
    _, growing = opened(staging, MIB)
    with growing.part as part:
        claim = part.claim(MIB)
        assert claim is not None
        part.write(claim, bytes(MIB - 300_000))
        now_s = time.monotonic()
        claim.began_s, claim.first_s = now_s - 1.6, now_s - 1.0
        assert claim.hangs_s(now_s) < 0
        claim.began_s = now_s - 1.05
        assert LAST_S < claim.hangs_s(now_s) < 0.4


def test_a_range_of_which_nothing_came_is_halved_once_it_has_been_waited_for(staging: Staging) -> None:
    _, growing = opened(staging, MIB)
    with growing.part as part:
        claim = part.claim(MIB)
        assert claim is not None and part.split(1, 1.0) is None
        claim.began_s -= 2.0
        assert part.split(1, 1.0) is not None
