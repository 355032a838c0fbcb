"""The queue of downloads on disk: whole or not at all, changed by one process at a time.

    <cache folder>/queue/
        queue.json    {"format": 1, "made": "...", "next_id": 4, "paused": false, "entries": [{...}, ...]}
        queue.lock    held for the moment of a change
        3.lock        held as long as a process is at work on entry 3: the system frees it when that one dies, so
                      that no number of a process, which another may have by now, has to be believed
        3.json        how far entry 3 is (see `notice`)

Other processes write here, and older and newer versions: what does not read is put aside and said, never believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...errors import BranchFitError, DownloadError
from ...hub.cache import default_cache_dir
from ..disk import make_folders, open_regular, sync
from ..names import folder_name
from ..notice import Holder, read_notice

FORMAT = 1
"""Another number is another program's, and not read."""

MAX_BYTES = 16 * 2**20
"""1,000 entries with a prompt template of 4 KiB each make a quarter of it."""

LOCK_S = 10.0
"""How long a change waits for another one, which takes milliseconds: a file system that hangs is no queue."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, BranchFitError)
"""What a torn, foreign or planted file raises when it is read as a queue."""


@dataclass(frozen=True)
class Wanted:
    """What is to be pulled: the arguments of `pull`, its folders absolute."""

    repo: str
    branch: str
    models_dir: Path
    commit: str | None = None
    staging_dir: Path | None = None
    template: Mapping[str, Any] | None = None
    loader: str | None = None
    runtime: str | None = None
    latest: bool = False
    limit_bytes_per_s: float | None = None
    allow_pickle: bool = False

    @property
    def name(self) -> str:
        return f"{self.repo}:{self.branch}"

    @property
    def target(self) -> Path:
        """The folder it becomes. Two entries with the same one are the same download."""
        return self.models_dir / folder_name(self.repo, self.branch)

    def options(self) -> dict[str, Any]:
        """All but repo, branch and models folder, as `pull` takes them by name."""
        left = ("repo", "branch", "models_dir")
        return {name: value for name, value in vars(self).items() if name not in left}


@dataclass(frozen=True)
class Entry:
    """A download in the queue. What is said of its process holds only while that one lives (`QueueFile.alive`).

    `for_later`: it was put there by itself, and stays when a process that never got anything of it gives up.
    `wants_line`: its process has the line, waits for it, or will want it at once. `error` is how its last process
    ended, in words.
    """

    id: int
    wanted: Wanted
    added_at: datetime
    for_later: bool = False
    paused: bool = False
    wants_line: bool = False
    has_line: bool = False
    pid: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class State:
    """The queue at a moment, first come first. `made` tells one queue from the one begun when it was put aside."""

    made: str = ""
    next_id: int = 1
    paused: bool = False
    entries: tuple[Entry, ...] = ()

    def get(self, id_: int | None) -> Entry | None:
        return next((entry for entry in self.entries if entry.id == id_), None)

    def of(self, wanted: Wanted) -> list[Entry]:
        """The entries for the same folder."""
        return [entry for entry in self.entries if entry.wanted.target == wanted.target]

    def put(self, changed: Entry) -> State:
        """With an entry in the place of the one of its number, or at the end."""
        if self.get(changed.id) is None:
            return replace(self, entries=(*self.entries, changed), next_id=max(self.next_id, changed.id + 1))
        return replace(self, entries=tuple(changed if one.id == changed.id else one for one in self.entries))

    def without(self, id_: int) -> State:
        return replace(self, entries=tuple(entry for entry in self.entries if entry.id != id_))


@dataclass
class Draft:
    """A change that is being made: what `state` is at the end is written."""

    state: State


@dataclass
class QueueFile:
    """The queue's files. `notes` are sentences the user should read: what was put aside."""

    folder: Path = field(default_factory=lambda: default_cache_dir().absolute() / "queue")
    notes: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / "queue.json"

    def stamp(self) -> tuple[int, int, int] | None:
        """Another one after each change; None where there is no queue."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def read(self) -> State:
        """The queue as it stands. Raises OSError where none can be kept."""
        try:
            return self._parsed()
        except FileNotFoundError:
            return State()
        except _UNREADABLE:
            with self.changing() as draft:  # nobody is writing now: it is as bad as it looks, and put aside
                return draft.state

    @contextlib.contextmanager
    def changing(self, timeout_s: float = LOCK_S) -> Iterator[Draft]:
        """Change the queue, alone. Raises OSError where that cannot be."""
        try:
            make_folders(self.folder, "")
        except DownloadError as error:  # a link or a file stands there
            raise OSError(str(error)) from error
        lock = FileLock(self.folder / "queue.lock")
        try:
            lock.acquire(timeout=timeout_s, poll_interval=0.01)  # a change takes a few milliseconds
        except Timeout:
            raise OSError(f"{lock.lock_file} has been held for {timeout_s:g} s") from None
        except NotImplementedError as error:  # filelock's word for a file system without locks
            raise OSError(str(error)) from error
        try:
            draft = Draft(self._begun())
            before = draft.state
            yield draft
            if draft.state != before:
                self._write(draft.state)
        finally:
            lock.release()

    def lock(self, id_: int) -> FileLock:
        """What the process at work on an entry holds. Acquired in `changing` only, where `alive` looks, too."""
        return FileLock(self.folder / f"{id_}.lock")

    def alive(self, entry: Entry) -> bool:
        """Whether a process is at work on it. Call in `changing`: looking takes the lock for a moment."""
        lock = self.lock(entry.id)
        if not Path(lock.lock_file).exists():
            return False
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except (OSError, NotImplementedError):
            return False
        lock.release()
        return False

    def notice(self, id_: int) -> Path:
        return self.folder / f"{id_}.json"

    def progress(self, entry: Entry) -> Holder:
        """How far it is, or was when its process ended."""
        return read_notice(self.notice(entry.id)) or Holder()

    def forget(self, id_: int) -> None:
        """Remove the files of an entry that is gone; its number is not given again."""
        for path in (self.notice(id_), self.folder / f"{id_}.lock"):
            with contextlib.suppress(OSError):  # its process still has it, on Windows: that one removes it
                path.unlink(missing_ok=True)

    def _begun(self) -> State:
        """The queue, or a new one in the place of what does not read."""
        try:
            return self._parsed()
        except FileNotFoundError:
            pass
        except _UNREADABLE as error:
            aside = self.folder / f"queue.bad-{uuid.uuid4().hex[:8]}.json"
            self.path.replace(aside)
            self.notes.append(
                f"the queue of downloads could not be read ({error}): it was put aside as {aside}, and a new one "
                f"begun. Downloads that are under way go on; what is on disk of others is kept, pull those again."
            )
        numbers = [int(path.stem) for path in self.folder.glob("*.lock") if path.stem.isdecimal()]
        return State(uuid.uuid4().hex, max(numbers, default=0) + 1)

    def _parsed(self) -> State:
        with open_regular(self.path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError("larger than any queue")
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']!r:.20}, not {FORMAT}")
        entries = tuple(_entry(each) for each in found["entries"])
        state = State(found["made"], found["next_id"], found["paused"], entries)
        numbers = [entry.id for entry in entries]
        _expect(isinstance(state.made, str) and type(state.next_id) is int and type(state.paused) is bool)
        _expect(len(set(numbers)) == len(numbers) and all(0 < number < state.next_id for number in numbers))
        return state

    def _write(self, state: State) -> None:
        data = {
            "format": FORMAT, "made": state.made, "next_id": state.next_id, "paused": state.paused,
            "entries": [asdict(entry) for entry in state.entries],
        }  # fmt: skip
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix="queue.", suffix=".tmp", delete=False) as stream:
            fresh = Path(stream.name)
        try:
            fresh.write_text(json.dumps(data, indent=1, default=_text))
            sync(fresh)
            _replace(fresh, self.path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise


def _replace(fresh: Path, path: Path) -> None:
    """Rename over a file; on Windows that is refused for the moment in which somebody reads it."""
    for _ in range(50 if os.name == "nt" else 0):  # a second, where a read takes less than a millisecond
        with contextlib.suppress(PermissionError):
            fresh.replace(path)
            return
        time.sleep(0.02)
    fresh.replace(path)


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


_NUMBERS = ("id", "pid")
_FLAGS = ("for_later", "paused", "wants_line", "has_line", "latest", "allow_pickle")
_TEXTS = ("repo", "branch", "models_dir", "commit", "staging_dir", "loader", "runtime", "error")


def _entry(data: Any) -> Entry:
    """An entry as it stands in the file. Raises what `_UNREADABLE` lists."""
    fields, of_wanted = dict(data), dict(data["wanted"])
    for name, value in (*fields.items(), *of_wanted.items()):
        _expect(name not in _NUMBERS or value is None or (type(value) is int and value >= 0))
        _expect(name not in _FLAGS or type(value) is bool)
        _expect(name not in _TEXTS or value is None or isinstance(value, str))
        _expect(name != "template" or value is None or isinstance(value, dict))
        _expect(name != "limit_bytes_per_s" or value is None or (isinstance(value, (int, float)) and value > 0))
    for name in ("models_dir", "staging_dir"):
        of_wanted[name] = Path(of_wanted[name]) if of_wanted[name] is not None else None
    fields["wanted"] = wanted = Wanted(**of_wanted)
    _expect(wanted.target.is_absolute() and fields["id"] is not None)  # a name that no folder can have raises
    fields["added_at"] = datetime.fromisoformat(fields["added_at"]).astimezone(timezone.utc)
    return Entry(**fields)


def _expect(holds: bool) -> None:
    if not holds:
        raise TypeError("not what this program writes")
