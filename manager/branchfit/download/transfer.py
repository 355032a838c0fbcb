"""One file from the Hub to the staging folder: resumed where it stopped, hashed as it comes, verified."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import BadChecksum, DownloadError, HubUnreachable, RateLimited, TransferBroken
from .disk import delete_tree, is_plain, open_regular, plain_path, write_error
from .events import Checking, Event, FileStarted, FileVerified, Progress, Retrying
from .hashing import CHUNK_BYTES, FileHash, expected_hash, hash_file, hash_name
from .lockfile import LockedFile
from .planning import free_bytes
from .staging import Staging

if TYPE_CHECKING:
    from ..hub import Hub

RETRY_WAITS_S: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
"""Waits before the second to fifth try in a row; a line that is away for longer than these 15 s is worth a message."""

MAX_RETRY_AFTER_S = 300.0
"""The Hub's rate windows are 5 minutes long (its documentation on rate limits); a longer wish is an error to show."""

PROGRESS_BYTES = CHUNK_BYTES
"""A stream that broke after at least this much was a working one: the count of tries starts again."""

TELL_S = 0.1
"""Progress is told each MiB, and this often on a line too slow for that; the wire's own pieces are 64 KiB or less."""


class Stopped(Exception):
    """The pull was told to stop; what is on disk is kept. Never leaves this package."""


class Broken(Exception):
    """A stream ended before its file did."""


class Transfer:
    """Brings files of one commit into `staging`. Its methods run in several threads at once.

    `tell` is called from those threads. `stop` ends every method with `Stopped` at its next chunk.
    """

    def __init__(
        self,
        hub: Hub,
        repo: str,
        commit: str,
        staging: Staging,
        *,
        reusable: dict[str, Path],
        tell: Callable[[Event], None],
        stop: threading.Event,
        retry_waits_s: Sequence[float] = RETRY_WAITS_S,
    ) -> None:
        self._hub = hub
        self._repo = repo
        self._commit = commit
        self._staging = staging
        self._reusable = reusable
        self._tell = tell
        self._stop = stop
        self._waits_s = retry_waits_s

    def bring(self, file: LockedFile) -> int:
        """Stage one file, whole and verified, by the cheapest way there is; return the bytes fetched.

        Raises `BadChecksum`, `TransferBroken`, `NoSpace`, other `DownloadError`s, and what the Hub
        raises for a file that is gone or closed; `Stopped` when told to stop.
        """
        try:
            if not self._local(file):
                return self._fetch(file)
        except OSError as error:
            free = free_bytes(self._staging.root)
            missing = file.size_bytes - self._staging.staged_bytes(file)
            raise write_error(error, self._staging.files / file.path, missing, free) from error
        return 0

    def _local(self, file: LockedFile) -> bool:
        """True where the file is staged without its record, or installed at another commit, with the right hash."""
        staged = plain_path(self._staging.files, file.path)
        if staged is not None and is_plain(staged):
            if self._hashed(staged, file).matches:
                self._keep(staged, file)
                return True
            staged.unlink()
        source = self._reusable.get(file.path)
        if source is not None and self._hashed(source, file).matches:
            copy = self._staging.bring_back(source, file)
            # A second name cannot differ from what was just hashed; a copy can.
            if copy.samefile(source) or self._hashed(copy, file).matches:
                self._keep(copy, file)
                return True
            copy.unlink()
        return False

    def _fetch(self, file: LockedFile) -> int:
        part = self._staging.part(file)
        digest, stream = self._open_part(part, file)
        fetched = 0
        with stream:
            old_bytes = digest.done_bytes
            self._tell(FileStarted(file.path, old_bytes, file.size_bytes))
            fetched += self._fill(stream, digest, file)
            if not digest.matches and old_bytes:  # an earlier run's bytes may have rotted: once more without them
                _start_over(stream, digest)
                fetched += self._fill(stream, digest, file)
        if not digest.matches:
            kept = self._staging.set_aside(part, file)
            raise BadChecksum(file.path, expected_hash(file), digest.actual, kept)
        self._keep(part, file)
        return fetched

    def _open_part(self, part: Path, file: LockedFile) -> tuple[FileHash, BinaryIO]:
        """The part, open for writing behind the bytes it has, and their hash."""
        digest = FileHash(file)
        if is_plain(part) and part.lstat().st_nlink == 1 and part.lstat().st_size <= file.size_bytes:
            digest = self._hashed(part, file)
            stream = open_regular(part, "r+b")
            stream.seek(digest.done_bytes)
            return digest, stream
        delete_tree(part)
        return digest, open_regular(part, "wb")

    def _fill(self, stream: BinaryIO, digest: FileHash, file: LockedFile) -> int:
        """Fetch until the file has its size, over as many streams as that takes; return the bytes fetched."""
        fetched = failures = 0
        while digest.done_bytes < file.size_bytes:
            before = digest.done_bytes
            try:
                self._read(stream, digest, file)
                reason, wait_s = f"the answer ended {file.size_bytes - digest.done_bytes:,} bytes early", None
                cause: Exception | None = None
            except RateLimited as error:
                reason, wait_s, cause = str(error), error.retry_after_s, error
            except (HubUnreachable, Broken) as error:
                reason, wait_s, cause = getattr(error, "reason", str(error)), None, error
            finally:
                stream.flush()
            got = max(0, digest.done_bytes - before)
            fetched += got
            if digest.done_bytes == file.size_bytes:
                break
            failures = 1 if got >= PROGRESS_BYTES else failures + 1
            if failures > len(self._waits_s) or (wait_s or 0) > MAX_RETRY_AFTER_S:
                if isinstance(cause, RateLimited):
                    raise cause
                raise TransferBroken(file.path, digest.done_bytes, file.size_bytes, reason) from cause
            wait_s = max(wait_s or 0.0, self._waits_s[failures - 1])
            self._tell(Retrying(file.path, failures, wait_s, reason))
            if self._stop.wait(wait_s):
                raise Stopped
        return fetched

    def _read(self, stream: BinaryIO, digest: FileHash, file: LockedFile) -> None:
        """One stream, from where the part ends to where the answer does."""
        self._check_stop()
        with self._hub.open(self._repo, self._commit, file.path, digest.done_bytes) as body:
            if body.commit is not None and body.commit != self._commit:
                raise DownloadError(
                    f"{file.path}: the Hub answers with commit {body.commit!r:.60}, {self._commit} was asked for."
                )
            if body.total_bytes is not None and body.total_bytes != file.size_bytes:
                raise DownloadError(
                    f"{file.path}: its listing says {file.size_bytes:,} bytes, the answer {body.total_bytes:,}. "
                    f"The repo or what serves it is broken; nothing of this answer was kept."
                )
            if body.start != digest.done_bytes:
                if body.start != 0:
                    raise Broken(f"asked for bytes from {digest.done_bytes:,}, the answer begins at {body.start:,}")
                _start_over(stream, digest)  # a server that ignores Range sends the whole file
            told_bytes, told_s = digest.done_bytes, time.monotonic()
            for chunk in body.iter_bytes(CHUNK_BYTES):
                self._check_stop()
                if digest.done_bytes + len(chunk) > file.size_bytes:
                    raise DownloadError(
                        f"{file.path}: the answer goes on after the {file.size_bytes:,} bytes that were announced. "
                        f"The repo or what serves it is broken."
                    )
                stream.write(chunk)
                digest.update(chunk)
                done, now = digest.done_bytes, time.monotonic()
                if done - told_bytes >= CHUNK_BYTES or now - told_s >= TELL_S or done == file.size_bytes:
                    self._tell(Progress(file.path, done, file.size_bytes, 0, 0))
                    told_bytes, told_s = done, now

    def _hashed(self, path: Path, file: LockedFile) -> FileHash:
        def told(done_bytes: int) -> None:
            self._check_stop()
            self._tell(Checking(file.path, min(done_bytes, file.size_bytes), file.size_bytes))

        return hash_file(path, file, on_bytes=told)

    def _keep(self, path: Path, file: LockedFile) -> None:
        self._staging.keep(path, file)
        self._tell(FileVerified(file.path, file.size_bytes, hash_name(file), expected_hash(file)))

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped


def _start_over(stream: BinaryIO, digest: FileHash) -> None:
    stream.seek(0)
    stream.truncate()
    digest.restart()
