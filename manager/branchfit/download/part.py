"""A file as it grows: its bytes on disk and their hash, which go together."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from .disk import delete_tree, is_plain, open_regular
from .hashing import FileHash
from .lockfile import LockedFile
from .staging import Staging

if TYPE_CHECKING:
    from typing_extensions import Self


class Part:
    """An open file in a staging folder's parts/. Every change is made under `Staging.writing`.

    `fetched_bytes` is what came over the line for it, those bytes too that were here already.
    """

    def __init__(self, staging: Staging, path: Path, file: LockedFile, known: FileHash | None = None) -> None:
        """Begin anew, or, where `known` is the hash of all bytes at `path`, go on behind them. Raises `OSError`."""
        self.path = path
        self.file = file
        self.fetched_bytes = 0
        self._staging = staging
        self._digest = known or FileHash(file)
        # No buffer: what was accepted is written, and nothing is written later than this says.
        self._stream: BinaryIO
        with staging.writing():
            if known is None:
                delete_tree(path)
                self._stream = open_regular(path, "wb", buffering=0)
            else:
                self._stream = open_regular(path, "r+b", buffering=0)
        self._stream.seek(self._digest.done_bytes)

    @staticmethod
    def can_go_on(path: Path, file: LockedFile) -> bool:
        """True for a plain file with no other name that is not longer than it is to become."""
        return is_plain(path) and path.lstat().st_nlink == 1 and path.lstat().st_size <= file.size_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    @property
    def done_bytes(self) -> int:
        return self._digest.done_bytes

    @property
    def missing_bytes(self) -> int:
        return self.file.size_bytes - self.done_bytes

    @property
    def actual(self) -> str:
        """The hash of the bytes so far."""
        return self._digest.actual

    @property
    def matches(self) -> bool:
        """True when size and hash are those the Hub announced."""
        return self._digest.matches

    def write(self, data: bytes) -> None:
        """Append. Raises `OSError`; `Stopped`."""
        left = memoryview(data)
        while left:
            with self._staging.writing():
                written = self._stream.write(left)
            self._digest.update(left[:written])
            left = left[written:]

    def start_over(self) -> None:
        """Forget all bytes."""
        with self._staging.writing():
            self._stream.seek(0)
            self._stream.truncate()
        self._digest.restart()
