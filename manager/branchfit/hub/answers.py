"""The Hub's JSON answers, read with suspicion: refs, a commit's files, and JSON files of a repo."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import HubUnreachable, UsageError
from .address import check_branch
from .http import Asked, Transport
from .patience import Patience
from .state import RepoFile, is_commit, is_file

MAX_API_BYTES = 64 * 1024 * 1024
"""Cap on an API answer: a commit of 100,000 files takes about 30 MB."""

MAX_SMALL_FILE_BYTES = 8 * 1024 * 1024
"""Cap on cards and config files. The largest config seen among the cards' repos has under 100 KB."""

NAMES_SHOWN = 5
"""Of names that were left out so many are quoted: a line of a terminal's."""


@dataclass(frozen=True)
class Refs:
    """Branch -> commit in the Hub's order, and sentences about what was left out."""

    branches: Mapping[str, str]
    problems: tuple[str, ...] = ()


def read_refs(transport: Transport, asked: Asked, patience: Patience | None = None) -> Refs:
    """Where a repo's branches stand. Names that git would not take, or no terminal should see, are left out."""
    data = transport.get_json(asked, MAX_API_BYTES, patience)
    branches: dict[str, str] = {}
    refused: list[str] = []
    try:
        for item in data["branches"]:
            name, commit = item["name"], item["targetCommit"]
            if not isinstance(name, str) or not _is_branch(name):
                refused.append(f"{name!a:.80}")
            elif not is_commit(commit):
                raise HubUnreachable(asked.url, f"it gives no commit for the branch {name!r}")
            else:
                branches[name] = commit
    except (TypeError, KeyError) as error:
        raise HubUnreachable(asked.url, "what came back is not a list of branches") from error
    if not refused:
        return Refs(branches)
    shown = ", ".join(refused[:NAMES_SHOWN]) + (" and others" if len(refused) > NAMES_SHOWN else "")
    return Refs(branches, (f"left out, since no branch can be called so: {shown}",))


def read_info(transport: Transport, asked: Asked) -> tuple[str, tuple[RepoFile, ...]]:
    """The commit and its files, from `revision/{rev}?blobs=true`."""
    data = transport.get_json(asked, MAX_API_BYTES)
    try:
        commit, files = data["sha"], tuple(_file(item) for item in data["siblings"])
    except (TypeError, KeyError, ValueError) as error:
        raise HubUnreachable(asked.url, "what came back is not a list of files with their sizes") from error
    if not is_commit(commit):
        raise HubUnreachable(asked.url, "what came back names no commit")
    return commit, files


def _is_branch(name: str) -> bool:
    try:
        return check_branch(name) == name
    except UsageError:
        return False


def _file(item: Any) -> RepoFile:
    if not isinstance(item, dict) or not isinstance(item.get("lfs"), (dict, type(None))):
        raise TypeError("a file that is no object")
    lfs = item["lfs"] if item.get("lfs") is not None else {}
    size = lfs["size"] if "size" in lfs else item["size"]
    file = RepoFile(item["rfilename"], size, item.get("blobId"), lfs.get("sha256"))
    if not is_file(file):
        raise ValueError("a file without name or size")
    return file


def json_object(name: str, data: bytes) -> tuple[dict[str, Any] | None, str]:
    """The JSON object in a file, or None and what is wrong with it."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None, f"{name} is not UTF-8"
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        return None, f"{name} is not JSON{where}"
    if not isinstance(value, dict):
        return None, f"{name} holds no JSON object"
    return value, ""


def is_genuine(data: bytes, file: RepoFile) -> bool:
    """Whether these bytes are the file that the Hub lists: by sha256 for LFS, else by git's blob id."""
    if file.sha256 is not None:
        return hashlib.sha256(data).hexdigest() == file.sha256
    if file.blob_id is None:
        return len(data) == file.size_bytes
    git = hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False)
    return git.hexdigest() == file.blob_id
