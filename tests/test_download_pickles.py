"""Pickles: left out, or fetched where the user says so, loudly; read by nobody here, and never code."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchfit.download import plan, read_lock
from branchfit.download.events import Finished, LeftOut, Note
from branchfit.download.lockfile import BadLock
from branchfit.errors import RefusedFiles
from branchfit.installed import repair, scan, verify
from downloads import BRANCH, FILES, REPO, World, a_world, contents, flip


class Bomb:
    """What a hostile author pickles: reading it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one
    assert not (tmp_path / "it went off").exists()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """Weights as pickles alone, in each way there is, and code beside them."""
    bomb = pickle.dumps(Bomb(tmp_path / "it went off"))
    return {
        "config.json": b"{}",
        "pytorch_model-00001-of-00002.bin": bomb,
        "pytorch_model-00002-of-00002.bin": bomb + b" ",
        "sub/optimizer.pt": bomb,
        "extra.pkl.gz": b"\x1f\x8b",
        "modeling.py": b"import os",
        "run.sh": b"rm -rf /",
    }


def pickles(files: dict[str, bytes]) -> set[str]:
    return {path for path in files if path.endswith((".bin", ".pt", ".gz"))}


def test_the_refusal_names_each_and_says_how_and_at_what_risk(world: World, files: dict[str, bytes]) -> None:
    world.serve(files)
    with pytest.raises(RefusedFiles) as caught:
        world.pull()
    assert {path for path, _ in caught.value.refused} == pickles(files)
    text = str(caught.value)
    assert all(path in text for path in pickles(files))
    assert "--allow-pickle" in text
    assert "runs whatever code it holds" in text
    assert not world.fetches()
    with pytest.raises(RefusedFiles, match="--allow-pickle"):
        plan(world.hub.branch_files(REPO, BRANCH), REPO, world.models_dir)


def test_a_long_refusal_is_cut_and_its_facts_are_not(world: World) -> None:
    world.serve({"config.json": b"{}", **{f"{number:04}.bin": b"x" for number in range(60)}})
    with pytest.raises(RefusedFiles, match="and 10 more") as caught:
        world.pull()
    assert len(caught.value.refused) == 60


def test_allowed_pickles_come_verified_and_are_warned_of_one_by_one(world: World, files: dict[str, bytes]) -> None:
    world.serve(files)
    made = world.pull(allow_pickle=True)
    wanted = {path: content for path, content in files.items() if path in pickles(files) | {"config.json"}}
    assert contents(world.target) == wanted
    assert {event.path for event in world.of(LeftOut)} == {"modeling.py", "run.sh"}
    warnings = [note.message for note in world.of(Note) if note.message.startswith("WARNING")]
    assert len(warnings) == len(pickles(files))
    for path in pickles(files):
        assert any(path in warning for warning in warnings)
    assert not [one for one in world.fetches() if "modeling" in one.path or "run.sh" in one.path]
    assert json.loads((world.target / "branchfit.lock.json").read_text())["allow_pickle"] is True
    assert read_lock(world.target) == made
    assert [one.name for one in scan(world.models_dir).installed] == [world.target.name]


def test_a_plan_with_pickles_counts_them(world: World, files: dict[str, bytes]) -> None:
    world.serve(files)
    planned = plan(world.hub.branch_files(REPO, BRANCH), REPO, world.models_dir, allow_pickle=True)
    assert {file.path for file in planned.files} == pickles(files) | {"config.json"}


def test_they_are_files_of_the_model_from_then_on(world: World, files: dict[str, bytes]) -> None:
    world.serve(files)
    made = world.pull(allow_pickle=True)
    listing = world.hub.branch_files(REPO, made.commit)
    report = verify(made, None, listing)
    assert report.ok
    assert report.extra == ()
    flip(world.target / "sub" / "optimizer.pt")
    (world.target / "pytorch_model-00001-of-00002.bin").unlink()
    report = verify(made, None, listing)
    assert [bad.path for bad in report.bad] == ["sub/optimizer.pt"]
    assert report.missing == ("pytorch_model-00001-of-00002.bin",)
    assert repair(world.hub, made, staging_dir=None).ok
    assert verify(made, None, listing).ok
    assert read_lock(world.target).allow_pickle


def test_a_pull_without_the_word_leaves_an_installed_one_as_it_is(world: World) -> None:
    world.serve({**FILES, "old.bin": b"\x80\x04."})
    made = world.pull(allow_pickle=True)
    world.events.clear()
    assert world.pull() == made
    assert world.of(Finished)[0].outcome == "already"
    assert (world.target / "old.bin").exists()
    planned = plan(world.hub.branch_files(REPO, BRANCH), REPO, world.models_dir)
    assert planned.standing == "already"


def test_a_new_commit_asks_for_the_word_again(world: World, files: dict[str, bytes]) -> None:
    world.serve(files)
    world.pull(allow_pickle=True)
    world.serve({**files, "config.json": b'{"new": 1}'})
    with pytest.raises(RefusedFiles, match="--allow-pickle"):
        world.pull(latest=True)
    world.pull(latest=True, allow_pickle=True)
    assert (world.target / "config.json").read_bytes() == b'{"new": 1}'


def test_the_word_brings_pickles_to_a_model_that_came_without(world: World) -> None:
    files = {**FILES, "old.bin": b"\x80\x04."}
    world.serve(files)
    assert not world.pull().allow_pickle
    assert "allow_pickle" not in json.loads((world.target / "branchfit.lock.json").read_text())
    world.server.requests.clear()
    assert world.pull(allow_pickle=True).allow_pickle
    assert contents(world.target) == files
    assert {Path(one.path.partition("?")[0]).name for one in world.fetches() if one.origin == "hub"} == {"old.bin"}


def test_a_folder_of_pickles_is_adopted_only_with_the_word(world: World, files: dict[str, bytes]) -> None:
    world.serve(files)
    for path, content in files.items():
        if path in pickles(files) | {"config.json"}:
            (world.target / path).parent.mkdir(parents=True, exist_ok=True)
            (world.target / path).write_bytes(content)
    with pytest.raises(RefusedFiles):
        world.pull()
    assert world.pull(allow_pickle=True).allow_pickle
    assert world.of(Finished)[-1].outcome == "adopted"
    assert len([note for note in world.of(Note) if "WARNING" in note.message]) == len(pickles(files))


def test_a_lock_of_pickles_alone_counts_only_if_it_says_that_they_were_allowed(
    world: World, files: dict[str, bytes]
) -> None:
    world.serve(files)
    world.pull(allow_pickle=True)
    path = world.target / "branchfit.lock.json"
    content = json.loads(path.read_text())
    del content["allow_pickle"]
    path.write_text(json.dumps(content))
    with pytest.raises(BadLock, match="names no weights"):
        read_lock(world.target)


def branchfit(world: World, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "branchfit",
            "pull",
            f"{REPO}:{BRANCH}",
            "--to",
            str(world.models_dir),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_ENDPOINT": world.server.endpoint},
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_command_says_it_loudly(world: World, files: dict[str, bytes]) -> None:
    world.serve(files)
    assert "--allow-pickle" in branchfit(world, code=1).stderr
    assert branchfit(world, "--dry-run", "--allow-pickle").stdout.count("WARNING") == len(pickles(files))
    assert not world.target.exists()
    assert branchfit(world, "--allow-pickle").stderr.count("WARNING") == len(pickles(files))
    assert set(contents(world.target)) == pickles(files) | {"config.json"}
