"""A bad file as the beginning of its successor: what of it is right need not be fetched again.

The bad one stays where it is. A copy of it becomes an unfinished part, whose map has the hashes of the file's
beginnings as the lock recorded them. From there on it is a part like any other: hashed in order, what is wrong fetched
(see `steps`), and believed when the hash of the whole is the Hub's, whatever the lock said.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .disk import NO_SPACE, delete_tree, is_plain, open_regular, plain_path, write_error
from .events import Checking, OnEvent, Pace
from .extents import Extents
from .hashing import CHUNK_BYTES, prefix_step_bytes
from .lockfile import LockedFile
from .partmap import PartMap
from .planning import free_bytes
from .staging import Staging
from .verifying import BadFile

FICLONE = 0x40049409
"""Linux: a file gets another's blocks, copied when they are written (linux/fs.h; Python's fcntl has it since 3.12)."""


@dataclass(frozen=True)
class Mend:
    """A bad file whose `here` may be right: that is hashed before it counts. `source` is the file in its place."""

    file: LockedFile
    source: Path
    here: Extents


def find_mends(staging: Staging, folder: Path, wanted: Sequence[LockedFile], bad: Sequence[BadFile]) -> list[Mend]:
    """Those of the wanted files that can grow out of the bad ones in a model's folder.

    Only with recorded hashes of beginnings is it known what is wrong; and a file of which something is staged goes on
    from that.
    """
    first_bad = {one.path: one.first_bad_byte for one in bad}
    found = []
    for file in wanted:
        source = plain_path(folder, file.path)
        if file.path not in first_bad or not file.prefix_sha256 or source is None or not is_plain(source):
            continue
        here = Extents([(0, min(source.lstat().st_size, file.size_bytes))])
        start = first_bad[file.path]
        if start is not None:
            here.remove(start, min(start + prefix_step_bytes(file.size_bytes), file.size_bytes))
        if here.total_bytes and not staging.staged_bytes(file):
            found.append(Mend(file, source, here))
    return found


def clone(staging: Staging, mend: Mend) -> bool:
    """Make the part out of the bad file's own blocks, which takes no space; False where the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    with contextlib.suppress(OSError), _opened(staging, mend) as (source, target):
        fcntl.ioctl(target.fileno(), FICLONE, source.fileno())
        _becomes_the_part(staging, mend, target)
        return True
    return False


def copy(staging: Staging, mend: Mend, tell: OnEvent) -> bool:
    """Make the part as a copy of the bad file; False where that cannot be read. Raises `NoSpace`."""
    pace = Pace(mend.file.size_bytes)
    try:
        with _opened(staging, mend) as (source, target):
            for copied_bytes in _copied(source, target, mend.file.size_bytes):
                if pace.due(copied_bytes):
                    tell(Checking(mend.file.path, copied_bytes, mend.file.size_bytes))
            _becomes_the_part(staging, mend, target)
    except BrokenPipeError:  # of `tell`'s output
        raise
    except OSError as error:
        if error.errno in NO_SPACE:
            place, free = staging.files / mend.file.path, free_bytes(staging.root)
            raise write_error(error, place, mend.file.size_bytes, free) from error
        return False  # it is fetched whole; what else is wrong with the disk shows there
    return True


@contextlib.contextmanager
def _opened(staging: Staging, mend: Mend) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The bad file, and an empty one under a name that nobody takes for a part; that one goes if it becomes none."""
    place = _unfinished(staging, mend)
    delete_tree(place)
    try:
        with open_regular(mend.source, "rb") as source, open_regular(place, "wb", buffering=0) as target:
            yield source, target
    finally:
        delete_tree(place)


def _unfinished(staging: Staging, mend: Mend) -> Path:
    return staging.part(mend.file).with_suffix(".mend")


def _becomes_the_part(staging: Staging, mend: Mend, target: BinaryIO) -> None:
    """The copy gets its map, then its name: without a map, all bytes of a part would be taken for received ones."""
    target.truncate(min(mend.file.size_bytes, os.fstat(target.fileno()).st_size))
    target.close()  # Windows renames no open file
    part = staging.part(mend.file)
    delete_tree(part)
    known = PartMap(part, mend.file.size_bytes)
    known.here = mend.here
    known.prefixes = dict(enumerate(mend.file.prefix_sha256, 1))
    known.open()
    known.close()
    _unfinished(staging, mend).replace(part)


def _copied(source: BinaryIO, target: BinaryIO, size_bytes: int) -> Iterator[int]:
    """Copy at most `size_bytes`, in the kernel if it can (blocks may be shared); says after each chunk how many are."""
    done_bytes = 0
    while hasattr(os, "copy_file_range") and done_bytes < size_bytes:
        try:
            copied = os.copy_file_range(
                source.fileno(), target.fileno(), min(CHUNK_BYTES, size_bytes - done_bytes), done_bytes, done_bytes
            )
        except OSError as error:
            if error.errno in NO_SPACE:
                raise
            break  # not between these two, or not in this kernel
        if not copied:
            break
        done_bytes += copied
        yield done_bytes
    source.seek(done_bytes)
    target.seek(done_bytes)
    while done_bytes < size_bytes and (chunk := source.read(min(CHUNK_BYTES, size_bytes - done_bytes))):
        left = memoryview(chunk)
        while left:
            left = left[target.write(left) :]
        done_bytes += len(chunk)
        yield done_bytes
