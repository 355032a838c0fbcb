"""`branchfit.lock.json`: what lies in a model's folder, as the Hub named it on the day of the pull.

A lock lies in a folder that others write to, so it is read as untrusted: its paths go through the
same checks as a Hub's listing.

    {"version": 1, "repo": "...", "branch": "...", "commit": "...", "endpoint": "... or null",
     "files": [{"path": "...", "size_bytes": 0, "sha256": "... or null", "blob_id": "... or null"}],
     "left_out": [{"path": "...", "size_bytes": 0, "reason": "..."}],
     "template": {...} or null, "loader": "... or null", "runtime": "... or null",
     "allow_pickle": true, or left out,
     "pulled_at": "2023-11-14T22:13:20+00:00", "verified_at": "... or null, or left out",
     "branchfit": "0.1.0"}

A large file has "prefix_sha256" too: the sha256 of its first `prefix_step_bytes` bytes, of its first two such steps,
and so on to its last whole step before the end. They only save time in a repair, so what is wrong with them is no
fault of the lock's: they are dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import BranchFitError, DownloadError
from .disk import open_regular, sync
from .hashing import prefix_step_bytes
from .names import FRESH_LOCK_NAME, LOCK_NAME, folder_name, has_weights, is_commit, refused_names

LOCK_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_LOCK_BYTES = 16 * 2**20
"""10,000 files, the most a pull takes, with paths of 1 KiB and their hashes make 12 MB."""


@dataclass(frozen=True)
class LockedFile:
    """A file as the Hub published it: its size and sha256 (LFS) or git blob id (the rest).

    `prefix_sha256` are the hashes of its first bytes, as seen when it came: step by step, see `hashing`.
    """

    path: str
    size_bytes: int
    sha256: str | None
    blob_id: str | None
    prefix_sha256: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class LeftOutFile:
    """A file of the branch that was not fetched, and why."""

    path: str
    size_bytes: int
    reason: str


@dataclass(frozen=True)
class Installed:
    """A model on disk, as its lock file records it. `size_bytes` is the sum of `files`.

    `verified_at` is when all of it was last seen to be as published: at the pull, and at each `verify` or
    `repair` that found or left it so. None in the locks of 0.1's first days. `allow_pickle` is whether the user
    had pickles fetched too.
    """

    folder: Path
    repo: str
    branch: str
    commit: str
    size_bytes: int
    files: tuple[LockedFile, ...]
    pulled_at: datetime
    template: Mapping[str, Any] | None = None
    loader: str | None = None
    runtime: str | None = None
    endpoint: str | None = None
    left_out: tuple[LeftOutFile, ...] = ()
    branchfit: str = ""
    verified_at: datetime | None = None
    allow_pickle: bool = False

    @property
    def name(self) -> str:
        """The folder's name, which is what the webui lists."""
        return self.folder.name


_WRITE_ANEW = "Remove it and pull the branch again to have it written anew."
_ANOTHER_COPY = f"Give the {LOCK_NAME} of a model that BranchFit pulled, or a copy of it."


class BadLock(DownloadError):
    """A lock file that cannot be read. `reason` is a clause, `remedy` a sentence."""

    def __init__(self, path: Path, reason: str, remedy: str = _WRITE_ANEW) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path} cannot be read: {reason}. {remedy}")


def write_lock(installed: Installed, folder: Path) -> None:
    """Write the lock into `folder`, whole or not at all. Raises `OSError`."""
    content = {
        "version": LOCK_VERSION,
        "repo": installed.repo,
        "branch": installed.branch,
        "commit": installed.commit,
        "endpoint": installed.endpoint,
        "files": [_file_record(file) for file in installed.files],
        "left_out": [asdict(file) for file in installed.left_out],
        "template": dict(installed.template) if installed.template is not None else None,
        "loader": installed.loader,
        "runtime": installed.runtime,
        **({"allow_pickle": True} if installed.allow_pickle else {}),
        "pulled_at": _stamp(installed.pulled_at),
        "verified_at": _stamp(installed.verified_at) if installed.verified_at is not None else None,
        "branchfit": installed.branchfit,
    }
    fresh = folder / FRESH_LOCK_NAME
    fresh.unlink(missing_ok=True)
    with open_regular(fresh, "wb") as stream:
        stream.write(json.dumps(content, indent=1).encode() + b"\n")
    sync(fresh)
    fresh.replace(folder / LOCK_NAME)
    sync(folder)


def has_lock(folder: Path) -> bool:
    """True where a lock file (or anything of its name) lies in `folder`."""
    try:
        (folder / LOCK_NAME).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # `read_lock` says what is in the way
    return True


def read_lock(folder: Path) -> Installed:
    """Read a folder's lock. Raises `BadLock` where there is none, or it holds what cannot be."""
    return _read(folder / LOCK_NAME, folder, _WRITE_ANEW)


def read_lock_file(path: Path) -> Installed:
    """Read a lock that lies by itself, under whatever name, links to it followed. Raises `BadLock`.

    Its `folder` is where the file is, and holds no model. Nothing in it is to be believed: `pull` compares it with
    the Hub.
    """
    try:
        path = Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links before Python 3.13, or no home folder
        raise BadLock(path, str(error), _ANOTHER_COPY) from error
    return _read(path, path.parent, _ANOTHER_COPY)


def _read(path: Path, folder: Path, remedy: str) -> Installed:
    try:
        with open_regular(path, "rb") as stream:
            text = stream.read(MAX_LOCK_BYTES + 1)
    except OSError as error:
        raise BadLock(path, error.strerror or str(error), remedy) from error
    if len(text) > MAX_LOCK_BYTES:
        raise BadLock(path, f"it is larger than {MAX_LOCK_BYTES:,} bytes", remedy)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLock(path, f"it is no JSON ({error})", remedy) from error
    try:
        return _installed(folder, content)
    except (BranchFitError, KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BadLock(path, what.rstrip("."), remedy) from error


def _installed(folder: Path, content: Any) -> Installed:
    """The lock's content, each field checked; raises whatever the wrong kind of value raises."""
    _expect(isinstance(content, dict), "it is no JSON object")
    _expect(content["version"] == LOCK_VERSION, f"its version is {content['version']!r}, not {LOCK_VERSION}")
    files = tuple(_file(one) for one in content["files"])
    left_out = tuple(
        LeftOutFile(_text(one["path"]), _size(one["size_bytes"]), _text(one["reason"])) for one in content["left_out"]
    )
    repo, branch, commit = (_text(content[field]) for field in ("repo", "branch", "commit"))
    folder_name(repo, branch)
    _expect(is_commit(commit), f"{commit!r} is no commit")
    refused = refused_names(files, folder)
    allow_pickle = content.get("allow_pickle", False)
    _expect(isinstance(allow_pickle, bool), f"its allow_pickle is {allow_pickle!r:.80}")
    _expect(has_weights((file.path for file in files), allow_pickle), "it names no weights")
    _expect(not refused, "; ".join(f"{path!r}: {reason}" for path, reason in refused[:3]))
    template = content["template"]
    _expect(template is None or isinstance(template, dict), "its template is no JSON object")
    pulled_at = _moment("pulled_at", content["pulled_at"])
    verified_at = content.get("verified_at")
    return Installed(
        folder=folder,
        repo=repo,
        branch=branch,
        commit=commit,
        size_bytes=sum(file.size_bytes for file in files),
        files=files,
        pulled_at=pulled_at,
        template=template,
        loader=_maybe(content["loader"]),
        runtime=_maybe(content["runtime"]),
        endpoint=_maybe(content["endpoint"]),
        left_out=left_out,
        branchfit=_text(content["branchfit"]),
        verified_at=None if verified_at is None else _moment("verified_at", verified_at),
        allow_pickle=allow_pickle,
    )


def _file(one: Any) -> LockedFile:
    """A file of the lock; raises whatever the wrong kind of value raises."""
    size_bytes = _size(one["size_bytes"])
    return LockedFile(
        path=_text(one["path"]),
        size_bytes=size_bytes,
        sha256=_maybe(one["sha256"]),
        blob_id=_maybe(one["blob_id"]),
        prefix_sha256=_prefixes(one, size_bytes),
    )


def _prefixes(one: Any, size_bytes: int) -> tuple[str, ...]:
    """A file's `prefix_sha256`, () where there is none or it cannot be one."""
    found = one.get("prefix_sha256")
    if not isinstance(found, list) or size_bytes <= 0 or one["sha256"] is None:
        return ()
    step_bytes = prefix_step_bytes(size_bytes)
    if one.get("prefix_step_bytes", step_bytes) != step_bytes or len(found) != (size_bytes - 1) // step_bytes:
        return ()
    return tuple(found) if all(isinstance(each, str) and _SHA256.fullmatch(each) for each in found) else ()


def _file_record(file: LockedFile) -> dict[str, Any]:
    """A file as the lock has it."""
    record = asdict(file)
    if file.prefix_sha256:
        record["prefix_step_bytes"] = prefix_step_bytes(file.size_bytes)
    else:
        del record["prefix_sha256"]
    return record


def _stamp(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds")


def _moment(name: str, value: Any) -> datetime:
    found = datetime.fromisoformat(_text(value))
    _expect(found.tzinfo is not None, f"{name} has no time zone")
    try:
        found.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError(f"{name} is no moment of UTC") from None
    return found


def _expect(holds: bool, reason: str) -> None:
    if not holds:
        raise ValueError(reason)


def _text(value: Any) -> str:
    _expect(isinstance(value, str), f"{value!r:.80} is no text")
    return str(value)


def _maybe(value: Any) -> str | None:
    return None if value is None else _text(value)


def _size(value: Any) -> int:
    _expect(isinstance(value, int) and not isinstance(value, bool), f"{value!r:.80} is no size")
    return int(value)
