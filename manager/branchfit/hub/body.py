"""A file's bytes on their way, and the way they break."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..errors import HubUnreachable
from .wire import reason, wire_errors

SLOW_WINDOW_S = 30.0
"""A stream's rate is judged over this much waiting: a Wi-Fi roam or a busy proxy is over by then."""

SLOWEST_STREAM_BYTES_PER_S = 1_000
"""Below this 1 GB takes more than eleven days: a new connection is worth trying."""


class BrokenStream(HubUnreachable):
    """A body that broke off, or is not the range that was asked for. What came before it stays good."""


class Address:
    """Where a file's bytes are served, as the Hub said last: the next request for the file need not ask it again.

    A signed address that has expired is forgotten, and the Hub asked for a new one. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self.known: Known | None = None


@dataclass(frozen=True)
class Known:
    """What a redirect of the Hub's said: where to, and what of the file."""

    url: str
    commit: str | None
    linked_size: int | None
    linked_etag: str | None


@dataclass
class Body:
    """A file's bytes on their way.

    `start` is the offset the server really answered with (0 where it ignored the range), `total_bytes` the
    whole file's size and `commit` the commit it belongs to, where the server said so. `etag` is that of the
    server the bytes come from, `linked_etag` the content's hash as the Hub named it on the way there. `whole` says
    that it was no range that was answered.
    """

    url: str
    start: int
    total_bytes: int | None
    commit: str | None
    length: int | None
    timeout_s: float
    chunks: Callable[[], Iterator[bytes | memoryview]] = field(repr=False)
    etag: str | None = None
    linked_etag: str | None = None
    whole: bool = False

    def iter_bytes(self, chunk_bytes: int = 1 << 20) -> Iterator[bytes | memoryview]:
        """The bytes from `start` on, in pieces of at most `chunk_bytes`, each good until the next is asked for.

        Raises BrokenStream when the line breaks, goes silent for the timeout, drips (see
        SLOWEST_STREAM_BYTES_PER_S), or ends before the announced length.
        """
        done = 0
        for chunk in self._arriving():
            if len(chunk) <= chunk_bytes:
                done += len(chunk)
                yield chunk
                continue
            for offset in range(0, len(chunk), chunk_bytes):
                piece = chunk[offset : offset + chunk_bytes]
                done += len(piece)
                yield piece
        if self.length is not None and done != self.length:
            raise BrokenStream(self.url, f"the connection was closed after {done:,} of {self.length:,} bytes")

    def _arriving(self) -> Iterator[bytes | memoryview]:
        chunks = self.chunks()
        waited_s, arrived_bytes = 0.0, 0
        while True:
            # Only the waiting counts: what the reader does with a piece is not the line's slowness.
            began = time.monotonic()
            try:
                chunk = next(chunks, None)
            except wire_errors() as error:
                raise BrokenStream(self.url, reason(error, self.timeout_s)) from error
            if chunk is None:
                return
            waited_s += time.monotonic() - began
            arrived_bytes += len(chunk)
            if waited_s >= SLOW_WINDOW_S:
                if arrived_bytes < waited_s * SLOWEST_STREAM_BYTES_PER_S:
                    raise BrokenStream(self.url, f"only {arrived_bytes:,} bytes came in {waited_s:.3g} s")
                waited_s, arrived_bytes = 0.0, 0
            yield chunk
