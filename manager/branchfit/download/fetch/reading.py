"""One stream of a file's bytes: asked for, checked before it is believed, and written as it comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...errors import DownloadError
from ...hub.body import Address, Body
from ..events import Event, Pace, Progress
from ..hashing import CHUNK_BYTES
from ..lockfile import LockedFile
from ..staging import Stopped
from .limit import Limit
from .part import Claim, Part

if TYPE_CHECKING:
    from ...hub import Hub

WHOLE_ANSWERS = 1
"""An answer with the whole file to a request for a range may be a server's slip, or a changed ETag's: one is thrown
away before one is read from its start."""


class Broken(Exception):
    """An answer that is not what was asked for, or ended early."""


class Held(Exception):
    """The user holds the download up."""


@dataclass
class Hand:
    """One connection's thread, as the crew counts it: bytes fetched, seconds waited for the line, its latest rate.

    `refused` is set when the server wants fewer of them; `counted` are those whose number is decided by their rate.
    `dismissed` is set for one that is to end at its next chunk, since there are too many (not where the whole file is
    being answered, which may not go on where it ended); `working` until it left.
    """

    fetched_bytes: int = 0
    waited_s: float = 0.0
    bytes_per_s: float = 0.0
    refused: bool = False
    counted: bool = True
    dismissed: bool = False
    working: bool = True


@dataclass
class Growing:
    """A file on its way: its part, where it is served, and what was seen of its server.

    `bound` says that ranges are asked for with the ETag that the first one had; `failures` counts answers with the
    whole file that broke without anything new.
    """

    part: Part
    address: Address = field(default_factory=Address)
    whole_answers: int = 0
    bound: bool = True
    failures: int = 0
    fetched_bytes: int = 0
    pace: Pace = field(default_factory=lambda: Pace(0))
    _counting: threading.Lock = field(default_factory=threading.Lock)

    @property
    def file(self) -> LockedFile:
        return self.part.file

    def came(self, size_bytes: int) -> None:
        """So many bytes came of it over one of its connections."""
        with self._counting:
            self.fetched_bytes += size_bytes


class Reader:
    """Reads files of one commit. Its methods run in several threads at once; each raises `Held`, `Stopped`, `Broken`,
    `DownloadError` for an answer that cannot be right, and what the Hub raises."""

    def __init__(
        self,
        hub: Hub,
        repo: str,
        commit: str,
        *,
        tell: Callable[[Event], None],
        stop: threading.Event,
        hold: threading.Event,
        limit: Limit,
    ) -> None:
        self._hub = hub
        self._repo = repo
        self._commit = commit
        self._tell = tell
        self._stop = stop
        self._hold = hold
        self._limit = limit

    def read(self, growing: Growing, claim: Claim, hand: Hand) -> None:
        """One stream, from where the claim is to where it or the answer ends, or the hand is dismissed."""
        self._check()
        part, file = growing.part, growing.file
        began, start, asked_stop = time.monotonic(), claim.at, claim.stop
        stop = asked_stop if asked_stop < file.size_bytes else None
        etag = part.etag if growing.bound else None
        asked = self._hub.open(self._repo, self._commit, file.path, start, stop, etag=etag, address=growing.address)
        try:
            with asked as body:
                hand.waited_s += time.monotonic() - began
                self._check_answer(body, file)
                if body.whole and (start or stop is not None):
                    self._read_whole(growing, claim, body, hand, etag is not None)
                    return
                growing.whole_answers = 0
                part.served(body.etag)
                left_bytes = asked_stop - start
                for chunk in self._chunks(body, hand):
                    left_bytes -= len(chunk)
                    if left_bytes < 0:
                        raise self._too_long(file) if stop is None else Broken("the answer is longer than its range")
                    written = part.write(claim, chunk)
                    self._told(growing, hand, written)
                    if written < len(chunk) or (claim.at >= claim.stop and claim.stop < asked_stop):
                        break  # another connection took the rest over
                    hand.bytes_per_s = (claim.at - start) / max(1e-6, time.monotonic() - began)
                    if hand.dismissed and not body.whole:
                        break
        finally:
            hand.bytes_per_s = (claim.at - start) / max(1e-6, time.monotonic() - began)

    def _read_whole(self, growing: Growing, claim: Claim, body: Body, hand: Hand, bound: bool) -> None:
        """The whole file where a range was asked for: a slip, another ETag than we had, or a server without ranges.

        Thrown away at first; from then on no request for the file is bound to an ETag, since a server whose ETags
        change would answer all of them so. Where one that was not bound is answered so again, it is read, and what
        nobody has or fetches is taken from it. The hash decides whether the pieces belong together.
        """
        part = growing.part
        growing.bound = False
        if bound:
            raise Broken("its ETag is another by now: the whole file was answered")
        growing.whole_answers += 1
        if growing.whole_answers <= WHOLE_ANSWERS and claim.at:
            raise Broken("asked for a range, the whole file was answered")
        part.release(claim)  # which ends it: what follows goes by pieces of its own
        at = 0
        for chunk in self._chunks(body, hand):
            if at + len(chunk) > part.file.size_bytes:
                raise self._too_long(part.file)
            for piece in part.claims_in(at, at + len(chunk)):
                try:
                    part.write(piece, chunk[piece.at - at : piece.stop - at])
                finally:
                    part.release(piece)
            at += len(chunk)
            self._told(growing, hand, len(chunk))

    def _check_answer(self, body: Body, file: LockedFile) -> None:
        """Raise `DownloadError` for an answer that cannot be of this file of this commit."""
        if body.commit is not None and body.commit != self._commit:
            raise DownloadError(
                f"{file.path}: the Hub answers with commit {body.commit!r:.60}, {self._commit} was asked for."
            )
        named = (body.linked_etag or "").removeprefix("W/").strip('"')
        if file.sha256 is not None and len(named) == len(file.sha256) and named != file.sha256:
            raise DownloadError(
                f"{file.path}: its listing says sha256 {file.sha256}, and the Hub now {named:.64}. The repo or what "
                f"serves it is broken; nothing of this answer was kept."
            )
        if body.total_bytes is not None and body.total_bytes != file.size_bytes:
            raise DownloadError(
                f"{file.path}: its listing says {file.size_bytes:,} bytes, the answer {body.total_bytes:,}. "
                f"The repo or what serves it is broken; nothing of this answer was kept."
            )

    def _chunks(self, body: Body, hand: Hand) -> Iterator[bytes | memoryview]:
        """The bytes as they come; the waiting for them is counted."""
        chunks = body.iter_bytes(CHUNK_BYTES)
        while True:
            self._check()
            began = time.monotonic()
            chunk = next(chunks, None)
            hand.waited_s += time.monotonic() - began
            if chunk is None:
                return
            yield chunk

    def _told(self, growing: Growing, hand: Hand, size_bytes: int) -> None:
        """So many bytes came."""
        hand.fetched_bytes += size_bytes
        growing.came(size_bytes)
        part = growing.part
        if growing.pace.due(part.done_bytes):
            self._tell(Progress(part.file.path, part.done_bytes, part.file.size_bytes, 0, 0))
        self._limit.took(size_bytes)

    @staticmethod
    def _too_long(file: LockedFile) -> DownloadError:
        return DownloadError(
            f"{file.path}: the answer goes on after the {file.size_bytes:,} bytes that were announced. "
            f"The repo or what serves it is broken."
        )

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped
        if self._hold.is_set():
            raise Held
