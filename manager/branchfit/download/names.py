"""What a Hub listing may write on this disk: which names are safe, which files are never fetched.

A listing comes from an endpoint that may be hostile, so the whole of it is judged before the first
byte. The rules are those of the strictest system a models folder is likely to meet (it is often an
NTFS or exFAT drive that another system mounts too), so that one listing is judged alike everywhere.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote

from ..errors import RefusedFiles, UsageError

LOCK_NAME = "branchfit.lock.json"
"""BranchFit's own record beside a model; a repo's file of that name is left out."""

FRESH_LOCK_NAME = LOCK_NAME + ".new"
"""The record while it is written; left out too."""

MAX_FILES = 10_000
"""The Hub itself advises fewer than 100,000 files a repo and 10,000 a folder; a quantised model has about 15."""

MAX_DEPTH = 32
"""Folders above a file. Real model repos use one or two; this keeps every walk shallow."""

MAX_FILE_BYTES = 16 * 2**40
"""16 TiB, the largest file of ext4 with 4 KiB blocks. A larger announcement is nonsense."""

MAX_COMPONENT_BYTES = 255
"""NAME_MAX of Linux and macOS; NTFS allows 255 UTF-16 units, which is never less."""

MAX_PATH_BYTES = 1024 if os.name != "nt" else 230
"""Whole path on disk. PATH_MAX is 4096 on Linux and 1024 on macOS; Windows' MAX_PATH is 260, less
thirty for the longer name of the staging folder a file passes through."""

# CreateFile's device names, from "Naming Files, Paths, and Namespaces" in the Windows documentation,
# superscript digits included; they hold with any extension.
_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789\u00b9\u00b2\u00b3"]
)
_RESERVED = frozenset('<>:"|?*')  # the same page; a colon is also NTFS's alternate data stream
# Unicode's Bidi_Control set (PropList.txt): they make a name read as another.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNPRINTABLE = {"Cc": "a control character", "Cs": "half a surrogate pair", "Zl": "a line break", "Zp": "a line break"}

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
# picklescan's extension lists (scanner.py), with the archives that hold pickles (.nemo, .mar) and the
# names that torch and cloudpickle add. Not .npy and .npz: numpy reads no pickle from them unless asked (1.16.3).
# fmt: off
_PICKLES = frozenset((
    ".bin", ".pt", ".pth", ".ptl", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".t7", ".nemo",
    ".mar", ".distcp",
))
# What a loader, a shell or a double click would run.
_CODE = frozenset((
    ".py", ".pyc", ".pyo", ".pyw", ".pyd", ".pyz", ".pyx", ".so", ".dll", ".dylib", ".sh", ".bash", ".zsh", ".fish",
    ".csh", ".ps1", ".psm1", ".bat", ".cmd", ".com", ".exe", ".msi", ".scr", ".vbs", ".vbe", ".jse", ".wsf", ".hta",
    ".lnk", ".jar", ".app", ".deb", ".rpm", ".whl", ".egg", ".run", ".appimage", ".llamafile",
))
# fmt: on
_WEIGHTS = (".safetensors", ".gguf")
_REPO = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_HASHES = {"sha256": re.compile(r"[0-9a-f]{64}"), "git blob id": re.compile(r"[0-9a-f]{40}")}


class ListedFile(Protocol):
    """A file as a listing or a lock names it: `RepoFile` or `LockedFile`."""

    @property
    def path(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def blob_id(self) -> str | None: ...


def folder_name(repo: str, branch: str) -> str:
    """The webui's name for a branch's folder: `owner_repo_branch`, and `owner_repo` for main.

    A slash in a branch name becomes an underscore. Raises `UsageError` for a repo that is no
    `owner/name`, and for a branch that makes no safe folder name. Source: `get_output_folder` in
    the webui's download-model.py. Two repos can share a name (`a/b_c`, `a_b/c`): the lock tells.
    """
    if not _REPO.fullmatch(repo) or not set(repo.split("/")).isdisjoint({".", ".."}):
        raise UsageError(f"{repo!r} is no repo: write OWNER/NAME, with letters, digits, '-', '_' and '.'.")
    name = repo.replace("/", "_") + ("" if branch == "main" else "_" + branch.replace("/", "_"))
    reason = "it is empty" if not branch else unsafe_component(name)
    if reason:
        raise UsageError(f"branch {branch!r} of {repo} cannot name a folder: {reason}.")
    return name


def is_commit(text: str) -> bool:
    """True for a git commit as the Hub writes it: hexadecimal, lower case."""
    return _COMMIT.fullmatch(text) is not None


def is_weights(path: str) -> bool:
    """True for weights in a format that holds nothing but tensors."""
    return path.lower().endswith(_WEIGHTS)


def is_pickle(path: str) -> bool:
    """True for a file that its loaders take for a pickle, compressed or not."""
    return _suffix(path) in _PICKLES


def has_weights(paths: Iterable[str], allow_pickle: bool = False) -> bool:
    """True where a model can be among these files; pickles count where they are allowed."""
    return any(is_weights(path) or (allow_pickle and is_pickle(path)) for path in paths)


def unsafe_component(name: str) -> str | None:
    """Why one file or folder name must not be made on disk, or None where it may."""
    if name in {"", ".", ".."}:
        return "it leaves its folder" if name == ".." else "it has an empty part"
    for character in name:
        kind = unicodedata.category(character)
        if kind in _UNPRINTABLE:
            return f"it holds {_UNPRINTABLE[kind]} (U+{ord(character):04X})"
        if character in _BIDI:
            return f"it holds a text direction mark (U+{ord(character):04X})"
        if character == "\\":
            return "it holds a backslash"
        if character in _RESERVED:
            return f"it holds {character!r}"
    if name[-1] in ". ":
        return "it ends in a dot or a space, which Windows drops"
    if name.split(".")[0].rstrip(" ").upper() in _DEVICES:
        return "it names a Windows device"
    if len(name.encode()) > MAX_COMPONENT_BYTES:
        return f"a part of it is longer than {MAX_COMPONENT_BYTES} bytes"
    return None


def unsafe_name(path: str) -> str | None:
    """Why a path of a listing must not be made below a folder, or None where it may."""
    if path.startswith("/"):
        return "it is absolute"
    parts = path.split("/")
    if len(parts) - 1 > MAX_DEPTH:
        return f"it lies more than {MAX_DEPTH} folders deep"
    for part in parts:
        reason = unsafe_component(part)
        if reason:
            return reason
    decoded = unquote(path)
    if decoded != path and (decoded.count("/") != path.count("/") or "\\" in decoded or ".." in decoded.split("/")):
        return "it hides a folder change in percent signs"
    return None


def left_out(path: str, allow_pickle: bool = False) -> str | None:
    """Why a file with a safe name is not fetched, or None where it is.

    Pickles run the code they hold when they are read, and code is code; a safetensors model needs
    neither. With `allow_pickle` pickles are fetched; code never is.
    """
    if path.split("/")[0].casefold() in (LOCK_NAME, FRESH_LOCK_NAME):
        return "the name is BranchFit's own"
    if not allow_pickle and is_pickle(path):
        return "a pickle: reading it runs whatever code it holds"
    if _suffix(path) in _CODE:
        return "code: BranchFit fetches none"
    return None


def _suffix(path: str) -> str:
    """What decides a file's kind: its suffix in lower case, below those of compression and of library versions."""
    name = path.rsplit("/", 1)[-1].lower().rstrip()
    while name.endswith(_COMPRESSED):
        name = name.rsplit(".", 1)[0]
    return PurePosixPath(re.sub(r"(\.so)(\.\d+)+$", r"\1", name)).suffix


def _normal(path: str) -> str:
    """One spelling for all names that some file system takes for the same: case and composition."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _collisions(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs (path, reason) of names that are one name on some file system, or a file and a folder both."""
    found: list[tuple[str, str]] = []
    files: dict[str, str] = {}  # normal form -> as it is spelt
    folders: dict[str, str] = {}
    for path in paths:
        normal = _normal(path)
        if normal in files:
            found.append((path, f"it is the same name as {files[normal]!r} on some file systems"))
            continue
        files[normal] = path
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            spelt = folders.setdefault(_normal(folder), folder)
            if spelt != folder:
                found.append((path, f"its folder is the same name as {spelt!r} on some file systems"))
    return found + [(path, "it is a file and a folder both") for normal, path in files.items() if normal in folders]


def _bad_facts(file: ListedFile) -> str | None:
    """Why a listed file's size or hashes cannot be, or None."""
    if not 0 <= file.size_bytes <= MAX_FILE_BYTES:
        return f"its size cannot be {file.size_bytes} bytes"
    given = {"sha256": file.sha256, "git blob id": file.blob_id}
    for kind, value in given.items():
        if value is not None and not _HASHES[kind].fullmatch(value):
            return f"its {kind} is none: {value[:80]!r}"
    if file.sha256 is None and file.blob_id is None:
        return "the Hub gives no hash for it, so it could not be verified"
    return None


def refused_names(files: Sequence[ListedFile], folder: Path) -> list[tuple[str, str]]:
    """Every (path, reason) of a listing that must not be written below `folder`; empty when all may."""
    if len(files) > MAX_FILES:
        return [(f"{len(files):,} files", f"more than {MAX_FILES:,} files in one branch")]
    refused: list[tuple[str, str]] = []
    room = MAX_PATH_BYTES - len(os.fsencode(folder)) - 1
    for file in files:
        reason = unsafe_name(file.path)
        if reason is None and len(file.path.encode()) > room:
            reason = f"its path below {folder} is longer than {MAX_PATH_BYTES} bytes"
        if reason is None:
            reason = _bad_facts(file)
        if reason:
            refused.append((file.path, reason))
    return refused + _collisions(file.path for file in files)


def check_listing(repo: str, files: Sequence[ListedFile], folder: Path) -> None:
    """Raise `RefusedFiles`, with every reason, if anything of a listing must not be written below `folder`."""
    refused = refused_names(files, folder)
    if refused:
        raise RefusedFiles(repo, refused)
