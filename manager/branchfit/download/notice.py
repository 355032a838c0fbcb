"""A small file in which a process says how far it is, for others to show; nobody's decision hangs on it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from .disk import open_regular

if TYPE_CHECKING:
    from typing_extensions import Self

PUBLISH_S = 1.0
"""How often it is written at most: others look about as often, and a bar that moves each second is alive."""

RECORD_BYTES = 128
"""Its length, always the same, so that it can be written in place by one write: three numbers of 20 digits and their
names take 110."""


@dataclass(frozen=True)
class Holder:
    """Who is at work, and how far: `done_bytes` of `total_bytes`, 0 of 0 where it has not said.

    `pid` is None where that is not known. `died`: it is gone, and did not come to an end of its own.
    """

    pid: int | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    died: bool = False


class Notice:
    """This process's own, while its `with` block lasts. Never raises: a full or closed disk only keeps it silent.

    It is written over in place, which a full disk allows where a new file would not be. It goes when the block ends,
    unless `stays`.
    """

    def __init__(self, path: Path | None, stays: bool = False) -> None:
        self._path = path
        self._stays = stays
        self._stream: BinaryIO | None = None
        self._told_s = float("-inf")
        self._last = (0, 0)

    def __enter__(self) -> Self:
        if self._path is not None:
            with contextlib.suppress(OSError):
                try:
                    self._stream = open_regular(self._path, "r+b", buffering=0)
                except FileNotFoundError:
                    self._stream = open_regular(self._path, "wb", buffering=0)
        if not self._stays:
            self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is None or self._path is None:
            return
        if self._stays and self._last != (0, 0):
            self._write()  # what the pace kept back
        if not self._stays:
            self._put({})  # Windows may not let it go while somebody reads it
        with contextlib.suppress(OSError):
            self._stream.close()
        self._stream = None
        if not self._stays:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def publish(self, done_bytes: int, total_bytes: int) -> None:
        """Say how far it is; written at most each `PUBLISH_S`."""
        self._last = (done_bytes, total_bytes)
        now = time.monotonic()
        if now - self._told_s >= PUBLISH_S:
            self._told_s = now
            self._write()

    def _write(self) -> None:
        self._put({"pid": os.getpid(), "done_bytes": self._last[0], "total_bytes": self._last[1]})

    def _put(self, record: dict[str, int]) -> None:
        if self._stream is None:
            return
        with contextlib.suppress(OSError):
            self._stream.seek(0)
            self._stream.write(json.dumps(record).ljust(RECORD_BYTES - 1).encode() + b"\n")


def read_notice(path: Path) -> Holder | None:
    """What stands in a notice; None where there is none, or it does not read."""
    try:
        with open_regular(path, "rb") as stream:
            found = json.loads(stream.read(RECORD_BYTES))
        numbers = [found[name] for name in ("pid", "done_bytes", "total_bytes")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return Holder(*numbers) if all(type(number) is int and number >= 0 for number in numbers) else None
