"""What the Hub says of a repo, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class RepoFile:
    """A file of a commit. `blob_id` is git's (of the pointer, for LFS); `sha256` is there for LFS files only."""

    path: str
    size_bytes: int
    blob_id: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as a safetensors header lists it: `dtype` in safetensors' spelling, `size_bytes` in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class BranchState:
    """A branch at one commit.

    `config` and `quantize_config` are the parsed config.json and quantize_config.json, None where there is
    none. `tensors` are those of all safetensors shards, None where no header was read. `problems` are
    sentences: JSON that is none, a header that was refused, weight files between which one has to choose.
    """

    branch: str
    commit: str
    files: tuple[RepoFile, ...] = ()
    config: Mapping[str, Any] | None = None
    quantize_config: Mapping[str, Any] | None = None
    tensors: tuple[TensorEntry, ...] | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepoState:
    """A repo's branches and its card (the README of main, and the commit it was read at).

    `as_of` is None for an answer fresh from the Hub; otherwise there was no network, and this is what the
    Hub said at that moment (UTC).
    """

    repo: str
    readme: str | None
    readme_branch_commit: str | None
    branches: tuple[BranchState, ...]
    as_of: datetime | None = None
