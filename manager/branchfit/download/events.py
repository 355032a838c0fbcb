"""What a pull or a verify tells while it works: small frozen values, in order, in the caller's thread.

`to_dict` is their form on a line of JSON: `{"event": "progress", ...}` with the fields below under
their own names, sizes as integer bytes, folders as text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """What all of them share."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object: `event` is the class name in snake case, the rest the fields."""
        found: dict[str, Any] = {"event": re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()}
        for field in fields(self):
            value = getattr(self, field.name)
            found[field.name] = str(value) if isinstance(value, Path) else value
        return found


@dataclass(frozen=True)
class Waiting(Event):
    """Another process is at work on the same folder; this one goes on when that one ends.

    Told again as the other one gets on: `done_bytes` of `total_bytes`, 0 of 0 where it does not say.
    """

    folder: Path
    pid: int | None
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True)
class Queued(Event):
    """Others have the line; this one is at `position` (1 is the next). `ahead` names who comes before it."""

    position: int
    ahead: tuple[str, ...]


@dataclass(frozen=True)
class Paused(Event):
    """The user holds the download up; nothing is fetched until `Resumed`."""


@dataclass(frozen=True)
class Resumed(Event):
    """It goes on."""


@dataclass(frozen=True)
class Started(Event):
    """A pull knows what it has to do. `done_bytes` of `total_bytes` are on disk already."""

    repo: str
    branch: str
    commit: str
    folder: Path
    files: int
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class LeftOut(Event):
    """A file of the branch that is not fetched, and why."""

    path: str
    size_bytes: int
    reason: str


@dataclass(frozen=True)
class Checking(Event):
    """What is on disk of a file is being compared; it counts as done already, unless it turns out wrong."""

    path: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class FileStarted(Event):
    """A file's transfer (or its hashing, in a verify) begins, `done_bytes` of it being there."""

    path: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Progress(Event):
    """Bytes done of this file and of all of them. A file that has to start over goes back.

    `verified_bytes` are those of files whose hash was found right, of all of them; `connections` is how many are
    open now.
    """

    path: str
    done_bytes: int
    total_bytes: int
    overall_done_bytes: int
    overall_total_bytes: int
    verified_bytes: int = 0
    connections: int = 0


@dataclass(frozen=True)
class Reused(Event):
    """A file was on this machine already, with the right hash: linked or copied from `source`, not fetched."""

    path: str
    size_bytes: int
    source: str


@dataclass(frozen=True)
class Retrying(Event):
    """A file's stream broke; it goes on after `wait_s` seconds. `attempt` counts those without progress."""

    path: str
    attempt: int
    wait_s: float
    reason: str


@dataclass(frozen=True)
class FileVerified(Event):
    """A file is whole and its hash is the Hub's. `algorithm` is `sha256` or `git blob id`."""

    path: str
    size_bytes: int
    algorithm: str
    digest: str


@dataclass(frozen=True)
class FileBad(Event):
    """In a verify: a file that is not what the Hub published."""

    path: str
    expected: str
    actual: str


@dataclass(frozen=True)
class BranchMoved(Event):
    """The branch has another commit than the installed folder."""

    folder: Path
    installed_commit: str
    hub_commit: str


@dataclass(frozen=True)
class Note(Event):
    """Something the user should know, in a sentence."""

    message: str


@dataclass(frozen=True)
class Finished(Event):
    """The folder is whole.

    `outcome` is `fetched`; `repaired`; `already` (nothing to do); `kept` (the branch moved, the old commit stays);
    or `adopted` (a folder that something else made, every file verified against the Hub).
    """

    folder: Path
    outcome: str
    size_bytes: int
    fetched_bytes: int


@dataclass(frozen=True)
class Failed(Event):
    """The command ends with an error: its kind, and its sentence. With `--json-lines` the last line, then."""

    kind: str
    message: str


OnEvent = Callable[[Event], None]

TELL_S = 0.1
"""How often a file's bytes are told: as smooth as a bar need be, and few enough to keep as lines."""


class Pace:
    """Says when a file's bytes are worth an event: at the first, at the last, and every `TELL_S` between."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._told_s: float | None = None

    def due(self, done_bytes: int) -> bool:
        now = time.monotonic()
        if self._told_s is not None and done_bytes < self._total_bytes and now - self._told_s < TELL_S:
            return False
        self._told_s = now
        return True
