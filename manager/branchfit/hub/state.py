"""What the Hub says of a repo, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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

    `as_of` is None for an answer fresh from the Hub; otherwise the Hub gave none, and this is what it said at
    that moment (UTC), with `as_of_reason` why: "the connection was refused", "the Hub answered 500".
    `problems` are sentences about the repo as a whole: branches that were left out, a card that was not read.
    """

    repo: str
    readme: str | None
    readme_branch_commit: str | None
    branches: tuple[BranchState, ...]
    as_of: datetime | None = None
    as_of_reason: str | None = None
    problems: tuple[str, ...] = ()


def is_commit(revision: Any) -> bool:
    """Whether this is a full commit id, which never changes its meaning."""
    return isinstance(revision, str) and _COMMIT.fullmatch(revision) is not None


def plain(text: str) -> str:
    """Text from elsewhere as a terminal may show it: control characters and text direction marks are spelt out."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def is_file(file: RepoFile) -> bool:
    """Whether the fields hold what they are said to hold; JSON can put anything there."""
    return (
        isinstance(file.path, str)
        and _is_text(file.path)
        and type(file.size_bytes) is int
        and file.size_bytes >= 0
        and (file.blob_id is None or is_commit(file.blob_id))
        and (file.sha256 is None or (isinstance(file.sha256, str) and _SHA256.fullmatch(file.sha256) is not None))
    )


def is_tensor(entry: TensorEntry) -> bool:
    """Whether the fields hold what they are said to hold."""
    numbers = (*entry.shape, entry.size_bytes)
    return (
        isinstance(entry.name, str)
        and isinstance(entry.dtype, str)
        and all(type(number) is int and number >= 0 for number in numbers)
    )


def _is_text(path: str) -> bool:
    # JSON can spell half a surrogate pair, which no URL and no file name can.
    return path != "" and not any("\ud800" <= character <= "\udfff" for character in path)
