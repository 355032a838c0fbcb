"""File operations that follow no planted link and survive a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import DownloadError, NoSpace

BLOCK_BYTES = 4096
"""What a file's size is rounded up to on disk: the default block of ext4, XFS, NTFS and APFS."""

OVERHEAD_BYTES = 2**20
"""Room for the journal, the lock file and folders: 10,000 files make about 2 MB of them, 15 files some KB."""

NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""A full disk, one without inodes left, and a quota used up."""


def space_for(sizes_bytes: list[int]) -> int:
    """Bytes of disk that new files of these sizes take: whole blocks, one more each for the inode, and overhead."""
    if not sizes_bytes:
        return 0
    blocks = sum(-(-size // BLOCK_BYTES) + 1 for size in sizes_bytes)
    return blocks * BLOCK_BYTES + OVERHEAD_BYTES


def existing_ancestor(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def open_regular(path: Path, mode: str, buffering: int = -1) -> BinaryIO:
    """Open a regular file (`rb`, `r+b`, or `wb` to make one anew), never through a link.

    Raises `OSError` where the last part of `path` is a link or anything but a regular file, or, for
    writing, has a second name elsewhere that would be written too. `buffering` is that of `open`.
    """
    flags = {"rb": os.O_RDONLY, "r+b": os.O_RDWR, "wb": os.O_RDWR | os.O_CREAT | os.O_EXCL}[mode]
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):  # NONBLOCK: a FIFO must not hang
        flags |= getattr(os, name, 0)
    if mode != "wb" and path.is_symlink():  # Windows has no O_NOFOLLOW
        raise OSError(errno.ELOOP, "it is a symbolic link", str(path))
    descriptor = os.open(path, flags, 0o666)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or (mode != "rb" and found.st_nlink > 1):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file of its own", str(path))
    return os.fdopen(descriptor, mode, buffering)  # type: ignore[return-value]


def is_plain(path: Path) -> bool:
    """True for a regular file that is no link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_plain_folder(path: Path) -> bool:
    """True for a folder that is no link and no Windows junction."""
    try:
        found = path.lstat()
    except OSError:
        return False
    # FILE_ATTRIBUTE_REPARSE_POINT: a junction reads as a folder to lstat before Python 3.12.
    return stat.S_ISDIR(found.st_mode) and not getattr(found, "st_file_attributes", 0) & 0x400


def is_vacant(path: Path) -> bool:
    """True where nothing is, or an empty folder that is no link."""
    if is_plain_folder(path):
        with os.scandir(path) as entries:
            return next(entries, None) is None
    return not (path.is_symlink() or path.exists())


def plain_path(base: Path, relative: str) -> Path | None:
    """`base/relative` if every folder on the way below `base` is a real one, else None."""
    path = base
    for part in relative.split("/")[:-1]:
        path = path / part
        if not is_plain_folder(path):
            return None
    return base / relative


def make_folders(base: Path, relative: str) -> Path:
    """Make the folders that `base/relative` needs and return that path.

    Raises `DownloadError` where one of them is there as a link or a file.
    """
    path = base
    for part in ["", *relative.split("/")[:-1]]:
        path = path / part
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=not part)
        if not is_plain_folder(path):
            raise DownloadError(
                f"{path} should be a folder and is a link or something else: remove it, then try again."
            )
    return base / relative


def sync(path: Path) -> None:
    """Bring a file or folder to the disk itself. Windows opens no folders; there it does nothing for one."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder but plain folders themselves: (relative path with '/', lstat), following no link."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                relative = f"{prefix}/{entry.name}" if prefix else entry.name
                if is_plain_folder(folder / relative):
                    pending.append(relative)
                else:
                    yield relative, entry.stat(follow_symlinks=False)


def folders(base: Path) -> Iterator[str]:
    """The plain folders below a folder, each before what it holds; as relative paths with '/'."""
    pending = [""]
    for prefix in pending:  # grows while it is walked
        with os.scandir(base / prefix) as entries:
            names = sorted(entry.name for entry in entries if is_plain_folder(base / prefix / entry.name))
        found = [f"{prefix}/{name}" if prefix else name for name in names]
        pending += found
        yield from found


def can_link(existing: Path, folder: Path) -> bool:
    """True where a second name for `existing` can be made in `folder`; it is made, and removed at once."""
    name = folder / f".branchfit-link-{os.getpid()}-{threading.get_ident()}"
    try:
        os.link(existing, name)
    except OSError:
        return False
    name.unlink()
    return True


def free_inodes(path: Path) -> int | None:
    """How many more files the file system at `path` takes; None where it sets no number, or does not tell."""
    if not hasattr(os, "statvfs"):
        return None
    found = os.statvfs(path)
    return found.f_favail if found.f_files else None  # btrfs makes inodes as it goes, and says 0


def delete_tree(path: Path) -> int:
    """Delete a file, a link (never what it points at) or a folder; return the bytes of disk given back.

    A file with a second name elsewhere gives nothing back. Raises `OSError` where something will not
    go; what went is gone then. A missing path is 0 bytes.
    """
    if not is_plain_folder(path):
        try:
            found = path.lstat()
        except FileNotFoundError:
            return 0
        if stat.S_ISDIR(found.st_mode):  # a junction: rmdir takes the link alone
            path.rmdir()
            return 0
        path.unlink()
        return found.st_size if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else 0
    freed = sum(delete_tree(path / relative) for relative, _ in list(walk(path)))
    for folder in reversed(list(folders(path))):
        (path / folder).rmdir()
    path.rmdir()
    return freed


def write_error(error: OSError, path: Path, missing_bytes: int, free_bytes: int) -> DownloadError:
    """The error to raise when writing `path` failed with `missing_bytes` still to come."""
    if error.errno in NO_SPACE:
        if free_bytes < missing_bytes:
            return NoSpace(path.parent, missing_bytes, free_bytes)
        return DownloadError(
            f"{path} could not be made: the disk takes no more, though {free_bytes:,} bytes are free and "
            f"{missing_bytes:,} are needed. Its inodes are used up (`df -i` tells), or a quota is. What was fetched "
            f"is kept."
        )
    if error.errno == errno.EFBIG:
        return DownloadError(f"the file system under {path.parent} takes no file as large as {path.name} is to become.")
    return DownloadError(f"{path} could not be made: {error.strerror or error}. What was fetched is kept.")
