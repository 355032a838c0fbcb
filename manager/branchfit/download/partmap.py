"""What is known of an unfinished file on disk, in a file beside it that survives a kill at any byte.

Lines of text, each appended in one write: `+ START STOP` (these bytes were written), `- START STOP` (they are not to be
believed after all), `= N HEX` (the sha256 of the first N steps, as they came over the line), `e "..."` (the ETag of who
served them). A torn last line says nothing. What is claimed beyond the file's end on disk is not believed; what
a power cut took of the rest the hash finds.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from .disk import delete_tree, open_regular
from .extents import Extents

SUFFIX = ".map"

MAX_BYTES = 64 * 2**20
"""A map that was written anew at the last start has some lines a piece; 1 TB of single pieces makes 4 MB."""

_LINE = re.compile(rb'([+-]) ([0-9]{1,16}) ([0-9]{1,16})|= ([0-9]{1,9}) ([0-9a-f]{64})|e ("[\x21\x23-\x7e]{0,200}")')


class PartMap:
    """The map of one part. `here`, `prefixes` (number of steps -> hash) and `etag` are what it said when opened."""

    def __init__(self, part: Path, size_bytes: int) -> None:
        self.path = part.with_name(part.name + SUFFIX)
        self.here = Extents()
        self.prefixes: dict[int, str] = {}
        self.etag: str | None = None
        self._descriptor = -1
        try:
            on_disk = part.lstat().st_size
        except OSError:
            return
        if on_disk > size_bytes:
            return
        try:
            with open_regular(self.path, "rb") as stream:
                text = stream.read(MAX_BYTES)
        except FileNotFoundError:  # from before there were maps: bytes came in order
            self.here.add(0, on_disk)
            return
        except OSError:  # a link, or closed to us: nothing is known of what is here
            return
        for line in text.split(b"\n")[:-1]:
            self._take(line, on_disk)

    def _take(self, line: bytes, on_disk: int) -> None:
        found = _LINE.fullmatch(line)
        if found is None:
            return
        if found[1]:
            start, stop = int(found[2]), min(int(found[3]), on_disk)
            (self.here.add if found[1] == b"+" else self.here.remove)(start, stop)
        elif found[4]:
            self.prefixes[int(found[4])] = found[5].decode()
        else:
            self.etag = found[6].decode()

    def open(self) -> None:
        """Write it anew, shorter, and keep it open. Raises `OSError`."""
        fresh = self.path.with_name(self.path.name + ".new")
        delete_tree(fresh)
        with open_regular(fresh, "wb") as stream:
            for start, stop in self.here:
                stream.write(b"+ %d %d\n" % (start, stop))
            for steps, digest in self.prefixes.items():
                stream.write(b"= %d %s\n" % (steps, digest.encode()))
            if self.etag is not None:
                stream.write(b"e %s\n" % self.etag.encode())
        fresh.replace(self.path)
        flags = os.O_WRONLY | os.O_APPEND
        for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):
            flags |= getattr(os, name, 0)
        self._descriptor = os.open(self.path, flags)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def add(self, start: int, stop: int) -> None:
        """These bytes are on disk. Raises `OSError`, as the others do."""
        self._append(b"+ %d %d\n" % (start, stop))

    def remove(self, start: int, stop: int) -> None:
        """These bytes are wrong."""
        self._append(b"- %d %d\n" % (start, stop))

    def prefix(self, steps: int, digest: str) -> None:
        """So many steps from the start have this sha256."""
        self._append(b"= %d %s\n" % (steps, digest.encode()))

    def served(self, etag: str) -> None:
        """Who serves the bytes names them so; an ETag that could not be sent back is left out."""
        line = b"e %s" % etag.encode("latin-1", "replace")
        if _LINE.fullmatch(line):
            self.etag = etag
            self._append(line + b"\n")

    def forget(self) -> None:
        """Nothing is here any more."""
        self.here, self.prefixes, self.etag = Extents(), {}, None
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)

    def delete(self) -> None:
        """The part became a file."""
        self.close()
        with contextlib.suppress(OSError):  # a map without its part is nobody's, and goes with the folder
            self.path.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        os.write(self._descriptor, line)


def here_bytes(part: Path, size_bytes: int) -> int:
    """Bytes of an unfinished file that are on disk, by its map; 0 where it is longer than it is to become."""
    return PartMap(part, size_bytes).here.total_bytes
