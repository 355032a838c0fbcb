"""What is on this machine already is not fetched: other models, huggingface_hub's cache, files under a former name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from branchfit.demo.served import git_blob_id
from branchfit.download import DownloadPlan, PlannedFile, plan, read_lock
from branchfit.download.events import Event, FileVerified, Reused
from branchfit.errors import TransferBroken
from branchfit.hub.hub_cache import hub_cache_dir
from branchfit.installed import remove, verify
from downloads import BRANCH, FILES, FOLDER, MIB, REPO, World, a_world, contents, flip, noise, sha256

OTHER = "gptq-3bit--1g-actorder_True"
OTHER_FOLDER = "TheBloke_Tiny-GPTQ_gptq-3bit--1g-actorder_True"
WEIGHTS = FILES["model.safetensors"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub's cache, of the test's own, under the name that its version has for it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if hasattr(constants, name):
            monkeypatch.setattr(constants, name, str(tmp_path / "hf cache"))
    return tmp_path / "hf cache"


@pytest.fixture
def world(tmp_path: Path, cache: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


def etag(path: str) -> str:
    content = FILES[path]
    return sha256(content) if path.endswith(".safetensors") else git_blob_id(len(content), iter([content]))


def fill(cache: Path, *paths: str) -> Path:
    """Put files of the repo into huggingface_hub's cache, as it would; return the folder of blobs."""
    blobs = cache / "models--TheBloke--Tiny-GPTQ" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (blobs / etag(path)).write_bytes(FILES[path])
    return blobs


def planned(world: World) -> tuple[DownloadPlan, dict[str, PlannedFile]]:
    found = plan(world.hub.branch_files(REPO, BRANCH), REPO, world.models_dir)
    return found, {file.path: file for file in found.files}


def fetched(world: World) -> set[str]:
    return {Path(one.path.partition("?")[0]).name for one in world.fetches() if one.origin == "hub"}


# ---- other models ------------------------------------------------------------------------------


@pytest.fixture
def two(world: World) -> World:
    """A model is there; another branch shares its weights and its card."""
    world.pull()
    world.serve({**FILES, "config.json": b'{"bits": 3}'}, OTHER)
    world.events.clear()
    world.server.requests.clear()
    return world


def test_what_another_branch_has_is_taken_from_there(two: World) -> None:
    two.pull(OTHER)
    target = two.models_dir / OTHER_FOLDER
    assert contents(target) == {**FILES, "config.json": b'{"bits": 3}'}
    assert fetched(two) == {"config.json"}
    assert {event.path: event.source for event in two.of(Reused)} == dict.fromkeys(set(FILES) - {"config.json"}, FOLDER)
    assert {event.path for event in two.of(FileVerified)} == set(FILES)
    assert verify(read_lock(target)).ok


def test_weights_are_linked_and_what_people_edit_is_copied(two: World) -> None:
    two.pull(OTHER)
    target = two.models_dir / OTHER_FOLDER
    assert (target / "model.safetensors").samefile(two.target / "model.safetensors")
    for path in ("README.md", "sub/notes.txt"):
        assert not (target / path).samefile(two.target / path)
        assert (target / path).lstat().st_nlink == 1
    (two.target / "README.md").write_bytes(b"edited")
    assert (target / "README.md").read_bytes() == FILES["README.md"]


def test_a_model_that_shares_weights_can_go_without_the_other(two: World) -> None:
    two.pull(OTHER)
    remove(two.target)
    assert verify(read_lock(two.models_dir / OTHER_FOLDER)).ok


def test_a_file_that_rotted_in_the_other_model_is_fetched(two: World) -> None:
    flip(two.target / "model.safetensors", 100)
    (two.target / "README.md").write_bytes(b"# tiny\n")
    two.pull(OTHER)
    target = two.models_dir / OTHER_FOLDER
    assert contents(target) == {**FILES, "config.json": b'{"bits": 3}'}
    assert {"README.md", "model.safetensors", "config.json"} <= fetched(two)
    assert {event.path for event in two.of(Reused)} == {"empty.txt", "sub/notes.txt"}
    assert not list(target.rglob("*.again"))


def test_another_model_under_another_name_serves_too(two: World) -> None:
    """By hash, not by path: the author renamed the file between the branches."""
    two.serve({"config.json": b"{}", "gptq_model-4bit.safetensors": WEIGHTS}, OTHER)
    two.pull(OTHER)
    assert fetched(two) == {"config.json"}


def test_a_link_in_the_other_model_is_not_followed(two: World, tmp_path: Path) -> None:
    secret = tmp_path / "model.safetensors"
    (two.target / "model.safetensors").rename(secret)
    (two.target / "model.safetensors").symlink_to(secret)
    two.pull(OTHER)
    assert "model.safetensors" in fetched(two)
    assert secret.lstat().st_nlink == 1


def test_a_models_folder_that_is_a_link_gives_nothing(two: World, tmp_path: Path) -> None:
    two.target.rename(tmp_path / "elsewhere")
    two.target.symlink_to(tmp_path / "elsewhere")
    two.pull(OTHER)
    assert two.of(Reused) == []


def test_a_broken_lock_of_another_model_is_no_obstacle(two: World) -> None:
    (two.target / "branchfit.lock.json").write_text("{")
    two.pull(OTHER)
    assert two.of(Reused) == []
    assert contents(two.models_dir / OTHER_FOLDER) == {**FILES, "config.json": b'{"bits": 3}'}


def test_copies_from_another_model_count_as_space(two: World) -> None:
    state = two.hub.branch_files(REPO, OTHER)
    # By hand, in blocks of 4096 and one more a file: config.json comes, 1 + 1; README.md and notes.txt are copied,
    # 1 + 1 each, and empty.txt, 1; the weights are linked; and 1 MiB of overhead.
    assert plan(state, REPO, two.models_dir).needed_bytes == (2 + 2 + 2 + 1) * 4096 + MIB


def test_without_hard_links_weights_are_copied_and_counted(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    state = two.hub.branch_files(REPO, OTHER)
    # And 769 + 1 for the weights of 3,145,745 bytes.
    assert plan(state, REPO, two.models_dir).needed_bytes == (2 + 2 + 2 + 1 + 770) * 4096 + MIB
    two.pull(OTHER)
    target = two.models_dir / OTHER_FOLDER
    assert (target / "model.safetensors").read_bytes() == WEIGHTS
    assert not (target / "model.safetensors").samefile(two.target / "model.safetensors")
    assert fetched(two) == {"config.json"}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows tells no owner")
def test_weights_of_another_users_are_copied(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns a file can write it after it was verified."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    two.pull(OTHER)
    weights = two.models_dir / OTHER_FOLDER / "model.safetensors"
    assert weights.read_bytes() == WEIGHTS
    assert weights.lstat().st_nlink == 1
    assert fetched(two) == {"config.json"}


# ---- huggingface_hub's cache -------------------------------------------------------------------


def test_what_huggingface_hub_has_is_taken_from_its_cache(world: World, cache: Path) -> None:
    blobs = fill(cache, "model.safetensors", "config.json")
    world.pull()
    assert contents(world.target) == FILES
    assert fetched(world) - {"empty.txt"} == {"README.md", "notes.txt"}
    sources = {event.path: event.source for event in world.of(Reused)}
    assert sources == dict.fromkeys(["model.safetensors", "config.json"], "huggingface_hub's cache")
    assert (world.target / "model.safetensors").samefile(blobs / etag("model.safetensors"))
    assert (blobs / etag("config.json")).lstat().st_nlink == 1


def test_the_cache_is_that_of_the_real_huggingface_hub(
    world: World, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    try:
        hub.hf_hub_download(REPO, "model.safetensors", revision=BRANCH, cache_dir=cache, endpoint=world.server.endpoint)
    except TypeError:
        pytest.skip("this huggingface_hub takes no endpoint")
    assert hub_cache_dir() == cache
    world.server.requests.clear()
    world.pull()
    assert "model.safetensors" not in fetched(world)
    assert contents(world.target) == FILES


@pytest.mark.parametrize("harm", ["rotten", "short", "link", "folder", "blobs are a link"])
def test_a_blob_that_is_not_what_its_name_says_is_not_used(
    world: World, cache: Path, tmp_path: Path, harm: str
) -> None:
    blobs = fill(cache, "model.safetensors")
    blob = blobs / etag("model.safetensors")
    if harm == "rotten":
        flip(blob, 3)
    elif harm == "short":
        blob.write_bytes(WEIGHTS[:-1])
    elif harm == "link":
        blob.rename(tmp_path / "real")
        blob.symlink_to(tmp_path / "real")
    elif harm == "folder":
        blob.unlink()
        blob.mkdir()
    else:
        blobs.rename(tmp_path / "real")
        blobs.symlink_to(tmp_path / "real")
    world.pull()
    assert contents(world.target) == FILES
    assert "model.safetensors" in fetched(world)
    assert world.of(Reused) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_blob_that_may_not_be_read_is_not_used(world: World, cache: Path) -> None:
    (fill(cache, "config.json") / etag("config.json")).chmod(0)
    world.pull()
    assert contents(world.target) == FILES


def test_a_link_as_long_as_the_file_is_no_blob(world: World, cache: Path) -> None:
    blob = fill(cache) / etag("config.json")
    blob.symlink_to("x" * len(FILES["config.json"]))
    assert blob.lstat().st_size == len(FILES["config.json"])
    assert planned(world)[1]["config.json"].origin == ""
    world.pull()
    assert contents(world.target) == FILES
    assert world.of(Reused) == []


def test_a_blob_that_goes_while_it_is_wanted_is_fetched(world: World, cache: Path) -> None:
    blobs = fill(cache, "config.json", "model.safetensors")

    def clean(event: object) -> None:
        world.events.append(event)  # type: ignore[arg-type]
        for path in blobs.iterdir():
            path.unlink()

    world.pull(on_event=clean)
    assert contents(world.target) == FILES
    assert world.of(Reused) == []


def test_the_cache_of_another_repo_is_not_looked_at(world: World, cache: Path) -> None:
    fill(cache, "model.safetensors")
    (cache / "models--TheBloke--Tiny-GPTQ").rename(cache / "models--Other--Tiny-GPTQ")
    world.pull()
    assert world.of(Reused) == []


def test_a_plan_says_where_files_are(world: World, cache: Path) -> None:
    fill(cache, "model.safetensors")
    found, files = planned(world)
    assert files["model.safetensors"] == PlannedFile(
        "model.safetensors", len(WEIGHTS), len(WEIGHTS), "huggingface_hub's cache"
    )
    assert files["config.json"].origin == ""
    assert found.fetch_bytes == sum(map(len, FILES.values())) - len(WEIGHTS)
    # Three small files come, 1 + 1 each; the weights are linked.
    assert found.needed_bytes == 3 * 2 * 4096 + MIB
    listed = {file["path"]: file for file in json.loads(json.dumps(found.to_dict()))["files"]}
    assert listed["model.safetensors"]["origin"] == "huggingface_hub's cache"


def test_the_installed_commit_comes_before_the_cache(world: World, cache: Path) -> None:
    world.pull()
    fill(cache, "model.safetensors")
    world.serve({**FILES, "config.json": b"{}"})
    world.events.clear()
    world.pull(latest=True)
    assert {event.source for event in world.of(Reused)} == {"the commit installed here"}


def test_a_rotten_installed_file_is_had_from_the_cache(world: World, cache: Path) -> None:
    world.pull()
    flip(world.target / "model.safetensors", 9)
    fill(cache, "model.safetensors")
    world.serve({**FILES, "config.json": b"{}"})
    world.server.requests.clear()
    world.pull(latest=True)
    kept = contents(world.target)
    del kept["model.safetensors.edited-1"]  # for all one knows it is the user's
    assert kept == {**FILES, "config.json": b"{}"}
    assert fetched(world) == {"config.json"}


# ---- staged under a former name ----------------------------------------------------------------


def begin(world: World, after_bytes: int) -> None:
    """A pull that breaks off in the weights, of which `after_bytes` came; the small files are there."""
    left = set(FILES) - {"model.safetensors"}

    def stop(event: Event) -> None:
        if isinstance(event, FileVerified):
            left.discard(event.path)
        if not left:
            raise KeyboardInterrupt

    world.server.slow_down(MIB, matching="cdn GET")
    with pytest.raises(KeyboardInterrupt):
        world.pull(on_event=stop)
    world.server.clear_faults()
    world.server.cut_after(after_bytes, matching="cdn GET")
    with pytest.raises(TransferBroken):
        world.pull(retry_waits_s=())
    world.server.clear_faults()
    world.server.requests.clear()
    world.events.clear()


RENAMED = {
    "card/README.md": FILES["README.md"],  # into a folder
    "sub": FILES["config.json"],  # into the place of a folder that goes
    "empty.txt/notes.txt": FILES["sub/notes.txt"],  # and of a file that goes
    "weights.safetensors": WEIGHTS,
}


def test_staged_files_that_the_branch_renamed_are_not_fetched_again(world: World) -> None:
    begin(world, 2 * MIB)
    world.serve(RENAMED)
    found, files = planned(world)
    small = sum(len(content) for path, content in RENAMED.items() if path != "weights.safetensors")
    assert files["card/README.md"].here_bytes == len(FILES["README.md"])
    part = files["weights.safetensors"].here_bytes
    assert 2 * MIB <= part < len(WEIGHTS)
    assert found.fetch_bytes == len(WEIGHTS) - part
    world.pull(latest=True)
    assert contents(world.target) == RENAMED
    assert fetched(world) <= {"weights.safetensors"}
    assert world.fetched_bytes() == len(WEIGHTS) - part < len(WEIGHTS)
    assert small > 0
    assert not world.staging.exists()


def test_a_renamed_staged_file_is_hashed_before_it_counts(world: World) -> None:
    begin(world, MIB)
    staged = world.staging / "files" / "README.md"
    before = staged.stat()
    flip(staged)
    os.utime(staged, ns=(before.st_atime_ns, before.st_mtime_ns))
    world.serve(RENAMED)
    world.pull(latest=True)
    assert contents(world.target) == RENAMED
    assert "README.md" in fetched(world)


def test_a_kill_while_names_change_costs_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(world, MIB)
    world.serve(RENAMED)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("branchfit.download.staging.Staging.prune", killed)
        with pytest.raises(KeyboardInterrupt):
            world.pull(latest=True)
    assert (world.staging / "renamed").is_dir()
    world.server.requests.clear()
    world.pull(latest=True)
    assert contents(world.target) == RENAMED
    assert fetched(world) <= {"weights.safetensors"}


@pytest.mark.parametrize("name", ["../../../outside.txt", "/outside.txt", "sub/../../x", 7, None, ["x"]])
def test_a_journal_that_names_files_elsewhere_moves_none(world: World, tmp_path: Path, name: object) -> None:
    begin(world, MIB)
    outside = world.models_dir.parent / "outside.txt"
    outside.write_bytes(FILES["README.md"])
    found = outside.stat()
    entry = {"path": name, "size_bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "hash": etag("README.md")}
    with (world.staging / "journal.jsonl").open("ab") as stream:
        stream.write(json.dumps(entry).encode() + b"\n")
    (world.staging / "files" / "README.md").unlink()
    world.serve({**RENAMED, "x": b"x"})
    world.pull(latest=True)
    assert outside.read_bytes() == FILES["README.md"]
    assert contents(world.target) == {**RENAMED, "x": b"x"}


def test_noise_is_not_taken_for_a_file_of_the_same_size(world: World, cache: Path) -> None:
    """Only what was looked for by hash is linked: a file of the right name and size is nothing."""
    other = world.models_dir / "someone elses"
    other.mkdir()
    (other / "model.safetensors").write_bytes(noise(len(WEIGHTS), seed=9))
    world.pull()
    assert world.of(Reused) == []
