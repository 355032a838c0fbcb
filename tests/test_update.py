"""`update`: what has become of the branches of the models on disk, told file by file, and fetched when it is wanted."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from branchfit.cli.app import app
from branchfit.download import read_lock
from branchfit.download.lockfile import write_lock
from branchfit.errors import AccessDenied, BranchFitError, BranchNotFound, DownloadError, RepoNotFound, UsageError
from branchfit.hub import Hub
from branchfit.installed import compare
from downloads import BRANCH, FILES, FOLDER, REPO, World, a_world, contents, noise

OTHER = "main"
OTHER_FOLDER = "TheBloke_Tiny-GPTQ"
WEIGHTS = FILES["model.safetensors"]
NEW_CONFIG = b'{"model_type": "llama", "more": 1}'
MOVED = {
    "README.md": FILES["README.md"],
    "config.json": NEW_CONFIG,
    "empty.txt": b"",
    "weights/model.safetensors": WEIGHTS,
    "generation_config.json": b"{}",
}
"""The branch's next commit: a file changed, one new, one gone, one under another path, two as they were."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


def run(world: World, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setattr("branchfit.cli.updating.Hub", lambda: world.hub)
    # Before click 8.2 the two streams are one unless it is told otherwise; since then they are always two.
    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    found = CliRunner(**apart).invoke(app, ["update", *arguments, "--to", str(world.models_dir)])
    assert found.exception is None or isinstance(found.exception, (SystemExit, BranchFitError)), found.exception
    return found


def document(result: Result) -> dict[str, Any]:
    """The models of `--json`, by name."""
    return {one["name"]: one for one in json.loads(result.stdout)["models"]}


def test_every_file_is_new_changed_removed_renamed_or_as_it_was(world: World) -> None:
    model = world.pull()
    world.serve(MOVED)
    found = compare(model, world.hub.branch_files(REPO, BRANCH))
    assert found.moved and found.standing == "moved"
    assert {(file.path, file.kind, file.size_bytes, file.was_path, file.was_bytes) for file in found.files} == {
        ("README.md", "unchanged", 7, "README.md", 7),
        ("config.json", "changed", len(NEW_CONFIG), "config.json", len(FILES["config.json"])),
        ("empty.txt", "unchanged", 0, "empty.txt", 0),
        ("generation_config.json", "new", 2, None, None),
        ("sub/notes.txt", "removed", 12, "sub/notes.txt", 12),
        ("weights/model.safetensors", "renamed", len(WEIGHTS), "model.safetensors", len(WEIGHTS)),
    }
    assert found.fetch_bytes == len(NEW_CONFIG) + 2


def test_two_files_of_one_content_are_each_renamed_once(world: World) -> None:
    world.serve({"model.safetensors": WEIGHTS, "a.txt": b"same", "b.txt": b"same"})
    model = world.pull()
    world.serve({"model.safetensors": WEIGHTS, "c.txt": b"same", "d.txt": b"same", "e.txt": b"same"})
    found = compare(model, world.hub.branch_files(REPO, BRANCH))
    assert [(file.path, file.was_path) for file in found.of("renamed")] == [("c.txt", "a.txt"), ("d.txt", "b.txt")]
    assert [file.path for file in found.of("new")] == ["e.txt"]
    assert found.of("removed") == ()


def test_a_branch_that_stands_still_is_told_so_and_nothing_is_fetched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = world.pull()
    world.server.requests.clear()
    said = run(world, monkeypatch, "--yes")
    assert said.exit_code == 0 and f"{FOLDER}: nothing changed" in said.stdout
    assert world.fetches() == []
    assert read_lock(model.folder) == model
    (model.folder / "config.json").unlink()
    assert f"`branchfit repair {FOLDER}`" in run(world, monkeypatch).stdout


def test_what_changed_is_told_with_both_commits_and_the_bytes_to_fetch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = world.pull().commit
    new = world.serve(MOVED)
    world.server.requests.clear()
    said = run(world, monkeypatch, "--dry-run").stdout
    assert f"{FOLDER}: {BRANCH} moved from commit {old[:12]} to {new[:12]}" in said
    assert "renamed" in said and "weights/model.safetensors (was model.safetensors)" in said
    assert f"config.json (was {len(FILES['config.json'])} B)" in said
    assert f"to fetch  {len(NEW_CONFIG) + 2:>8} B" in said
    found = document(run(world, monkeypatch, "--dry-run", "--json"))[FOLDER]
    assert (found["commit"], found["hub_commit"], found["outcome"]) == (old, new, "changed")
    assert found["fetch_bytes"] == len(NEW_CONFIG) + 2 and len(found["files"]) == 6
    assert world.fetches() == []
    assert contents(world.target) == FILES


def test_with_yes_the_change_is_fetched_and_what_was_recorded_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = {"name": "Alpaca-CoT", "text": "{instruction}", "source": "registry"}
    world.pull(template=template, loader="ExLlama", runtime="exllamav2")
    (world.target / "mine.txt").write_bytes(b"mine")
    new = world.serve(MOVED)
    world.server.requests.clear()
    done = run(world, monkeypatch, "--yes")
    assert done.exit_code == 0 and f"{FOLDER}: updated to commit {new[:12]}, verified" in done.stdout
    assert contents(world.target) == {**MOVED, "mine.txt": b"mine"}
    lock = read_lock(world.target)
    assert (lock.commit, lock.template, lock.loader, lock.runtime) == (new, template, "ExLlama", "exllamav2")
    assert world.fetched_bytes("cdn") == 0, "the weights only got another name"


def test_what_was_told_is_what_is_fetched_though_the_branch_moves_on_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pull()
    told = world.serve(MOVED)
    real = type(world.hub).branch_files

    def moves_on(hub: Hub, repo: str, branch: str) -> Any:
        found = real(hub, repo, branch)
        monkeypatch.setattr(type(world.hub), "branch_files", real)
        world.serve({**MOVED, "config.json": b"{}"})
        return found

    monkeypatch.setattr(type(world.hub), "branch_files", moves_on)
    found = document(run(world, monkeypatch, "--yes", "--json"))[FOLDER]
    assert (found["outcome"], found["hub_commit"], read_lock(world.target).commit) == ("updated", told, told)
    assert contents(world.target) == MOVED


def test_without_a_terminal_and_without_yes_it_only_tells_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pull()
    world.serve(MOVED)
    said = run(world, monkeypatch)
    assert said.exit_code == 0
    assert "nothing was fetched: 1 model changed" in said.stderr and "--yes" in said.stderr
    assert contents(world.target) == FILES
    assert document(run(world, monkeypatch, "--json"))[FOLDER]["outcome"] == "changed"
    assert contents(world.target) == FILES


@pytest.mark.skipif(os.name == "nt", reason="needs a terminal to answer on")
@pytest.mark.parametrize(("answer", "left"), [(b"n\n", FILES), (b"y\n", MOVED)])
def test_on_a_terminal_it_asks(world: World, answer: bytes, left: dict[str, bytes]) -> None:
    import pty

    world.pull()
    world.serve(MOVED)
    leader, terminal = pty.openpty()
    try:
        os.write(leader, answer)
        done = subprocess.run(
            [sys.executable, "-m", "branchfit", "update", "--to", str(world.models_dir)],
            stdin=terminal,
            capture_output=True,
            env={**os.environ, "HF_ENDPOINT": world.server.endpoint},
            check=False,
        )
    finally:
        os.close(leader)
        os.close(terminal)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Fetch 36 B for 1 model?" in done.stderr
    assert contents(world.target) == left


def test_a_branch_that_is_gone_is_said_and_the_others_go_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.serve(FILES, OTHER)
    world.pull()
    world.pull(OTHER)
    world.serve(MOVED, OTHER)
    world.server.remove_branch(REPO, BRANCH)
    done = run(world, monkeypatch, "--yes")
    assert done.exit_code == 1
    assert f"{FOLDER}: could not be asked about: {REPO} has no branch {BRANCH}" in done.stdout
    assert contents(world.models_dir / OTHER_FOLDER) == MOVED
    assert contents(world.target) == FILES
    found = run(world, monkeypatch, "--json")
    assert found.exit_code == 1
    assert document(found)[FOLDER]["error"] == "BranchNotFound"
    assert document(found)[OTHER_FOLDER]["outcome"] == "unchanged"


def test_of_the_one_that_was_asked_for_the_error_itself_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pull()
    world.server.add_repo(REPO, {BRANCH: {**FILES, "config.json": NEW_CONFIG}}, gated=True)  # its listing stays open
    assert isinstance(run(world, monkeypatch, FOLDER, "--yes").exception, AccessDenied)
    world.server.add_repo(REPO, {})
    world.server.remove_branch(REPO, BRANCH)
    assert isinstance(run(world, monkeypatch, f"{REPO}:{BRANCH}").exception, BranchNotFound)
    del world.server.protocol.repos[REPO]
    assert isinstance(run(world, monkeypatch, FOLDER).exception, RepoNotFound)
    gone = run(world, monkeypatch)
    assert gone.exit_code == 1 and f"no repo {REPO}" in gone.stdout
    assert contents(world.target) == FILES


def test_the_exit_codes_are_those_of_every_command(world: World) -> None:
    world.pull()
    environment = {**os.environ, "HF_ENDPOINT": world.server.endpoint}
    called = [sys.executable, "-m", "branchfit", "update", FOLDER, "--yes", "--to", str(world.models_dir)]

    def code() -> int:
        return subprocess.run(called, env=environment, capture_output=True, check=False).returncode

    assert code() == 0
    world.server.add_repo(REPO, {BRANCH: {**FILES, "config.json": NEW_CONFIG}}, gated=True)
    assert code() == 5
    world.server.add_repo(REPO, {})
    world.server.remove_branch(REPO, BRANCH)
    assert code() == 4


def test_a_model_from_another_endpoint_is_skipped_and_its_own_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = world.pull()
    write_lock(dataclasses.replace(model, endpoint="https://hub.example"), model.folder)
    world.serve(MOVED)
    done = run(world, monkeypatch, "--yes")
    assert done.exit_code == 0
    assert f"{FOLDER}: skipped: it was pulled from https://hub.example" in done.stdout
    assert document(run(world, monkeypatch, "--json"))[FOLDER]["outcome"] == "skipped"
    alone = run(world, monkeypatch, FOLDER).exception
    assert isinstance(alone, UsageError) and "HF_ENDPOINT=https://hub.example" in str(alone)
    assert contents(world.target) == FILES


def test_a_folder_that_was_renamed_is_not_pulled_beside_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = world.pull()
    model.folder.rename(world.models_dir / "my tiny model")
    world.serve(MOVED)
    error = run(world, monkeypatch, "my tiny model", "--yes").exception
    assert isinstance(error, DownloadError) and FOLDER in str(error)
    assert [path.name for path in world.models_dir.iterdir()] == ["my tiny model"]


def test_an_update_that_fails_leaves_the_model_as_it_was_and_the_others_are_updated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.serve(FILES, OTHER)
    world.pull()
    world.pull(OTHER)
    world.serve({**FILES, "model.safetensors": noise(2_000_000, seed=7)})
    world.serve(MOVED, OTHER)
    world.server.corrupt("cdn GET", times=None, offset=5)
    done = run(world, monkeypatch, "--yes", "--json")
    assert done.exit_code == 1
    found = document(done)
    assert (found[FOLDER]["outcome"], found[FOLDER]["error"]) == ("failed", "BadChecksum")
    assert found[OTHER_FOLDER]["outcome"] == "updated"
    assert contents(world.target) == FILES
    assert contents(world.models_dir / OTHER_FOLDER) == MOVED


def test_a_lock_that_cannot_be_read_is_no_success(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = world.pull()
    (model.folder / "branchfit.lock.json").write_text("{", encoding="utf-8")
    done = run(world, monkeypatch)
    assert done.exit_code == 1 and "cannot be updated" in done.stdout


def test_a_dry_run_into_a_folder_of_a_folder_that_is_not_there_says_that_both_will_be_made(world: World) -> None:
    models_dir = world.models_dir / "typo" / "models"
    done = subprocess.run(
        [sys.executable, "-m", "branchfit", "pull", f"{REPO}:{BRANCH}", "--dry-run", "--to", str(models_dir)],
        env={**os.environ, "HF_ENDPOINT": world.server.endpoint},
        capture_output=True,
        check=True,
    )
    assert "they will be made" in done.stderr.decode() and "to fetch" in done.stdout.decode()
    assert not models_dir.parent.exists()


def test_an_empty_folder_holds_nothing_and_a_missing_one_is_a_slip(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run(world, monkeypatch)
    assert said.exit_code == 0 and "no models" in said.stdout
    world.models_dir.rmdir()
    assert isinstance(run(world, monkeypatch).exception, UsageError)
