"""The two hashes by which the Hub names a file's content: sha256 for LFS, git's blob id for the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .disk import open_regular

if TYPE_CHECKING:
    from hashlib import _Hash

CHUNK_BYTES = 2**20
"""1 MiB a read: larger ones gained nothing measurable (0.85-1.0 of the wall time), and it is held per file."""


PIECE_BYTES = 16 * 2**20
"""What a download may lose of a connection when it is killed, and the least that is fetched again of a file that
rotted: ten seconds of a line of 13 Mbit/s. A file of 10 GB has 600 of them."""

MAX_PREFIXES = 256
"""So many hashes of a file's beginning are kept at most: 16 kB of text in the lock of a file of any size."""


def prefix_step_bytes(size_bytes: int) -> int:
    """The distance of the places up to which a file's beginning is hashed: whole pieces, `MAX_PREFIXES` at most."""
    return PIECE_BYTES * max(1, -(-size_bytes // (PIECE_BYTES * MAX_PREFIXES)))


class Hashed(Protocol):
    """What has a size and the Hub's hashes: a `RepoFile` or a `LockedFile`."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def blob_id(self) -> str | None: ...


class FileHash:
    """A file's hash, computed as its bytes come by.

    An LFS file's blob id is that of its pointer text, so its sha256 is what counts where there is
    one. Source of the blob id: sha1("blob " + size + NUL + content), git's object format.

    `prefixes` are the sha256 of the file's first step, two steps, and so on (`prefix_step_bytes`), all but the
    whole: a sha256 gives them by the way. With those of a good copy the first bad step of another can be found,
    and, that one mended, the next. Only for LFS files.
    """

    def __init__(self, file: Hashed) -> None:
        self._file = file
        self.step_bytes = prefix_step_bytes(file.size_bytes)
        self.restart()

    def restart(self) -> None:
        """Forget what was fed in."""
        self._hash: _Hash
        if self._file.sha256 is not None:
            self._hash = hashlib.sha256()
        else:
            self._hash = hashlib.sha1(b"blob %d\0" % self._file.size_bytes, usedforsecurity=False)
        self.done_bytes = 0
        self.prefixes: list[str] = []
        self._before: tuple[_Hash, _Hash] = (self._hash.copy(), self._hash.copy())

    def update(self, data: bytes | memoryview) -> None:
        """Feed in what comes next."""
        room = self.step_bytes - self.done_bytes % self.step_bytes
        if self._file.sha256 is None or len(data) < room:
            self._hash.update(data)
            self.done_bytes += len(data)
            return
        left = memoryview(data)
        while left:
            head, left = left[:room], left[room:]
            self._hash.update(head)
            self.done_bytes += len(head)
            if len(head) == room and self.done_bytes < self._file.size_bytes:
                self.prefixes.append(self._hash.hexdigest())
                self._before = (self._before[1], self._hash.copy())
            room = self.step_bytes

    def back(self) -> None:
        """Forget the last whole step and what came after it. Once; then a step has to be fed in before the next."""
        self._hash = self._before[0].copy()
        self._before = (self._before[0], self._before[0].copy())
        self.prefixes.pop()
        self.done_bytes = len(self.prefixes) * self.step_bytes

    def rewind(self, offset: int) -> None:
        """Forget what came after the last whole step, or all of it, so that the byte at `offset` can come again."""
        if offset < len(self.prefixes) * self.step_bytes:
            self.restart()
            return
        self._hash = self._before[1].copy()
        self.done_bytes = len(self.prefixes) * self.step_bytes

    @property
    def actual(self) -> str:
        """The hash of what was fed in so far, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def matches(self) -> bool:
        """True when size and hash are those the Hub announced."""
        return self.done_bytes == self._file.size_bytes and self.actual == expected_hash(self._file)


def expected_hash(file: Hashed) -> str:
    """The hash the Hub announced: the sha256 for LFS, else the git blob id; in hexadecimal."""
    return file.sha256 if file.sha256 is not None else file.blob_id or ""


def hash_name(file: Hashed) -> str:
    """Which of the two it is, in words: `sha256` or `git blob id`."""
    return "sha256" if file.sha256 is not None else "git blob id"


def hash_file(path: Path, file: Hashed, on_bytes: Callable[[int], None] | None = None) -> FileHash:
    """Hash a regular file on disk as the Hub would.

    `on_bytes` is told the bytes done after each chunk; what it raises ends the reading. Raises
    `OSError` where `path` cannot be read, is a link, or is no regular file.
    """
    digest = FileHash(file)
    left = file.size_bytes + 1  # one more byte tells a longer file
    with open_regular(path, "rb") as stream:
        while left > 0:
            chunk = stream.read(min(CHUNK_BYTES, left))
            if not chunk:
                break
            digest.update(chunk)
            left -= len(chunk)
            if on_bytes is not None:
                on_bytes(digest.done_bytes)
    return digest
