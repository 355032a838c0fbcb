"""The Hub's JSON answers, read with suspicion: refs, a commit's files, and JSON files of a repo."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from ..errors import HubUnreachable
from .http import Asked, Transport
from .state import RepoFile

MAX_API_BYTES = 64 * 1024 * 1024
"""Cap on an API answer: a commit of 100,000 files takes about 30 MB."""

MAX_SMALL_FILE_BYTES = 8 * 1024 * 1024
"""Cap on cards and config files. The largest config seen among the cards' repos has under 100 KB."""


def is_commit(revision: str) -> bool:
    """Whether this is a full commit id, which never changes its meaning."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def read_refs(transport: Transport, asked: Asked) -> dict[str, str]:
    """Branch -> commit, in the Hub's order."""
    data = transport.get_json(asked, MAX_API_BYTES)
    try:
        branches = {item["name"]: item["targetCommit"] for item in data["branches"]}
        odd = [name for name, commit in branches.items() if not isinstance(name, str) or not is_commit(commit)]
    except (TypeError, KeyError) as error:
        raise HubUnreachable(asked.url, "what came back is not a list of branches") from error
    if odd:
        raise HubUnreachable(asked.url, f"it gives no commit for the branch {odd[0]!r}")
    return branches


def read_info(transport: Transport, asked: Asked) -> tuple[str, tuple[RepoFile, ...]]:
    """The commit and its files, from `revision/{rev}?blobs=true`."""
    data = transport.get_json(asked, MAX_API_BYTES)
    try:
        commit, files = data["sha"], tuple(_file(item) for item in data["siblings"])
    except (TypeError, KeyError, ValueError) as error:
        raise HubUnreachable(asked.url, "what came back is not a list of files with their sizes") from error
    if not isinstance(commit, str) or not is_commit(commit):
        raise HubUnreachable(asked.url, "what came back names no commit")
    return commit, files


def _file(item: Any) -> RepoFile:
    lfs = item.get("lfs") or {}
    path, size = item["rfilename"], lfs.get("size", item["size"])
    if not isinstance(path, str) or type(size) is not int or size < 0:
        raise ValueError("a file without name or size")
    blob_id, sha256 = item.get("blobId"), lfs.get("sha256")
    return RepoFile(path, size, blob_id if isinstance(blob_id, str) else None, sha256)


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
