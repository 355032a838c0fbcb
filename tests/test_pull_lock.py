"""`pull --lock`: the same bytes on another machine, from a file that nobody has to believe."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from branchfit.download import BadLock, Installed, LockedFile, pin, plan, pull, read_lock, read_lock_file
from branchfit.download.events import BranchMoved, Event, Finished, Note
from branchfit.download.hashing import PIECE_BYTES, prefix_step_bytes
from branchfit.download.lockfile import write_lock
from branchfit.errors import DownloadError, RefusedFiles, UsageError
from branchfit.hub import Hub
from branchfit.installed import verify
from downloads import BRANCH, FILES, FOLDER, REPO, World, a_world, contents, noise

NEXT = {**FILES, "config.json": b'{"model_type": "mistral"}'}
TEMPLATE = {"name": "Alpaca-CoT", "text": "{instruction}", "source": "registry"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


@pytest.fixture
def lock(world: World, tmp_path: Path) -> Path:
    """The lock of a model, under a name of the user's; the model itself is gone, and the branch has moved on."""
    world.pull(template=TEMPLATE, loader="ExLlama", runtime="exllamav2")
    path = tmp_path / "wizard, as of today.json"
    (world.target / "branchfit.lock.json").rename(path)
    world.target.rename(tmp_path / "on the first machine")
    world.serve(NEXT)
    world.events.clear()
    world.server.requests.clear()
    return path


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> Path:
    """Write a lock anew with something changed."""
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))
    return path


def restore(world: World, path: Path, **options: Any) -> Installed:
    return world.pull(lock=read_lock_file(path), **options)


def of_file(content: dict[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in content["files"] if one["path"] == path)
    return found


# ---- restored ----------------------------------------------------------------------------------


def test_a_lock_restores_the_same_bytes_and_what_was_chosen(world: World, lock: Path) -> None:
    first = read_lock_file(lock)
    made = restore(world, lock)
    assert contents(world.target) == FILES
    assert (made.commit, made.files, made.repo, made.branch) == (first.commit, first.files, REPO, BRANCH)
    assert (made.template, made.loader, made.runtime) == (TEMPLATE, "ExLlama", "exllamav2")
    assert read_lock(world.target) == made
    assert verify(made, None, world.hub.branch_files(REPO, made.commit)).ok
    assert world.of(BranchMoved) == []


def test_what_is_given_comes_before_what_the_lock_says(world: World, lock: Path) -> None:
    assert restore(world, lock, loader="AutoGPTQ").loader == "AutoGPTQ"


def test_a_branch_that_is_gone_is_no_obstacle(world: World, lock: Path) -> None:
    world.server.add_repo(REPO, {"main": NEXT})
    world.server.remove_branch(REPO, BRANCH)
    restore(world, lock)
    assert contents(world.target) == FILES


def test_what_is_there_already_is_nothing_to_do(world: World, lock: Path) -> None:
    made = restore(world, lock)
    world.server.requests.clear()
    assert restore(world, lock) == made
    assert world.of(Finished)[-1].outcome == "already"
    assert world.server.requests == []


def test_a_broken_restore_goes_on(world: World, lock: Path) -> None:
    world.server.cut_after(2**20, matching="cdn GET")
    with pytest.raises(DownloadError):
        restore(world, lock, retry_waits_s=())
    world.server.requests.clear()
    restore(world, lock)
    assert contents(world.target) == FILES
    assert 0 < world.fetched_bytes("cdn") < len(FILES["model.safetensors"])


def test_a_plan_of_a_lock_is_of_its_commit_and_files(world: World, lock: Path) -> None:
    locked = read_lock_file(lock)
    found = pin(world.hub, REPO, BRANCH, world.models_dir, lock=locked)
    planned = plan(found.state, REPO, world.models_dir, lock=locked)
    assert (planned.commit, planned.branch, planned.folder) == (locked.commit, BRANCH, world.target)
    assert {file.path for file in planned.files} == set(FILES)


def test_only_the_locks_files_come(world: World, lock: Path) -> None:
    change(lock, lambda content: content["files"].remove(of_file(content, "README.md")))
    made = restore(world, lock)
    assert contents(world.target) == {path: content for path, content in FILES.items() if path != "README.md"}
    (left,) = made.left_out
    assert (left.path, left.size_bytes) == ("README.md", len(FILES["README.md"]))
    assert "lock" in left.reason
    restore(world, lock)
    assert world.of(Finished)[-1].outcome == "already"


def test_another_hub_than_the_locks_is_said(world: World, lock: Path) -> None:
    change(lock, lambda content: content.update(endpoint="https://elsewhere.example/\x1b[2J"))
    restore(world, lock)
    (note,) = world.of(Note)
    assert "elsewhere.example" in note.message
    assert world.server.endpoint in note.message
    assert "\x1b" not in note.message


# ---- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda content: of_file(content, "config.json").update(blob_id="0" * 40), "'config.json' has git blob id"),
        (
            lambda content: of_file(content, "model.safetensors").update(sha256="0" * 64),
            "'model.safetensors' has sha256",
        ),
        (lambda content: of_file(content, "config.json").update(size_bytes=5), r"'config.json' has 23 bytes.*5 in"),
        (lambda content: of_file(content, "config.json").update(path="other.json"), "'other.json' is not there"),
        (lambda content: of_file(content, "config.json").update(sha256="0" * 64), "'config.json' has git blob id"),
    ],
    ids=["blob id", "sha256", "size", "path", "another kind of hash"],
)
def test_a_lock_that_is_not_what_the_hub_lists_is_refused_and_says_where(
    world: World, lock: Path, how: Callable[[dict[str, Any]], object], said: str
) -> None:
    change(lock, how)
    with pytest.raises(DownloadError, match=said):
        restore(world, lock)
    assert not world.fetches()
    assert list(world.models_dir.iterdir()) == []
    assert not world.staging.exists()


def test_every_difference_is_named(world: World, lock: Path) -> None:
    def harm(content: dict[str, Any]) -> None:
        for path in ("config.json", "README.md", "sub/notes.txt"):
            of_file(content, path).update(blob_id="1" * 40)

    with pytest.raises(DownloadError) as caught:
        restore(world, change(lock, harm))
    for path in ("config.json", "README.md", "sub/notes.txt"):
        assert path in str(caught.value)


@pytest.mark.parametrize("path", ["modeling.py", "run.sh"])
def test_a_lock_never_brings_code(world: World, lock: Path, path: str) -> None:
    """Code that the repo holds, and that a lock of a stranger's names as a file of the model."""
    commit = world.serve({**FILES, path: b"import os"})
    (listed,) = (file for file in world.hub.branch_files(REPO, commit).files if file.path == path)
    entry = {"path": path, "size_bytes": listed.size_bytes, "sha256": None, "blob_id": listed.blob_id}

    def harm(content: dict[str, Any]) -> None:
        content["commit"] = commit
        content["allow_pickle"] = True
        content["files"].append(entry)

    change(lock, harm)
    with pytest.raises(RefusedFiles, match="code"):
        restore(world, lock, allow_pickle=True)
    assert not world.fetches()


def test_a_lock_brings_pickles_only_where_they_are_allowed_here_too(world: World, tmp_path: Path) -> None:
    files = {**FILES, "old.bin": b"\x80\x04."}
    world.serve(files)
    world.pull(allow_pickle=True)
    lock = tmp_path / "lock.json"
    (world.target / "branchfit.lock.json").rename(lock)
    world.target.rename(tmp_path / "first")
    world.server.requests.clear()
    world.events.clear()
    with pytest.raises(RefusedFiles, match=r"'old\.bin'.*--allow-pickle"):
        restore(world, lock)
    assert not world.fetches()
    made = restore(world, lock, allow_pickle=True)
    assert contents(world.target) == files
    assert made.allow_pickle
    assert any("WARNING" in note.message and "old.bin" in note.message for note in world.of(Note))


def test_allowing_pickles_adds_none_to_a_lock_without(world: World, tmp_path: Path) -> None:
    world.serve({**FILES, "old.bin": b"\x80\x04."})
    world.pull()
    lock = tmp_path / "lock.json"
    (world.target / "branchfit.lock.json").rename(lock)
    world.target.rename(tmp_path / "first")
    made = restore(world, lock, allow_pickle=True)
    assert contents(world.target) == FILES
    assert not made.allow_pickle
    assert verify(made, None, world.hub.branch_files(REPO, made.commit)).ok


def test_a_commit_that_this_hub_does_not_know_is_said(world: World, lock: Path, tmp_path: Path) -> None:
    commit = read_lock_file(lock).commit
    del world.server.protocol.repos[REPO].commits[commit]
    fresh = Hub(endpoint=world.server.endpoint, cache_dir=tmp_path / "another cache", timeout_s=20.0)
    with pytest.raises(DownloadError, match=f"no commit {commit} of {REPO}"):
        pull(fresh, REPO, BRANCH, world.models_dir, lock=read_lock_file(lock))
    with pytest.raises(DownloadError, match=f"no commit {commit} of {REPO}"):
        restore(world, lock)  # its listing is remembered here
    assert not world.target.exists()


def test_another_commit_in_the_place_is_not_replaced_unasked(world: World, lock: Path) -> None:
    there = world.pull()
    with pytest.raises(DownloadError, match=f"{there.commit}.*{read_lock_file(lock).commit}.*--latest"):
        restore(world, lock)
    assert contents(world.target) == NEXT
    restore(world, lock, latest=True)
    assert contents(world.target) == FILES


@pytest.mark.parametrize(
    ("repo", "branch", "more"),
    [(REPO, "main", {}), ("Other/Tiny-GPTQ", BRANCH, {}), (REPO, BRANCH, {"commit": "a" * 40})],
)
def test_a_lock_of_something_else_than_was_asked_for_is_a_usage_error(
    world: World, lock: Path, repo: str, branch: str, more: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match="lock"):
        pull(world.hub, repo, branch, world.models_dir, lock=read_lock_file(lock), **more)
    assert world.server.requests == []


def test_half_a_commit_in_a_lock_is_not_looked_for_among_branches(world: World, lock: Path) -> None:
    world.serve(FILES, "abcdef1")
    change(lock, lambda content: content.update(commit="abcdef1"))
    with pytest.raises(UsageError, match="40 digits"):
        restore(world, lock)


# ---- the file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        lambda content: content["files"][0].update(path="../../x"),
        lambda content: content["files"][0].update(path="/etc/passwd"),
        lambda content: content["files"][0].update(path="NUL"),
        lambda content: content.update(repo="../../etc"),
        lambda content: content.update(branch="a\nb"),
        lambda content: content.update(version=2),
        lambda content: content.update(files=[]),
        lambda content: content.update(files={}),
        lambda content: content.update(files=["x"]),
        lambda content: content.update(allow_pickle="yes"),
        lambda content: content.pop("commit"),
    ],
)
def test_a_hostile_or_broken_lock_is_refused(lock: Path, how: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(BadLock, match="copy of it"):
        read_lock_file(change(lock, how))


def test_what_is_no_file_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "text").write_text("not JSON")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "loop", tmp_path / "text"):
        with pytest.raises(BadLock):
            read_lock_file(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(BadLock):
            read_lock_file(tmp_path / "fifo")


def test_a_link_that_the_user_named_is_followed(lock: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(lock)
    assert read_lock_file(tmp_path / "link") == read_lock_file(lock)


def big(prefixes: tuple[str, ...]) -> LockedFile:
    """A file of two steps and a byte, with what is said of its beginnings."""
    return LockedFile("model.safetensors", 2 * PIECE_BYTES + 1, "a" * 64, "b" * 40, prefixes)


def recorded(world: World, file: LockedFile) -> dict[str, Any]:
    """Write a lock with this one file into the model's place; return its entry."""
    world.target.mkdir(exist_ok=True)
    made = dataclasses.replace(world.pull(), files=(file,), folder=world.target)
    write_lock(made, world.target)
    entry: dict[str, Any] = json.loads((world.target / "branchfit.lock.json").read_text())["files"][0]
    return entry


def test_the_hashes_of_a_files_beginnings_are_kept(world: World) -> None:
    file = big(("1" * 64, "2" * 64))
    assert prefix_step_bytes(file.size_bytes) == PIECE_BYTES
    entry = recorded(world, file)
    assert (entry["prefix_step_bytes"], entry["prefix_sha256"]) == (PIECE_BYTES, ["1" * 64, "2" * 64])
    (found,) = read_lock(world.target).files
    assert found.prefix_sha256 == ("1" * 64, "2" * 64)
    assert found == big(())  # they are no part of what the file is


def test_a_file_without_them_has_no_such_field(world: World) -> None:
    assert set(recorded(world, big(()))) == {"path", "size_bytes", "sha256", "blob_id"}
    assert read_lock(world.target).files[0].prefix_sha256 == ()


@pytest.mark.parametrize(
    "said",
    [
        {"prefix_sha256": ["1" * 64]},
        {"prefix_sha256": ["1" * 64] * 3},
        {"prefix_sha256": ["1" * 64, "x" * 64]},
        {"prefix_sha256": ["1" * 64, 7]},
        {"prefix_sha256": "1" * 64},
        {"prefix_sha256": None},
        {"prefix_step_bytes": 5},
        {"prefix_step_bytes": None},
        {"sha256": None},
        {"size_bytes": 0},
    ],
)
def test_hashes_of_beginnings_that_cannot_be_are_dropped(world: World, said: dict[str, Any]) -> None:
    recorded(world, big(("1" * 64, "2" * 64)))
    change(world.target / "branchfit.lock.json", lambda content: content["files"][0].update(said))
    assert read_lock(world.target).files[0].prefix_sha256 == ()


def test_a_strangers_hashes_of_beginnings_are_not_taken_over(world: World, tmp_path: Path) -> None:
    size = PIECE_BYTES + 1
    world.serve({**FILES, "model.safetensors": noise(size)})
    world.pull()
    lock = tmp_path / "lock.json"
    (world.target / "branchfit.lock.json").rename(lock)
    world.target.rename(tmp_path / "first")

    def harm(content: dict[str, Any]) -> None:
        of_file(content, "model.safetensors").update(prefix_sha256=["0" * 64], prefix_step_bytes=PIECE_BYTES)

    made = restore(world, change(lock, harm))
    for model in (made, read_lock(world.target)):
        assert all("0" * 64 not in file.prefix_sha256 for file in model.files)


# ---- the command -------------------------------------------------------------------------------


def branchfit(world: World, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "branchfit", "pull", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_ENDPOINT": world.server.endpoint},
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_command_restores_a_lock_without_being_told_what_it_is_of(world: World, lock: Path, tmp_path: Path) -> None:
    planned = branchfit(world, "--lock", lock, "--to", tmp_path / "m", "--dry-run")
    assert read_lock_file(lock).commit[:12] in planned.stdout
    assert not (tmp_path / "m").exists()
    done = branchfit(world, "--lock", lock, "--to", tmp_path / "m", "--json")
    assert contents(tmp_path / "m" / FOLDER) == FILES
    document = json.loads(done.stdout)
    assert (document["commit"], document["loader"]) == (read_lock_file(lock).commit, "ExLlama")
    again = branchfit(world, f"{REPO.lower()}:{BRANCH}", "--lock", lock, "--to", tmp_path / "m")
    assert "already" in again.stdout
    world.server.stop()
    assert "already" in branchfit(world, REPO, "--lock", lock, "--to", tmp_path / "m").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([f"{REPO}:main", "--lock", "LOCK"], "leave one of them out"),
        (["Other/Repo", "--lock", "LOCK"], "leave one of them out"),
        (["--lock", "LOCK", "--gpu", "24GiB"], "--lock says which branch"),
        ([], "--lock FILE"),
    ],
)
def test_what_contradicts_the_lock_is_a_usage_error(world: World, lock: Path, arguments: list[str], said: str) -> None:
    given = [lock if one == "LOCK" else one for one in arguments]
    assert said in branchfit(world, *given, "--to", world.models_dir, code=2).stderr


def test_a_lock_that_is_none_is_said_by_the_command(world: World, tmp_path: Path) -> None:
    done = branchfit(world, "--lock", tmp_path / "nowhere.json", "--to", world.models_dir, code=1)
    assert "nowhere.json cannot be read" in done.stderr


def test_events_of_a_restore_begin_with_the_lock_and_end_with_the_whole(world: World, lock: Path) -> None:
    told: list[Event] = []
    restore(world, lock, on_event=told.append)
    assert isinstance(told[-1], Finished)
    assert told[-1].outcome == "fetched"
