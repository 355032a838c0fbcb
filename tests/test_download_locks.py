"""Two at work, workers that outlive a stop, links planted where BranchFit writes: nobody steps on anybody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from branchfit.download import Event, pull
from branchfit.download import staging as staging_module
from branchfit.download.disk import open_regular
from branchfit.download.events import Checking, FileStarted, Finished, Note, Pace, Progress, Retrying, Waiting
from branchfit.download.locks import Busy, hold, waited
from branchfit.download.notice import Holder, read_notice
from branchfit.download.staging import Staging, Stopped
from branchfit.errors import DownloadError, TransferBroken
from branchfit.hub import Hub
from branchfit.hub.cache import default_cache_dir
from branchfit.installed import find, remove, scan
from downloads import BRANCH, FILES, FOLDER, MIB, REPO, World, a_world, contents, flip, noise

WEIGHTS = "model.safetensors"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


# ---- planted links -----------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody's, with subfolders named as ours are."""
    for name in ("old", "files", "parts", "bad", "removed"):
        (tmp_path / "outside" / name).mkdir(parents=True)
        (tmp_path / "outside" / name / "thesis.txt").write_text("x")
    return tmp_path / "outside"


def plant(world: World, place: str, outside: Path) -> None:
    link = world.staging / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / place)


@pytest.mark.parametrize("place", ["", "old", "files", "removed"])
@pytest.mark.parametrize("state", ["absent", "damaged", "moved"])
def test_nothing_is_taken_or_deleted_through_a_link_in_the_staging_folder(
    world: World, outside: Path, place: str, state: str
) -> None:
    if state != "absent":
        world.pull()
    if state == "damaged":
        (world.target / "config.json").write_bytes(b"edited")
    if state == "moved":
        world.serve({**FILES, "config.json": b"{}"})
    plant(world, place, outside)
    before = contents(world.target)
    with pytest.raises(DownloadError, match="is a link"):
        world.pull(latest=True)
    assert len(contents(outside)) == 5
    assert contents(world.target) == before
    assert not world.fetches() or state != "absent"


@pytest.mark.parametrize("place", ["", "old", "removed"])
def test_nothing_is_removed_or_listed_through_a_link_in_the_staging_folder(
    world: World, outside: Path, place: str
) -> None:
    world.pull()
    plant(world, place, outside)
    assert [model.name for model in scan(world.models_dir).installed] == [FOLDER] or place == "old"
    with pytest.raises(DownloadError, match="is a link"):
        remove(world.target)
    assert len(contents(outside)) == 5
    assert contents(world.target) == FILES


def test_a_file_with_a_second_name_is_not_opened_for_writing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "second").hardlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="no plain file of its own"):
        open_regular(tmp_path / "second", "r+b")
    with open_regular(tmp_path / "second", "rb") as stream:
        assert stream.read() == b"precious"


# ---- two at work -------------------------------------------------------------------------------


def test_a_remove_waits_for_no_pull_whatever_staging_folder_that_was_given(world: World, tmp_path: Path) -> None:
    world.pull()
    world.serve({**FILES, WEIGHTS: noise(3 * MIB, seed=4)})
    refused: list[str] = []

    def meanwhile(event: Event) -> None:
        if isinstance(event, Progress) and not refused:
            with pytest.raises(DownloadError, match=f"pid {os.getpid()}.*at work"):
                remove(world.target)
            refused.append("removed")
            with pytest.raises(DownloadError, match="at work"):
                pull(world.hub, REPO, BRANCH, world.models_dir, latest=True, wait=False)

    world.pull(latest=True, staging_dir=tmp_path / "given", on_event=meanwhile)
    assert refused
    assert contents(world.target)[WEIGHTS] == noise(3 * MIB, seed=4)


def test_two_pulls_with_different_staging_folders_fetch_a_branch_once(world: World, tmp_path: Path) -> None:
    world.server.slow_down(8 * MIB, "cdn GET")
    events: list[Event] = []

    def work(name: str) -> None:
        hub = Hub(endpoint=world.server.endpoint, cache_dir=tmp_path / f"cache {name}")
        pull(hub, REPO, BRANCH, world.models_dir, staging_dir=tmp_path / name, on_event=events.append)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(event.outcome for event in events if isinstance(event, Finished)) == ["already", "fetched"]
    assert world.fetched_bytes("cdn") == len(FILES[WEIGHTS])


def test_a_models_folder_by_another_path_is_the_same_one(world: World, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(world.models_dir)
    with hold(world.models_dir / FOLDER, None):
        with pytest.raises(DownloadError, match="at work"), hold(tmp_path / "link" / FOLDER, None, wait=False):
            pass
        with hold(tmp_path / FOLDER, None, wait=False):
            pass


def test_without_a_cache_folder_the_lock_lies_beside(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv("BRANCHFIT_CACHE", str(tmp_path / "a file"))
    with hold(world.target, world.staging.parent):
        assert (world.staging.parent / f"{FOLDER}.lock").exists()
        with pytest.raises(DownloadError, match="at work"), hold(world.target, world.staging.parent, wait=False):
            pass
    with pytest.raises(OSError), hold(world.target, None):
        pass
    with hold(world.target, None, required=False):
        pass
    world.pull()
    assert contents(world.target) == FILES


# ---- who waits sees how far the other one is ----------------------------------------------------


def beside_the_lock() -> Path:
    (found,) = (default_cache_dir() / "locks").glob("*.json")
    return found


def waiting_for(world: World, on_wait: Callable[[Holder], None]) -> threading.Thread:
    """A thread that waits for the lock, and gives it back at once."""

    def work() -> None:
        with hold(world.target, None, on_wait=on_wait):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_waiting_one_is_told_how_far_the_holder_is_and_again_when_that_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("branchfit.download.locks.TELL_S", 0.0)
    monkeypatch.setattr("branchfit.download.locks.TELL_AGAIN_S", 1000.0)
    monkeypatch.setattr("branchfit.download.notice.PUBLISH_S", 0.0)
    told: list[Holder] = []
    changed = threading.Semaphore(0)

    def on_wait(holder: Holder) -> None:
        told.append(holder)
        changed.release()

    with hold(world.target, None) as notice:
        waiter = waiting_for(world, on_wait)
        for done in (5, 7):
            assert changed.acquire(timeout=60)
            notice.publish(done, 10)
        assert changed.acquire(timeout=60)
    waiter.join(60)
    assert told == [Holder(os.getpid(), done, 10 if done else 0) for done in (0, 5, 7)]
    assert waited(world.target, told[2]) == Waiting(world.target, os.getpid(), 7, 10)


def test_what_is_published_is_written_once_a_second_in_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("branchfit.download.notice.time", SimpleNamespace(monotonic=lambda: now[0]))
    seen = []
    with hold(world.target, None) as notice:
        place = beside_the_lock()
        inode, size = place.stat().st_ino, place.stat().st_size
        for done in range(1, 31):
            now[0] += 0.125
            notice.publish(done, 30)
            found = read_notice(place)
            assert found is not None and (place.stat().st_ino, place.stat().st_size) == (inode, size)
            seen.append(found.done_bytes)
        # 3.75 s: the first at once, and one at each full second, which is eight times 0.125 s, after it.
        assert sorted(set(seen)) == [1, 9, 17, 25]
    assert not place.exists()


HOLDER = """
import sys, time
from pathlib import Path
from branchfit.download.locks import hold
with hold(Path(sys.argv[1]), None) as notice:
    notice.publish(40, 100)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_who_waits_for_a_process_that_is_killed_takes_over_and_hears_of_it(world: World) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(world.target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    told: list[Holder] = []
    waits = threading.Event()

    def on_wait(found: Holder) -> None:
        told.append(found)
        waits.set()

    waiter = waiting_for(world, on_wait)
    assert waits.wait(60)
    holder.kill()
    holder.communicate(timeout=60)
    waiter.join(60)
    assert told[0] == Holder(holder.pid, 40, 100) and told[-1] == Holder(holder.pid, 40, 100, died=True)
    note = waited(world.target, told[-1])
    assert isinstance(note, Note) and f"pid {holder.pid} is gone" in note.message


def test_what_on_wait_raises_ends_the_waiting_and_holds_nothing(world: World) -> None:
    class Enough(Exception):
        pass

    def enough(holder: Holder) -> None:
        raise Enough

    with hold(world.target, None):
        raised: list[BaseException] = []

        def work() -> None:
            try:
                with hold(world.target, None, on_wait=enough):
                    raise AssertionError("it was held")
            except Enough as error:
                raised.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
        assert raised
    with hold(world.target, None, wait=False):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x", "done_bytes": 0, "total_bytes": 0}', b"\xff"])
def test_a_notice_that_does_not_read_tells_nothing_and_hurts_nobody(world: World, content: bytes) -> None:
    with hold(world.target, None):
        beside_the_lock().write_bytes(content)
        assert read_notice(beside_the_lock()) is None
        with pytest.raises(Busy) as caught, hold(world.target, None, wait=False):
            pass
        assert caught.value.pid is None


@pytest.mark.skipif(os.name == "nt", reason="a folder takes no place of a file there")
def test_a_notice_that_cannot_be_written_keeps_nobody_from_the_lock(world: World) -> None:
    with hold(world.target, None):
        place = beside_the_lock()
    place.mkdir()
    with hold(world.target, None) as notice:
        notice.publish(1, 2)
    world.pull()
    assert contents(world.target) == FILES


def test_a_pull_says_how_far_it_is_for_others_to_see(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchfit.download.notice.PUBLISH_S", 0.0)
    seen: list[tuple[int, int]] = []

    def show(event: Event) -> None:
        if isinstance(event, Progress):
            found = read_notice(beside_the_lock())
            assert found is not None and found.pid == os.getpid()
            assert (found.done_bytes, found.total_bytes) == (event.overall_done_bytes, event.overall_total_bytes)
            seen.append((found.done_bytes, found.total_bytes))

    world.pull(on_event=show)
    whole = sum(map(len, FILES.values()))
    assert seen[-1] == (whole, whole)


# ---- workers that outlive a stop ---------------------------------------------------------------


def test_a_worker_that_outlives_its_pull_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    sync, keep = staging_module.sync, Staging.keep

    def slow(path: Path) -> None:
        if path.suffix == ".part" and path.stat().st_size > MIB:
            reached.set()
            assert go_on.wait(60)
        sync(path)

    def watched(self: Staging, *arguments: Any) -> None:
        try:
            keep(self, *arguments)
        except Stopped:
            ended.set()
            raise

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.path == WEIGHTS and event.done_bytes == event.total_bytes:
            assert reached.wait(60)
            raise KeyboardInterrupt

    monkeypatch.setattr("branchfit.download.fetch.crew.JOIN_S", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(staging_module, "sync", slow)
        patch.setattr(Staging, "keep", watched)
        with pytest.raises(KeyboardInterrupt):
            world.pull(on_event=stop)
        before = {path: path.lstat().st_mtime_ns for path in world.staging.rglob("*")}
        go_on.set()
        assert ended.wait(60)
    assert {path: path.lstat().st_mtime_ns for path in world.staging.rglob("*")} == before
    world.pull()
    assert contents(world.target) == FILES


def test_a_staging_folder_takes_no_change_after_its_lock_was_given_back(world: World) -> None:
    staging = Staging(world.staging.parent, world.target)
    with staging.locked(), staging.writing():
        pass
    with pytest.raises(Stopped), staging.writing():
        pass


# ---- an answer that ignores Range --------------------------------------------------------------


def broken_at(world: World, size_bytes: int) -> Path:
    world.server.cut_after(size_bytes, "cdn GET", times=1)
    with pytest.raises(TransferBroken):
        world.pull(retry_waits_s=())
    (part,) = (path for path in (world.staging / "parts").iterdir() if path.stat().st_size == size_bytes)
    return part


def test_an_answer_from_the_start_that_breaks_costs_nothing_of_what_is_here(world: World) -> None:
    part = broken_at(world, 2 * MIB + 5)
    world.server.ignore_range("cdn GET", times=1)
    world.server.cut_after(10, "cdn GET", times=1)
    with pytest.raises(TransferBroken) as caught:
        world.pull(retry_waits_s=())
    assert caught.value.done_bytes == 2 * MIB + 5
    assert part.read_bytes() == FILES[WEIGHTS][: 2 * MIB + 5]
    world.server.ignore_range("cdn GET", times=1)
    world.pull()
    assert contents(world.target) == FILES
    # The whole file where its end was asked for is taken for a slip, and asked for again.
    assert world.of(Finished)[0].fetched_bytes == len(FILES[WEIGHTS]) - (2 * MIB + 5)


def test_an_answer_that_begins_otherwise_than_the_part_starts_the_file_over(world: World) -> None:
    flip(broken_at(world, 2 * MIB + 5), 1000)
    world.server.ignore_range("cdn GET", times=None)
    world.pull()
    assert contents(world.target) == FILES
    reasons = [event.reason for event in world.of(Retrying)]
    assert reasons and all("the whole file was answered" in reason for reason in reasons)


# ---- how often is told -------------------------------------------------------------------------


def test_bytes_are_told_at_first_at_last_and_seldom_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, told = Pace(100), []
    for done in range(1, 101):
        now[0] += 0.03
        if pace.due(done):
            told.append(done)
    # Every fourth of 0.03 s is 0.1 s and more after the one before.
    assert told == [1, *range(5, 100, 4), 100]


def test_checking_and_progress_keep_that_pace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchfit.download.events.TELL_S", 1000.0)
    world.serve({**FILES, WEIGHTS: noise(12 * MIB)})
    broken_at(world, 10 * MIB)
    world.events.clear()
    world.pull()
    checking = [event for event in world.of(Checking) if event.path == WEIGHTS]
    assert len(checking) <= 2
    progress = [event.done_bytes for event in world.of(Progress) if event.path == WEIGHTS]
    assert len(progress) == 2
    assert progress[-1] == 12 * MIB
    assert FileStarted(WEIGHTS, 10 * MIB, 12 * MIB) in world.events
    assert find(world.models_dir, FOLDER).branch == BRANCH
