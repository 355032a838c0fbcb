"""Where a model grows until it is whole: beside the models folder, on its file system, never in it.

The webui lists every folder in models/, dotted ones too, so an unfinished one must lie elsewhere;
and only within one file system is a rename of the whole folder a single step.

    <models_dir>/../.branchfit-staging/
        <folder>-<which models folder>/
            files/...     whole, verified files under their own names; renamed into place as one
            parts/...     unfinished files, named by content and path: a moved branch keeps what it shares
            bad/...       files whose checksum was wrong, for whoever wants to look
            old/          the former folder, for the moment of a swap
            removed/      what is being deleted
            journal.jsonl what it is for, and which of files/ were verified, with their size and mtime then

A kill at any moment leaves nothing that is believed: a file counts when the journal names it with the
expected hash and it still has the size and mtime it was verified with (it was fsynced before); all
else is hashed again. And it loses nothing: `old` goes back to its place, or goes when the journal's
commit stands there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import DownloadError
from .disk import (
    delete_tree,
    folders,
    is_plain,
    is_plain_folder,
    is_vacant,
    make_folders,
    plain_path,
    sync,
    walk,
)
from .hashing import expected_hash
from .journal import Journal, Purpose
from .lockfile import BadLock, read_lock
from .locks import FolderLock, hold
from .names import ListedFile
from .notice import Holder, Notice
from .partmap import SUFFIX as PART_MAP
from .partmap import here_bytes
from .places import STAGING_NAME, candidates

NAME_BYTES = 200
"""How much of a folder's name its staging folder keeps: with what is added it stays below NAME_MAX, 255."""


class Stopped(Exception):
    """The pull was told to stop; what is on disk is kept. Never leaves this package."""


class Staging:
    """The staging folder of one model folder, `target`. Made by `prepare`; looking makes nothing."""

    def __init__(self, root: Path, target: Path) -> None:
        self.root = root
        self.target = target
        short = target.name.encode("utf-8", "surrogateescape")[:NAME_BYTES].decode("utf-8", "ignore")
        # Several models folders can share a root: the parent's path tells whose it is.
        self.folder = root / f"{short}-{hashlib.sha256(os.fsencode(target)).hexdigest()[:8]}"
        self.files = self.folder / "files"
        self.parts = self.folder / "parts"
        self.bad = self.folder / "bad"
        self.old = self.folder / "old"
        self.removed = self.folder / "removed"
        self.journal = Journal(self.folder / "journal.jsonl")
        self._write = threading.Condition()
        self._writers = 0
        self._closed = False
        self._folder_lock = FolderLock()
        self._patience: tuple[bool, Callable[[Holder], None] | None] = (False, None)

    @contextlib.contextmanager
    def locked(self, wait: bool = True, on_wait: Callable[[Holder], None] | None = None) -> Iterator[Notice]:
        """Hold the target's lock (see `locks.hold`), after it `check`. Use the object for one holding only."""
        with hold(self.target, self.root, wait=wait, on_wait=on_wait) as notice:
            self.check()
            self._patience = (wait, on_wait)
            try:
                self._take_folder()
                yield notice
            finally:
                self._folder_lock.release()
                with self._write:
                    self._closed = True
                    while self._writers:
                        self._write.wait()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """For worker threads, around each change on disk: raises `Stopped` once the lock was given back.

        A worker can outlive a stop, in an fsync or a read that takes its time; another process may be
        at work here by then.
        """
        with self._write:
            if self._closed:
                raise Stopped
            self._writers += 1
        try:
            yield
        finally:
            with self._write:
                self._writers -= 1
                if not self._writers:
                    self._write.notify_all()

    def check(self) -> None:
        """Raise `DownloadError` where a link, or anything else, stands in a folder's place: nothing goes through it."""
        for path in (self.root, self.folder, self.files, self.parts, self.bad, self.old, self.removed):
            if not is_plain_folder(path) and (path.is_symlink() or path.exists()):
                raise DownloadError(
                    f"{path} should be a folder and is a link or something else: remove it, then try again."
                )

    def recover(self) -> int:
        """Undo or end a swap that was killed halfway, and a removal; return the bytes of disk given back.

        The former folder goes back if its place is empty, and goes away if the commit it made room for
        stands there. Raises `DownloadError` where something else does.
        """
        freed_bytes = 0
        if is_plain_folder(self.old):
            if is_vacant(self.target):
                if is_plain_folder(self.target):
                    self.target.rmdir()  # Windows renames nothing onto a folder
                self.old.rename(self.target)
                sync(self.target.parent)
            elif self._landed():
                freed_bytes = self.drop(self.old)
            else:
                raise DownloadError(
                    f"an update of {self.target} was interrupted: the model it had is {self.old}, and something else "
                    f"has taken its place since. Move that away, then try again."
                )
        return freed_bytes + delete_tree(self.removed)

    def drop(self, folder: Path) -> int:
        """Delete a folder that leaves its place in one step before; return the bytes given back."""
        make_folders(self.folder, "")
        freed_bytes = delete_tree(self.removed)
        folder.rename(self.removed)
        return freed_bytes + delete_tree(self.removed)

    def prune(self, files: Sequence[ListedFile]) -> None:
        """Delete what was staged and none of these files can use: the branch moved, or another repo was first."""
        paths = {file.path for file in files}
        parts = {name for file in files for name in (self.part(file).name, self.part(file).name + PART_MAP)}
        for folder, useful in ((self.files, paths), (self.parts, parts)):
            if not is_plain_folder(folder):
                continue  # not made yet
            for relative, _ in list(walk(folder)):
                if relative not in useful:
                    delete_tree(folder / relative)
            for relative in reversed(list(folders(folder))):  # one of them may stand where a file is to be
                with contextlib.suppress(OSError):  # not empty
                    (folder / relative).rmdir()

    def prepare(self, files: Sequence[ListedFile], repo: str, branch: str, commit: str) -> None:
        """Make the folders, and begin the journal anew with what it can still vouch for."""
        make_folders(self.folder, "")
        self._take_folder()
        for folder in (self.files, self.parts):
            make_folders(folder, "")
        verified, prefixes = self.verified(files), self.journal.prefixes()
        self.journal.begin(Purpose(self.target.name, repo, branch, commit, str(self.target)))
        for file in files:
            if file.path in verified:
                self.journal.add(file, (self.files / file.path).lstat(), prefixes.get(file.path, ()))

    def _take_folder(self) -> None:
        self._folder_lock.take(self.folder, self.target.name, *self._patience)

    def is_under_way(self) -> bool:
        """True where something in it was begun and is not whole: a pull, or a repair, would go on with it."""
        return is_plain_folder(self.parts) and next(walk(self.parts), None) is not None

    def part(self, file: ListedFile) -> Path:
        """Where an unfinished file grows. Its name tells the content and the path it is to have."""
        place = hashlib.sha256(file.path.encode()).hexdigest()[:12]
        return self.parts / f"{expected_hash(file)}-{place}.part"

    def verified(self, files: Sequence[ListedFile]) -> set[str]:
        """The paths among `files` that are staged, whole, and as they were when their hash was checked."""
        entries, found = self.journal.entries(), set()
        for file in files:
            staged = plain_path(self.files, file.path)
            if staged is None or not is_plain(staged):
                continue
            on_disk = staged.lstat()
            if entries.get(file.path) == (on_disk.st_size, on_disk.st_mtime_ns, expected_hash(file)):
                found.add(file.path)
        return found

    def staged_bytes(self, file: ListedFile) -> int:
        """Bytes of an unverified file that are on disk already, at most its size."""
        staged = plain_path(self.files, file.path)
        if staged is not None and is_plain(staged):
            size = staged.lstat().st_size
            return size if size <= file.size_bytes else 0
        part = self.part(file)
        return here_bytes(part, file.size_bytes) if is_plain(part) else 0

    def keep(self, path: Path, file: ListedFile, prefixes: Sequence[str] = ()) -> None:
        """Move a whole, verified file (a part, or a second name of one installed) to its name, and record it.

        It is brought to the disk first, so that the record is never older than the bytes.
        """
        sync(path)
        with self.writing():
            staged = make_folders(self.files, file.path)
            if path != staged:
                path.replace(staged)
            with self._write:  # a line each
                self.journal.add(file, staged.lstat(), prefixes)

    def set_aside(self, part: Path, file: ListedFile) -> Path:
        """Move a bad file out of the way, to be looked at; return where it is."""
        with self.writing():
            kept = make_folders(self.bad, file.path)
            part.replace(kept)
        return kept

    def sync_folders(self) -> None:
        """Bring the journal and every folder of the model to the disk, before it takes its place."""
        sync(self.journal.path)
        for folder in (self.folder, self.files, *(self.files / relative for relative in folders(self.files))):
            sync(folder)

    def clear(self) -> int:
        """Delete the staging folder, the journal last; return the bytes given back. `recover` must have been."""
        freed_bytes = sum(delete_tree(path) for path in (self.files, self.parts, self.bad, self.removed))
        freed_bytes += delete_tree(self.folder)
        if self.root.name == STAGING_NAME:  # one that the user made stays
            with contextlib.suppress(OSError):  # another model's is in it
                self.root.rmdir()
        return freed_bytes

    def _landed(self) -> bool:
        """True when the commit that the journal is for stands in the target's place."""
        purpose = self.journal.purpose()
        try:
            lock = read_lock(self.target)
        except BadLock:
            return False
        return purpose is not None and (lock.repo, lock.branch, lock.commit) == (
            purpose.repo,
            purpose.branch,
            purpose.commit,
        )


def left_behind(target: Path, staging_dir: Path | None = None) -> list[Staging]:
    """The staging folders of a target (resolved) that are there, wherever pulls put them unless told otherwise."""
    found = [Staging(root, target) for root in candidates(target.parent, staging_dir)]
    return [one for one in found if one.folder.is_symlink() or one.folder.exists()]


def all_left_behind(models_dir: Path, staging_dir: Path | None = None) -> list[Staging]:
    """The staging folders of all targets in a models folder (resolved), by name."""
    found = []
    for root in candidates(models_dir, staging_dir):
        with contextlib.suppress(OSError):  # not there, or closed to us: nothing of ours
            for path in sorted(root.iterdir()):
                staging = Staging(root, models_dir / path.name.rpartition("-")[0])
                if path == staging.folder and is_plain_folder(path):
                    found.append(staging)
    return found
