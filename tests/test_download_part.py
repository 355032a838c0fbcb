"""A part of a file: written anywhere, hashed in order, and what is here survives every kill."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchfit.download.fetch import part as part_module
from branchfit.download.fetch.ahead import Ahead
from branchfit.download.fetch.part import Part
from branchfit.download.hashing import PIECE_BYTES, FileHash
from branchfit.download.lockfile import LockedFile
from branchfit.download.partmap import PartMap
from branchfit.download.staging import Staging
from downloads import MIB, noise, sha256

SIZE = 2 * PIECE_BYTES + 5 * MIB + 123
CONTENT = noise(SIZE)
FILE = LockedFile("model.safetensors", SIZE, sha256(CONTENT), None)


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    staging = Staging(tmp_path / "staging", tmp_path / "models" / "m")
    staging.parts.mkdir(parents=True)
    return staging


@pytest.fixture
def place(staging: Staging) -> Path:
    return staging.part(FILE)


def fill(part: Part, most_bytes: int = MIB, pieces: int | None = None, content: bytes = CONTENT) -> None:
    """Claim and write so many pieces (all of them), in the order in which claims are given out."""
    while pieces is None or pieces > 0:
        claim = part.claim(most_bytes)
        if claim is None:
            return
        while claim.at < claim.stop:
            part.write(claim, content[claim.at : min(claim.at + 300_000, claim.stop)])
        part.release(claim)
        pieces = pieces - 1 if pieces is not None else None


def prefixes(content: bytes) -> tuple[str, ...]:
    return tuple(sha256(content[:stop]) for stop in range(PIECE_BYTES, len(content), PIECE_BYTES))


def test_bytes_in_order_are_hashed_as_they_come(staging: Staging, place: Path) -> None:
    with Part(staging, place, FILE) as part:
        fill(part)
        part.settle()
        assert part.matches and part.missing_bytes == 0
        assert part.prefixes == prefixes(CONTENT)
    assert place.read_bytes() == CONTENT


@pytest.mark.parametrize("ahead_bytes", [0, 5 * MIB, 64 * MIB], ids=["read back", "some of each", "from memory"])
def test_bytes_in_any_order_by_many_threads_make_the_same_hash(staging: Staging, place: Path, ahead_bytes: int) -> None:
    room = Ahead(ahead_bytes)
    with Part(staging, place, FILE, room) as part:
        claims = [part.claim(3 * MIB) for _ in range(13)]
        assert part.claim(1) is None
        random.Random(5).shuffle(claims)

        def work() -> None:
            while claims:
                try:
                    claim = claims.pop()
                except IndexError:
                    return
                assert claim is not None
                while claim.at < claim.stop:
                    part.write(claim, CONTENT[claim.at : min(claim.at + 250_000, claim.stop)])
                part.release(claim)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        part.settle()
        assert part.matches
        assert part.prefixes == prefixes(CONTENT)
    assert place.read_bytes() == CONTENT
    assert room.free_bytes == ahead_bytes  # all of it was given back


def test_what_was_in_order_is_never_read_back(staging: Staging, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> int:
        raise AssertionError("the disk was read")

    monkeypatch.setattr(Part, "_read_at", read)
    with Part(staging, place, FILE) as part:
        one, other = part.claim(MIB), part.claim(MIB)
        assert one is not None and other is not None
        part.write(other, CONTENT[other.at : other.stop])  # ahead of its turn: kept in memory
        part.write(one, CONTENT[one.at : one.stop])
        part.release(one)
        part.release(other)
        fill(part)
        part.settle()
        assert part.matches


def test_a_part_goes_on_with_every_byte_that_is_here(staging: Staging, place: Path) -> None:
    with Part(staging, place, FILE) as part:
        fill(part, 3 * MIB, pieces=2)
        skipped = part.claim(2 * MIB)
        fill(part, MIB, pieces=3)
        assert skipped is not None
        part.write(skipped, CONTENT[skipped.at : skipped.at + 100])
        part.release(skipped)
        assert part.done_bytes == 9 * MIB + 100
    with Part(staging, place, FILE) as part:
        assert part.old_bytes == part.done_bytes == 9 * MIB + 100
        claim = part.claim(SIZE)
        assert claim is not None and (claim.at, claim.stop) == (6 * MIB + 100, 8 * MIB)
        part.release(claim)
        fill(part)
        part.settle()
        assert part.matches and part.fetched_bytes == SIZE - 9 * MIB - 100


def test_a_kill_loses_at_most_a_mebibyte_of_a_claim(staging: Staging, place: Path) -> None:
    part = Part(staging, place, FILE)
    claim = part.claim(SIZE)
    assert claim is not None
    for at in range(0, 5 * MIB + 500_000, 100_000):
        part.write(claim, CONTENT[at : at + 100_000])
    # Nobody closes or releases: what another process would find.
    found = PartMap(place, SIZE).here.total_bytes
    assert claim.at - MIB < found <= claim.at
    part.close()


def test_a_step_that_rotted_on_disk_is_fetched_again_and_nothing_else(staging: Staging, place: Path) -> None:
    with Part(staging, place, FILE) as part:
        fill(part, pieces=35)
        part.settle()
    with place.open("r+b") as stream:
        stream.seek(PIECE_BYTES + 7)
        stream.write(b"rot")
    with Part(staging, place, FILE) as part:
        part.settle()
        assert part.done_bytes == 35 * MIB - PIECE_BYTES
        fill(part)
        part.settle()
        assert part.matches
        assert part.fetched_bytes == SIZE - 35 * MIB + PIECE_BYTES
    with Part(staging, place, FILE) as part:  # and it is not suspected again
        part.settle()
        assert part.done_bytes == SIZE and part.matches


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00" * 100,
        b"+ 0 10",
        b"+ 5 1\n+ -1 7\n- a b\n= 1 00\ne no\n",
        b"+ 0 99999999999999999999\n",
        b'e "a\nb"\n+ 0 \xff\n',
    ],
)
def test_a_map_that_says_nothing_is_no_harm(staging: Staging, place: Path, text: bytes) -> None:
    place.write_bytes(CONTENT[:MIB])
    place.with_name(place.name + ".map").write_bytes(text)
    with Part(staging, place, FILE) as part:
        assert part.done_bytes == 0
        fill(part)
        part.settle()
        assert part.matches


def test_a_map_is_not_believed_beyond_the_end_of_the_file(staging: Staging, place: Path) -> None:
    place.write_bytes(CONTENT[: 2 * MIB])
    place.with_name(place.name + ".map").write_bytes(f"+ 0 {SIZE}\n= 1 {'0' * 64}\n".encode())
    with Part(staging, place, FILE) as part:
        assert part.done_bytes == 2 * MIB
        fill(part)
        # The map's hash of the first step is wrong: it costs that step once more, not the file.
        part.settle()
        fill(part)
        part.settle()
        assert part.matches and part.fetched_bytes == SIZE - 2 * MIB + PIECE_BYTES


def test_closing_waits_for_no_long_hashing(staging: Staging, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Part(staging, place, FILE) as part:
        fill(part)
    gate, fed = threading.Event(), []
    real = FileHash.update

    def slow(self: FileHash, data: bytes) -> None:
        fed.append(len(data))
        gate.wait(10)
        real(self, data)

    monkeypatch.setattr(FileHash, "update", slow)
    part = Part(staging, place, FILE)
    while not fed:
        pass
    closing = threading.Thread(target=part.close)
    closing.start()
    gate.set()
    closing.join(10)
    assert not closing.is_alive()
    assert sum(fed) < SIZE / 2


def test_a_read_that_fails_is_raised_where_the_hash_is_waited_for(
    staging: Staging, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Part(staging, place, FILE) as part:
        fill(part)

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Part, "_read_at", broken)
    with Part(staging, place, FILE) as part, pytest.raises(OSError, match="Input/output"):
        part.settle()


@pytest.fixture
def without_positions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on Windows, where a file has one position and there is no pread."""
    for name in ("preadv", "pwrite", "posix_fadvise"):
        monkeypatch.delattr(part_module.os, name, raising=False)
    yield


@pytest.mark.usefixtures("without_positions")
def test_a_system_without_positioned_reads_makes_the_same_file(staging: Staging, place: Path) -> None:
    test_bytes_in_any_order_by_many_threads_make_the_same_hash(staging, place, 0)


def test_half_of_the_longest_claim_is_given_to_another_and_no_byte_is_left_out(staging: Staging, place: Path) -> None:
    with Part(staging, place, FILE) as part:
        short, long = part.claim(4 * MIB), part.claim(SIZE)
        assert short is not None and long is not None
        half = part.split(2 * MIB)
        assert half is not None
        assert (short.stop, long.stop, half.stop) == (4 * MIB, half.at, SIZE)
        for claim in (half, long, short):
            while claim.at < claim.stop:
                part.write(claim, CONTENT[claim.at : min(claim.at + MIB, claim.stop)])
            part.release(claim)
        part.settle()
        assert part.matches and part.fetched_bytes == SIZE
        assert part.split(2 * MIB) is None
