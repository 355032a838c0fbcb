"""The moment a new folder takes an old one's place: killed, refused, or done, nothing of the user's is lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from branchfit.download import plan, pull, read_lock
from branchfit.download.events import BranchMoved, Finished, Note
from branchfit.download.staging import Staging
from branchfit.errors import DownloadError, UsageError
from branchfit.installed import find, installed, remove, scan, verify
from downloads import BRANCH, FILES, FOLDER, REPO, World, a_world, contents, flip, pull_killed

EDITED = b'{"model_type": "llama", "rope_scaling": 8}'
NEXT = {**FILES, "config.json": b'{"model_type": "mistral"}'}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


def beside(world: World) -> list[Path]:
    """What lies beside the models folder; nothing, after a success."""
    return [path for path in world.models_dir.parent.iterdir() if path != world.models_dir]


# ---- killed ------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(world: World) -> World:
    """A model with a note of the user's, whose update was killed when its place was empty."""
    world.pull()
    (world.target / "mine.txt").write_bytes(b"mine")
    world.serve(NEXT)
    pull_killed(world, "between the renames")
    assert not world.target.exists()
    world.events.clear()
    return world


def test_a_model_lost_between_two_renames_is_listed_found_and_verified_as_it_was(interrupted: World) -> None:
    (model,) = installed(interrupted.models_dir)
    assert find(interrupted.models_dir, FOLDER) == model
    assert verify(model).ok
    assert contents(interrupted.target) == {**FILES, "mine.txt": b"mine"}


@pytest.mark.parametrize("latest", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_a_pull_puts_it_back_even_into_an_empty_folder_made_since(
    interrupted: World, latest: bool, empty: bool
) -> None:
    if empty:
        interrupted.target.mkdir()
    interrupted.pull(latest=latest)
    assert contents(interrupted.target) == {**(NEXT if latest else FILES), "mine.txt": b"mine"}
    assert not (interrupted.staging / "old").exists()


def test_a_listing_puts_it_back_into_an_empty_folder_made_since(interrupted: World) -> None:
    interrupted.target.mkdir()
    assert [model.name for model in installed(interrupted.models_dir)] == [FOLDER]
    assert contents(interrupted.target) == {**FILES, "mine.txt": b"mine"}


def test_it_can_be_removed_with_all_that_lies_beside(interrupted: World) -> None:
    assert remove(interrupted.target) > 0
    assert not interrupted.target.exists()
    assert beside(interrupted) == []


def test_what_took_its_place_since_is_not_touched_and_neither_is_it(interrupted: World) -> None:
    interrupted.target.mkdir()
    (interrupted.target / "other.txt").write_bytes(b"other")
    (unknown,) = scan(interrupted.models_dir).unknown
    assert unknown.broken
    assert "interrupted" in unknown.reason
    with pytest.raises(DownloadError):
        interrupted.pull()
    with pytest.raises(DownloadError, match="interrupted"):
        remove(interrupted.target, force=True)
    assert contents(interrupted.target) == {"other.txt": b"other"}
    assert contents(interrupted.staging / "old") == {**FILES, "mine.txt": b"mine"}


def test_a_copy_at_another_commit_in_its_place_does_not_cost_it(interrupted: World) -> None:
    pull(interrupted.hub, REPO, BRANCH, interrupted.models_dir.parent / "elsewhere")
    (interrupted.models_dir.parent / "elsewhere" / FOLDER).rename(interrupted.target)
    (interrupted.staging / "journal.jsonl").write_text('{"folder": "x", "repo": "a/b", "branch": "c", "commit": "d"}\n')
    with pytest.raises(DownloadError, match="interrupted"):
        interrupted.pull(latest=True)
    with pytest.raises(DownloadError, match="interrupted"):
        find(interrupted.models_dir, FOLDER)
    assert contents(interrupted.staging / "old") == {**FILES, "mine.txt": b"mine"}


def test_a_models_folder_beside_with_the_same_staging_root_gets_nothing_of_it(interrupted: World) -> None:
    other = interrupted.models_dir.parent / "other models"
    other.mkdir()
    assert scan(other).installed == ()
    pull(interrupted.hub, REPO, BRANCH, other)
    assert contents(other / FOLDER) == NEXT
    assert contents(interrupted.staging / "old") == {**FILES, "mine.txt": b"mine"}


@pytest.mark.parametrize("where", ["after the renames", "before clearing"])
def test_what_a_kill_after_the_swap_left_goes_with_the_next_pull(world: World, where: str) -> None:
    world.pull()
    world.serve(NEXT)
    pull_killed(world, where)
    assert world.staging.exists()
    world.server.requests.clear()
    world.pull()
    assert world.of(Finished)[-1].outcome == "already"
    assert not world.fetches()
    assert beside(world) == []
    assert contents(world.target) == NEXT


def test_a_swap_that_fails_puts_the_former_folder_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pull()
    (world.target / "mine.txt").write_bytes(b"mine")
    world.serve(NEXT)
    rename = Path.rename

    def refused(path: Path, to: Path) -> Path:
        if path.name == "files":
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        with pytest.raises(DownloadError, match="Permission denied"):
            world.pull(latest=True)
    assert contents(world.target) == {**FILES, "mine.txt": b"mine"}
    world.pull(latest=True)
    assert contents(world.target) == {**NEXT, "mine.txt": b"mine"}


def test_a_model_is_on_the_disk_itself_before_it_takes_its_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.serve({**FILES, "a/b/c.txt": b"deep"})
    synced: set[int] = set()
    fsync, rename, before = os.fsync, Path.rename, list[set[int]]()

    def recorded(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def landing(path: Path, to: Path) -> Path:
        if path.name == "files":
            before.append(set(synced))
            assert (world.staging / "journal.jsonl").stat().st_ino in synced
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(Path, "rename", landing)
    world.pull()
    (then,) = before
    there = [world.target, *world.target.rglob("*")]
    assert len(there) == len(FILES) + 1 + 1 + 1 + 3  # its files, c.txt, the lock, itself; sub, a and a/b
    kinds = ("file", "folder") if os.name != "nt" else ("file",)
    for path in there:
        found = path.stat()
        if ("folder" if stat.S_ISDIR(found.st_mode) else "file") in kinds:
            assert found.st_ino in then, path
    assert world.models_dir.stat().st_ino in synced or os.name == "nt"


def test_nothing_is_left_beside_the_models_folder(world: World) -> None:
    world.pull()
    assert beside(world) == []


# ---- what the user changed ---------------------------------------------------------------------


def test_a_changed_file_is_kept_beside_the_authors_and_told(world: World) -> None:
    world.pull()
    (world.target / "config.json").write_bytes(EDITED)
    (world.target / "empty").mkdir()
    (world.target / "my" / "empty").mkdir(parents=True)
    world.events.clear()
    world.pull()
    assert contents(world.target) == {**FILES, "config.json.edited-1": EDITED}
    (note,) = world.of(Note)
    assert "config.json.edited-1" in note.message
    assert (world.target / "empty").is_dir()
    assert (world.target / "my" / "empty").is_dir()
    (world.target / "config.json").write_bytes(b"again")
    world.pull()
    assert contents(world.target) == {**FILES, "config.json.edited-1": EDITED, "config.json.edited-2": b"again"}
    assert verify(read_lock(world.target)).ok


def test_latest_keeps_what_was_changed_even_to_the_same_size(world: World) -> None:
    world.pull()
    flip(world.target / "config.json")
    edited = (world.target / "config.json").read_bytes()
    (world.target / "README.md").unlink()
    (world.target / "README.md").symlink_to("config.json")
    (world.target / "sub" / "notes.txt").write_bytes(b"changed")
    files = {path: content for path, content in NEXT.items() if not path.startswith("sub/")}
    world.serve(files)
    world.pull(latest=True)
    kept = {"config.json.edited-1": edited, "sub/notes.txt.edited-1": b"changed"}
    found = contents(world.target)
    assert found.pop("README.md.edited-1") == NEXT["config.json"]
    assert (world.target / "README.md.edited-1").readlink() == Path("config.json")
    assert found == {**files, **kept}
    assert len(world.of(Note)) == 3


def test_weights_of_another_size_are_kept_too(world: World) -> None:
    world.pull()
    (world.target / "model.safetensors").write_bytes(b"merged")
    world.pull()
    assert contents(world.target) == {**FILES, "model.safetensors.edited-1": b"merged"}


def test_an_empty_folder_in_the_place_of_a_new_file_gives_way(world: World) -> None:
    world.pull()
    (world.target / "added").mkdir()
    world.serve({**FILES, "added": b"file"})
    world.pull(latest=True)
    assert contents(world.target) == {**FILES, "added": b"file"}


# ---- disks without hard links ------------------------------------------------------------------


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(1, "Operation not permitted")


def test_without_hard_links_copies_are_counted_and_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pull()
    (world.target / "mine.txt").write_bytes(b"m" * 5000)
    world.serve(NEXT)
    state = world.hub.branch_files(REPO, BRANCH)
    # One new file of one block, and one for its inode, and 1 MiB of overhead.
    assert plan(state, REPO, world.models_dir).needed_bytes == 2 * 4096 + 2**20
    monkeypatch.setattr(os, "link", no_links)
    # And 769 + 1 for the weights, 1 + 1 for each of two small files, 1 for the empty, 2 + 1 for mine.txt.
    assert plan(state, REPO, world.models_dir).needed_bytes == (2 + 770 + 2 * 2 + 1 + 3) * 4096 + 2**20
    world.server.requests.clear()
    world.pull(latest=True)
    assert contents(world.target) == {**NEXT, "mine.txt": b"m" * 5000}
    assert {Path(one.path).name for one in world.fetches()} == {"config.json"}


def test_a_copy_of_a_file_that_rotted_is_not_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pull()
    flip(world.target / "model.safetensors", 2_000_000)
    world.serve(NEXT)
    monkeypatch.setattr(os, "link", no_links)
    world.pull(latest=True)
    kept = contents(world.target)
    assert kept.pop("model.safetensors.edited-1") != FILES["model.safetensors"]  # for all one knows it is the user's
    assert kept == NEXT


# ---- which commit ------------------------------------------------------------------------------


def test_the_commit_that_was_recommended_is_the_one_that_comes(world: World) -> None:
    commit = world.serve(FILES)
    newer = world.serve(NEXT)
    made = world.pull(commit=commit)
    assert (made.commit, made.branch, made.folder) == (commit, BRANCH, world.target)
    assert contents(world.target) == FILES
    (note,) = world.of(Note)
    assert newer in note.message
    assert commit in note.message
    world.events.clear()
    world.pull()
    assert [event.hub_commit for event in world.of(BranchMoved)] == [newer]


def test_the_commit_where_the_branch_stands_is_nothing_to_tell(world: World) -> None:
    commit = world.serve(NEXT)
    world.pull(commit=commit)
    assert contents(world.target) == NEXT
    assert world.of(Note) == []


@pytest.mark.parametrize("commit", ["", "main", "abcdef1", "F" * 40, "f" * 41])
def test_half_a_commit_is_a_usage_error(world: World, commit: str) -> None:
    with pytest.raises(UsageError, match="commit"):
        world.pull(commit=commit)
    assert not world.server.requests


def test_staging_folders_of_long_names_stay_within_the_file_systems_limit(tmp_path: Path) -> None:
    for name in ("x" * 255, "\u00e9" * 127):
        Staging(tmp_path, tmp_path / "models" / name).folder.mkdir()


def test_weights_that_somebody_changed_in_place_are_kept_when_an_update_comes(world: World) -> None:
    world.pull()
    mine = bytearray(FILES["model.safetensors"])
    mine[5] ^= 0xFF  # a merged adapter has the size of the model
    (world.target / "model.safetensors").write_bytes(mine)
    world.serve({**FILES, "model.safetensors": b"newer weights"})
    world.pull(latest=True)
    assert (world.target / "model.safetensors").read_bytes() == b"newer weights"
    assert (world.target / "model.safetensors.edited-1").read_bytes() == mine
