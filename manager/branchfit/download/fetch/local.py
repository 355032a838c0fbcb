"""Files that need no line: staged by an earlier run, or on this machine already. Nothing is believed unhashed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from ..disk import delete_tree, is_plain, open_regular, plain_path
from ..events import Checking, Event, FileVerified, Pace, Reused
from ..hashing import CHUNK_BYTES, FileHash, expected_hash, hash_file, hash_name
from ..lockfile import LockedFile
from ..reuse import Source, Sources
from ..staging import Staging, Stopped


class Local:
    """What is here of the files of one commit. Its methods run in several threads at once, and raise `OSError`."""

    def __init__(
        self, staging: Staging, sources: Sources, tell: Callable[[Event], None], stop: threading.Event
    ) -> None:
        self._staging = staging
        self._sources = sources
        self._tell = tell
        self._stop = stop

    def bring(self, file: LockedFile) -> bool:
        """True where the file could be staged, whole and verified, from what is here."""
        return self._staged(file) or any(self._taken(source, file) for source in self._sources.get(file.path, ()))

    def keep(self, path: Path, file: LockedFile, prefixes: tuple[str, ...]) -> None:
        """A verified file gets its name in the staging folder."""
        self._staging.keep(path, file, prefixes)
        self._tell(FileVerified(file.path, file.size_bytes, hash_name(file), expected_hash(file)))

    def _staged(self, file: LockedFile) -> bool:
        """True where the file is staged without its record, with the right hash."""
        staged = plain_path(self._staging.files, file.path)
        if staged is None or not is_plain(staged):
            return False
        digest = self._hashed(staged, file)
        if digest.matches:
            self.keep(staged, file, tuple(digest.prefixes))
            return True
        with self._staging.writing():
            staged.unlink()
        return False

    def _taken(self, source: Source, file: LockedFile) -> bool:
        """True where a source turned out right; what came of it is what was hashed."""
        again = self._staging.part(file).with_suffix(".again")  # an unfinished part stays, until this is good
        with self._staging.writing():
            delete_tree(again)
            linked = source.link and _linked(source.path, again)
        digest = self._hashed(again, file) if linked else self._copied(source.path, again, file)
        if digest is not None and digest.matches:
            self._tell(Reused(file.path, file.size_bytes, source.origin))
            self.keep(again, file, tuple(digest.prefixes))
            return True
        with self._staging.writing():
            delete_tree(again)
        return False

    def _copied(self, source: Path, copy: Path, file: LockedFile) -> FileHash | None:
        """Copy a file; the hash of what was written. None where the source cannot be read, or is longer."""
        try:
            stream = open_regular(source, "rb")
        except OSError:  # gone meanwhile, or closed to us
            return None
        digest, pace = FileHash(file), Pace(file.size_bytes)
        with self._staging.writing():
            target = open_regular(copy, "wb")
        with stream, target:
            while True:
                self._check_stop()
                try:
                    chunk = stream.read(CHUNK_BYTES)
                except OSError:  # the disk that it is on does not give it back
                    return None
                if not chunk:
                    break
                if digest.done_bytes + len(chunk) > file.size_bytes:
                    return None
                with self._staging.writing():
                    target.write(chunk)
                digest.update(chunk)
                if pace.due(digest.done_bytes):
                    self._tell(Checking(file.path, digest.done_bytes, file.size_bytes))
        return digest

    def _hashed(self, path: Path, file: LockedFile) -> FileHash:
        pace = Pace(file.size_bytes)

        def told(done_bytes: int) -> None:
            self._check_stop()
            if pace.due(done_bytes):
                self._tell(Checking(file.path, min(done_bytes, file.size_bytes), file.size_bytes))

        return hash_file(path, file, on_bytes=told)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped


def _linked(source: Path, name: Path) -> bool:
    """Give a file a second name; False where the disk has none."""
    try:
        os.link(source, name)
    except OSError:
        return False
    return True
