"""Bytes of an earlier day: believed by the recorded hashes of beginnings, step by step, or by the hash of the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from branchfit.download.extents import Extents
from branchfit.download.fetch.part import Claim, Part
from branchfit.download.fetch.steps import MOST_REFUSED, Steps
from branchfit.download.hashing import PIECE_BYTES, FileHash
from branchfit.download.lockfile import LockedFile
from branchfit.download.partmap import PartMap
from branchfit.download.staging import Staging, Stopped
from downloads import MIB, noise, sha256

STEP = PIECE_BYTES


def all_old(steps: int) -> Steps:
    """A file of so many steps and one byte, all of it here since before; the hash of its n-th beginning was "n"."""
    size_bytes = steps * STEP + 1
    return Steps({step: str(step) for step in range(1, steps + 1)}, Extents([(0, size_bytes)]), size_bytes)


def test_a_step_that_is_not_as_recorded_is_wrong_alone_and_the_next_ones_are_judged_anew() -> None:
    steps = all_old(10)
    assert steps.wrong(1, "1") == []
    assert steps.wrong(2, "x") == [(STEP, 2 * STEP)]
    assert steps.wrong(2, "2") == []
    assert steps.wrong(3, "3") == []
    assert steps.wrong(5, "x") == [(4 * STEP, 5 * STEP)]


def test_after_wrong_steps_in_a_row_as_many_of_the_next_are_not_believed_either() -> None:
    steps = all_old(100)
    gone: list[int] = []
    step = 1
    while step <= 40:
        wrong = steps.wrong(step, "x")
        gone.append(sum(stop - start for start, stop in wrong) // STEP)
        for again in range(step, step + gone[-1]):
            assert steps.wrong(again, str(again)) == []
        step += gone[-1]
    assert gone == [1, 2, 4, 8, 16, 32]
    # A right one, and it is one by one again.
    assert steps.wrong(step, str(step)) == []
    assert steps.wrong(step + 1, "x") == [(step * STEP, (step + 1) * STEP)]


def test_what_came_over_the_line_since_is_not_given_up_with_the_next_steps() -> None:
    steps = Steps({1: "1", 2: "2"}, Extents([(0, 2 * STEP + STEP // 2)]), 5 * STEP)
    assert steps.wrong(1, "x") == [(0, STEP)]
    assert steps.wrong(1, "1") == []
    # The third step is old in its first half only.
    assert steps.wrong(2, "x") == [(STEP, 2 * STEP), (2 * STEP, 2 * STEP + STEP // 2)]


def test_a_record_that_what_comes_twice_the_same_contradicts_is_dropped() -> None:
    steps = all_old(3)
    assert steps.wrong(1, "right") == [(0, STEP)]
    assert steps.wrong(1, "right") == []
    assert steps.wrong(2, "right") == []
    assert steps.unproven() == [(STEP, 3 * STEP + 1)]
    assert steps.unproven() == []


def test_a_server_that_sends_something_else_each_time_is_not_asked_for_ever() -> None:
    steps = all_old(3)
    asked = 0
    while steps.wrong(1, f"noise {asked}"):
        asked += 1
    assert asked == MOST_REFUSED


def test_what_was_seen_to_be_as_recorded_is_proven_and_the_rest_is_not() -> None:
    steps = all_old(3)
    assert steps.wrong(1, "1") == steps.wrong(2, "2") == steps.wrong(3, "3") == []
    assert steps.unproven() == [(3 * STEP, 3 * STEP + 1)]


# ---- the hash, and the part ----------------------------------------------------------------------

CONTENT = noise(2 * STEP + MIB, seed=4)
FILE = LockedFile("model.safetensors", len(CONTENT), sha256(CONTENT), None)


@pytest.mark.parametrize("offset", [2 * STEP, 2 * STEP + 5, STEP + 5, 0])
def test_a_hash_goes_back_far_enough_for_an_offset_and_no_further_than_to_a_step(offset: int) -> None:
    digest = FileHash(FILE)
    digest.update(CONTENT)
    digest.rewind(offset)
    assert digest.done_bytes == (2 * STEP if offset >= 2 * STEP else 0)
    digest.update(CONTENT[digest.done_bytes :])
    assert digest.matches
    assert digest.prefixes == [sha256(CONTENT[:STEP]), sha256(CONTENT[: 2 * STEP])]


def staged(tmp_path: Path, content: bytes, prefixes: dict[int, str]) -> tuple[Staging, Path]:
    """A part that an earlier run left, and what its map knows."""
    staging = Staging(tmp_path / "staging", tmp_path / "models" / "model")
    staging.parts.mkdir(parents=True)
    part = staging.part(FILE)
    part.write_bytes(content)
    known = PartMap(part, FILE.size_bytes)
    known.here, known.prefixes = Extents([(0, len(content))]), prefixes
    known.open()
    known.close()
    return staging, part


def test_what_follows_the_last_step_is_dropped_alone_when_the_steps_are_right(tmp_path: Path) -> None:
    bad = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    staging, path = staged(tmp_path, bad, {1: sha256(CONTENT[:STEP]), 2: sha256(CONTENT[: 2 * STEP])})
    with Part(staging, path, FILE) as part:
        part.settle()
        assert (part.missing_bytes, part.matches) == (0, False)
        assert part.drop_unproven()
        claim = part.claim(len(CONTENT))
        assert claim is not None
        assert (claim.at, claim.stop) == (2 * STEP, len(CONTENT))
        part.write(claim, CONTENT[2 * STEP :])
        part.settle()
        assert part.matches
        assert not part.drop_unproven()
    assert path.read_bytes() == CONTENT


def test_where_nothing_was_recorded_all_of_an_earlier_run_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    staging, path = staged(tmp_path, CONTENT[:5] + b"?" + CONTENT[6 : STEP + 5], {})
    with Part(staging, path, FILE) as part:
        for content_at in (STEP + 5, 0):
            claim = part.claim(len(CONTENT))
            assert isinstance(claim, Claim)
            assert claim.at == content_at
            part.write(claim, CONTENT[claim.at : claim.stop])
            part.settle()
            assert part.missing_bytes == 0
            assert part.matches == (content_at == 0)
            assert part.drop_unproven() == (content_at != 0)


def test_a_part_that_is_closed_while_it_is_hashed_is_not_taken_for_a_wrong_one(tmp_path: Path) -> None:
    staging, path = staged(tmp_path, CONTENT, {})
    part = Part(staging, path, FILE)
    part.close()
    with pytest.raises(Stopped):
        part.settle()
    assert PartMap(path, FILE.size_bytes).here.total_bytes == len(CONTENT)
