"""One BranchFit at a time on one model folder, whichever staging folder each of them was given."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import DownloadError
from ..hub.cache import default_cache_dir
from .disk import is_plain_folder, make_folders
from .events import Event, Note, OnEvent, Progress, Started, Waiting
from .notice import Holder, Notice, read_notice

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

POLL_S = 0.2
"""How long a waiting process waits before it looks again: short beside any download, and nothing beside its cost."""

TELL_S = 1.0
"""How often it tells that the other one got on, as often as that one says so."""

TELL_AGAIN_S = 10.0
"""It tells so often even of one that stands still: whoever listens may want to stop, and can only then."""


class Busy(DownloadError):
    """Another process is at work on the folder; `pid` is None where that is not known."""

    def __init__(self, name: str, pid: int | None) -> None:
        self.pid = pid
        super().__init__(f"another BranchFit (pid {pid or 'unknown'}) is at work on {name}: wait until it is done.")


@contextlib.contextmanager
def hold(
    target: Path,
    beside: Path | None,
    *,
    wait: bool = True,
    on_wait: Callable[[Holder], None] | None = None,
    required: bool = True,
) -> Iterator[Notice]:
    """Hold the lock of a model folder, across the processes of one user; the system frees it when its holder dies.

    The lock file lies in BranchFit's cache folder (deleting it would race, so it stays there, 0 bytes
    long), named by what folder it is and not by its path; where nothing can be written there, in
    `beside`. Processes with different cache folders do not see each other. Gives the `Notice` in which the
    holder may say how far it is. Where another holds it: waits, and tells `on_wait` who that is and how far,
    again when that changed; at last, if it is gone without having come to an end, that it `died`. What
    `on_wait` raises ends the waiting. With `wait=False` raises `Busy`. Raises `OSError` where no lock file
    can be made, unless `required` is False: then there is no lock.
    """
    lock, failure = None, OSError("no place for a lock")
    for path in _places(target, beside):
        notice_path = path.with_suffix(".json")
        for made in (path, notice_path):
            if made.is_symlink():
                raise DownloadError(f"{made} is a link, and should be a file of BranchFit's: remove it.")
        candidate = FileLock(path)
        try:
            make_folders(path.parent, "")
            candidate.acquire(timeout=0)
            lock = candidate
            break
        except Timeout:
            if not wait:
                raise Busy(target.name, (read_notice(notice_path) or Holder()).pid) from None
            lock = candidate
            _wait(lock, notice_path, on_wait or (lambda holder: None))
            break
        except NotImplementedError as error:  # filelock's word for a file system without locks
            failure = OSError(str(error))
        except OSError as error:
            failure = error
    if lock is None:
        if required:
            raise failure
        yield Notice(None)
        return
    try:
        with Notice(notice_path) as notice:
            yield notice
    finally:
        lock.release()


class FolderLock:
    """A lock on a staging folder itself, which processes see that have another cache folder: a container and its host.

    flock(2) on the open folder, so that no file has to be left behind; on Windows, and where a file system has no such
    locks, there is none.
    """

    def __init__(self) -> None:
        self._descriptor = -1

    def take(self, folder: Path, name: str, wait: bool, on_wait: Callable[[Holder], None] | None) -> None:
        """Take it, once; waits, or with `wait=False` raises `Busy`, where another has it. A missing folder has none."""
        told = False
        while self._descriptor < 0:
            descriptor = _opened_folder(folder)
            if descriptor is None:
                return
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                if not wait:
                    raise Busy(name, None) from None
                if on_wait is not None and not told:
                    on_wait(Holder())
                told = True
                time.sleep(POLL_S)
                continue
            except OSError:  # no locks here
                os.close(descriptor)
                return
            self._descriptor = descriptor
            if not _is_at(folder, descriptor):  # its last holder has removed it
                self.release()

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _opened_folder(folder: Path) -> int | None:
    if fcntl is None or not is_plain_folder(folder):
        return None
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None


def _is_at(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def _wait(lock: FileLock, notice_path: Path, on_wait: Callable[[Holder], None]) -> None:
    """Wait for the lock, telling who has it."""
    told, told_s = None, 0.0
    while True:
        holder, now = read_notice(notice_path) or Holder(), time.monotonic()
        if told is None or (holder != told and now - told_s >= TELL_S) or now - told_s >= TELL_AGAIN_S:
            on_wait(holder)
            told, told_s = holder, now
        try:
            lock.acquire(timeout=POLL_S, poll_interval=POLL_S / 4)
            break
        except Timeout:
            continue
    left = read_notice(notice_path)  # who ends takes it along
    if left is not None:
        try:
            on_wait(replace(left, died=True))
        except BaseException:
            lock.release()
            raise


def waited(folder: Path, holder: Holder) -> Event:
    """What `on_wait` was told, as an event."""
    if not holder.died:
        return Waiting(folder, holder.pid, holder.done_bytes, holder.total_bytes)
    return Note(f"pid {holder.pid} is gone and had not finished {folder.name}: going on from what it fetched.")


def publishing(notice: Notice, tell: OnEvent) -> OnEvent:
    """`tell`, and the notice says how far the events are."""

    def both(event: Event) -> None:
        if isinstance(event, Started):
            notice.publish(event.done_bytes, event.total_bytes)
        elif isinstance(event, Progress):
            notice.publish(event.overall_done_bytes, event.overall_total_bytes)
        tell(event)

    return both


def _places(target: Path, beside: Path | None) -> Iterator[Path]:
    """Where the lock file may lie, the best first."""
    # By the folder's identity: a link or another mount of the models folder is the same place.
    # Without regard to case, as file systems are that have none: at worst two models wait for each other.
    found = target.parent.stat()
    which = f"{found.st_dev}:{found.st_ino}:{target.name.casefold()}"
    yield default_cache_dir().absolute() / "locks" / f"{hashlib.sha256(which.encode()).hexdigest()[:32]}.lock"
    if beside is not None:
        yield beside / f"{target.name}.lock"
