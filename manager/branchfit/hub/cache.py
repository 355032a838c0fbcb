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
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from .state import RepoFile, TensorEntry

FORMAT = 1
"""Stands in every file; another number is another program's, and not read."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, zlib.error)
"""What a cut, foreign or damaged file raises when it is read as one of these."""

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

    def last(self) -> LastAnswer | None:
        def read(data: Any) -> LastAnswer:
            branches = {str(name): str(commit) for name, commit in data["branches"].items()}
            as_of = datetime.fromisoformat(data["as_of"]).astimezone(timezone.utc)
            return LastAnswer(branches, data["readme"], data["readme_commit"], as_of)

        return self._read("last.json", read)

    def keep_last(self, branches: Mapping[str, str], readme: str | None, readme_commit: str | None) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        answer = {"as_of": now, "branches": dict(branches), "readme": readme, "readme_commit": readme_commit}
        self._write("last.json", answer)

    def files(self, commit: str) -> tuple[RepoFile, ...] | None:
        return self._read(f"{commit}.files.json.gz", lambda data: tuple(RepoFile(*row) for row in data["files"]))

    def keep_files(self, commit: str, files: tuple[RepoFile, ...]) -> None:
        self._write(f"{commit}.files.json.gz", {"files": [astuple(file) for file in files]})

    def configs(self, commit: str) -> Configs | None:
        def read(data: Any) -> Configs:
            values = [data["config"], data["quantize_config"]]
            if not all(value is None or isinstance(value, dict) for value in values):
                raise TypeError("a config is no object")
            return Configs(values[0], values[1], tuple(str(problem) for problem in data["problems"]))

        return self._read(f"{commit}.configs.json.gz", read)

    def keep_configs(self, commit: str, configs: Configs) -> None:
        parsed = {"config": configs.config, "quantize_config": configs.quantize_config}
        self._write(f"{commit}.configs.json.gz", {**parsed, "problems": configs.problems})

    def tensors(self, commit: str) -> tuple[TensorEntry, ...] | None:
        def read(data: Any) -> tuple[TensorEntry, ...]:
            columns = [data["names"], data["dtypes"], data["shapes"], data["sizes"]]
            if len({len(column) for column in columns}) != 1:
                raise ValueError("columns of unequal length")
            return tuple(
                TensorEntry(name, dtype, tuple(shape), size) for name, dtype, shape, size in zip(*columns, strict=True)
            )

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
        content = json.dumps({"format": FORMAT, **data}, separators=(",", ":")).encode()
        if name.endswith(".gz"):
            content = gzip.compress(content, compresslevel=3, mtime=0)
        written: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False) as stream:
                written = Path(stream.name)
                stream.write(content)
            written.replace(self.folder / name)
        except OSError:
            if written is not None:
                with suppress(OSError):
                    written.unlink()
