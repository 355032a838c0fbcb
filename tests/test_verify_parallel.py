"""`verify` hashes several files at once; what it tells and finds does not depend on which thread was first."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchfit.download import Installed
from branchfit.download.checking import HASHES_AT_ONCE, _cores
from branchfit.download.events import Event, FileBad, FileStarted, FileVerified, Progress
from branchfit.download.lockfile import LockedFile, write_lock
from branchfit.download.verifying import verify
from downloads import FILES, MIB, World, a_world, flip, noise

SPARSE_BYTES = 512 * MIB
"""A file of holes: no disk, and a quarter of a second or more of hashing."""

MANY = {**FILES, **{f"part-{number:02}.safetensors": noise((number + 1) * MIB, seed=number) for number in range(9)}}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        one.serve(MANY)
        yield one


def with_a_sparse_file(model: Installed, size_bytes: int = SPARSE_BYTES) -> Installed:
    """The model with a large file of zeros in it, which its lock calls something else."""
    with (model.folder / "large.safetensors").open("wb") as stream:
        stream.truncate(size_bytes)
    large = LockedFile("large.safetensors", size_bytes, "0" * 64, None)
    return dataclasses.replace(model, files=(*model.files, large), size_bytes=model.size_bytes + size_bytes)


def hashing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("branchfit-verify")]


def test_each_files_events_are_in_order_and_the_figures_add_up(world: World) -> None:
    model = world.pull()
    flip(model.folder / "part-03.safetensors", 5)
    events: list[Event] = []
    threads = set()

    def take(event: Event) -> None:
        threads.add(threading.get_ident())
        events.append(event)

    report = verify(model, take)
    assert threads == {threading.get_ident()}
    assert report.checked_bytes == model.size_bytes
    for file in model.files:
        own = [event for event in events if getattr(event, "path", None) == file.path]
        kinds = [type(event) for event in own]
        assert kinds[0] is FileStarted
        assert kinds[-1] is (FileBad if file.path == "part-03.safetensors" else FileVerified)
        assert set(kinds[1:-1]) <= {Progress}
        done = [event.done_bytes for event in own if isinstance(event, Progress)]
        assert done == sorted(done)
        assert done[-1:] in ([], [file.size_bytes])
    told = [event for event in events if isinstance(event, Progress)]
    overall = [event.overall_done_bytes for event in told]
    assert overall == sorted(overall)
    assert {event.overall_total_bytes for event in told} == {model.size_bytes}
    for at, event in enumerate(events):
        if isinstance(event, Progress):
            before = [one.size_bytes for one in events[:at] if isinstance(one, FileVerified)]
            assert event.verified_bytes == sum(before)
            assert event.verified_bytes <= event.overall_done_bytes <= event.overall_total_bytes
    assert hashing() == []


def test_the_largest_files_come_first(world: World) -> None:
    model = world.pull()
    events: list[Event] = []
    verify(model, events.append)
    sizes = [event.total_bytes for event in events if isinstance(event, FileStarted)]
    # With several threads, neighbours may change places: each starts before those that are much smaller.
    for at, size in enumerate(sizes):
        assert sum(later > size for later in sizes[at:]) < HASHES_AT_ONCE


@pytest.mark.skipif(_cores() == 1, reason="one core hashes one file at a time")
def test_small_files_are_verified_while_a_large_one_is_hashed(world: World) -> None:
    events: list[Event] = []
    verify(with_a_sparse_file(world.pull()), events.append)
    ends = [event.path for event in events if isinstance(event, (FileVerified, FileBad))]
    assert ends.index("config.json") < ends.index("large.safetensors")


def test_what_is_bad_and_missing_is_told_by_path_however_the_lock_is_ordered(world: World) -> None:
    model = world.pull()
    for path in ("part-01.safetensors", "part-08.safetensors", "README.md", "part-00.safetensors"):
        flip(model.folder / path)
    for path in ("part-05.safetensors", "config.json"):
        (model.folder / path).unlink()
    for files in (model.files, model.files[::-1]):
        report = verify(dataclasses.replace(model, files=files))
        assert [bad.path for bad in report.bad] == [
            "README.md",
            "part-00.safetensors",
            "part-01.safetensors",
            "part-08.safetensors",
        ]
        assert report.missing == ("config.json", "part-05.safetensors")


def test_what_a_listener_raises_ends_it_and_its_threads(world: World) -> None:
    model = with_a_sparse_file(world.pull(), 64 * SPARSE_BYTES)  # 20 s or more, were it not ended

    class Enough(Exception):
        pass

    def take(event: Event) -> None:
        if isinstance(event, Progress):
            raise Enough

    with pytest.raises(Enough):
        verify(model, take)
    assert hashing() == []


_VERIFY = """
import sys
from pathlib import Path
from branchfit.download import read_lock
from branchfit.download.events import Progress
from branchfit.installed import verify

def take(event):
    if isinstance(event, Progress) and event.path == "large.safetensors":
        print("hashing", flush=True)

verify(read_lock(Path(sys.argv[1])), take)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send to another process")
def test_ctrl_c_ends_it_in_the_middle_of_a_file(world: World) -> None:
    model = with_a_sparse_file(world.pull(), 1024 * SPARSE_BYTES)  # minutes, were it not ended
    write_lock(model, model.folder)
    command = [sys.executable, "-c", _VERIFY, str(model.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hashing\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert said.strip().endswith("KeyboardInterrupt")
