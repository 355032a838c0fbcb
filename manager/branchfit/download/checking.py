"""Installed files are hashed by several threads at once, their events told in the caller's."""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .disk import is_plain_folder
from .events import Event, FileBad, FileStarted, FileVerified, OnEvent, Pace, Progress
from .fetch.crew import JOIN_S, POLL_S
from .hashing import expected_hash, hash_file, hash_name, prefix_step_bytes
from .lockfile import LockedFile
from .staging import Stopped

HASHES_AT_ONCE = 4
"""Threads that hash, one a core at most: from a core with SHA-NI come 1.6 GiB/s, so four are as fast as any SSD."""


@dataclass(frozen=True)
class Checked:
    """What was found in a file's place: `actual` as in `BadFile`; `prefixes` are the hashes of its beginnings."""

    file: LockedFile
    actual: str
    prefixes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.actual == expected_hash(self.file)

    @property
    def first_bad_byte(self) -> int | None:
        """As in `BadFile`."""
        known = self.file.prefix_sha256
        if self.ok or not known or len(self.prefixes) != len(known):
            return None
        steps = next((step for step, digest in enumerate(known) if self.prefixes[step] != digest), len(known))
        return steps * prefix_step_bytes(self.file.size_bytes)


class Tally:
    """Events on their way to the caller, with the figures of all files."""

    def __init__(self, tell: OnEvent, total_bytes: int) -> None:
        self._tell = tell
        self._total_bytes = total_bytes
        self._done: dict[str, int] = {}
        self._overall_bytes = 0
        self._verified_bytes = 0

    def take(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._count(event.path, event.done_bytes)
            event = dataclasses.replace(
                event,
                overall_done_bytes=self._overall_bytes,
                overall_total_bytes=self._total_bytes,
                verified_bytes=self._verified_bytes,
            )
        self._tell(event)

    def ended(self, one: Checked) -> None:
        """A file is done with, however much of it was worth hashing."""
        file, expected = one.file, expected_hash(one.file)
        self._count(file.path, file.size_bytes)
        if one.ok:
            self._verified_bytes += file.size_bytes
            self._tell(FileVerified(file.path, file.size_bytes, hash_name(file), expected))
        else:
            self._tell(FileBad(file.path, expected, one.actual))

    def _count(self, path: str, done_bytes: int) -> None:
        self._overall_bytes += done_bytes - self._done.get(path, 0)
        self._done[path] = done_bytes


def check_all(files: Sequence[tuple[LockedFile, Path]], tally: Tally) -> list[Checked]:
    """Check each file in its place, in threads; what is told and raised is so in the caller's. In the order they end.

    The largest come first: a large one that came last would leave the other threads idle.
    """
    waiting = deque(sorted(files, key=lambda one: (-one[0].size_bytes, one[0].path)))
    found: queue.SimpleQueue[Event | Checked | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        try:
            for file, place in _taken(waiting):
                found.put(FileStarted(file.path, 0, file.size_bytes))
                found.put(_check(file, place, found, stop))
        except Stopped:
            pass  # whoever told us to stop knows why
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            found.put(error)
        found.put(None)

    names = [f"branchfit-verify-{number}" for number in range(min(HASHES_AT_ONCE, _cores(), len(files)))]
    threads = [threading.Thread(target=work, name=name, daemon=True) for name in names]
    checked: list[Checked] = []
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            try:
                item = found.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            elif isinstance(item, Checked):
                checked.append(item)
                tally.ended(item)
            else:
                tally.take(item)
    finally:
        stop.set()
        deadline = time.monotonic() + JOIN_S
        for thread in threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
    return checked


def _taken(waiting: deque[tuple[LockedFile, Path]]) -> Iterator[tuple[LockedFile, Path]]:
    while True:
        try:
            yield waiting.popleft()
        except IndexError:  # another took the last one
            return


def _check(
    file: LockedFile,
    place: Path,
    found: queue.SimpleQueue[Event | Checked | BaseException | None],
    stop: threading.Event,
) -> Checked:
    """In one of the threads: the hash of what is in a file's place. Raises `Stopped`."""
    pace = Pace(file.size_bytes)

    def told(done_bytes: int) -> None:
        if stop.is_set():
            raise Stopped
        if pace.due(done_bytes):
            found.put(Progress(file.path, min(done_bytes, file.size_bytes), file.size_bytes, 0, 0))

    if stop.is_set():
        raise Stopped
    if place.is_symlink():
        return Checked(file, "a link")
    if is_plain_folder(place):
        return Checked(file, "a folder")
    try:
        size_bytes = place.lstat().st_size
        if size_bytes != file.size_bytes:
            return Checked(file, f"{size_bytes:,} bytes instead of {file.size_bytes:,}")
        digest = hash_file(place, file, on_bytes=told)
    except OSError as error:
        return Checked(file, f"unreadable ({error.strerror or error})")
    return Checked(file, digest.actual, tuple(digest.prefixes))


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
