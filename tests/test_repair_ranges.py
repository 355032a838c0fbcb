"""`repair` of large files: only what is wrong is fetched, step by step of 16 MiB, whatever the lock pretends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from branchfit.download import read_lock
from branchfit.download.events import Event, Note, Started
from branchfit.download.hashing import PIECE_BYTES
from branchfit.download.mending import FICLONE
from branchfit.errors import DownloadError, NoSpace
from branchfit.installed import repair, verify
from downloads import BRANCH, FILES, MIB, REPO, World, a_world, contents, noise, sha256
from test_download_disk import mount, needs_mount
from test_repair import run

LOCK = "branchfit.lock.json"
WEIGHTS = "model.safetensors"
SIZE = 72 * MIB + 17
"""Four whole steps, of which the lock has the hashes, and 8 MiB + 17 bytes after them."""

TAIL = SIZE - 4 * PIECE_BYTES
LARGE: Mapping[str, bytes] = {**FILES, WEIGHTS: noise(SIZE, seed=3)}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        one.serve(LARGE)
        one.pull()
        one.server.requests.clear()
        yield one


def weights(world: World) -> Path:
    return world.target / WEIGHTS


def flip_at(path: Path, *offsets: int) -> None:
    with path.open("r+b") as stream:
        for offset in offsets:
            stream.seek(offset)
            (byte,) = stream.read(1)
            stream.seek(offset)
            stream.write(bytes([byte ^ 0xFF]))


def asked(world: World) -> list[tuple[int, int]]:
    """The ranges of the weights that went out, [start, stop), joined where they touch."""
    found: list[tuple[int, int]] = []
    for request in world.server.requests:
        if request.origin == "cdn" and request.sent_bytes:
            start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            found.append((start, start + request.sent_bytes))
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(found):
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def as_published(world: World) -> bool:
    return contents(world.target) == LARGE and verify(read_lock(world.target)).ok and not world.staging.exists()


def set_hints(world: World, hints: list[str]) -> None:
    """Other hashes of the beginnings in the lock than the pull recorded."""
    lock = json.loads((world.target / LOCK).read_text())
    for file in lock["files"]:
        if file["path"] == WEIGHTS:
            assert len(file["prefix_sha256"]) == len(hints) == 4
            file["prefix_sha256"] = hints
    (world.target / LOCK).write_text(json.dumps(lock))


def beginnings(content: bytes) -> list[str]:
    return [sha256(content[: step * PIECE_BYTES]) for step in range(1, 5)]


def test_one_flipped_byte_costs_one_step(world: World) -> None:
    model = read_lock(world.target)
    flip_at(weights(world), 2 * PIECE_BYTES + 5)
    (bad,) = verify(model).bad
    assert bad.first_bad_byte == 2 * PIECE_BYTES
    report = repair(world.hub, model)
    assert as_published(world)
    assert asked(world) == [(2 * PIECE_BYTES, 3 * PIECE_BYTES)]
    assert report.fetched_bytes == PIECE_BYTES
    assert report.fetched == {WEIGHTS: PIECE_BYTES}
    kept = {file.path: file.prefix_sha256 for file in read_lock(world.target).files}[WEIGHTS]
    assert list(kept) == beginnings(LARGE[WEIGHTS])


def test_flips_in_several_steps_and_after_the_last_one_cost_these(world: World) -> None:
    flip_at(weights(world), 0, 3 * PIECE_BYTES - 1, SIZE - 1)
    report = repair(world.hub, read_lock(world.target))
    assert as_published(world)
    assert asked(world) == [(0, PIECE_BYTES), (2 * PIECE_BYTES, 3 * PIECE_BYTES), (4 * PIECE_BYTES, SIZE)]
    assert report.fetched_bytes == 2 * PIECE_BYTES + TAIL


def test_a_flip_after_the_last_step_costs_what_is_after_it(world: World) -> None:
    flip_at(weights(world), 4 * PIECE_BYTES)
    (bad,) = verify(read_lock(world.target)).bad
    assert bad.first_bad_byte == 4 * PIECE_BYTES
    assert repair(world.hub, read_lock(world.target)).fetched_bytes == TAIL
    assert as_published(world)


@pytest.mark.parametrize(("flips", "more_bytes"), [((), 0), ((5,), PIECE_BYTES)], ids=["right so far", "and flipped"])
def test_of_a_truncated_file_the_rest_is_fetched(world: World, flips: tuple[int, ...], more_bytes: int) -> None:
    with weights(world).open("r+b") as stream:
        stream.truncate(50 * MIB)
    flip_at(weights(world), *flips)
    report = repair(world.hub, read_lock(world.target))
    assert as_published(world)
    assert report.fetched_bytes == SIZE - 50 * MIB + more_bytes
    assert asked(world)[-1] == (50 * MIB, SIZE)


def test_of_a_file_that_was_appended_to_nothing_is_fetched(world: World) -> None:
    with weights(world).open("ab") as stream:
        stream.write(noise(3 * MIB))
    report = repair(world.hub, read_lock(world.target))
    assert (report.ok, report.repaired, report.fetched_bytes) == (True, (WEIGHTS,), 0)
    assert asked(world) == []
    assert as_published(world)


def test_another_file_of_the_same_name_costs_no_byte_twice(world: World) -> None:
    weights(world).write_bytes(noise(SIZE, seed=8))
    assert repair(world.hub, read_lock(world.target)).fetched_bytes == SIZE
    assert as_published(world)


@pytest.mark.parametrize(
    ("forged", "most_bytes"),
    [
        # No step is as recorded: the first is fetched, is found to be the same again, and the record is dropped.
        (lambda bad: ["0" * 64] * 4, SIZE + PIECE_BYTES),
        # The record says the bad file is right: what is after it is fetched, and then all.
        (beginnings, TAIL + SIZE),
    ],
    ids=["of nothing", "of the bad file"],
)
def test_forged_hashes_of_beginnings_cost_time_and_no_byte_is_wrong(
    world: World, forged: Callable[[bytes], list[str]], most_bytes: int
) -> None:
    flip_at(weights(world), PIECE_BYTES + 5)
    set_hints(world, forged(weights(world).read_bytes()))
    report = repair(world.hub, read_lock(world.target))
    assert as_published(world)
    assert SIZE - 3 * PIECE_BYTES <= report.fetched_bytes <= most_bytes
    kept = {file.path: file.prefix_sha256 for file in read_lock(world.target).files}[WEIGHTS]
    assert list(kept) == beginnings(LARGE[WEIGHTS])


def test_a_byte_flipped_on_the_way_costs_its_step_once_more(world: World) -> None:
    flip_at(weights(world), 5)
    world.server.corrupt(r"cdn GET", offset=7)
    assert repair(world.hub, read_lock(world.target)).fetched_bytes == 2 * PIECE_BYTES
    assert as_published(world)


def test_where_the_lock_knows_no_beginnings_all_is_fetched_and_they_are_known_then(world: World) -> None:
    lock = json.loads((world.target / LOCK).read_text())
    for file in lock["files"]:
        file.pop("prefix_sha256", None)
    (world.target / LOCK).write_text(json.dumps(lock))
    flip_at(weights(world), 5)
    (bad,) = verify(read_lock(world.target)).bad
    assert bad.first_bad_byte is None
    assert repair(world.hub, read_lock(world.target)).fetched_bytes == SIZE
    flip_at(weights(world), 5)
    assert repair(world.hub, read_lock(world.target)).fetched_bytes == PIECE_BYTES
    assert as_published(world)


def test_a_verify_that_finds_all_right_records_the_beginnings_that_a_lock_of_before_lacks(world: World) -> None:
    set_hints(world, ["0" * 64] * 4)
    assert verify(read_lock(world.target)).ok
    flip_at(weights(world), 5)
    assert repair(world.hub, read_lock(world.target)).fetched_bytes == PIECE_BYTES


def test_the_bad_file_is_untouched_until_its_successor_is_whole(world: World) -> None:
    flip_at(weights(world), 5, 2 * PIECE_BYTES)
    bad = weights(world).read_bytes()
    before = weights(world).stat()
    world.server.cut_after(MIB, "cdn GET", times=None)
    with pytest.raises(DownloadError):
        repair(world.hub, read_lock(world.target), retry_waits_s=())
    world.server.clear_faults()
    after = weights(world).stat()
    assert weights(world).read_bytes() == bad
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)
    assert repair(world.hub, read_lock(world.target)).ok
    assert as_published(world)


_REPAIR = """
import sys
from pathlib import Path
from branchfit.download import read_lock
from branchfit.hub import Hub
from branchfit.installed import repair
repair(Hub(endpoint=sys.argv[1], cache_dir=Path(sys.argv[2])), read_lock(Path(sys.argv[3])))
"""


def test_a_repair_that_is_killed_goes_on(world: World) -> None:
    flip_at(weights(world), 5, 2 * PIECE_BYTES, SIZE - 1)
    bad = weights(world).read_bytes()
    arguments = [world.server.endpoint, str(world.hub.cache_dir), str(world.target)]
    world.server.slow_down(40 * MIB, "cdn GET")
    killed = subprocess.Popen([sys.executable, "-c", _REPAIR, *arguments])
    world.server.when_sent(PIECE_BYTES + 8 * MIB, killed.kill)  # in the middle of the second step that is bad
    assert killed.wait(60) != 0
    world.server.clear_faults()
    assert world.server.wait_idle()
    assert weights(world).read_bytes() == bad
    first_bytes = world.fetched_bytes("cdn")
    events: list[Event] = []
    report = repair(world.hub, read_lock(world.target), events.append)
    assert as_published(world)
    (started,) = [event for event in events if isinstance(event, Started)]
    assert started.done_bytes >= SIZE - 2 * PIECE_BYTES
    assert report.fetched_bytes < PIECE_BYTES + TAIL
    assert first_bytes + report.fetched_bytes <= 2 * PIECE_BYTES + TAIL + PIECE_BYTES


def test_a_repair_that_is_interrupted_can_be_run_again(world: World) -> None:
    flip_at(weights(world), 5)

    def interrupt(event: Event) -> None:
        if isinstance(event, Note):
            raise KeyboardInterrupt

    set_hints(world, beginnings(weights(world).read_bytes()))  # so that the whole hash is asked, which tells a Note
    with pytest.raises(KeyboardInterrupt):
        repair(world.hub, read_lock(world.target), interrupt)
    assert repair(world.hub, read_lock(world.target)).ok
    assert as_published(world)


def test_the_command_says_what_was_fetched_and_where_a_file_is_bad(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_lock(world.target)
    flip_at(weights(world), 2 * PIECE_BYTES + 5)
    code, said = run(world, monkeypatch, "verify", model.name)
    assert (code, f"got {sha256(weights(world).read_bytes())}, from byte 33,554,432 on\n" in said) == (1, True)
    (found,) = json.loads(run(world, monkeypatch, "verify", model.name, "--json")[1])["models"]
    assert [one["first_bad_byte"] for one in found["bad"]] == [33_554_432]
    code, said = run(world, monkeypatch, "repair", f"{REPO}:{BRANCH}")
    assert (code, f"  repaired {WEIGHTS} (16.78 MB of 75.50 MB fetched)\n" in said) == (0, True)
    flip_at(weights(world), 5)
    document = json.loads(run(world, monkeypatch, "repair", model.name, "--json")[1])
    assert document["fetched"] == {WEIGHTS: PIECE_BYTES}


@needs_mount
def test_a_disk_too_full_for_the_copy_is_told_with_both_numbers(world: World) -> None:
    flip_at(weights(world), 5)
    disk = world.models_dir.parent
    aside = disk.with_name("aside")
    shutil.copytree(disk, aside)
    mount("-t", "tmpfs", "-o", f"size={SIZE + 60 * MIB}", "tmpfs", str(disk))
    try:
        shutil.copytree(aside, disk, dirs_exist_ok=True)
        with pytest.raises(NoSpace) as caught:
            repair(world.hub, read_lock(world.target))
        assert caught.value.free_bytes < SIZE <= caught.value.needed_bytes
        assert not asked(world)
        assert not world.staging.exists()
        mount("-o", f"remount,size={2 * SIZE + 8 * MIB}", str(disk))
        assert repair(world.hub, read_lock(world.target)).fetched_bytes == PIECE_BYTES
        assert as_published(world)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@needs_mount
@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs mkfs.xfs, to have files that share blocks")
def test_where_files_can_share_blocks_a_repair_needs_no_room_for_a_copy(world: World, tmp_path: Path) -> None:
    flip_at(weights(world), 5)
    disk, image = world.models_dir.parent, tmp_path / "disk.xfs"
    aside = disk.with_name("aside")
    shutil.copytree(disk, aside)
    with image.open("wb") as stream:
        stream.truncate(320 * MIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(image)], check=True)
    mount("-o", "loop", str(image), str(disk))
    try:
        shutil.copytree(aside, disk, dirs_exist_ok=True)
        free = shutil.disk_usage(disk).free
        with (disk / "ballast").open("wb") as stream:
            for _ in range((free - 40 * MIB) // MIB):
                stream.write(bytes(MIB))
        assert shutil.disk_usage(disk).free < SIZE
        assert repair(world.hub, read_lock(world.target)).fetched_bytes == PIECE_BYTES
        assert as_published(world)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="fcntl has the number since Python 3.12")
@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux's")
def test_the_number_of_the_request_to_share_blocks_is_the_systems_own() -> None:
    import fcntl

    assert vars(fcntl)["FICLONE"] == FICLONE
