"""Bytes on disk by what file it is and not by its name: a file with two names counts once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..disk import is_plain_folder

ELSEWHERE = "elsewhere"
"""Who else has a name for a file when it is nobody that was looked at."""


@dataclass(frozen=True)
class ExtraFile:
    """A file in a model's folder that the pull did not bring. `path` is below the folder, with '/'."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class FolderUse:
    """A folder or a file of the models folder.

    `size_bytes` are its plain files, each once. Of these, `shared_bytes` have a name outside too (a hard link), so
    that removing the folder does not give them back; `shared_with` are the names of the folders there,
    huggingface_hub's cache, or `ELSEWHERE`. `extra` is for models: what is not the author's.
    """

    name: str
    size_bytes: int
    shared_bytes: int
    shared_with: tuple[str, ...] = ()
    extra: tuple[ExtraFile, ...] = ()


@dataclass
class _File:
    size_bytes: int
    names: int
    owners: dict[str, int] = field(default_factory=dict)


class Census:
    """Every plain file that was looked at, by what file it is and not by its name."""

    def __init__(self) -> None:
        self.unread: list[Path] = []
        self._files: dict[tuple[int, int], _File] = {}

    def add(self, owner: str, folder: Path) -> list[ExtraFile]:
        """Count a folder's (or one file's) plain files as `owner`'s; return them by their paths below it."""
        found = []
        for relative, one in plain_files(folder, self.unread):
            file = self._files.setdefault((one.st_dev, one.st_ino), _File(on_disk_bytes(one), one.st_nlink))
            file.owners[owner] = file.owners.get(owner, 0) + 1
            found.append(ExtraFile(relative, on_disk_bytes(one)))
        return found

    def use(self, owner: str, name: str, extra: Sequence[ExtraFile] = ()) -> FolderUse:
        """What `owner` has, as all that was added so far shows it."""
        size_bytes = shared_bytes = 0
        others: set[str] = set()
        for file in self._files.values():
            if owner not in file.owners:
                continue
            size_bytes += file.size_bytes
            if file.names > file.owners[owner]:
                shared_bytes += file.size_bytes
                others |= file.owners.keys() - {owner}
                if file.names > sum(file.owners.values()):
                    others.add(ELSEWHERE)
        return FolderUse(name, size_bytes, shared_bytes, tuple(sorted(others)), tuple(extra))

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self._files.values())


def on_disk_bytes(found: os.stat_result) -> int:
    """Bytes a file takes, at most its size: a download by several connections has holes until it is whole."""
    # st_blocks counts 512 bytes on every system that has it, whatever the file system's block is (stat(2)).
    return min(found.st_size, getattr(found, "st_blocks", found.st_size) * 512)


def plain_files(folder: Path, unread: list[Path] | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files below a folder (or the one that it is, as ""): (path with '/', lstat), following no link.

    Others are at work there: what goes meanwhile is left out. Folders that cannot be read go to `unread`; without
    such a list they raise `OSError`.
    """
    pending = [""]
    while pending:
        relative = pending.pop()
        path = folder / relative
        try:
            found = path.lstat()
            if is_plain_folder(path):
                with os.scandir(path) as entries:
                    names = sorted((entry.name for entry in entries), reverse=True)
                pending += [f"{relative}/{name}" if relative else name for name in names]
            elif stat.S_ISREG(found.st_mode):
                yield relative, found
        except FileNotFoundError:
            continue
        except OSError:
            if unread is None:
                raise
            unread.append(path)


def folder_use(folder: Path) -> FolderUse:
    """A folder alone: its bytes, and those of files that have another name outside it."""
    census = Census()
    census.add("", folder)
    return census.use("", folder.name)
