"""`repair`: what is bad or missing comes again at the lock's own commit, nothing else is touched."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner

from branchfit.cli.app import app
from branchfit.download import read_lock
from branchfit.download.lockfile import write_lock
from branchfit.download.names import FRESH_LOCK_NAME
from branchfit.errors import BadChecksum, DownloadError
from branchfit.hub import Hub
from branchfit.installed import installed, repair, verify
from branchfit.prompts import ALPACA_COT
from downloads import BRANCH, FILES, REPO, World, a_world, contents, flip, noise

LOCK = "branchfit.lock.json"
WEIGHTS = "model.safetensors"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


def of_pull(world: World) -> dict[str, bytes]:
    return {path: content for path, content in contents(world.target).items() if path != LOCK}


def test_bad_missing_and_linked_files_are_as_published_again_and_the_users_stay(world: World, tmp_path: Path) -> None:
    model = world.pull()
    flip(world.target / WEIGHTS, 1000)
    (world.target / "config.json").unlink()
    (world.target / "sub" / "notes.txt").unlink()
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (world.target / "sub" / "notes.txt").symlink_to(outside)
    (world.target / "mine.txt").write_text("mine")
    untouched = (world.target / "README.md").stat()
    report = repair(world.hub, model)
    assert report.ok
    assert sorted(report.repaired) == sorted(["config.json", WEIGHTS, "sub/notes.txt"])
    assert of_pull(world) == {**FILES, "mine.txt": b"mine"}
    assert outside.read_text() == "mine"
    assert (world.target / "README.md").stat().st_mtime_ns == untouched.st_mtime_ns
    assert (world.target / "README.md").stat().st_ino == untouched.st_ino
    assert report.before.extra == ("mine.txt",)
    assert report.fetched_bytes == sum(len(FILES[path]) for path in report.repaired)
    assert verify(model).ok
    assert not world.staging.exists()


def test_a_whole_model_is_left_alone_and_nothing_is_fetched(world: World) -> None:
    model = world.pull()
    before = contents(world.target)
    asked = len(world.server.requests)
    report = repair(world.hub, model)
    assert (report.ok, report.repaired, report.fetched_bytes) == (True, (), 0)
    assert not [one for one in world.server.requests[asked:] if one.origin == "cdn"]
    assert {path: one for path, one in contents(world.target).items() if path != LOCK} == {
        path: one for path, one in before.items() if path != LOCK
    }


def test_files_come_from_the_locks_commit_though_the_branch_moved_on(world: World) -> None:
    model = world.pull()
    world.serve({**FILES, WEIGHTS: noise(len(FILES[WEIGHTS]), seed=9)})
    flip(world.target / WEIGHTS, 5)
    assert repair(world.hub, model).ok
    assert of_pull(world) == FILES
    assert read_lock(world.target).commit == model.commit


def test_the_bad_file_stays_until_the_new_one_is_verified(world: World) -> None:
    model = world.pull()
    flip(world.target / WEIGHTS, 5)
    bad = (world.target / WEIGHTS).read_bytes()
    world.server.corrupt(matching="cdn GET", times=None)
    with pytest.raises(BadChecksum):
        repair(world.hub, model, retry_waits_s=())
    assert (world.target / WEIGHTS).read_bytes() == bad
    world.server.clear_faults()
    assert repair(world.hub, model).ok
    assert of_pull(world) == FILES


def test_a_lock_that_somebody_changed_is_put_right_by_the_hub(world: World) -> None:
    model = world.pull()
    lock = json.loads((world.target / LOCK).read_text())
    for file in lock["files"]:
        if file["path"] == WEIGHTS:
            file["sha256"] = "0" * 64
    (world.target / LOCK).write_text(json.dumps(lock))
    assert repair(world.hub, read_lock(world.target)).ok
    assert read_lock(world.target).files == model.files


def test_a_folder_that_is_a_link_or_changed_is_refused(world: World, tmp_path: Path) -> None:
    model = world.pull()
    with pytest.raises(DownloadError, match="changed meanwhile"):
        repair(world.hub, dataclasses.replace(model, commit="0" * 40))
    moved = tmp_path / "moved"
    world.target.rename(moved)
    world.target.symlink_to(moved)
    with pytest.raises(DownloadError, match="is a link"):
        repair(world.hub, model)


def test_a_folder_in_a_files_place_is_the_users_and_is_not_deleted(world: World) -> None:
    model = world.pull()
    (world.target / "config.json").unlink()
    (world.target / "config.json").mkdir()
    (world.target / "config.json" / "mine.txt").write_text("mine")
    with pytest.raises(DownloadError, match=r"config\.json is a folder.*move it"):
        repair(world.hub, model)
    assert (world.target / "config.json" / "mine.txt").read_text() == "mine"


# ---- verified_at -------------------------------------------------------------------------------


def test_a_pull_a_verify_and_a_repair_say_when_all_of_it_was_right(world: World) -> None:
    model = world.pull()
    assert model.verified_at == model.pulled_at
    long_ago = datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    old = dataclasses.replace(model, verified_at=long_ago)
    write_lock(old, world.target)
    assert read_lock(world.target).verified_at == long_ago
    flip(world.target / WEIGHTS, 5)
    assert not verify(old).ok
    assert read_lock(world.target).verified_at == long_ago
    repaired = repair(world.hub, old)
    assert repaired.installed.verified_at is not None
    assert datetime.now(timezone.utc) - repaired.installed.verified_at < timedelta(minutes=1)
    assert read_lock(world.target) == repaired.installed
    write_lock(old, world.target)
    assert verify(old).ok
    found = read_lock(world.target)
    assert found.verified_at != long_ago
    assert dataclasses.replace(found, verified_at=long_ago) == old


def test_locks_of_before_read_fine_and_a_moment_without_zone_does_not(world: World) -> None:
    world.pull()
    lock = json.loads((world.target / LOCK).read_text())
    del lock["verified_at"]
    (world.target / LOCK).write_text(json.dumps(lock))
    assert installed(world.models_dir)[0].verified_at is None
    (world.target / LOCK).write_text(json.dumps({**lock, "verified_at": "2023-11-14T22:13:20"}))
    with pytest.raises(DownloadError, match="verified_at has no time zone"):
        read_lock(world.target)


def test_where_the_lock_cannot_be_written_a_model_is_verified_all_the_same(world: World) -> None:
    model = world.pull()
    write_lock(dataclasses.replace(model, verified_at=None), world.target)
    # Root writes anywhere: a folder in the new lock's place stands for what cannot be written.
    (world.target / FRESH_LOCK_NAME).mkdir()
    before = (world.target / LOCK).read_bytes()
    assert verify(read_lock(world.target)).ok
    assert (world.target / LOCK).read_bytes() == before


# ---- the command -------------------------------------------------------------------------------


def run(world: World, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("branchfit.cli.models.Hub", lambda **_: Hub(world.server.endpoint))
    # Before click 8.2 the two streams are one unless it is told otherwise; since then they are always two.
    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    found = CliRunner(**apart).invoke(app, [*arguments, "--to", str(world.models_dir)])
    assert found.exception is None or isinstance(found.exception, SystemExit)
    return found.exit_code, found.stdout


def test_verify_names_the_command_that_mends_it_and_that_command_does(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = world.pull(template={"name": ALPACA_COT.name, "text": ALPACA_COT.text, "source": "registry"})
    flip(world.target / WEIGHTS, 5)
    code, said = run(world, monkeypatch, "verify", model.name)
    assert code == 1
    assert f"to mend it: `branchfit repair {model.name} --to {world.models_dir}`" in said
    code, said = run(world, monkeypatch, "repair", f"{REPO}:{BRANCH}")
    first, second = f"{model.name}: ok by the Hub's hashes, {len(FILES)} files", f"repaired {WEIGHTS}"
    assert (code, said) == (0, f"{first}\n  {second} (3.15 MB of 3.15 MB fetched)\n")
    flip(world.target / WEIGHTS, 5)
    code, said = run(world, monkeypatch, "repair", model.name, "--json")
    document = json.loads(said)
    assert (code, document["ok"], document["repaired"]) == (0, True, [WEIGHTS])
    assert document["fetched_bytes"] == len(FILES[WEIGHTS])
    assert document["verified_at"] is not None
    listed = json.loads(run(world, monkeypatch, "list", "--json")[1])["models"][0]
    assert listed["verified_at"] == document["verified_at"]
    assert document["verified_at"][:10] in run(world, monkeypatch, "list")[1]
