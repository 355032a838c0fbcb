"""What is known of a staging folder: what it is for, and which of its files were verified."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .disk import delete_tree, open_regular
from .hashing import expected_hash
from .names import ListedFile

MAX_HEADER_BYTES = 32768
"""Its first line: a folder, a repo, a branch (255 bytes each at most), a commit and a path (PATH_MAX is 4096); in JSON
an escape is 6 bytes."""


@dataclass(frozen=True)
class Purpose:
    """The commit a staging folder is for, and the folder it becomes, by its name and (since 0.1's end) its path."""

    folder: str
    repo: str
    branch: str
    commit: str
    target: str = ""


class Journal:
    """Lines of JSON: first the `Purpose`, then a verified file each, with the size and mtime it had then."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, purpose: Purpose) -> None:
        """Start anew. Raises `OSError`."""
        delete_tree(self.path)
        with open_regular(self.path, "wb") as stream:
            stream.write(json.dumps(asdict(purpose)).encode() + b"\n")

    def add(self, file: ListedFile, found: os.stat_result, prefixes: Sequence[str] = ()) -> None:
        """Record a verified file as it lies on disk, and the hashes of its beginnings where there are any."""
        entry: dict[str, Any] = {
            "path": file.path,
            "size_bytes": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "hash": expected_hash(file),
        }
        if prefixes:
            entry["prefix_sha256"] = list(prefixes)
        with open_regular(self.path, "r+b") as stream:
            stream.seek(0, os.SEEK_END)
            stream.write(json.dumps(entry).encode() + b"\n")

    def purpose(self) -> Purpose | None:
        """What the folder is for, or None where that cannot be read."""
        try:
            with open_regular(self.path, "rb") as stream:
                found = json.loads(stream.readline(MAX_HEADER_BYTES))
            fields = [found[name] for name in ("folder", "repo", "branch", "commit")]
            fields.append(found.get("target", ""))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return Purpose(*fields) if all(isinstance(field, str) for field in fields) else None

    def entries(self) -> dict[str, tuple[int, int, str]]:
        """Path -> size, mtime in ns and hash, as they were when the file was verified."""
        return {
            entry["path"]: (entry["size_bytes"], entry["mtime_ns"], entry["hash"])
            for entry in self._lines()
            if {"path", "size_bytes", "mtime_ns", "hash"} <= entry.keys()
        }

    def prefixes(self) -> dict[str, tuple[str, ...]]:
        """Path -> the hashes of a verified file's beginnings (see `FileHash`), of those that have some."""
        found = {}
        for entry in self._lines():
            prefixes = entry.get("prefix_sha256")
            if isinstance(prefixes, list) and all(isinstance(one, str) for one in prefixes):
                found[entry["path"]] = tuple(prefixes)
        return found

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The entries; a torn or foreign line proves nothing."""
        with contextlib.suppress(OSError), open_regular(self.path, "rb") as stream:
            for line in stream:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(entry, dict) and isinstance(entry.get("path"), str):
                    yield entry
