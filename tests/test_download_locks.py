"""Two at work, workers that outlive a stop, links planted where BranchFit writes: nobody steps on anybody."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchfit.download import Event, pull
from branchfit.download import staging as staging_module
from branchfit.download.disk import open_regular
from branchfit.download.events import Checking, FileStarted, Finished, Pace, Progress, Retrying
from branchfit.download.locks import hold
from branchfit.download.staging import Staging, Stopped
from branchfit.errors import DownloadError, TransferBroken
from branchfit.hub import Hub
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


# ---- workers that outlive a stop ---------------------------------------------------------------


def test_a_worker_that_outlives_its_pull_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    sync, keep = staging_module.sync, Staging.keep

    def slow(path: Path) -> None:
        if path.suffix == ".part" and path.stat().st_size > MIB:
            reached.set()
            assert go_on.wait(60)
        sync(path)

    def watched(self: Staging, path: Path, file: object) -> None:
        try:
            keep(self, path, file)  # type: ignore[arg-type]
        except Stopped:
            ended.set()
            raise

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.path == WEIGHTS and event.done_bytes == event.total_bytes:
            assert reached.wait(60)
            raise KeyboardInterrupt

    monkeypatch.setattr("branchfit.download.crew.JOIN_S", 0.1)
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
    assert world.of(Finished)[0].fetched_bytes >= len(FILES[WEIGHTS])


def test_an_answer_that_begins_otherwise_than_the_part_starts_the_file_over(world: World) -> None:
    flip(broken_at(world, 2 * MIB + 5), 1000)
    world.server.ignore_range("cdn GET", times=None)
    world.pull()
    assert contents(world.target) == FILES
    assert [event.reason for event in world.of(Retrying) if "other bytes" in event.reason]


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
