"""The models on disk: listed from their locks, verified against the Hub's hashes, removed without harm elsewhere."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from branchfit.download import BadLock, pull
from branchfit.download.disk import delete_tree
from branchfit.download.events import FileBad, FileVerified, Progress
from branchfit.download.staging import Staging
from branchfit.errors import DownloadError, NotInstalled, RefusedFiles, UsageError
from branchfit.installed import (
    BadFile,
    discard,
    disk_use_bytes,
    find,
    installed,
    remove,
    scan,
    unfinished,
    verify,
)
from downloads import BRANCH, FILES, FOLDER, REPO, World, a_world, contents, flip, noise, sha256

WHOLE = sum(map(len, FILES.values()))
LOCK = "branchfit.lock.json"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of a lock, as a hand or another program would."""
    lock = json.loads((folder / LOCK).read_text())
    (folder / LOCK).write_text(json.dumps({**lock, **changes}))


# ---- list and find -----------------------------------------------------------------------------


def test_an_empty_or_missing_models_folder_holds_nothing(world: World) -> None:
    assert installed(world.models_dir) == []
    assert installed(world.models_dir / "missing") == []


def test_a_pulled_model_is_listed_as_it_was_pulled(world: World) -> None:
    pulled = world.pull(template={"name": "Alpaca-CoT", "text": "{instruction}", "source": "registry"})
    assert installed(world.models_dir) == [pulled]
    assert (pulled.name, pulled.size_bytes) == (FOLDER, WHOLE)


def test_foreign_folders_and_broken_locks_are_reported_not_hidden(world: World) -> None:
    pulled = world.pull()
    (world.models_dir / "by hand").mkdir()
    (world.models_dir / "broken").mkdir()
    (world.models_dir / "broken" / LOCK).write_text("{")
    (world.models_dir / "a file.gguf").write_bytes(b"GGUF")
    found = scan(world.models_dir)
    assert found.installed == (pulled,)
    assert {one.folder.name: one.broken for one in found.unknown} == {"by hand": False, "broken": True}
    reasons = {one.folder.name: one.reason for one in found.unknown}
    assert "not made by BranchFit" in reasons["by hand"]
    assert "no JSON" in reasons["broken"]


def test_an_unfinished_download_is_not_listed(world: World) -> None:
    world.server.cut_after(10, "cdn GET", times=None)
    with pytest.raises(DownloadError):
        world.pull()
    assert scan(world.models_dir).installed == scan(world.models_dir).unknown == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"repo": 7},
        {"repo": "../../etc"},
        {"branch": "a:b"},
        {"commit": "main"},
        {"files": [{"path": "../../x", "size_bytes": 1, "sha256": "a" * 64, "blob_id": None}]},
        {"files": [{"path": "/etc/passwd", "size_bytes": 1, "sha256": "a" * 64, "blob_id": None}]},
        {"files": [{"path": "x", "size_bytes": True, "sha256": "a" * 64, "blob_id": None}]},
        {"files": [{"path": "x", "size_bytes": -1, "sha256": "a" * 64, "blob_id": None}]},
        {"files": [{"path": "x", "size_bytes": 1, "sha256": None, "blob_id": None}]},
        {"files": [{"path": "x"}]},
        {"files": 3},
        {"files": []},
        {"files": [{"path": "config.json", "size_bytes": 1, "sha256": None, "blob_id": "a" * 40}]},
        {"left_out": [1]},
        {"template": []},
        {"pulled_at": "yesterday"},
        {"pulled_at": "2023-11-14T22:13:20"},
        {"pulled_at": "9999-12-31T23:59:59-23:59"},
        {"pulled_at": "0001-01-01T00:00:00+23:59"},
    ],
)
def test_a_lock_that_holds_what_cannot_be_is_not_believed(world: World, changes: dict[str, Any]) -> None:
    world.pull()
    edit(world.target, **changes)
    (unknown,) = scan(world.models_dir).unknown
    assert "cannot be read" in unknown.reason
    with pytest.raises(BadLock, match=FOLDER):
        find(world.models_dir, FOLDER)
    with pytest.raises(BadLock):
        remove(world.target)
    assert contents(world.target) == FILES


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"version": 1}', "\xff", '"' + "x" * 20 * 2**20])
def test_a_lock_that_is_no_lock_is_a_clear_error(world: World, text: str) -> None:
    world.pull()
    (world.target / LOCK).write_text(text, encoding="latin-1")
    with pytest.raises(BadLock, match=r"cannot be read: .+Remove it"):
        find(world.models_dir, FOLDER)


def test_a_lock_larger_than_any_can_be_is_not_read_to_its_end(world: World) -> None:
    world.pull()
    with (world.target / LOCK).open("ab") as stream:
        stream.write(b" " * 17 * 2**20)  # still the same JSON
    with pytest.raises(BadLock, match="larger than"):
        find(world.models_dir, FOLDER)


def test_a_lock_that_is_a_link_is_not_read(world: World, tmp_path: Path) -> None:
    world.pull()
    (world.target / LOCK).rename(tmp_path / "lock")
    (world.target / LOCK).symlink_to(tmp_path / "lock")
    assert installed(world.models_dir) == []


@pytest.mark.parametrize("name", [FOLDER, f"{REPO}:{BRANCH}", REPO, FOLDER.lower(), f"thebloke/tiny-gptq:{BRANCH}"])
def test_a_model_is_found_by_folder_or_repo_and_branch(world: World, name: str) -> None:
    pulled = world.pull()
    assert find(world.models_dir, name) == pulled


def test_of_a_repo_with_several_branches_here_one_must_be_named(world: World) -> None:
    world.serve(FILES, "main")
    main = world.pull("main")
    assert find(world.models_dir, REPO) == main
    world.pull()
    with pytest.raises(NotInstalled) as caught:
        find(world.models_dir, REPO)
    assert caught.value.known == (f"{REPO}:main", f"{REPO}:{BRANCH}")
    assert find(world.models_dir, f"{REPO}:main") == main


def test_a_repo_is_never_taken_for_another_whose_folder_has_the_same_name(world: World) -> None:
    world.server.add_repo("a/b_c", {"main": FILES})
    made = pull(world.hub, "a/b_c", "main", world.models_dir)
    for name in ("a_b/c", "a_b/c:main", "a/b:c"):
        with pytest.raises(NotInstalled) as caught:
            find(world.models_dir, name)
        assert caught.value.known == ("a/b_c:main",)
    assert find(world.models_dir, "a/b_c") == find(world.models_dir, "a_b_c") == made


def test_a_branch_that_is_not_here_names_those_of_its_repo_that_are(world: World) -> None:
    world.server.add_repo("a/b", {"main": FILES})
    pull(world.hub, "a/b", "main", world.models_dir)
    world.pull()
    with pytest.raises(NotInstalled) as caught:
        find(world.models_dir, f"{REPO}:nope")
    assert caught.value.known == (f"{REPO}:{BRANCH}",)


def test_of_two_copies_of_a_model_the_folder_must_be_named(world: World) -> None:
    world.pull()
    shutil.copytree(world.target, world.models_dir / "copy")
    with pytest.raises(NotInstalled) as caught:
        find(world.models_dir, f"{REPO}:{BRANCH}")
    assert caught.value.known == (FOLDER, "copy")
    assert find(world.models_dir, "copy").name == "copy"


@pytest.mark.parametrize("name", ["nothing", "", ".", "..", f"x{FOLDER}"])
def test_a_model_that_is_not_there_names_those_that_are(world: World, name: str) -> None:
    world.pull()
    with pytest.raises(NotInstalled) as caught:
        find(world.models_dir, name)
    assert caught.value.known == (FOLDER,)


# ---- verify ------------------------------------------------------------------------------------


def test_a_model_as_pulled_verifies(world: World) -> None:
    pulled = world.pull()
    events: list[Any] = []
    report = verify(pulled, events.append)
    assert report.ok
    assert (report.bad, report.missing, report.extra, report.checked_bytes) == ((), (), (), WHOLE)
    assert {event.path for event in events if isinstance(event, FileVerified)} == set(FILES)
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert last.overall_total_bytes == WHOLE


def test_a_flipped_bit_is_found_with_both_hashes(world: World) -> None:
    pulled = world.pull()
    flip(world.target / "model.safetensors", 2_000_000)
    events: list[Any] = []
    report = verify(pulled, events.append)
    rotten = (world.target / "model.safetensors").read_bytes()
    assert not report.ok
    assert report.bad == (BadFile("model.safetensors", sha256(FILES["model.safetensors"]), sha256(rotten)),)
    assert [event.path for event in events if isinstance(event, FileBad)] == ["model.safetensors"]


def forge(world: World) -> None:
    """Other weights of the same size, and a lock that says they are right."""
    content = noise(len(FILES["model.safetensors"]), seed=9)
    (world.target / "model.safetensors").write_bytes(content)
    files = json.loads((world.target / LOCK).read_text())["files"]
    edit(world.target, files=[{**one, "sha256": one["sha256"] and sha256(content)} for one in files])


def test_weights_changed_together_with_their_lock_are_found_by_the_hubs_own_listing(world: World) -> None:
    world.pull()
    forge(world)
    (model,) = installed(world.models_dir)
    report = verify(model)
    assert (report.ok, report.against) == (True, "lock")
    report = verify(model, None, world.hub.branch_files(REPO, model.commit))
    assert (report.ok, report.against) == (False, "hub")
    assert [(bad.path, bad.expected) for bad in report.bad] == [
        ("model.safetensors", sha256(FILES["model.safetensors"]))
    ]


def test_a_lock_that_names_more_or_less_than_the_hub_does_not_verify_against_it(world: World) -> None:
    world.pull()
    files = json.loads((world.target / LOCK).read_text())["files"]
    added = {
        "path": "added.json",
        "size_bytes": 0,
        "sha256": None,
        "blob_id": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    }
    edit(world.target, files=[added, *(one for one in files if one["path"] != "config.json")])
    (world.target / "config.json").unlink()
    (world.target / "added.json").write_bytes(b"")
    (model,) = installed(world.models_dir)
    assert verify(model).ok
    report = verify(model, listing=world.hub.branch_files(REPO, model.commit))
    assert [bad.path for bad in report.bad] == ["added.json"]
    assert (report.missing, report.extra) == (("config.json",), ())


def test_files_left_out_of_the_pull_are_not_missed_by_the_hubs_listing(world: World) -> None:
    world.serve({**FILES, "x.py": b"pass"})
    model = world.pull()
    assert verify(model, listing=world.hub.branch_files(REPO, model.commit)).ok


def test_a_listing_of_another_commit_or_a_hostile_one_is_refused(world: World) -> None:
    model = world.pull()
    listing = world.hub.branch_files(REPO, model.commit)
    with pytest.raises(UsageError, match=model.commit):
        verify(model, listing=dataclasses.replace(listing, commit="f" * 40))
    hostile = dataclasses.replace(listing.files[0], path="../../x")
    with pytest.raises(RefusedFiles):
        verify(model, listing=dataclasses.replace(listing, files=(hostile,)))


def test_a_flipped_bit_in_a_plain_file_is_found_by_its_blob_id(world: World) -> None:
    pulled = world.pull()
    flip(world.target / "README.md")
    assert [bad.path for bad in verify(pulled).bad] == ["README.md"]


def test_missing_short_and_extra_files_are_told_apart(world: World) -> None:
    pulled = world.pull()
    (world.target / "config.json").unlink()
    shutil.rmtree(world.target / "sub")
    (world.target / "model.safetensors").write_bytes(b"short")
    (world.target / "notes").mkdir()
    (world.target / "notes" / "mine.txt").write_text("mine")
    report = verify(pulled)
    assert report.missing == ("config.json", "sub/notes.txt")
    assert [(bad.path, bad.actual) for bad in report.bad] == [("model.safetensors", "5 bytes instead of 3,145,745")]
    assert report.extra == ("notes/mine.txt",)
    assert (world.target / "notes" / "mine.txt").read_text() == "mine"


def test_extra_files_alone_do_no_harm(world: World) -> None:
    pulled = world.pull()
    (world.target / "mine.txt").write_text("mine")
    assert verify(pulled).ok


def test_a_link_or_a_folder_in_a_files_place_is_bad(world: World, tmp_path: Path) -> None:
    pulled = world.pull()
    (world.target / "config.json").rename(tmp_path / "config.json")
    (world.target / "config.json").symlink_to(tmp_path / "config.json")
    (world.target / "README.md").unlink()
    (world.target / "README.md").mkdir()
    assert {bad.path: bad.actual for bad in verify(pulled).bad} == {"config.json": "a link", "README.md": "a folder"}


def test_a_folder_link_on_the_way_to_a_file_is_not_followed(world: World, tmp_path: Path) -> None:
    pulled = world.pull()
    (world.target / "sub").rename(tmp_path / "sub")
    (world.target / "sub").symlink_to(tmp_path / "sub")
    report = verify(pulled)
    assert report.missing == ("sub/notes.txt",)
    assert report.extra == ("sub",)


def test_disk_use_counts_what_is_there(world: World) -> None:
    pulled = world.pull()
    lock_bytes = (world.target / LOCK).stat().st_size
    (world.target / "mine.txt").write_bytes(b"12345")
    assert disk_use_bytes(pulled) == WHOLE + lock_bytes + 5


# ---- remove ------------------------------------------------------------------------------------


def test_a_removed_model_is_gone_and_its_bytes_are_told(world: World) -> None:
    pulled = world.pull()
    lock_bytes = (world.target / LOCK).stat().st_size
    assert remove(pulled) == WHOLE + lock_bytes
    assert list(world.models_dir.iterdir()) == []
    assert not world.staging.exists()
    assert world.pull().commit == pulled.commit


def test_what_links_in_a_model_point_at_stays(world: World, tmp_path: Path) -> None:
    pulled = world.pull()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    (world.target / "folder link").symlink_to(outside)
    (world.target / "file link").symlink_to(outside / "precious")
    remove(pulled)
    assert (outside / "precious").read_bytes() == b"precious"


def test_of_a_model_that_is_a_link_only_the_link_goes(world: World, tmp_path: Path) -> None:
    world.pull()
    world.target.rename(tmp_path / "moved")
    world.target.symlink_to(tmp_path / "moved")
    assert remove(find(world.models_dir, FOLDER)) == 0
    assert not world.target.is_symlink()
    assert contents(tmp_path / "moved") == FILES


def test_a_folder_that_branchfit_did_not_make_stays_unless_forced(world: World) -> None:
    folder = world.models_dir / "by hand"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"12345")
    with pytest.raises(DownloadError, match="not made by BranchFit"):
        remove(folder)
    assert contents(folder) == {"model.safetensors": b"12345"}
    assert remove(folder, force=True) == 5
    assert not folder.exists()


def test_removing_what_is_not_there_says_so(world: World) -> None:
    with pytest.raises(NotInstalled):
        remove(world.models_dir / "nothing")


def test_a_model_that_is_being_pulled_is_not_removed(world: World) -> None:
    pulled = world.pull()
    with Staging(world.staging.parent, world.target).locked(), pytest.raises(DownloadError, match="at work"):
        remove(pulled)
    assert contents(world.target) == FILES


def test_what_a_killed_remove_left_is_cleared_by_the_next(world: World) -> None:
    world.pull()
    world.staging.mkdir(parents=True)
    world.target.rename(world.staging / "removed")
    pulled = pull(world.hub, REPO, BRANCH, world.models_dir)
    assert contents(world.target) == FILES
    assert not world.staging.exists()
    (world.staging / "removed").mkdir(parents=True)
    (world.staging / "removed" / "x").write_bytes(b"12345")
    lock_bytes = (world.target / LOCK).stat().st_size
    assert remove(pulled) == WHOLE + lock_bytes + 5
    assert not world.staging.parent.exists()


def test_a_removal_in_place_takes_the_lock_last(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pull()
    monkeypatch.setattr("branchfit.installed._staging_for", lambda *_: None)
    gone: list[str] = []

    def delete(path: Path) -> int:
        if path.name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        gone.append(path.name)
        return delete_tree(path)

    with monkeypatch.context() as patch:
        patch.setattr("branchfit.installed.delete_tree", delete)
        with pytest.raises(DownloadError, match="could not be removed"):
            remove(world.target)
    assert gone
    assert find(world.models_dir, FOLDER).branch == BRANCH
    assert remove(world.target) > 0
    assert not world.target.exists()


def test_an_unfinished_download_goes_with_the_model(world: World) -> None:
    world.pull()
    world.serve({**FILES, "model.safetensors": noise(3_000_000, seed=4)})
    world.server.cut_after(100_000, "cdn GET", times=None)
    with pytest.raises(DownloadError):
        world.pull(latest=True, retry_waits_s=())
    lock_bytes = (world.target / LOCK).stat().st_size
    assert remove(world.target) >= WHOLE + lock_bytes + 100_000 - (WHOLE - len(FILES["model.safetensors"]))
    assert list(world.models_dir.parent.iterdir()) == [world.models_dir]


def test_an_unfinished_download_is_listed_and_can_be_given_up(world: World) -> None:
    assert unfinished(world.models_dir) == []
    world.server.cut_after(100_000, "cdn GET", times=None)
    with pytest.raises(DownloadError):
        world.pull(retry_waits_s=())
    world.server.clear_faults()
    (one,) = unfinished(world.models_dir)
    commit = world.hub.branch_files(REPO, BRANCH).commit
    assert (one.name, one.repo, one.branch, one.commit) == (FOLDER, REPO, BRANCH, commit)
    assert 100_000 <= one.size_bytes <= 100_000 + WHOLE - len(FILES["model.safetensors"])
    assert unfinished(world.models_dir.parent) == []
    assert discard(world.models_dir, "another") == 0
    assert discard(world.models_dir, FOLDER) > one.size_bytes  # and the journal
    assert unfinished(world.models_dir) == []
    assert list(world.models_dir.parent.iterdir()) == [world.models_dir]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs Linux and root, to mount")
def test_on_a_mount_of_its_own_a_model_is_removed_in_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRANCHFIT_CACHE", str(world.models_dir.parent / "cache"))
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(world.models_dir)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("needs to mount file systems")
    try:
        pulled = world.pull(staging_dir=world.models_dir / ".staging")
        link = world.models_dir / "link"
        link.symlink_to(world.target)
        assert remove(link) == 0
        assert contents(world.target) == FILES
        assert remove(pulled) > WHOLE
        assert not world.target.exists()
    finally:
        subprocess.run(["umount", str(world.models_dir)], check=True)
