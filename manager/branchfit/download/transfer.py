"""One file from the Hub to the staging folder: resumed where it stopped, hashed as it comes, verified."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadChecksum, DownloadError, HubUnreachable, RateLimited, TransferBroken
from .disk import delete_tree, is_plain, open_regular, plain_path, write_error
from .events import Checking, Event, FileStarted, FileVerified, Pace, Progress, Retrying
from .hashing import CHUNK_BYTES, FileHash, expected_hash, hash_file, hash_name
from .lockfile import LockedFile
from .part import Part
from .planning import free_bytes
from .staging import Staging, Stopped

if TYPE_CHECKING:
    from ..hub import Hub

RETRY_WAITS_S: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
"""Waits before the second to fifth try in a row; a line that is away for longer than these 15 s is worth a message."""

MAX_RETRY_AFTER_S = 300.0
"""The Hub's rate windows are 5 minutes long (its documentation on rate limits); a longer wish is an error to show."""

PROGRESS_BYTES = CHUNK_BYTES
"""A stream that broke after at least this much was a working one: the count of tries starts again."""


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
            if self._staged(file) or self._installed(file):
                return 0
            return self._fetch(file)
        except OSError as error:
            free = free_bytes(self._staging.root)
            missing = file.size_bytes - self._staging.staged_bytes(file)
            raise write_error(error, self._staging.files / file.path, missing, free) from error

    def _staged(self, file: LockedFile) -> bool:
        """True where the file is staged without its record, with the right hash."""
        staged = plain_path(self._staging.files, file.path)
        if staged is None or not is_plain(staged):
            return False
        if self._hashed(staged, file).matches:
            self._keep(staged, file)
            return True
        with self._staging.writing():
            staged.unlink()
        return False

    def _installed(self, file: LockedFile) -> bool:
        """True where the file is installed already, at another commit or by another name, with the right hash.

        It gets a second name, or, where the disk has none, is copied; what gets it is what is hashed.
        """
        source = self._reusable.get(file.path)
        if source is None:
            return False
        again = self._staging.part(file).with_suffix(".again")  # an unfinished part stays, until this is good
        with self._staging.writing():
            delete_tree(again)
            linked = _linked(source, again)
        matches = self._hashed(again, file).matches if linked else self._copied(source, again, file)
        if matches:
            self._keep(again, file)
            return True
        with self._staging.writing():
            again.unlink()
        return False

    def _copied(self, source: Path, copy: Path, file: LockedFile) -> bool:
        """Copy a file; True where what was written has the right hash."""
        pace = Pace(file.size_bytes)
        with Part(self._staging, copy, file) as part, open_regular(source, "rb") as stream:
            while part.missing_bytes and (chunk := stream.read(min(CHUNK_BYTES, part.missing_bytes))):
                self._check_stop()
                part.write(chunk)
                if pace.due(part.done_bytes):
                    self._tell(Checking(file.path, part.done_bytes, file.size_bytes))
            return part.matches

    def _fetch(self, file: LockedFile) -> int:
        path = self._staging.part(file)
        known = self._hashed(path, file) if Part.can_go_on(path, file) else None
        with Part(self._staging, path, file, known) as part:
            old_bytes = part.done_bytes
            self._tell(FileStarted(file.path, old_bytes, file.size_bytes))
            self._fill(part)
            if not part.matches and old_bytes:  # an earlier run's bytes may have rotted: once more without them
                part.start_over()
                self._fill(part)
        if not part.matches:
            kept = self._staging.set_aside(path, file)
            raise BadChecksum(file.path, expected_hash(file), part.actual, kept)
        self._keep(path, file)
        return part.fetched_bytes

    def _fill(self, part: Part) -> None:
        """Fetch until the file has its size, over as many streams as that takes."""
        file, failures = part.file, 0
        while part.missing_bytes:
            before = part.done_bytes
            try:
                self._read(part)
                reason, wait_s = f"the answer ended {part.missing_bytes:,} bytes early", None
                cause: Exception | None = None
            except RateLimited as error:
                reason, wait_s, cause = str(error), error.retry_after_s, error
            except (HubUnreachable, Broken) as error:
                reason, wait_s, cause = getattr(error, "reason", str(error)), None, error
            if not part.missing_bytes:
                break
            failures = 1 if part.done_bytes - before >= PROGRESS_BYTES else failures + 1
            if failures > len(self._waits_s) or (wait_s or 0) > MAX_RETRY_AFTER_S:
                if isinstance(cause, RateLimited):
                    raise cause
                raise TransferBroken(file.path, part.done_bytes, file.size_bytes, reason) from cause
            wait_s = max(wait_s or 0.0, self._waits_s[failures - 1])
            self._tell(Retrying(file.path, failures, wait_s, reason))
            if self._stop.wait(wait_s):
                raise Stopped

    def _read(self, part: Part) -> None:
        """One stream, from where the part ends to where the answer does."""
        self._check_stop()
        file = part.file
        with self._hub.open(self._repo, self._commit, file.path, part.done_bytes) as body:
            if body.commit is not None and body.commit != self._commit:
                raise DownloadError(
                    f"{file.path}: the Hub answers with commit {body.commit!r:.60}, {self._commit} was asked for."
                )
            if body.total_bytes is not None and body.total_bytes != file.size_bytes:
                raise DownloadError(
                    f"{file.path}: its listing says {file.size_bytes:,} bytes, the answer {body.total_bytes:,}. "
                    f"The repo or what serves it is broken; nothing of this answer was kept."
                )
            chunks = body.iter_bytes(CHUNK_BYTES)
            if body.start != part.done_bytes:
                if body.start != 0:
                    raise Broken(f"asked for bytes from {part.done_bytes:,}, the answer begins at {body.start:,}")
                chunks = self._behind(chunks, part)  # a server that ignores Range sends the whole file
            pace = Pace(file.size_bytes)
            for chunk in chunks:
                self._check_stop()
                if len(chunk) > part.missing_bytes:
                    raise DownloadError(
                        f"{file.path}: the answer goes on after the {file.size_bytes:,} bytes that were announced. "
                        f"The repo or what serves it is broken."
                    )
                part.write(chunk)
                part.fetched_bytes += len(chunk)
                if pace.due(part.done_bytes):
                    self._tell(Progress(file.path, part.done_bytes, file.size_bytes, 0, 0))

    def _behind(self, chunks: Iterator[bytes], part: Part) -> Iterator[bytes]:
        """Of an answer from the file's start, what comes after the bytes that are here, if it begins with those.

        So an answer that breaks early costs nothing. Raises `Broken` for one that begins otherwise: one
        of the two is wrong, so that the part is forgotten and the next answer is taken whole.
        """
        file, here_bytes = part.file, part.done_bytes
        digest, pace = FileHash(file), Pace(here_bytes)
        for chunk in chunks:
            self._check_stop()
            head = chunk[: here_bytes - digest.done_bytes]
            if head:
                digest.update(head)
                part.fetched_bytes += len(head)
                if pace.due(digest.done_bytes):
                    self._tell(Checking(file.path, digest.done_bytes, file.size_bytes))
                if digest.done_bytes == here_bytes and digest.actual != part.actual:
                    part.start_over()
                    raise Broken(f"the answer begins with other bytes than the {here_bytes:,} that were here")
            if len(chunk) > len(head):
                yield chunk[len(head) :]

    def _hashed(self, path: Path, file: LockedFile) -> FileHash:
        pace = Pace(file.size_bytes)

        def told(done_bytes: int) -> None:
            self._check_stop()
            if pace.due(done_bytes):
                self._tell(Checking(file.path, min(done_bytes, file.size_bytes), file.size_bytes))

        return hash_file(path, file, on_bytes=told)

    def _keep(self, path: Path, file: LockedFile) -> None:
        self._staging.keep(path, file)
        self._tell(FileVerified(file.path, file.size_bytes, hash_name(file), expected_hash(file)))

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped


def _linked(source: Path, name: Path) -> bool:
    """Give an installed file a second name; False where the disk has none."""
    try:
        os.link(source, name)
    except OSError:
        return False
    return True
