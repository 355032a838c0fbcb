"""Pulling a branch: whole, verified, in place at once, and only as much as is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchfit.demo.served import git_blob_id
from branchfit.download import plan, pull, read_lock
from branchfit.download.events import (
    BranchMoved,
    Event,
    FileStarted,
    FileVerified,
    Finished,
    LeftOut,
    Note,
    Progress,
    Started,
)
from branchfit.errors import BranchNotFound, DownloadError, NoSpace, RefusedFiles, UsageError
from branchfit.installed import verify
from downloads import BRANCH, FILES, FOLDER, MIB, REPO, World, a_world, contents, flip, noise, sha256


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


def test_a_branch_becomes_a_folder_with_exactly_its_files(world: World) -> None:
    installed = world.pull()
    assert installed.folder == world.target
    assert contents(world.target) == FILES
    assert [path.name for path in world.models_dir.iterdir()] == [FOLDER]
    assert not world.staging.exists()


def test_main_goes_to_the_folder_without_a_branch_name(world: World) -> None:
    world.serve(FILES, "main")
    assert world.pull("main").folder == world.models_dir / "TheBloke_Tiny-GPTQ"


def test_the_models_folder_is_made_if_it_is_missing(world: World) -> None:
    world.models_dir.rmdir()
    world.pull()
    assert contents(world.target) == FILES


def test_the_lock_names_commit_files_hashes_and_what_was_given(world: World) -> None:
    commit = world.serve(FILES)
    template = {"name": "Alpaca-CoT", "text": "{instruction}", "source": "registry"}
    world.pull(template=template, loader="ExLlama", runtime="exllamav2")
    lock = json.loads((world.target / "branchfit.lock.json").read_text())
    assert (lock["version"], lock["repo"], lock["branch"], lock["commit"]) == (1, REPO, BRANCH, commit)
    assert (lock["template"], lock["loader"], lock["runtime"]) == (template, "ExLlama", "exllamav2")
    by_path = {file["path"]: file for file in lock["files"]}
    assert set(by_path) == set(FILES)
    assert by_path["model.safetensors"]["sha256"] == sha256(FILES["model.safetensors"])
    assert by_path["model.safetensors"]["size_bytes"] == 3 * MIB + 17
    # git hash-object of b"# Tiny\n", by hand: sha1("blob 7\0# Tiny\n")
    assert by_path["README.md"]["blob_id"] == hashlib.sha1(b"blob 7\0# Tiny\n").hexdigest()
    assert by_path["README.md"]["sha256"] is None
    assert lock["pulled_at"].endswith("+00:00")
    assert read_lock(world.target).size_bytes == sum(map(len, FILES.values()))


def test_a_second_pull_asks_for_the_listing_and_nothing_else(world: World) -> None:
    first = world.pull()
    stamp = {path: path.stat().st_mtime_ns for path in [world.target, *world.target.rglob("*")]}
    world.server.requests.clear()
    world.events.clear()
    assert world.pull() == first
    assert len(world.server.requests) == 1
    assert world.events == [Finished(world.target, "already", first.size_bytes, 0)]
    assert {path: path.stat().st_mtime_ns for path in [world.target, *world.target.rglob("*")]} == stamp


def test_progress_is_told_per_file_and_overall_and_ends_at_the_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("branchfit.download.events.TELL_S", 0.0)
    world.pull()
    total = sum(map(len, FILES.values()))
    steps = world.of(Progress)
    assert all(step.overall_total_bytes == total for step in steps)
    assert steps[-1].overall_done_bytes == total
    assert [step.overall_done_bytes for step in steps] == sorted(step.overall_done_bytes for step in steps)
    weights = [step.done_bytes for step in steps if step.path == "model.safetensors"]
    assert weights[-1] == 3 * MIB + 17
    assert len(weights) >= 3
    assert {event.path for event in world.of(FileVerified)} == set(FILES)
    assert world.of(Started)[0].total_bytes == total
    assert isinstance(world.events[-1], Finished)


def test_events_make_lines_of_json(world: World) -> None:
    world.pull()
    lines = [json.loads(json.dumps(event.to_dict())) for event in world.events]
    assert lines[0]["event"] == "started"
    assert lines[-1] == {
        "event": "finished",
        "folder": str(world.target),
        "outcome": "fetched",
        "size_bytes": sum(map(len, FILES.values())),
        "fetched_bytes": sum(map(len, FILES.values())),
    }
    assert {"file_started", "progress", "file_verified"} <= {line["event"] for line in lines}


def test_the_commit_is_pinned_when_the_branch_moves_during_the_pull(world: World) -> None:
    commit = world.serve(FILES)
    moved: list[str] = []

    def move(event: Event) -> None:
        if not moved:
            moved.append(world.serve({**FILES, "model.safetensors": noise(3 * MIB + 17, seed=2), "new.txt": b"new"}))

    installed = world.pull(on_event=move)
    assert installed.commit == commit != moved[0]
    assert contents(world.target) == FILES


def test_pickles_and_code_are_not_fetched_and_that_is_said(world: World) -> None:
    own = {"branchfit.lock.json": b"{}", "branchfit.lock.json.new": b"{}"}
    world.serve({**FILES, "pytorch_model.bin": b"\x80\x04.", "modeling.py": b"import os", **own})
    installed = world.pull()
    assert contents(world.target) == FILES
    assert {event.path for event in world.of(LeftOut)} == {"pytorch_model.bin", "modeling.py", *own}
    assert read_lock(world.target) == installed
    assert verify(installed).ok
    assert {file.path: file.reason for file in installed.left_out} == {e.path: e.reason for e in world.of(LeftOut)}
    assert not [one for one in world.fetches() if "modeling" in one.path or "pytorch_model" in one.path]


def test_a_branch_whose_only_weights_are_pickles_is_refused(world: World) -> None:
    world.serve({"config.json": b"{}", "pytorch_model.bin": b"\x80\x04."})
    with pytest.raises(RefusedFiles, match=r"pytorch_model\.bin.*pickle"):
        world.pull()
    assert not world.fetches()
    assert not any(world.models_dir.parent.rglob(".branchfit-staging"))


def test_a_branch_without_weights_is_an_error_that_says_so(world: World) -> None:
    world.serve({"README.md": b"# only a card"})
    with pytest.raises(DownloadError, match="holds no weights"):
        world.pull()


@pytest.mark.parametrize(
    "name",
    [
        "../../escape.txt",
        "sub/../../escape.txt",
        "%2e%2e%2fescape.txt",
        "/tmp/escape.txt",
        "a\\..\\..\\escape",
        "\\\\host\\share\\escape",
        "x\0y",
        "nul",
        "sub/COM1.safetensors",
        "x\u202ey",
        "C:evil",
        "model.safetensors:stream",
        "MODEL.safetensors",
        "config.json/x",
        "../code.py",
        "../pickle.bin",
    ],
)
def test_a_hostile_listing_is_refused_before_the_first_byte(world: World, name: str) -> None:
    world.serve({**FILES, name: b"boo"})
    before = sorted(world.models_dir.parent.parent.rglob("*"))
    with pytest.raises(RefusedFiles) as caught:
        world.pull()
    assert len(caught.value.refused) == 1
    assert caught.value.refused[0][0] in (name, "model.safetensors", "config.json")  # of a pair, either
    assert not world.fetches()
    new = set(world.models_dir.parent.parent.rglob("*")) - set(before)
    assert not [path for path in new if "cache" not in path.parts]


def test_thousands_of_files_are_refused_by_their_number(world: World) -> None:
    blob = git_blob_id(0, iter([b""]))
    siblings = [{"rfilename": f"{number}.txt", "size": 0, "blobId": blob} for number in range(10_001)]
    siblings.append({"rfilename": "model.safetensors", "size": 1, "lfs": {"sha256": "a" * 64, "size": 1}})
    body = json.dumps({"sha": "a" * 40, "siblings": siblings}).encode()
    world.server.fail_next(200, matching="revision", body=body)
    with pytest.raises(RefusedFiles, match="10,002 files"):
        world.pull()
    assert not world.fetches()


def test_a_link_in_the_repo_becomes_a_file_that_holds_its_text(world: World, tmp_path: Path) -> None:
    """git keeps a link as a blob with where it leads, and the Hub lists it as any file: no link is ever made of it."""
    (tmp_path / "precious").write_bytes(b"precious")
    files = {**FILES, "link.json": str(tmp_path / "precious").encode(), "folder": b"../../.."}
    world.serve(files)
    world.pull()
    assert contents(world.target) == files
    assert not any(path.is_symlink() for path in world.target.rglob("*"))


def test_a_missing_branch_names_the_nearest_and_leaves_nothing(world: World) -> None:
    with pytest.raises(BranchNotFound) as caught:
        world.pull("gptq-4bit-32g-actorder_Treu")
    assert BRANCH in caught.value.nearest
    assert list(world.models_dir.iterdir()) == []


def test_a_vanished_branch_leaves_the_installed_model(world: World) -> None:
    world.pull()
    world.server.remove_branch(REPO, BRANCH)
    with pytest.raises(BranchNotFound):
        world.pull()
    assert contents(world.target) == FILES


def test_a_moved_branch_is_told_and_the_old_commit_stays(world: World) -> None:
    old = world.pull()
    new_commit = world.serve({**FILES, "config.json": b'{"model_type": "mistral"}'})
    world.events.clear()
    world.server.requests.clear()
    assert world.pull() == old
    assert world.events == [
        BranchMoved(world.target, old.commit, new_commit),
        Finished(world.target, "kept", old.size_bytes, 0),
    ]
    assert contents(world.target) == FILES
    assert not world.fetches()


def test_latest_fetches_only_what_changed_and_drops_what_left(world: World) -> None:
    world.pull()
    files = {**FILES, "config.json": b'{"model_type": "mistral"}', "added.txt": b"added"}
    del files["sub/notes.txt"]
    commit = world.serve(files)
    world.server.requests.clear()
    assert world.pull(latest=True).commit == commit
    assert contents(world.target) == files
    assert {Path(one.path).name for one in world.fetches()} == {"config.json", "added.txt"}
    assert read_lock(world.target).commit == commit
    assert [path.name for path in world.models_dir.iterdir()] == [FOLDER]
    assert not world.staging.exists()


def test_latest_does_not_reuse_a_file_that_rotted(world: World) -> None:
    world.pull()
    flip(world.target / "model.safetensors", 1000)
    files = {**FILES, "config.json": b"{}"}
    world.serve(files)
    world.pull(latest=True)
    kept = contents(world.target)
    del kept["model.safetensors.edited-1"]  # for all one knows it is the user's
    assert kept == files


def test_latest_keeps_the_users_own_files(world: World) -> None:
    world.pull()
    (world.target / "my").mkdir()
    (world.target / "my" / "notes.txt").write_text("mine")
    (world.target / "link").symlink_to("config.json")
    world.serve({**FILES, "config.json": b"{}"})
    world.pull(latest=True)
    assert (world.target / "my" / "notes.txt").read_text() == "mine"
    assert (world.target / "link").readlink() == Path("config.json")
    assert (world.target / "config.json").read_bytes() == b"{}"


def test_latest_never_replaces_a_file_of_the_users(world: World) -> None:
    world.pull()
    (world.target / "added.txt").write_text("mine")
    world.serve({**FILES, "added.txt": b"the author's"})
    with pytest.raises(DownloadError, match=r"added\.txt"):
        world.pull(latest=True)
    assert (world.target / "added.txt").read_text() == "mine"
    assert contents(world.target) == {**FILES, "added.txt": b"mine"}


def test_a_damaged_folder_gets_back_what_is_missing(world: World) -> None:
    world.pull()
    (world.target / "config.json").unlink()
    (world.target / "README.md").write_bytes(b"cut")
    world.server.requests.clear()
    world.pull()
    assert contents(world.target) == {**FILES, "README.md.edited-1": b"cut"}
    assert {Path(one.path).name for one in world.fetches()} == {"config.json", "README.md"}


def test_a_folder_of_another_repo_with_the_same_name_is_not_touched(world: World) -> None:
    world.server.add_repo("a/b_c", {"main": FILES})
    world.server.add_repo("a_b/c", {"main": FILES})
    pull(world.hub, "a/b_c", "main", world.models_dir)
    with pytest.raises(DownloadError, match="a/b_c:main"):
        pull(world.hub, "a_b/c", "main", world.models_dir)
    assert read_lock(world.models_dir / "a_b_c").repo == "a/b_c"


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def test_a_whole_folder_made_by_something_else_is_adopted_after_hashing(world: World) -> None:
    write_all(world.target, {**FILES, "huggingface-metadata.txt": b"url: ...", "old.bin": b"\x80"})
    installed = world.pull()
    assert world.of(Finished)[0].outcome == "adopted"
    assert not world.fetches()
    assert read_lock(world.target) == installed
    assert (world.target / "huggingface-metadata.txt").exists()
    assert "old.bin" in world.of(Note)[0].message
    world.events.clear()
    world.pull()
    assert world.of(Finished)[0].outcome == "already"


@pytest.mark.parametrize("change", ["rotten", "missing", "longer"])
def test_a_folder_made_by_something_else_that_differs_is_refused_and_kept(world: World, change: str) -> None:
    write_all(world.target, FILES)
    weights = world.target / "model.safetensors"
    if change == "rotten":
        flip(weights, 5)
    elif change == "missing":
        weights.unlink()
    else:
        weights.write_bytes(FILES["model.safetensors"] + b"x")
    before = contents(world.target)
    with pytest.raises(DownloadError, match=r"not made by BranchFit.*model\.safetensors"):
        world.pull()
    assert contents(world.target) == before
    assert not (world.target / "branchfit.lock.json").exists()


def test_an_empty_folder_in_the_place_is_used(world: World) -> None:
    world.target.mkdir()
    world.pull()
    assert contents(world.target) == FILES


def test_a_file_in_the_place_is_refused(world: World) -> None:
    world.target.write_text("a file")
    with pytest.raises(DownloadError, match="is no folder"):
        world.pull()
    assert world.target.read_text() == "a file"


def test_a_link_in_the_place_is_not_followed(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    world.target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DownloadError, match="is a link"):
        world.pull()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_models_folder_that_is_a_link_is_followed_once(world: World, tmp_path: Path) -> None:
    link = tmp_path / "models link"
    link.symlink_to(world.models_dir)
    installed = pull(world.hub, REPO, BRANCH, link)
    assert installed.folder == world.target
    assert contents(world.target) == FILES


def test_a_models_folder_that_is_a_loop_of_links_is_told(world: World, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DownloadError):
        pull(world.hub, REPO, BRANCH, tmp_path / "loop")


def test_an_output_that_is_closed_is_not_taken_for_a_disk_error(world: World) -> None:
    def closed(event: Event) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        world.pull(on_event=closed)
    world.pull()
    assert contents(world.target) == FILES


def test_a_broken_lock_in_the_place_is_an_error_and_nothing_is_lost(world: World) -> None:
    world.pull()
    (world.target / "branchfit.lock.json").write_text('{"version": 1')
    with pytest.raises(DownloadError, match="cannot be read"):
        world.pull()
    assert contents(world.target) == FILES
    (world.target / "branchfit.lock.json").unlink()
    world.pull()
    assert world.of(Finished)[-1].outcome == "adopted"


def test_a_plan_says_what_would_be_fetched_and_makes_nothing(world: World) -> None:
    world.serve({**FILES, "x.py": b"pass"})
    state = world.hub.branch_files(REPO, BRANCH)
    before = sorted(world.models_dir.parent.rglob("*"))
    planned = plan(state, REPO, world.models_dir)
    assert planned.standing == "absent"
    assert planned.folder == world.target
    assert planned.fetch_bytes == planned.total_bytes == sum(map(len, FILES.values()))
    # By hand, in blocks of 4096 and one more a file: 3145745 -> 769 + 1; three small ones -> 1 + 1 each; an
    # empty file has nothing to come; and 1 MiB of overhead.
    assert planned.needed_bytes == (770 + 3 * 2) * 4096 + MIB
    assert [file.path for file in planned.left_out] == ["x.py"]
    assert {file.path for file in planned.fetch} == set(FILES) - {"empty.txt"}
    assert planned.free_bytes > 0
    assert sorted(world.models_dir.parent.rglob("*")) == before
    json.dumps(planned.to_dict())


def test_a_plan_for_an_installed_branch_fetches_nothing(world: World) -> None:
    world.pull()
    planned = plan(world.hub.branch_files(REPO, BRANCH), REPO, world.models_dir)
    assert (planned.standing, planned.fetch, planned.fetch_bytes, planned.needed_bytes) == ("already", (), 0, 0)


def test_a_full_disk_is_noticed_before_the_first_byte(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchfit.download.planning.shutil.disk_usage", lambda path: Usage)
    with pytest.raises(NoSpace) as caught:
        world.pull()
    assert (caught.value.needed_bytes, caught.value.free_bytes) == ((770 + 3 * 2) * 4096 + MIB, 1000)
    assert not world.fetches()
    assert not world.staging.parent.exists()
    state = world.hub.branch_files(REPO, BRANCH)
    with pytest.raises(NoSpace):
        plan(state, REPO, world.models_dir)
    assert plan(state, REPO, world.models_dir, require_space=False).free_bytes == 1000


class Usage:
    """A nearly full disk, as shutil.disk_usage tells it."""

    total, used, free = 10**9, 10**9 - 1000, 1000


def test_a_malformed_repo_is_a_usage_error(world: World) -> None:
    with pytest.raises(UsageError):
        pull(world.hub, "../../etc", "main", world.models_dir)
    assert not world.server.requests


def test_gguf_weights_are_weights_too(world: World) -> None:
    files = {"config.json": b"{}", "model.Q4_K_M.gguf": b"GGUF" + noise(1000)}
    world.serve(files)
    world.pull()
    assert contents(world.target) == files


def test_a_file_start_tells_where_it_starts(world: World) -> None:
    world.pull()
    assert FileStarted("model.safetensors", 0, 3 * MIB + 17) in world.events
