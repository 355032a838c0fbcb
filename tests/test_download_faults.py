"""What goes wrong on the way: cuts, kills, wrong bytes, two at once. Nothing unverified ever appears."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from branchfit.download import Event, pull
from branchfit.download.events import FileStarted, Finished, Note, Progress, Retrying, Waiting
from branchfit.download.staging import Staging
from branchfit.errors import (
    AccessDenied,
    BadChecksum,
    DownloadError,
    FileNotOnHub,
    HubUnreachable,
    RateLimited,
    TransferBroken,
)
from branchfit.hub import Body, Hub
from branchfit.installed import remove
from downloads import BRANCH, FILES, MIB, REPO, World, a_world, contents, flip, noise, sha256

WEIGHTS = "model.safetensors"
SIZE = len(FILES[WEIGHTS])
WHOLE = sum(map(len, FILES.values()))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


def absent(world: World) -> bool:
    return list(world.models_dir.iterdir()) == []


def the_part(world: World) -> Path:
    (part,) = (world.staging / "parts").glob(f"{sha256(FILES[WEIGHTS])}-*.part")
    return part


def the_map(world: World) -> Path:
    part = the_part(world)
    return part.with_name(part.name + ".map")


def break_off(world: World, after_bytes: int) -> None:
    """Leave a pull behind that has all but the weights, which broke off after so many bytes."""
    world.server.cut_after(after_bytes, "cdn GET", times=1)
    with pytest.raises(TransferBroken) as caught:
        world.pull(retry_waits_s=())
    assert (caught.value.path, caught.value.done_bytes, caught.value.total_bytes) == (WEIGHTS, after_bytes, SIZE)
    while not all((world.staging / "files" / path).exists() for path in FILES if path != WEIGHTS):
        world.server.cut_after(0, "cdn GET", times=1)  # the break was faster than the small files
        with pytest.raises(TransferBroken):
            world.pull(retry_waits_s=())
    world.server.clear_faults()
    world.server.requests.clear()
    world.events.clear()
    assert absent(world)


# ---- the line ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_a_stream_that_breaks_goes_on_where_it_stopped(world: World, reset: bool) -> None:
    world.server.cut_after(2 * MIB, "cdn GET", times=1, reset=reset)
    world.pull()
    assert contents(world.target) == FILES
    assert len(world.of(Retrying)) == 1
    second = [one for one in world.fetches() if one.origin == "cdn"][1]
    # A reset may overtake bytes that were on their way; a clean close never does.
    start = int(second.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    assert start == 2 * MIB or (reset and start < 2 * MIB)


def test_each_working_stream_starts_the_count_of_tries_again(world: World) -> None:
    world.serve({**FILES, WEIGHTS: noise(8 * MIB)})
    world.server.cut_after(MIB, "cdn GET", times=7)
    world.pull(retry_waits_s=(0.0,))
    assert contents(world.target)[WEIGHTS] == noise(8 * MIB)
    assert [event.attempt for event in world.of(Retrying)] == [1] * 7


def test_a_line_that_stays_broken_is_an_error_that_keeps_what_came(world: World) -> None:
    world.server.cut_after(1000, "cdn GET", times=None)
    with pytest.raises(TransferBroken) as caught:
        world.pull()
    # Three tries with two waits between them, each bringing 1000 bytes.
    assert (caught.value.path, caught.value.done_bytes, caught.value.total_bytes) == (WEIGHTS, 3000, SIZE)
    assert absent(world)
    assert the_part(world).read_bytes() == FILES[WEIGHTS][:3000]
    world.server.clear_faults()
    world.server.requests.clear()
    world.pull()
    assert contents(world.target) == FILES
    assert world.fetched_bytes("cdn") == SIZE - 3000


def test_files_that_were_whole_are_not_fetched_again(world: World) -> None:
    break_off(world, 2 * MIB)
    world.pull()
    assert {Path(one.path).name for one in world.fetches() if one.origin == "hub"} == {WEIGHTS}
    assert world.fetched_bytes() == SIZE - 2 * MIB
    assert FileStarted(WEIGHTS, 2 * MIB, SIZE) in world.events
    assert world.of(Finished)[0].fetched_bytes == SIZE - 2 * MIB


def test_a_server_that_ignores_range_sends_the_file_from_its_start(world: World) -> None:
    break_off(world, 2 * MIB)
    world.server.ignore_range("cdn GET", times=None)
    world.pull()
    assert contents(world.target) == FILES
    # The first is thrown away, being bound to an ETag; the second, since it might be a slip.
    assert [one.headers.get("range") for one in world.fetches() if one.origin == "cdn"] == [f"bytes={2 * MIB}-"] * 3


def test_a_server_that_ignores_range_once_costs_nothing_that_was_here(world: World) -> None:
    break_off(world, 2 * MIB)
    world.server.ignore_range("cdn GET", times=1)
    world.pull()
    assert contents(world.target) == FILES
    assert world.of(Finished)[0].fetched_bytes == SIZE - 2 * MIB


def test_a_server_that_answers_another_range_is_not_believed(world: World) -> None:
    break_off(world, 2 * MIB)
    world.server.shift_range(1, "cdn GET", times=1)
    world.pull()
    assert contents(world.target) == FILES


def test_an_answer_of_another_size_than_listed_is_refused(world: World) -> None:
    world.server.fail_next(200, matching="cdn GET", body=b"<html>login</html>", times=None)
    with pytest.raises(DownloadError, match=rf"model\.safetensors.*{SIZE:,} bytes, the answer 18"):
        world.pull()
    assert absent(world)


class Chatty(Hub):
    """The real Hub, whose answers announce no size and go on after the file's end."""

    @contextmanager
    def open(self, *arguments: Any, **options: Any) -> Iterator[Body]:
        with super().open(*arguments, **options) as body:
            whole = body.chunks

            def more() -> Iterator[bytes]:
                yield from whole()
                yield b"more"

            yield dataclasses.replace(body, total_bytes=None, length=None, chunks=more)


def test_bytes_beyond_the_announced_size_are_refused(world: World) -> None:
    world.hub = Chatty(endpoint=world.server.endpoint, cache_dir=world.hub.cache_dir)
    with pytest.raises(DownloadError, match="goes on after"):
        world.pull()
    assert absent(world)


class Elsewhere(Hub):
    """The real Hub, whose answers say that they come from another commit."""

    @contextmanager
    def open(self, *arguments: Any, **options: Any) -> Iterator[Body]:
        with super().open(*arguments, **options) as body:
            yield dataclasses.replace(body, commit="f" * 40)


def test_an_answer_from_another_commit_is_refused(world: World) -> None:
    world.hub = Elsewhere(endpoint=world.server.endpoint, cache_dir=world.hub.cache_dir)
    with pytest.raises(DownloadError, match="ffff"):
        world.pull()
    assert absent(world)


def test_a_server_error_for_a_while_is_waited_out(world: World) -> None:
    world.server.fail_next(503, matching="cdn GET", times=2)
    world.pull()
    assert contents(world.target) == FILES


def test_a_rate_limit_longer_than_patience_is_told_with_the_hubs_wish(world: World) -> None:
    world.server.fail_next(429, headers={"Retry-After": "3600"}, matching="GET .*/resolve/.*safetensors", times=None)
    with pytest.raises(RateLimited) as caught:
        world.pull()
    assert caught.value.retry_after_s == 3600
    assert absent(world)


def test_a_file_that_vanished_or_closed_ends_the_pull_at_once(world: World) -> None:
    world.server.fail_next(404, headers={"X-Error-Code": "EntryNotFound"}, matching="/resolve/.*safetensors")
    with pytest.raises(FileNotOnHub):
        world.pull()
    world.server.fail_next(403, headers={"X-Error-Code": "GatedRepo"}, matching="/resolve/.*safetensors")
    with pytest.raises(AccessDenied):
        world.pull()
    assert not world.of(Retrying)
    assert absent(world)


def test_a_hub_that_is_away_is_an_error_even_half_done(world: World) -> None:
    break_off(world, MIB)
    world.server.stop()
    with pytest.raises(HubUnreachable):
        world.pull()
    world.server.start()
    world.pull()
    assert contents(world.target) == FILES


# ---- wrong bytes -------------------------------------------------------------------------------


def test_a_byte_flipped_on_the_way_costs_the_file_once_more(world: World) -> None:
    world.server.corrupt("cdn GET", offset=1_500_000, times=1)
    world.pull()
    assert contents(world.target) == FILES
    assert world.fetched_bytes("cdn") == 2 * SIZE
    assert any("fetching it once more" in note.message for note in world.of(Note))
    assert not world.staging.exists()


def test_a_byte_that_is_wrong_at_the_source_is_refused_and_the_file_kept_aside(world: World) -> None:
    world.server.corrupt("cdn GET", offset=1_500_000, times=None)
    with pytest.raises(BadChecksum, match="wrong where it is served") as caught:
        world.pull()
    bad = bytearray(FILES[WEIGHTS])
    bad[1_500_000] ^= 0xFF
    assert caught.value.path == WEIGHTS
    assert (caught.value.expected, caught.value.actual) == (sha256(FILES[WEIGHTS]), sha256(bytes(bad)))
    assert caught.value.kept is not None
    assert caught.value.kept.read_bytes() == bad
    assert absent(world)
    assert list((world.staging / "parts").iterdir()) == []
    world.server.clear_faults()
    world.pull()
    assert contents(world.target) == FILES
    assert not world.staging.exists()


def test_bytes_that_are_wrong_in_another_way_each_time_are_the_lines_fault(world: World) -> None:
    world.server.corrupt("cdn GET", offset=1_500_000, times=1)
    world.server.corrupt("cdn GET", offset=1_600_000, times=None)
    with pytest.raises(BadChecksum, match="line or this machine") as caught:
        world.pull()
    assert not caught.value.twice
    assert absent(world)


def test_a_flipped_byte_in_a_plain_file_is_found_by_its_git_blob_id(world: World) -> None:
    world.server.corrupt(r"resolve-cache.*config\.json", offset=3, times=None)
    with pytest.raises(BadChecksum) as caught:
        world.pull()
    assert caught.value.path == "config.json"
    assert len(caught.value.expected) == 40
    assert absent(world)


def test_of_a_part_that_rotted_on_disk_what_was_there_is_fetched_once_more(world: World) -> None:
    break_off(world, 2 * MIB)
    flip(the_part(world), 12345)
    world.pull()
    assert contents(world.target) == FILES
    assert world.fetched_bytes() == SIZE


def test_a_whole_file_changed_in_the_staging_folder_is_fetched_again(world: World) -> None:
    break_off(world, MIB)
    staged = world.staging / "files" / "config.json"
    flip(staged)
    os.utime(staged, ns=(0, 10**18))  # file systems stamp in ticks of some ms: the flip may fall into that of the pull
    world.pull()
    assert contents(world.target) == FILES


def test_a_whole_file_that_the_journal_does_not_know_is_hashed_not_fetched(world: World) -> None:
    break_off(world, MIB)
    (world.staging / "journal.jsonl").write_bytes(b'{"torn": ')
    world.pull()
    assert contents(world.target) == FILES
    assert {Path(one.path).name for one in world.fetches() if one.origin == "hub"} == {WEIGHTS}


def test_a_part_longer_than_its_file_starts_over(world: World) -> None:
    break_off(world, MIB)
    the_part(world).write_bytes(b"x" * (SIZE + 1))
    world.pull()
    assert contents(world.target) == FILES
    assert world.fetched_bytes() == SIZE


def test_a_part_that_is_whole_already_is_verified_without_a_request(world: World) -> None:
    break_off(world, MIB)
    the_part(world).write_bytes(FILES[WEIGHTS])
    the_map(world).unlink()  # as before there were maps: all of a part counts
    world.pull()
    assert contents(world.target) == FILES
    assert not world.fetches()


def test_what_an_older_commit_left_unfinished_is_used_or_cleared(world: World) -> None:
    break_off(world, 2 * MIB)
    stale = the_part(world)
    files = {**FILES, WEIGHTS: noise(MIB, seed=7)}
    world.serve(files)
    world.server.cut_after(10, "cdn GET", times=None)
    with pytest.raises(TransferBroken):
        world.pull(latest=True)
    assert not stale.exists()
    assert (world.staging / "files" / "README.md").exists()
    world.server.clear_faults()
    world.pull(latest=True)
    assert contents(world.target) == files


# ---- planted links -----------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_bytes(b"precious")
    return folder


@pytest.mark.parametrize("place", ["", "files", "parts", "files/sub"])
def test_a_folder_link_planted_in_the_staging_folder_is_not_written_through(
    world: World, outside: Path, place: str
) -> None:
    link = world.staging / place
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    try:
        world.pull()
    except DownloadError as error:
        assert "is a link" in str(error)
        assert absent(world)
    else:
        assert contents(world.target) == FILES
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("how", ["symlink", "hardlink"])
def test_a_link_planted_as_a_part_is_not_written_through(world: World, outside: Path, how: str) -> None:
    break_off(world, MIB)
    part = the_part(world)
    part.unlink()
    if how == "symlink":
        part.symlink_to(outside / "precious")
    else:
        part.hardlink_to(outside / "precious")
    world.pull()
    assert contents(world.target) == FILES
    assert (outside / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("suffix", [".lock", ".json"])
def test_a_link_planted_as_the_lock_is_not_written_through(
    world: World, outside: Path, own_folders: Path, suffix: str
) -> None:
    world.pull()
    (lock,) = (own_folders / "branchfit-cache" / "locks").iterdir()
    lock.unlink()
    lock.with_suffix(suffix).symlink_to(outside / "precious")
    with pytest.raises(DownloadError, match="is a link"):
        remove(world.target)
    assert (outside / "precious").read_bytes() == b"precious"


def test_a_link_in_a_staged_files_place_is_replaced(world: World, outside: Path) -> None:
    break_off(world, MIB)
    staged = world.staging / "files" / "config.json"
    staged.unlink()
    staged.symlink_to(outside / "precious")
    world.pull()
    assert contents(world.target) == FILES
    assert not (world.target / "config.json").is_symlink()
    assert (outside / "precious").read_bytes() == b"precious"


# ---- interrupted, killed, two at once ----------------------------------------------------------

PULL = """
import sys
from pathlib import Path
from branchfit.download import pull
from branchfit.download.events import Finished, Progress, Waiting
from branchfit.hub import Hub

def show(event):
    if isinstance(event, Progress) and event.path == "model.safetensors" and event.done_bytes >= 2**20:
        print("progress", flush=True)
    if isinstance(event, (Finished, Waiting)):
        print(type(event).__name__, getattr(event, "outcome", ""), flush=True)

endpoint, cache, repo, branch, models = sys.argv[1:]
pull(Hub(endpoint=endpoint, cache_dir=Path(cache)), repo, branch, Path(models), on_event=show)
"""


def start_pull(world: World) -> subprocess.Popen[str]:
    manager = Path(__file__).parent.parent / "manager"
    arguments = [world.server.endpoint, str(world.hub.cache_dir), REPO, BRANCH, str(world.models_dir)]
    return subprocess.Popen(
        [sys.executable, "-c", PULL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(manager)},
    )


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_process_ended_in_mid_file_is_continued_by_the_next(world: World, how: str) -> None:
    world.server.slow_down(MIB, "cdn GET")
    process = start_pull(world)
    assert process.stdout is not None
    assert process.stdout.readline() == "progress\n"
    process.send_signal(getattr(signal, how))
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert ("KeyboardInterrupt" in said) == (how == "SIGINT")
    assert absent(world)
    there = the_part(world).stat().st_size
    assert MIB <= there < SIZE
    world.server.clear_faults()
    world.server.requests.clear()
    world.pull()
    assert contents(world.target) == FILES
    # A kill loses what was not written down yet, an interrupt nothing.
    lost = world.fetched_bytes("cdn") - (SIZE - there)
    assert 0 <= lost <= (MIB if how == "SIGKILL" else 0)


def test_an_interrupt_keeps_what_came_and_leaves_no_thread_behind(world: World) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and event.done_bytes >= MIB:
            raise KeyboardInterrupt

    world.server.slow_down(4 * MIB, "cdn GET")
    with pytest.raises(KeyboardInterrupt):
        world.pull(on_event=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("branchfit-pull")]
    assert absent(world)
    there = the_part(world).stat().st_size
    assert there >= MIB
    world.server.clear_faults()
    world.server.requests.clear()
    world.pull()
    assert world.fetched_bytes("cdn") == SIZE - there


def test_two_processes_fetch_a_branch_once(world: World) -> None:
    world.server.slow_down(8 * MIB, "cdn GET")
    both = [start_pull(world), start_pull(world)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert contents(world.target) == FILES
    assert world.fetched_bytes() == WHOLE
    assert sorted(text.split("Finished ")[1].strip() for text in said) == ["already", "fetched"]


def test_a_pull_of_a_folder_at_work_waits_or_says_who_it_is(world: World) -> None:
    staging = Staging(world.staging.parent, world.target)
    done: list[str] = []
    with staging.locked():
        with pytest.raises(DownloadError, match=f"pid {os.getpid()}"):
            world.pull(wait=False)
        told = threading.Event()

        def show(event: Event) -> None:
            if isinstance(event, Waiting):
                assert event.pid == os.getpid()
                told.set()

        second = threading.Thread(
            target=lambda: done.append(pull(world.hub, REPO, BRANCH, world.models_dir, on_event=show).branch)
        )
        second.start()
        assert told.wait(60)
        assert not world.fetches()
    second.join(60)
    assert done == [BRANCH]
    assert contents(world.target) == FILES
