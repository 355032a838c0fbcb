"""The downloads of this user, in order: `Queue` is the door, `entries` its file, `turns` a download's place in it."""

from __future__ import annotations

from .entries import Entry, Wanted
from .queue import Listed, NotQueued, Queue, at_once
from .turns import QueueLine, Removed

__all__ = ["Entry", "Listed", "NotQueued", "Queue", "QueueLine", "Removed", "Wanted", "at_once"]
