"""Real file systems: full, read-only, mounted apart. Mounting needs root on Linux; elsewhere these are skipped."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchfit.download.disk import delete_tree, open_regular, space_for, write_error
from branchfit.download.events import Note
from branchfit.download.staging import Staging
from branchfit.errors import DownloadError, NoSpace
from branchfit.installed import remove
from downloads import FILES, MIB, World, a_world, contents

needs_mount = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs Linux and root, to mount file systems of its own"
)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("BRANCHFIT_CACHE", str(tmp_path / "cache"))
    with a_world(tmp_path) as one:
        yield one


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs to mount file systems: {done.stderr.strip()}")


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    """A file system of 2 MiB that holds models folder and staging."""
    disk = world.models_dir.parent
    world.models_dir.rmdir()
    mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk))
    try:
        world.models_dir.mkdir()
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@needs_mount
def test_a_disk_too_small_is_told_in_bytes_before_the_first_one(world: World, small_disk: Path) -> None:
    with pytest.raises(NoSpace) as caught:
        world.pull()
    assert caught.value.needed_bytes == (770 + 3 * 2) * 4096 + MIB
    # An empty tmpfs of 2 MiB; its own folders take no blocks.
    assert caught.value.free_bytes == 2 * MIB
    assert f"{2 * MIB:,} free" in str(caught.value)
    assert not world.fetches()
    assert [path.name for path in small_disk.rglob("*")] == [world.models_dir.name]


@needs_mount
def test_a_disk_that_fills_up_midway_keeps_what_came(
    world: World, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("branchfit.download.planning.free_bytes", lambda root: 10**12)
        with pytest.raises(NoSpace) as caught:
            world.pull()
    assert caught.value.free_bytes < caught.value.needed_bytes < 4 * MIB
    assert list(world.models_dir.iterdir()) == []
    there = sum(path.stat().st_size for path in (world.staging / "parts").glob("*.part"))
    assert there > MIB
    mount("-o", "remount,size=32m", str(small_disk))
    world.server.requests.clear()
    world.pull()
    assert contents(world.target) == FILES
    # What the full disk left no room to write down comes again.
    missing = len(FILES["model.safetensors"]) - there
    assert missing <= world.fetched_bytes("cdn") <= missing + MIB


@needs_mount
def test_bad_files_kept_for_a_look_make_room_where_it_is_needed(world: World, small_disk: Path) -> None:
    mount("-o", "remount,size=5m", str(small_disk))
    kept = world.staging / "bad" / "model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x" * (3 * MIB))
    world.pull()
    assert contents(world.target) == FILES


@needs_mount
def test_a_read_only_models_folder_is_told(world: World, small_disk: Path) -> None:
    mount("-o", "remount,ro", str(small_disk))
    with pytest.raises(DownloadError, match="cannot be written"):
        world.pull()
    assert not world.fetches()


@needs_mount
@pytest.mark.parametrize("how", ["tmpfs", "bind"])
def test_a_models_folder_on_a_mount_of_its_own_asks_for_a_staging_folder(
    world: World, how: str, tmp_path: Path
) -> None:
    where = str(world.models_dir)
    mount(*(["-t", "tmpfs", "tmpfs", where] if how == "tmpfs" else ["--bind", where, where]))
    try:
        with pytest.raises(DownloadError, match="--staging"):
            world.pull()
        assert not world.fetches()
        with pytest.raises(DownloadError, match="on another"):
            world.pull(staging_dir=tmp_path / "elsewhere")
        world.pull(staging_dir=world.models_dir / ".staging")
        assert contents(world.target) == FILES
        assert "lists it while it is there" in world.of(Note)[0].message
    finally:
        subprocess.run(["umount", where], check=True)


def test_a_staging_folder_that_is_given_is_used(world: World, tmp_path: Path) -> None:
    world.server.cut_after(MIB, "cdn GET", times=None)
    with pytest.raises(DownloadError):
        world.pull(staging_dir=tmp_path / "given", retry_waits_s=())
    assert (Staging(tmp_path / "given", world.target).folder / "parts").is_dir()
    assert not world.staging.parent.exists()
    world.server.clear_faults()
    world.pull(staging_dir=tmp_path / "given")
    assert contents(world.target) == FILES
    assert list((tmp_path / "given").iterdir()) == []


@needs_mount
def test_where_the_folder_above_is_closed_the_cache_folder_serves(world: World) -> None:
    above = world.models_dir.parent
    # A closed folder stops everybody but root; run as nobody, who owns the models folder and the cache alone.
    script = (
        "import os, sys; from pathlib import Path; from branchfit.download.places import staging_root\n"
        "os.setgid(65534); os.setuid(65534); print(staging_root(Path(sys.argv[1])))"
    )
    cache = Path(os.environ["BRANCHFIT_CACHE"])
    cache.mkdir(exist_ok=True)
    for folder in (world.models_dir, cache):
        os.chown(folder, 65534, 65534)
    opened = [folder for folder in (above, *above.parents) if folder.stat().st_mode & 0o005 != 0o005]
    before = {folder: folder.stat().st_mode for folder in opened}
    try:
        for folder in opened:
            folder.chmod(before[folder] | 0o005)
        done = subprocess.run(
            [sys.executable, "-c", script, str(world.models_dir)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent / "manager")},
        )
    finally:
        for folder, mode in before.items():
            folder.chmod(mode)
    assert done.stdout.strip() == str(cache.resolve() / "staging"), done.stderr


def test_space_is_counted_in_whole_blocks() -> None:
    # By hand: 1 byte is one block and one for the inode; 4097 bytes are two and one.
    assert space_for([1, 4097]) == (2 + 3) * 4096 + 2**20
    assert space_for([]) == 0


def test_deleting_a_tree_leaves_what_its_links_point_at(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_bytes(b"12345")
    (tree / "folder link").symlink_to(outside)
    (tree / "file link").symlink_to(outside / "precious")
    (tree / "second name").hardlink_to(outside / "precious")
    assert delete_tree(tree) == 5
    assert not tree.exists()
    assert (outside / "precious").read_bytes() == b"precious"
    assert delete_tree(tree) == 0


def test_a_deep_tree_is_deleted(tmp_path: Path) -> None:
    deep = tmp_path / "d"
    for _ in range(300):
        deep.mkdir()
        deep = deep / "d"
    assert delete_tree(tmp_path / "d") == 0
    assert not (tmp_path / "d").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_no_file_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no plain file"):
        open_regular(tmp_path / "pipe", "rb")


@needs_mount
def test_a_model_can_be_removed_from_a_disk_without_a_byte_left(
    world: World, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount("-o", "remount,size=8m", str(small_disk))
    monkeypatch.setenv("BRANCHFIT_CACHE", str(small_disk / "cache"))
    world.pull()
    with (small_disk / "fill").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"0" * 4096)
    assert remove(world.target) > 3 * MIB
    assert list(world.models_dir.iterdir()) == []


@needs_mount
@pytest.mark.parametrize("cache", ["elsewhere", "on the disk"])
def test_a_model_can_be_removed_from_a_disk_without_an_inode_left(
    world: World, small_disk: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    mount("-o", "remount,size=8m,nr_inodes=60", str(small_disk))
    world.pull()
    if cache == "on the disk":
        monkeypatch.setenv("BRANCHFIT_CACHE", str(small_disk / "cache"))
    with contextlib.suppress(OSError):
        for number in range(100):
            (small_disk / f"fill {number}").touch()
    assert remove(world.target) > 3 * MIB
    assert list(world.models_dir.iterdir()) == []


@needs_mount
def test_a_disk_without_inodes_for_the_files_is_told_before_the_first_byte(world: World, small_disk: Path) -> None:
    mount("-o", "remount,size=8m,nr_inodes=14", str(small_disk))
    # 14, less the two folders there: the disk's own and the models folder.
    with pytest.raises(DownloadError, match="20 inodes needed, 12 free"):
        world.pull()
    assert not world.fetches()
    assert list(world.models_dir.iterdir()) == []


def test_a_disk_that_refuses_with_bytes_free_is_not_said_to_have_none(tmp_path: Path) -> None:
    refused = OSError(errno.ENOSPC, "No space left on device")
    error = write_error(refused, tmp_path / "x", 1000, 5000)
    assert not isinstance(error, NoSpace)
    assert "5,000 bytes are free" in str(error)
    assert "inodes" in str(error)
    full = write_error(refused, tmp_path / "x", 5000, 1000)
    assert isinstance(full, NoSpace)
    assert (full.needed_bytes, full.free_bytes) == (5000, 1000)
