"""What the Hub said before, on disk: a commit never changes, and the last answer serves without network.

Under the cache folder, `hub/{repo}-{hash}/`: `last.json` (where the branches stood, the card, when) and per
commit `files`, `configs` and `tensors` as gzipped JSON. Every file is written whole or not at all; one that
does not read is as good as none, and a folder that cannot be written only costs the time of asking again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UsageError
from .address import check_branch
from .state import RepoFile, TensorEntry, is_commit, is_file, is_tensor

FORMAT = 1
"""Stands in every file; another number is another program's, and not read."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, zlib.error, UsageError)
"""What a cut, foreign or damaged file raises when it is read as one of these."""

STALE_S = 3600.0
"""A half-written file older than this is nobody's: a write takes milliseconds. One that slept through it only fails."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class LastAnswer:
    """Where a repo's branches stood and what its card was, `as_of` a moment (UTC)."""

    branches: Mapping[str, str]
    readme: str | None
    readme_commit: str | None
    as_of: datetime


@dataclass(frozen=True)
class Configs:
    """config.json and quantize_config.json of a commit, parsed, and what was wrong with them."""

    config: Mapping[str, Any] | None
    quantize_config: Mapping[str, Any] | None
    problems: tuple[str, ...] = ()


def default_cache_dir() -> Path:
    """BRANCHFIT_CACHE, or the platform's folder for caches."""
    if given := os.environ.get("BRANCHFIT_CACHE"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("branchfit"))


class Cache:
    """The answers of one endpoint for one repo."""

    def __init__(self, folder: Path, endpoint: str, repo: str) -> None:
        # The name is for people, the hash tells endpoints and spellings apart (some file systems ignore case).
        readable = re.sub(r"[^A-Za-z0-9._-]", "--", repo)
        key = hashlib.sha256(f"{endpoint}\n{repo}".encode()).hexdigest()[:12]
        self.folder = folder / "hub" / f"{readable}-{key}"
        self._cleared = False

    def last(self) -> LastAnswer | None:
        def read(data: Any) -> LastAnswer:
            branches, readme, commit = data["branches"], data["readme"], data["readme_commit"]
            _expect(isinstance(branches, dict))
            for name, stood in branches.items():
                _expect(check_branch(name) == name and is_commit(stood))
            _expect(readme is None or isinstance(readme, str))
            _expect(commit is None or is_commit(commit))
            return LastAnswer(branches, readme, commit, datetime.fromisoformat(data["as_of"]).astimezone(timezone.utc))

        return self._read("last.json", read)

    def keep_last(self, branches: Mapping[str, str], readme: str | None, readme_commit: str | None) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        answer = {"as_of": now, "branches": dict(branches), "readme": readme, "readme_commit": readme_commit}
        self._write("last.json", answer)

    def files(self, commit: str) -> tuple[RepoFile, ...] | None:
        def read(data: Any) -> tuple[RepoFile, ...]:
            files = tuple(RepoFile(*row) for row in data["files"])
            _expect(all(map(is_file, files)))
            return files

        return self._read(f"{commit}.files.json.gz", read)

    def keep_files(self, commit: str, files: tuple[RepoFile, ...]) -> None:
        self._write(f"{commit}.files.json.gz", {"files": [astuple(file) for file in files]})

    def configs(self, commit: str) -> Configs | None:
        def read(data: Any) -> Configs:
            values = [data["config"], data["quantize_config"]]
            _expect(all(value is None or isinstance(value, dict) for value in values))
            _expect(all(isinstance(problem, str) for problem in data["problems"]))
            return Configs(values[0], values[1], tuple(data["problems"]))

        return self._read(f"{commit}.configs.json.gz", read)

    def keep_configs(self, commit: str, configs: Configs) -> None:
        parsed = {"config": configs.config, "quantize_config": configs.quantize_config}
        self._write(f"{commit}.configs.json.gz", {**parsed, "problems": configs.problems})

    def tensors(self, commit: str) -> tuple[TensorEntry, ...] | None:
        def read(data: Any) -> tuple[TensorEntry, ...]:
            columns = [data["names"], data["dtypes"], data["shapes"], data["sizes"]]
            if len({len(column) for column in columns}) != 1:
                raise ValueError("columns of unequal length")
            entries = tuple(
                TensorEntry(name, dtype, tuple(shape), size) for name, dtype, shape, size in zip(*columns, strict=True)
            )
            _expect(all(map(is_tensor, entries)))
            return entries

        return self._read(f"{commit}.tensors.json.gz", read)

    def keep_tensors(self, commit: str, tensors: tuple[TensorEntry, ...]) -> None:
        # By columns: 2,963 tensors of a 70B branch take 30 KB so, and read in some milliseconds.
        columns = {
            "names": [entry.name for entry in tensors],
            "dtypes": [entry.dtype for entry in tensors],
            "shapes": [entry.shape for entry in tensors],
            "sizes": [entry.size_bytes for entry in tensors],
        }
        self._write(f"{commit}.tensors.json.gz", columns)

    def _read(self, name: str, make: Callable[[Any], Found]) -> Found | None:
        try:
            content = (self.folder / name).read_bytes()
            data = json.loads(gzip.decompress(content) if name.endswith(".gz") else content)
            return make(data) if data["format"] == FORMAT else None
        except _UNREADABLE:
            return None

    def _write(self, name: str, data: dict[str, Any]) -> None:
        try:
            content = json.dumps({"format": FORMAT, **data}, separators=(",", ":")).encode()
        except RecursionError:  # a config so deep that it could just be read
            return
        if name.endswith(".gz"):
            content = gzip.compress(content, compresslevel=3, mtime=0)
        written: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear()
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False) as stream:
                written = Path(stream.name)
                stream.write(content)
            written.replace(self.folder / name)
        except OSError:
            if written is not None:
                with suppress(OSError):
                    written.unlink()

    def _clear(self) -> None:
        """Removes what writers that were killed left behind; once, since a folder of 200 branches has 600 files."""
        if self._cleared:
            return
        self._cleared = True
        for left in self.folder.glob("*.tmp"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE_S:
                    left.unlink()


def _expect(holds: bool) -> None:
    if not holds:
        raise TypeError("not what this program writes")
