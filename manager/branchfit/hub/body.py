"""A file's bytes on their way, and the way they break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..errors import HubUnreachable
from .wire import reason, wire_errors


class BrokenStream(HubUnreachable):
    """A body that broke off, or is not the range that was asked for. What came before it stays good."""


@dataclass
class Body:
    """A file's bytes on their way.

    `start` is the offset the server really answered with (0 where it ignored the range), `total_bytes` the
    whole file's size and `commit` the commit it belongs to, where the server said so.
    """

    url: str
    start: int
    total_bytes: int | None
    commit: str | None
    length: int | None
    timeout_s: float
    chunks: Callable[[], Iterator[bytes]] = field(repr=False)

    def iter_bytes(self, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """The bytes from `start` on, in pieces of at most `chunk_bytes`.

        Raises BrokenStream when the line breaks, goes silent for the timeout, or ends before the announced length.
        """
        done = 0
        errors = wire_errors()
        try:
            for chunk in self.chunks():
                for offset in range(0, len(chunk), chunk_bytes):
                    piece = chunk[offset : offset + chunk_bytes]
                    done += len(piece)
                    yield piece
        except errors as error:
            raise BrokenStream(self.url, reason(error, self.timeout_s)) from error
        if self.length is not None and done != self.length:
            raise BrokenStream(self.url, f"the connection was closed after {done:,} of {self.length:,} bytes")
