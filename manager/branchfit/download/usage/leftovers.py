"""An orphan: files that a download left behind and nobody will come back for; and how files of one are removed.

What may be in use this moment is told apart: what changed within the last hour, and what a lock is held for. Both
are looked at when it is found, and once more right before it goes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from ...errors import DownloadError
from ..disk import folders, is_plain, is_plain_folder, plain_path
from .census import on_disk_bytes

QUIET_S = 3600.0
"""What changed within an hour may be at work. Clients give up on a silent line within minutes (huggingface_hub and the
webui after 10 s a read and some tries), and those that sleep with the machine hold their lock when they wake."""

Kind = Literal["partial", "blob", "bookkeeping", "locks", "staging"]
"""A file that was being downloaded; a whole one that nothing refers to; huggingface_hub's notes in a model's folder;
lock files; a staging folder of BranchFit's."""


@dataclass(frozen=True)
class Orphan:
    """`path` is a file, or the folder in which `files` lie; `why` says in a clause whose it was and why it is nobody's.

    Removing it gives back `frees_bytes` of its `size_bytes`: files with another name elsewhere stay. `in_use` is why
    it is left alone for now, None where it can go. `within` is the folder that was looked at; below it no link is
    followed. `locks` are held while it goes.
    """

    path: Path
    kind: Kind
    why: str
    within: Path
    files: tuple[Path, ...]
    size_bytes: int
    frees_bytes: int
    in_use: str | None = None
    locks: tuple[Path, ...] = ()


def orphan(
    path: Path,
    kind: Kind,
    why: str,
    within: Path,
    files: Sequence[Path],
    locks: Sequence[Path] = (),
    in_use: str | None = None,
) -> Orphan | None:
    """An orphan of those files that are there; None where none is. Says whether it is too young, or locked."""
    there = [(file, found) for file in files if (found := _lstat(file)) is not None]
    if not there:
        return None
    newest_s = max(found.st_mtime for _, found in there)
    own_locks = [file for file, _ in there if file.suffix == ".lock"]
    return Orphan(
        path=path,
        kind=kind,
        why=why,
        within=within,
        files=tuple(file for file, _ in there),
        size_bytes=sum(on_disk_bytes(found) for _, found in there),
        frees_bytes=sum(_given_back(found) for _, found in there),
        in_use=in_use or _locked([*locks, *own_locks]) or changed_lately(newest_s),
        locks=tuple(locks),
    )


def changed_lately(newest_s: float) -> str | None:
    """A clause where a modification time (seconds since 1970) is within the last `QUIET_S`, or to come."""
    age_s = time.time() - newest_s
    if age_s > QUIET_S:
        return None
    minutes = max(0, round(age_s / 60))
    when = f"{minutes} min ago" if minutes else "just now"
    return f"it changed {when}, and a client may be at work on it"


def remove_files(one: Orphan, still: Callable[[], bool] = lambda: True) -> int:
    """Delete an orphan's files, under its locks; return the bytes given back.

    `still` says, under the locks, whether it is one even now. Raises `DownloadError` where it is in use by now, or a
    link stands where none did; `OSError` where something will not go.
    """
    freed_bytes = 0
    with held(one.locks) as free:
        locks = [file for file in one.files if file.suffix == ".lock"]
        reason = None if free and not _locked(locks) else "another program holds its lock"
        reason = reason or (None if still() else "it is referred to by now")
        for file in one.files:
            found = _lstat(file)
            reason = reason or (changed_lately(found.st_mtime) if found is not None else None)
        if reason:
            raise DownloadError(f"{one.path} was left alone: {reason}.")
        for file in one.files:
            if plain_path(one.within, file.relative_to(one.within).as_posix()) is None:
                raise DownloadError(f"{file} was left alone: one of the folders on its way is a link by now, or gone.")
            if file.suffix != ".lock":
                freed_bytes += _delete(file)
                continue
            with held([file]) as its_own:
                if its_own and os.name != "nt":  # who waits for it notices, and makes a new one
                    freed_bytes += _delete(file)
            if its_own and os.name == "nt":  # Windows deletes no open file
                freed_bytes += _delete(file)
    _drop_empty(one)
    return freed_bytes


@contextlib.contextmanager
def held(locks: Sequence[Path]) -> Iterator[bool]:
    """Hold those of huggingface_hub's lock files that are there; gives False where one cannot be had at once.

    They are filelock's. One that was taken has its modification time again afterwards: that of its last download.
    """
    with contextlib.ExitStack() as stack:
        try:
            for path in locks:
                found = _lstat(path)
                if found is not None:
                    stack.callback(_set_mtime, path, found)
                    stack.enter_context(FileLock(str(path)).acquire(timeout=0))
        except (Timeout, NotImplementedError, OSError):  # held; a file system without locks; another user's
            yield False
            return
        yield True


def _locked(locks: Sequence[Path]) -> str | None:
    for path in locks:
        with held([path]) as free:
            if not free:
                return f"a client holds its lock ({path.name}), or it cannot be tried"
    return None


def _set_mtime(path: Path, found: os.stat_result) -> None:
    with contextlib.suppress(OSError):
        if is_plain(path):
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _drop_empty(one: Orphan) -> None:
    """Delete the folders that are empty now, the orphan's own too if it is one."""
    whole_way = plain_path(one.within, one.path.relative_to(one.within).as_posix())
    if one.path in one.files or whole_way is None or not is_plain_folder(one.path):
        return
    with contextlib.suppress(OSError):  # not empty, or gone
        for relative in reversed(list(folders(one.path))):
            with contextlib.suppress(OSError):
                (one.path / relative).rmdir()
        one.path.rmdir()
        if one.kind == "bookkeeping":
            one.path.parent.rmdir()  # the `.cache` that was made for it


def _delete(file: Path) -> int:
    """Delete a plain file if it is there; return the bytes given back. Raises `OSError`."""
    found = _lstat(file)
    if found is None:
        return 0
    file.unlink()
    return _given_back(found)


def _given_back(found: os.stat_result) -> int:
    """What deleting a file gives back: nothing while it has another name."""
    return on_disk_bytes(found) if found.st_nlink == 1 else 0


def _lstat(path: Path) -> os.stat_result | None:
    """A regular file's; None for anything else, and for what is not there."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None
