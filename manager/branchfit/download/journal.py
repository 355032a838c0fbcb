"""What is known of a staging folder: what it is for, and which of its files were verified."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .disk import delete_tree, open_regular
from .hashing import expected_hash
from .names import ListedFile

MAX_HEADER_BYTES = 4096
"""Its first line: a folder, a repo, a branch (255 bytes each at most) and a commit; in JSON an escape is 6 bytes."""


@dataclass(frozen=True)
class Purpose:
    """The commit a staging folder is for, and the name of the folder it becomes."""

    folder: str
    repo: str
    branch: str
    commit: str


class Journal:
    """Lines of JSON: first the `Purpose`, then a verified file each, with the size and mtime it had then."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, purpose: Purpose) -> None:
        """Start anew. Raises `OSError`."""
        delete_tree(self.path)
        with open_regular(self.path, "wb") as stream:
            stream.write(json.dumps(asdict(purpose)).encode() + b"\n")

    def add(self, file: ListedFile, found: os.stat_result) -> None:
        """Record a verified file as it lies on disk."""
        entry = {
            "path": file.path,
            "size_bytes": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "hash": expected_hash(file),
        }
        with open_regular(self.path, "r+b") as stream:
            stream.seek(0, os.SEEK_END)
            stream.write(json.dumps(entry).encode() + b"\n")

    def purpose(self) -> Purpose | None:
        """What the folder is for, or None where that cannot be read."""
        try:
            with open_regular(self.path, "rb") as stream:
                found = json.loads(stream.readline(MAX_HEADER_BYTES))
            fields = [found[name] for name in ("folder", "repo", "branch", "commit")]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return Purpose(*fields) if all(isinstance(field, str) for field in fields) else None

    def entries(self) -> dict[str, tuple[int, int, str]]:
        """Path -> size, mtime in ns and hash, as they were when the file was verified."""
        found: dict[str, tuple[int, int, str]] = {}
        try:
            with open_regular(self.path, "rb") as stream:
                for line in stream:
                    # A torn or foreign line proves nothing.
                    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                        entry = json.loads(line)
                        found[entry["path"]] = (entry["size_bytes"], entry["mtime_ns"], entry["hash"])
        except OSError:
            return {}
        return found
