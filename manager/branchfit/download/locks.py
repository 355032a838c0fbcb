"""One BranchFit at a time on one model folder, whichever staging folder each of them was given."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import DownloadError
from ..hub.cache import default_cache_dir
from .disk import make_folders

POLL_S = 0.2
"""How often a waiting process asks again: short beside any download, and nothing beside its cost."""


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
    on_wait: Callable[[int | None], None] | None = None,
    required: bool = True,
) -> Iterator[None]:
    """Hold the lock of a model folder, across the processes of one user; the system frees it when its holder dies.

    The lock file lies in BranchFit's cache folder (deleting it would race, so it stays there, 0 bytes
    long), named by what folder it is and not by its path; where nothing can be written there, in
    `beside`. Processes with different cache folders do not see each other. Where another holds it:
    waits, after telling `on_wait` the holder's pid; with `wait=False` raises `Busy`. Raises `OSError`
    where no lock file can be made, unless `required` is False: then there is no lock.
    """
    lock, failure = None, OSError("no place for a lock")
    for path in _places(target, beside):
        pid_path = path.with_suffix(".pid")
        for made in (path, pid_path):
            if made.is_symlink():
                raise DownloadError(f"{made} is a link, and should be a file of BranchFit's: remove it.")
        candidate = FileLock(path)
        try:
            make_folders(path.parent, "")
            candidate.acquire(timeout=0)
            lock = candidate
            break
        except Timeout:
            pid = _read_pid(pid_path)
            if not wait:
                raise Busy(target.name, pid) from None
            lock = candidate
            if on_wait is not None:
                on_wait(pid)
            lock.acquire(poll_interval=POLL_S)
            break
        except NotImplementedError as error:  # filelock's word for a file system without locks
            failure = OSError(str(error))
        except OSError as error:
            failure = error
    if lock is None:
        if required:
            raise failure
        yield
        return
    try:
        with contextlib.suppress(OSError):  # it only serves the others' messages; a full disk has no room for it
            pid_path.write_text(str(os.getpid()))
        yield
    finally:
        with contextlib.suppress(OSError):
            pid_path.unlink(missing_ok=True)
        lock.release()


def _places(target: Path, beside: Path | None) -> Iterator[Path]:
    """Where the lock file may lie, the best first."""
    # By the folder's identity: a link or another mount of the models folder is the same place.
    # Without regard to case, as file systems are that have none: at worst two models wait for each other.
    found = target.parent.stat()
    which = f"{found.st_dev}:{found.st_ino}:{target.name.casefold()}"
    yield default_cache_dir().absolute() / "locks" / f"{hashlib.sha256(which.encode()).hexdigest()[:32]}.lock"
    if beside is not None:
        yield beside / f"{target.name}.lock"


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
