"""What huggingface_hub left in its own cache and in models' folders; its own clients of any version count as alive.

Names it gives (file_download.py and _local_folder.py of 0.16.4, 0.23.4 and 2.4):

    CACHE/REPO/blobs/<etag>.incomplete              to 1.17, which goes on with it when asked for the file again
    CACHE/REPO/blobs/<etag>.<8 hex>.incomplete      from 1.18 on: a new name each time; kill -9 leaves it
    CACHE/tmp<8>                                    0.16, from Python's tempfile
    CACHE/.locks/REPO/<etag>.lock, CACHE/REPO/blobs/<etag>.lock (0.16)
    MODEL/.cache/huggingface/download/<name>.<etag>.incomplete
                                     /<hash of name>.<etag>.incomplete, or with <8 hex> as above
                                     /<name>.metadata, <name>.lock
    MODEL/.cache/huggingface/trees/<commit>.json, .gitignore, CACHEDIR.TAG
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from ..disk import is_plain, is_plain_folder, walk
from .census import plain_files
from .leftovers import Orphan, orphan

INCOMPLETE = ".incomplete"
NOTES = ".cache/huggingface"
"""Where huggingface_hub writes down what it downloaded into a folder of the user's (`local_dir`)."""

_OF_ONE_RUN = re.compile(r"\.[0-9a-f]{8}\.incomplete$")
_TEMPORARY = re.compile(r"tmp[a-z0-9_]{8}")
"""Python's tempfile: its prefix and eight of `_RandomNameSequence.characters`."""

_NEVER = "a killed huggingface_hub left it half downloaded, and none goes on with such a one"
_OLDER = "huggingface_hub left it half downloaded; only versions up to 1.17 would go on with it"


def in_cache(cache: Path, linked: Collection[Path]) -> Iterator[Orphan | None]:
    """The orphans of huggingface_hub's cache (resolved). `linked` are files that links elsewhere lead to."""
    names = _names(cache)
    old_locks: list[Path] = []
    for name in names:
        repo = cache / name
        if "--" in name and is_plain_folder(repo) and is_plain_folder(repo / "blobs"):
            yield from _in_repo(cache, repo, linked)
            locks = [path for path in _plain_in(repo / "blobs") if path.suffix == ".lock"]
            old_locks += locks
            yield orphan(repo / "blobs", "locks", "lock files of huggingface_hub 0.16, for downloads", cache, locks)
    for name in names:
        if _TEMPORARY.fullmatch(name) and is_plain(cache / name):
            why = "huggingface_hub 0.16 was killed and left it; its name says not even of what"
            yield orphan(cache / name, "partial", why, cache, [cache / name], old_locks)
    if is_plain_folder(cache / ".locks"):
        for folder in [cache / ".locks" / name for name in _names(cache / ".locks")]:
            if is_plain_folder(folder):
                locks = [path for path in _plain_in(folder) if path.suffix == ".lock"]
                why = "lock files of downloads that ended; huggingface_hub makes new ones as it needs them"
                yield orphan(folder, "locks", why, cache, locks)


def _in_repo(cache: Path, repo: Path, linked: Collection[Path]) -> Iterator[Orphan | None]:
    referred = is_referred(repo)
    for path in _plain_in(repo / "blobs"):
        if path.name.endswith(INCOMPLETE):
            etag = _OF_ONE_RUN.sub("", path.name).removesuffix(INCOMPLETE)
            why = _NEVER if _OF_ONE_RUN.search(path.name) else _OLDER
            if is_plain(path.with_name(etag)):
                why += "; the whole file is there too"
        elif path.suffix != ".lock" and referred is not None and path not in linked and not referred(path):
            etag, why = path.name, "no snapshot of the repo refers to it"
        else:
            continue
        locks = [cache / ".locks" / repo.name / f"{etag}.lock", path.with_name(f"{etag}.lock")]
        yield orphan(path, "partial" if path.name.endswith(INCOMPLETE) else "blob", why, cache, [path], locks)


def is_referred(repo: Path) -> Callable[[Path], bool] | None:
    """Tells of a blob whether a snapshot of this repo refers to it, by a link or as a second name of it.

    None where that cannot be known: the snapshots are a link, or cannot be read.
    """
    snapshots = repo / "snapshots"
    if not is_plain_folder(snapshots):
        return None if snapshots.is_symlink() or snapshots.exists() else lambda blob: False
    try:
        files = list(walk(snapshots))
        links = {target_of(snapshots / path) for path, found in files if stat.S_ISLNK(found.st_mode)}
        own = {(found.st_dev, found.st_ino) for _, found in plain_files(snapshots)}
    except OSError:
        return None

    def referred(blob: Path) -> bool:
        found = blob.lstat()
        return blob in links or (found.st_dev, found.st_ino) in own

    return referred


def target_of(link: Path) -> Path:
    """What a link names, its folder without links. One step: a blob can be a link in its turn. Raises `OSError`."""
    target = link.parent / link.readlink()
    try:
        return target.parent.resolve() / target.name
    except RuntimeError as error:  # a loop of links, before Python 3.13
        raise OSError(str(error)) from error


def links_of(models_dir: Path) -> set[Path]:
    """Where the links in a models folder lead: some users link weights there from huggingface_hub's cache."""
    found: set[Path] = set()
    for path in [models_dir / name for name in _names(models_dir)]:
        with contextlib.suppress(OSError, RuntimeError):  # closed to us, or a loop of links (before Python 3.13)
            below = [relative for relative, _ in walk(path)] if is_plain_folder(path) else [""]
            for link in [path / relative for relative in below]:
                if link.is_symlink():
                    found |= {target_of(link), link.resolve()}
    return found


def in_folder(folder: Path, within: Path, own: Collection[str]) -> Iterator[Orphan | None]:
    """What huggingface_hub left in a folder that it was told to download into. `own` are the author's files there."""
    if not (is_plain_folder(folder / ".cache") and is_plain_folder(folder / NOTES)):
        return
    base, download = folder / NOTES, folder / NOTES / "download"
    with contextlib.suppress(OSError):  # closed to us: nothing of it is known
        below = [base / path for path, _ in plain_files(base) if f"{NOTES}/{path}" not in own]
        locks = [path for path in below if path.suffix == ".lock" and download in path.parents]
        for path in below:
            if path.name.endswith(INCOMPLETE) and download in path.parents:
                why = _NEVER if _OF_ONE_RUN.search(path.name) else _OLDER
                yield orphan(path, "partial", why, within, [path], [lock for lock in locks if _is_lock_of(lock, path)])
        yield orphan(
            base,
            "bookkeeping",
            f"huggingface_hub's notes on what it downloaded into {folder.name}; no loader reads them, and without them "
            f"it only hashes the files again, if it is told to download there once more",
            within,
            _notes(base, below),
        )


def _notes(base: Path, below: Sequence[Path]) -> list[Path]:
    """Of the files below `.cache/huggingface`, those that a download made. An upload's serve to go on with it."""
    kept = not is_plain_folder(base / "upload")
    found = []
    for path in below:
        first, *rest = path.relative_to(base).parts
        if rest:
            mine = (first == "download" and path.suffix in (".metadata", ".lock")) or (
                first == "trees" and len(rest) == 1
            )
        else:
            mine = kept and first in (".gitignore", ".gitignore.lock", "CACHEDIR.TAG")
        found += [path] if mine else []
    return found


def _is_lock_of(lock: Path, partial: Path) -> bool:
    """True for the lock that is held while `partial` is written, by either way of naming it."""
    hashed = base64.urlsafe_b64encode(hashlib.sha1(f"{lock.stem}.metadata".encode(), usedforsecurity=False).digest())
    names = (f"{lock.stem}.", f"{hashed.decode()}.")
    return lock.parent == partial.parent and partial.name.startswith(names)


def _plain_in(folder: Path) -> list[Path]:
    return [path for path in (folder / name for name in _names(folder)) if is_plain(path)]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:  # not there, or closed to us
        return []
