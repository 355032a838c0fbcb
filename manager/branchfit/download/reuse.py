"""What is on this machine already, by hash, so that it is not fetched again.

Looked at, in this order: the commit installed in the target's place; the other models of the same models folder;
huggingface_hub's own cache. And, in the staging folder, what this very download brought under a name that the branch
has given up since. By records and sizes only: whoever takes a file from here hashes it first, and does without it if
it is another.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..hub.hub_cache import blob, blobs_folder
from .disk import can_link, delete_tree, existing_ancestor, is_plain, is_plain_folder, make_folders, plain_path
from .hashing import expected_hash
from .lockfile import BadLock, Installed, LockedFile, has_lock, read_lock
from .names import is_pickle, is_weights, unsafe_name
from .partmap import SUFFIX, here_bytes
from .staging import Staging

FORMER = "the commit installed here"
HUB_CACHE = "huggingface_hub's cache"
RENAMED = "renamed"
"""Below a staging folder: verified files on the way from the name they had to the one they are to have, by hash."""


@dataclass(frozen=True)
class Source:
    """A file on this machine that should have a wanted file's content. `origin` is what it is part of, in words.

    `link` says that it may get a second name; else it is to be copied: what a person or another program rewrites in
    place must not change under us, nor ours under them.
    """

    path: Path
    origin: str
    link: bool


Sources = Mapping[str, Sequence[Source]]
"""Path of a wanted file -> where its content may be had, the best first; no entry where nowhere."""


def find_sources(target: Path, repo: str, wanted: Sequence[LockedFile], former: bool) -> Sources:
    """Where each of these files may be had on this machine: plain files of the right size, below plain folders.

    `former` says whether the target is a model whose files may be used. Raises `DownloadError` where that one's lock
    cannot be read; other models of which something cannot be read have nothing to give.
    """
    found: dict[str, list[Source]] = {}
    models = [_Model(read_lock(target), FORMER, is_former=True)] if former else []
    for model in (*models, *(_Model(lock, lock.name) for lock in _neighbours(target))):
        for file in wanted:
            source = model.source(file)
            if source is not None:
                found.setdefault(file.path, []).append(source)
    blobs = blobs_folder(repo)
    if blobs is not None:
        for file in wanted:
            path = blob(blobs, expected_hash(file), file.size_bytes)
            if path is not None:
                found.setdefault(file.path, []).append(Source(path, HUB_CACHE, _may_link(path, file.path)))
    return found


class _Model:
    """An installed model as a place to have files from."""

    def __init__(self, lock: Installed, origin: str, is_former: bool = False) -> None:
        self._folder = lock.folder
        self._origin = origin
        self._is_former = is_former
        self._by_hash = {expected_hash(file): file for file in lock.files}

    def source(self, file: LockedFile) -> Source | None:
        locked = self._by_hash.get(expected_hash(file))
        if locked is None:
            return None
        path = plain_path(self._folder, locked.path)
        found = _plain_stat(path)
        if path is None or found is None or found.st_size != file.size_bytes:
            return None
        # The former folder goes when this one comes, so that its files have one name again.
        return Source(path, self._origin, self._is_former or _may_link(path, locked.path))


def _neighbours(target: Path) -> Iterator[Installed]:
    """The locks of the other models in the target's models folder; links are not followed."""
    try:
        folders = sorted(target.parent.iterdir())
    except OSError:  # not there yet, or closed to us
        return
    for folder in folders:
        if folder != target and is_plain_folder(folder) and has_lock(folder):
            with contextlib.suppress(BadLock):
                yield read_lock(folder)


def _plain_stat(path: Path | None) -> os.stat_result | None:
    """The lstat of a plain file; None for what is none, or not there."""
    try:
        found = path.lstat() if path is not None else None
    except OSError:
        return None
    return found if found is not None and stat.S_ISREG(found.st_mode) else None


def _may_link(path: Path, name: str) -> bool:
    """True for weights of our own: nobody edits them in place, and nobody else can. All else is small, or not safe."""
    if not (is_weights(name) or is_pickle(name)):
        return False
    found = _plain_stat(path)
    return found is not None and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())


def copied_bytes(sources: Sources, taken: Sequence[LockedFile], folder: Path) -> list[int]:
    """The sizes of those files that will be copied into `folder`, which may not be there yet, rather than linked.

    Whether a place has links to give is tried once for each origin.
    """
    place, links = existing_ancestor(folder), dict[str, bool]()
    sizes = []
    for file in taken:
        source = sources[file.path][0]
        if source.link and source.origin not in links:
            links[source.origin] = can_link(source.path, place)
        if not (source.link and links[source.origin]):
            sizes.append(file.size_bytes)
    return sizes


def renamed(staging: Staging, wanted: Sequence[LockedFile]) -> dict[str, tuple[Path, int]]:
    """Path -> what is staged of that very content under a name that none of `wanted` has, and its bytes; looks only.

    A whole file is one that the journal vouches for; else it is a part of one. A file of which something is staged
    under its own name needs nothing.
    """
    paths, parts = {file.path for file in wanted}, {staging.part(file) for file in wanted}
    whole = {path.name: path for path in _plain_files(staging.folder / RENAMED)}
    for name, (size_bytes, mtime_ns, digest) in staging.journal.entries().items():
        if name in paths or not isinstance(name, str) or unsafe_name(name):  # a journal is read as untrusted
            continue
        place = plain_path(staging.files, name)
        on_disk = _plain_stat(place)
        if place is not None and on_disk and (on_disk.st_size, on_disk.st_mtime_ns) == (size_bytes, mtime_ns):
            whole[digest] = place
    partly = {
        path.name.partition("-")[0]: path
        for path in _plain_files(staging.parts)
        if path.suffix == ".part" and path not in parts
    }
    found: dict[str, tuple[Path, int]] = {}
    for file in wanted:
        if _plain_stat(plain_path(staging.files, file.path)) or _plain_stat(staging.part(file)):
            continue
        digest = expected_hash(file)
        if digest in whole:
            path, size_bytes = whole.pop(digest), file.size_bytes
        elif digest in partly:
            path = partly.pop(digest)
            size_bytes = here_bytes(path, file.size_bytes)
        else:
            continue
        found[file.path] = path, size_bytes
    return found


def keep_renamed(staging: Staging, wanted: Sequence[LockedFile]) -> None:
    """`Staging.prune`, after which what was staged under a former name has the new one. Raises `OSError`.

    A file that is moved so is hashed before it counts, as any that the journal does not name.
    """
    moves = renamed(staging, wanted)
    on_the_way: list[tuple[Path, LockedFile]] = []
    for file in wanted:
        if file.path not in moves:
            continue
        path, _ = moves[file.path]
        if path.parent == staging.parts:
            _rename_part(path, staging.part(file))
            continue
        # Its new folder may have the name of a file that is about to go: aside, until that is gone.
        aside = make_folders(staging.folder, f"{RENAMED}/{expected_hash(file)}")
        if path != aside:
            path.replace(aside)
        on_the_way.append((aside, file))
    staging.prune(wanted)
    for aside, file in on_the_way:
        aside.replace(make_folders(staging.files, file.path))
    delete_tree(staging.folder / RENAMED)


def _rename_part(path: Path, place: Path) -> None:
    """Its map is there before it: without one, all bytes of a part would be believed."""
    old, new = (one.with_name(one.name + SUFFIX) for one in (path, place))
    delete_tree(new)
    if is_plain(old):
        shutil.copyfile(old, new)
    path.replace(place)
    delete_tree(old)


def _plain_files(folder: Path) -> list[Path]:
    """The plain files in a folder that is no link; none where it is not there."""
    with contextlib.suppress(OSError):
        if is_plain_folder(folder):
            return [path for path in sorted(folder.iterdir()) if is_plain(path)]
    return []
