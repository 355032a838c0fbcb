"""The line to the Hub, which downloads share: whose turn it is, and whether the user holds it up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from .events import OnEvent


class Line(Protocol):
    """What a pull asks before and while it fetches."""

    def turn(self, tell: OnEvent) -> AbstractContextManager[None]:
        """Wait for one's turn, telling `Queued`, then have it for the block. Called in the caller's thread."""
        ...

    def paused(self) -> bool:
        """Whether the user holds this download up just now. Asked a few times a second; must not block."""
        ...


class Open:
    """A line that nobody shares and nobody holds up."""

    @contextmanager
    def turn(self, tell: OnEvent) -> Iterator[None]:
        yield

    def paused(self) -> bool:
        return False
