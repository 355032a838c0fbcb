"""Disk use: whose every byte is, each once; and what was left behind, which goes only when nobody can want it."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from branchfit.cli.app import app
from branchfit.download.journal import Purpose
from branchfit.download.places import STAGING_NAME
from branchfit.download.staging import Staging
from branchfit.download.usage.leftovers import QUIET_S
from branchfit.errors import BranchFitError, DownloadError, UsageError
from branchfit.installed import DiskUse, Orphan, disk_use, find_orphans, folder_use, remove_orphan, scan
from downloads import BRANCH, FILES, FOLDER, REPO, World, a_world, contents, noise, pull_killed, sha256

WEIGHTS = FILES["model.safetensors"]
ETAG = sha256(WEIGHTS)
OLD_S = QUIET_S + 60.0
needs_links = pytest.mark.skipif(os.name == "nt", reason="needs links, which Windows gives to few")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub's cache, for this process and those it starts."""
    from huggingface_hub import constants

    folder = tmp_path / "hf home" / "hub"
    monkeypatch.setenv("HF_HOME", str(folder.parent))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder), raising=False)
    monkeypatch.setattr(constants, "HUGGINGFACE_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def world(tmp_path: Path, cache: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        yield one


def put(path: Path, content: bytes = b"", old: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if old:
        age(path)
    return path


def age(*paths: Path) -> None:
    """As if nobody had written to these, or to anything below them, for long enough."""
    then = time.time() - OLD_S
    for path in paths:
        for one in [path, *path.rglob("*")] if path.exists() else []:
            os.utime(one, (then, then), follow_symlinks=False)


def used(world: World) -> DiskUse:
    models = scan(world.models_dir).installed
    return disk_use(world.models_dir, models, find_orphans(world.models_dir, models))


def orphans(world: World) -> dict[Path, Orphan]:
    found = find_orphans(world.models_dir, scan(world.models_dir).installed)
    assert len({one.path for one in found}) == len(found)
    return {one.path: one for one in found}


def run(world: World, *arguments: str, stdin: str = "") -> Result:
    # Before click 8.2 the two streams are one unless it is told otherwise; since then they are always two.
    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    found = CliRunner(**apart).invoke(app, ["du", "--to", str(world.models_dir), *arguments], input=stdin)
    assert found.exception is None or isinstance(found.exception, (SystemExit, BranchFitError)), found.exception
    return found


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def download(world: World, *arguments: str) -> None:
    """huggingface_hub itself, in a process of its own."""
    script = "import sys; from huggingface_hub import hf_hub_download as get; get(sys.argv[1], sys.argv[2], revision="
    script += "sys.argv[3], **({'local_dir': sys.argv[4]} if sys.argv[4:] else {}))"
    environment = {**os.environ, "HF_ENDPOINT": world.server.endpoint}
    called = [sys.executable, "-c", script, REPO, arguments[0], BRANCH, *arguments[1:]]
    done = subprocess.run(called, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


# ---- use ---------------------------------------------------------------------------------------


def test_a_file_that_two_models_and_the_cache_share_counts_once(world: World, cache: Path) -> None:
    model = world.pull()
    other = put(world.models_dir / "by hand" / "model.safetensors", b"x" * 1000)
    os.link(model.folder / "model.safetensors", other.with_name("again.safetensors"))
    os.link(model.folder / "model.safetensors", put(cache / "models--a--b" / "blobs" / "x").with_name(ETAG))
    found = used(world)
    lock_bytes = (model.folder / "branchfit.lock.json").stat().st_size
    (mine,), (by_hand,) = found.models, found.others
    assert mine.size_bytes == model.size_bytes + lock_bytes
    assert mine.shared_bytes == by_hand.shared_bytes == len(WEIGHTS)
    assert mine.shared_with == ("by hand", "huggingface_hub's cache")
    assert by_hand.size_bytes == len(WEIGHTS) + 1000
    assert found.total_bytes == model.size_bytes + lock_bytes + 1000
    os.link(model.folder / "config.json", world.models_dir.parent / "outside.json")
    assert used(world).models[0].shared_with == ("by hand", "elsewhere", "huggingface_hub's cache")


def test_two_names_of_a_file_in_one_model_are_no_sharing(world: World) -> None:
    model = world.pull()
    os.link(model.folder / "model.safetensors", model.folder / "same.safetensors")
    found = folder_use(model.folder)
    assert found.shared_bytes == 0
    assert found.size_bytes == model.size_bytes + (model.folder / "branchfit.lock.json").stat().st_size


def test_what_the_author_did_not_publish_is_named(world: World) -> None:
    model = world.pull()
    put(model.folder / "notes" / "mine.txt", b"12345")
    (mine,) = used(world).models
    assert [(file.path, file.size_bytes) for file in mine.extra] == [("notes/mine.txt", 5)]


def test_an_unfinished_download_and_a_file_kept_as_bad_are_listed(world: World) -> None:
    world.server.corrupt("cdn GET", times=None, offset=5)
    with pytest.raises(DownloadError):
        world.pull()
    found = used(world)
    assert [(one.repo, one.branch) for one in found.unfinished] == [(REPO, BRANCH)]
    assert [(one.name, one.size_bytes) for one in found.bad] == [(FOLDER, len(WEIGHTS))]
    assert orphans(world) == {}
    said = run(world).stdout
    assert f"unfinished: {REPO}:{BRANCH}" in said and "kept as bad" in said


@needs_links
def test_the_cache_is_told_as_huggingface_hub_reads_it_and_by_its_files_where_it_cannot(
    world: World, cache: Path
) -> None:
    download(world, "model.safetensors")
    download(world, "config.json")
    put(cache / "models--o--broken" / "blobs" / "abc", b"12345678")
    found = used(world).hub_cache
    assert found is not None
    good, bad = sorted(found.repos, key=lambda one: one.problem is not None)
    assert (good.repo, good.kind, good.revisions) == (REPO, "model", 1)
    assert good.size_bytes == len(WEIGHTS) + len(FILES["config.json"])
    assert (bad.repo, bad.kind, bad.size_bytes) == ("o/broken", "model", 8)
    assert bad.problem is not None and "napshots" in bad.problem
    assert found.size_bytes >= good.size_bytes + bad.size_bytes
    assert orphans(world).keys() >= {cache / "models--o--broken" / "blobs" / "abc"}
    assert not any(REPO.replace("/", "--") in str(path) and "blobs" in str(path) for path in orphans(world))


def test_the_free_space_of_each_disk_is_told_once(world: World) -> None:
    (disk,) = used(world).disks
    assert 0 < disk.free_bytes < disk.total_bytes


def test_a_link_to_another_disk_is_not_followed(world: World, tmp_path: Path) -> None:
    put(tmp_path / "big" / "model.gguf", b"x" * 5000)
    (world.models_dir / "linked").symlink_to(tmp_path / "big", target_is_directory=True)
    (linked,) = used(world).others
    assert (linked.name, linked.size_bytes) == ("linked", 0)


# ---- what huggingface_hub left -----------------------------------------------------------------


@pytest.mark.parametrize("local", [False, True])
def test_what_a_killed_huggingface_hub_leaves_is_found_and_goes_when_it_is_old(
    world: World, cache: Path, tmp_path: Path, local: bool
) -> None:
    """A real client, killed for good in the middle of the file."""
    under_way = threading.Event()
    world.server.stall(2_000_000, 60.0, "cdn GET")
    world.server.when_sent(1_500_000, under_way.set)
    script = "import sys; from huggingface_hub import hf_hub_download as get\n"
    script += f"get({REPO!r}, 'model.safetensors', revision={BRANCH!r}"
    script += f", local_dir={str(world.models_dir / 'theirs')!r})" if local else ")"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_ENDPOINT": world.server.endpoint},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as client:
        try:
            assert under_way.wait(60.0)
            alive = [one for one in orphans(world).values() if one.kind == "partial"]
            assert alive and all(one.in_use for one in alive)
            age(cache, world.models_dir)
            locked = [one for one in orphans(world).values() if one.kind == "partial"]
            assert locked and all(one.in_use and "lock" in one.in_use for one in locked), (
                "it lives, though it is silent"
            )
        finally:
            client.kill()
    age(cache, world.models_dir)
    (left,) = [one for one in orphans(world).values() if one.kind == "partial"]
    assert left.in_use is None and left.path.stat().st_size == left.size_bytes
    assert remove_orphan(left, world.models_dir) == left.size_bytes
    assert not left.path.exists()
    assert not any(one.kind == "partial" for one in orphans(world).values())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"models--o--n/blobs/{ETAG}.incomplete", "up to 1.17"),
        (f"models--o--n/blobs/{ETAG}.0123abcd.incomplete", "none goes on"),
        ("tmpabc_1234", "0.16"),
    ],
)
def test_every_name_that_versions_give_to_half_a_file_is_known(world: World, cache: Path, name: str, why: str) -> None:
    path = put(cache / name, b"x" * 700)
    found = orphans(world)[path]
    assert (found.kind, found.size_bytes, found.frees_bytes, found.in_use) == ("partial", 700, 700, None)
    assert why in found.why


@pytest.mark.parametrize(
    "name",
    [f"model.safetensors.{ETAG}.incomplete", f"Z3j-_A0=.{ETAG}.incomplete", f"Z3j-_A0=.{ETAG}.0123abcd.incomplete"],
)
def test_half_files_in_a_models_folder_are_known_too(world: World, name: str) -> None:
    path = put(world.models_dir / "theirs" / ".cache" / "huggingface" / "download" / name, b"x" * 700)
    assert orphans(world)[path].in_use is None


def test_what_changed_within_the_hour_is_left_alone(world: World, cache: Path) -> None:
    path = put(cache / "models--o--n" / "blobs" / f"{ETAG}.incomplete", b"x" * 700, old=False)
    found = orphans(world)[path]
    assert found.in_use is not None and "changed" in found.in_use
    with pytest.raises(DownloadError, match="left alone"):
        remove_orphan(found, world.models_dir)
    assert document(run(world, "--clean", "--yes", "--json"))["freed_bytes"] == 0
    assert path.exists()


def test_what_is_written_to_between_the_question_and_the_answer_is_left_alone(world: World, cache: Path) -> None:
    path = put(cache / "models--o--n" / "blobs" / f"{ETAG}.incomplete", b"x" * 700)
    found = orphans(world)[path]
    put(path, b"x" * 900, old=False)
    with pytest.raises(DownloadError, match="left alone"):
        remove_orphan(found, world.models_dir)
    assert path.stat().st_size == 900


_HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("partial", "lock"),
    [
        ("C/models--o--n/blobs/abc.incomplete", "C/.locks/models--o--n/abc.lock"),
        ("C/models--o--n/blobs/abc.01234567.incomplete", "C/.locks/models--o--n/abc.lock"),
        ("C/models--o--n/blobs/abc.incomplete", "C/models--o--n/blobs/abc.lock"),
        ("M/.cache/huggingface/download/w.bin.abc.incomplete", "M/.cache/huggingface/download/w.bin.lock"),
        # base64 of the sha1 of "w.bin.metadata", which is what huggingface_hub from 0.24 on writes.
        (
            "M/.cache/huggingface/download/ta2qUClYS51B3S05WMIWvIKwddc=.abc.incomplete",
            "M/.cache/huggingface/download/w.bin.lock",
        ),
    ],
)
def test_a_held_lock_keeps_its_file_and_no_other(world: World, cache: Path, partial: str, lock: str) -> None:
    places = {"C": cache, "M": world.models_dir / "theirs"}
    path, lock_path = (places[name[0]] / name[2:] for name in (partial, lock))
    put(path, b"x" * 700)
    other = put(path.with_name("other.incomplete"), b"y")
    put(lock_path)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(lock_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline().strip() == b"held"
        age(lock_path)
        found = orphans(world)
        assert found[path].in_use is not None and "lock" in found[path].in_use
        assert found[other].in_use is None
        assert [one.in_use is not None for one in found.values() if lock_path in one.files] == [True]
        holder.communicate()
    age(lock_path)
    assert orphans(world)[path].in_use is None
    assert remove_orphan(orphans(world)[path], world.models_dir) == 700


@needs_links
def test_only_a_blob_that_nothing_refers_to_is_an_orphan(world: World, cache: Path) -> None:
    repo = cache / "models--o--n"
    snapshot = repo / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    blobs = {name: put(repo / "blobs" / name, name.encode() * 100) for name in ("a", "b", "c", "d", "e")}
    (snapshot / "a.txt").symlink_to("../../blobs/a")
    (snapshot / "b.txt").symlink_to(blobs["b"])
    os.link(blobs["c"], snapshot / "c.txt")
    (world.models_dir / "mine").mkdir()
    (world.models_dir / "mine" / "model.gguf").symlink_to(blobs["d"])
    found = orphans(world)
    assert list(found) == [blobs["e"]]
    assert (found[blobs["e"]].kind, found[blobs["e"]].size_bytes) == ("blob", 100)
    (snapshot / "e.txt").symlink_to("../../blobs/e")
    with pytest.raises(DownloadError, match="referred to by now"):
        remove_orphan(found[blobs["e"]], world.models_dir)
    (snapshot / "e.txt").unlink()
    assert remove_orphan(found[blobs["e"]], world.models_dir) == 100
    assert [blob.exists() for blob in blobs.values()] == [True, True, True, True, False]


@needs_links
def test_where_the_snapshots_cannot_be_known_no_blob_is_an_orphan(world: World, cache: Path, tmp_path: Path) -> None:
    blob = put(cache / "models--o--n" / "blobs" / "a", b"a")
    assert list(orphans(world)) == [blob]
    (tmp_path / "elsewhere").mkdir()
    (cache / "models--o--n" / "snapshots").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert orphans(world) == {}


def test_an_orphan_with_another_name_elsewhere_frees_nothing_and_says_so(world: World, cache: Path) -> None:
    model = world.pull()
    blob = cache / "models--o--n" / "blobs" / ETAG
    blob.parent.mkdir(parents=True)
    os.link(model.folder / "model.safetensors", blob)
    age(blob)
    found = orphans(world)[blob]
    assert (found.size_bytes, found.frees_bytes) == (len(WEIGHTS), 0)
    assert "another name elsewhere" in run(world).stdout
    assert document(run(world, "--clean", "--yes", "--json"))["freed_bytes"] == 0
    assert not blob.exists()
    assert contents(world.target) == FILES


@needs_links
def test_nothing_outside_is_reached_through_a_link_in_the_cache(world: World, cache: Path, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside" / f"{ETAG}.incomplete", b"mine")
    (cache / "models--o--n").mkdir(parents=True)
    (cache / "models--o--n" / "blobs").symlink_to(outside.parent, target_is_directory=True)
    (cache / "models--o--m" / "blobs").mkdir(parents=True)
    (cache / "models--o--m" / "blobs" / "x.incomplete").symlink_to(outside)
    put(tmp_path / "huggingface" / "download" / f"a.{ETAG}.incomplete", b"mine")
    (world.models_dir / "theirs").mkdir()
    (world.models_dir / "theirs" / ".cache").symlink_to(tmp_path, target_is_directory=True)
    assert orphans(world) == {}
    path = put(cache / "models--o--k" / "blobs" / f"{ETAG}.incomplete", b"theirs")
    found = orphans(world)[path]
    path.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(outside.parent, target_is_directory=True)
    with pytest.raises(DownloadError, match="link"):
        remove_orphan(found, world.models_dir)
    assert outside.read_bytes() == b"mine"


def test_huggingface_hubs_notes_go_and_what_is_not_of_a_download_stays(world: World) -> None:
    download(world, "model.safetensors", str(world.models_dir / "theirs"))
    base = world.models_dir / "theirs" / ".cache" / "huggingface"
    if not base.is_dir():
        pytest.skip("this huggingface_hub writes no notes")
    mine = put(base / "upload" / "mine.metadata", b"an upload under way")
    age(base)
    found = orphans(world)[base]
    assert (found.kind, found.in_use) == ("bookkeeping", None)
    remove_orphan(found, world.models_dir)
    assert not (base / "download").exists()
    assert mine.exists()
    mine.unlink()
    mine.parent.rmdir()
    age(base)
    remove_orphan(orphans(world)[base], world.models_dir)
    assert not base.parent.exists()
    assert contents(world.models_dir / "theirs")["model.safetensors"] == WEIGHTS


def test_files_that_the_author_published_under_that_name_are_no_ones_notes(world: World) -> None:
    world.serve({**FILES, ".cache/huggingface/download/model.safetensors.metadata": b"published"})
    model = world.pull()
    age(model.folder)
    assert orphans(world) == {}


def test_lock_files_of_ended_downloads_go_together(world: World, cache: Path) -> None:
    locks = [put(cache / ".locks" / "models--o--n" / f"{number}.lock") for number in range(3)]
    put(cache / "models--o--n" / "blobs" / "a.lock")
    found = orphans(world)
    assert list(found) == [cache / "models--o--n" / "blobs", locks[0].parent]
    again = orphans(world)[locks[0].parent]
    assert again.in_use is None, "looking does not make them young"
    remove_orphan(again, world.models_dir)
    assert not locks[0].parent.exists()


# ---- what BranchFit left -----------------------------------------------------------------------


def test_the_staging_folder_of_a_model_that_is_whole_is_an_orphan(world: World) -> None:
    world.pull()
    world.serve({**FILES, "config.json": b'{"model_type": "llama", "x": 1}'})
    pull_killed(world, "before clearing")
    put(world.staging / "parts" / "left.part", b"x" * 300)
    assert orphans(world)[world.staging].in_use is not None
    age(world.staging)
    found = orphans(world)[world.staging]
    assert (found.kind, found.in_use) == ("staging", None) and found.size_bytes >= 300
    assert used(world).unfinished == ()
    assert remove_orphan(found, world.models_dir) == found.size_bytes
    assert not world.staging.exists()
    assert scan(world.models_dir).installed[0].commit


def test_an_unfinished_download_is_none_and_neither_is_an_unfinished_update(world: World) -> None:
    world.server.cut_after(1000, "cdn GET", times=None)
    with pytest.raises(DownloadError):
        world.pull()
    age(world.staging)
    assert orphans(world) == {}
    world.server.clear_faults()
    world.pull()
    world.serve({**FILES, "model.safetensors": noise(2_000_000, seed=9)})
    world.server.cut_after(1000, "cdn GET", times=None)
    with pytest.raises(DownloadError):
        world.pull(latest=True)
    age(world.staging)
    assert orphans(world) == {}


def test_the_staging_folder_of_a_models_folder_that_is_gone_is_an_orphan_and_a_neighbours_is_not(
    world: World,
) -> None:
    parent = world.models_dir.parent
    (parent / "other models").mkdir()
    gone = Staging(parent / STAGING_NAME, parent / "was here" / FOLDER)
    neighbour = Staging(parent / STAGING_NAME, parent / "other models" / FOLDER)
    for staging in (gone, neighbour):
        put(staging.parts / "x.part", b"x" * 500)
    gone.journal.begin(Purpose(FOLDER, REPO, BRANCH, "c" * 40, str(gone.target)))
    neighbour.journal.begin(Purpose(FOLDER, REPO, BRANCH, "c" * 40, str(neighbour.target)))
    age(parent / STAGING_NAME)
    found = orphans(world)
    assert list(found) == [gone.folder]
    assert f"a download of {REPO}:{BRANCH} into a models folder that is gone" in found[gone.folder].why
    (parent / "was here").mkdir()
    assert orphans(world) == {}, "it is there again"
    with pytest.raises(DownloadError, match="has use for it"):
        remove_orphan(found[gone.folder], world.models_dir)
    (parent / "was here").rmdir()
    assert remove_orphan(found[gone.folder], world.models_dir) == found[gone.folder].size_bytes > 500
    assert not gone.folder.exists() and neighbour.folder.exists()


# ---- the command -------------------------------------------------------------------------------


def test_without_clean_it_only_offers_and_clean_asks(world: World, cache: Path) -> None:
    model = world.pull()
    path = put(cache / "models--o--n" / "blobs" / f"{ETAG}.incomplete", b"x" * 700)
    said = run(world).stdout
    assert model.name in said and str(path) in said and "up to 1.17" in said
    assert f"`branchfit du --to {world.models_dir} --clean` removes them: 1 leftover" in said
    dry = run(world, "--clean", "--dry-run")
    assert dry.exit_code == 0 and str(path) in dry.stdout
    assert run(world, "--clean", stdin="n\n").exit_code != 0
    assert path.exists()
    done = run(world, "--clean", stdin="y\n")
    assert done.exit_code == 0 and "removed 1 of 1, 700 bytes freed" in done.stdout
    assert not path.exists()
    assert "nothing was left behind" in run(world).stdout
    assert contents(world.target) == FILES


def test_the_document_says_all_of_it_in_bytes(world: World, cache: Path) -> None:
    model = world.pull()
    path = put(cache / "models--o--n" / "blobs" / f"{ETAG}.incomplete", b"x" * 700)
    found = document(run(world, "--json"))
    assert [one["name"] for one in found["models"]] == [model.name]
    assert found["models_dir"] == str(world.models_dir) and found["total_bytes"] > model.size_bytes + 700
    assert found["hub_cache"]["folder"] == str(cache)
    (orphan,) = found["orphans"]
    assert (orphan["path"], orphan["size_bytes"], orphan["in_use"], orphan["removed"]) == (str(path), 700, None, False)
    done = document(run(world, "--json", "--clean", "--yes"))
    assert done["freed_bytes"] == 700 and done["orphans"][0]["removed"]
    assert not path.exists()


def test_what_cannot_be_asked_or_makes_no_sense_is_a_usage_error(world: World) -> None:
    for arguments in (["--json", "--clean"], ["--yes"], ["--dry-run"]):
        assert isinstance(run(world, *arguments).exception, UsageError)
    world.models_dir.rmdir()
    assert isinstance(run(world).exception, UsageError)
    listed = CliRunner().invoke(app, ["list", "--to", str(world.models_dir)])
    assert isinstance(listed.exception, UsageError) and "no folder" in str(listed.exception)


def test_removing_says_before_it_asks_what_other_names_keep(world: World) -> None:
    model = world.pull()
    os.link(model.folder / "model.safetensors", world.models_dir / "mine.safetensors")
    asked = CliRunner().invoke(app, ["remove", model.name, "--to", str(world.models_dir)], input="n\n")
    shared, size = f"{len(WEIGHTS):,}", f"{folder_use(model.folder).size_bytes:,}"
    assert f"{shared} of its {size} bytes have another name elsewhere" in asked.output
    assert model.folder.is_dir()
