"""Where a model grows until it is whole: beside the models folder, on its file system, never in it.

The webui lists every folder in models/, dotted ones too, so an unfinished one must lie elsewhere;
and only within one file system is a rename of the whole folder a single step.

    <models_dir>/../.branchfit-staging/
        <folder>.lock          held by the one pull (or remove) at work on that folder
        <folder>.pid           who holds it
        <folder>/files/...     whole, verified files under their own names; renamed into place as one
        <folder>/parts/...     unfinished files, named by content and path: a moved branch keeps what it shares
        <folder>/bad/...       files whose checksum was wrong, for whoever wants to look
        <folder>/old/          the former folder, for the moment of a swap
        <folder>/journal.jsonl which of files/ were verified, with their size and mtime then

A kill at any moment leaves nothing that is believed: a file counts when the journal names it with the
expected hash and it still has the size and mtime it was verified with (it was fsynced before); all
else is hashed again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import DownloadError
from ..hub.cache import default_cache_dir
from .disk import (
    delete_tree,
    existing_ancestor,
    is_plain,
    is_plain_folder,
    make_folders,
    open_regular,
    plain_path,
    sync,
    walk,
)
from .hashing import expected_hash
from .names import ListedFile

STAGING_NAME = ".branchfit-staging"
POLL_S = 0.2
"""How often a waiting process asks again: short beside any download, and nothing beside its cost."""


def staging_root(models_dir: Path, staging_dir: Path | None = None) -> Path:
    """The folder in which downloads for `models_dir` (resolved) grow; makes nothing.

    `staging_dir` is taken if given; else `.branchfit-staging` beside the models folder, else
    `staging` in BranchFit's cache folder. Raises `DownloadError` where none can be written or none is on the
    models folder's file system.
    """
    if staging_dir is not None:
        candidates = [staging_dir.expanduser().resolve()]
    else:
        candidates = [models_dir.parent / STAGING_NAME, default_cache_dir().resolve() / "staging"]
    why = ""
    for candidate in candidates:
        reason = _unfit(candidate, models_dir)
        if reason is None:
            return candidate
        why += f" {candidate}: {reason}."
    raise DownloadError(
        f"no folder to download into before a model appears whole in {models_dir}.{why} Give one with --staging, on "
        f"the file system of {models_dir}; where that is a mount of its own, {models_dir / STAGING_NAME} will do, and "
        f"the webui lists it while it is there."
    )


def _unfit(candidate: Path, models_dir: Path) -> str | None:
    """Why a whole folder cannot be renamed from `candidate` into `models_dir`, or None."""
    start, end = existing_ancestor(candidate), existing_ancestor(models_dir)
    if not is_plain_folder(start):
        return "it is a link or a file" if start == candidate else f"{start} is a link or a file"
    if not os.access(start, os.W_OK | os.X_OK):
        return f"{start} is not writable"
    if start.stat().st_dev != end.stat().st_dev:
        return "it is on another file system"
    # A bind mount has the same st_dev. Linux refuses to rename across mounts before it looks whether
    # the names exist (do_renameat2 in fs/namei.c), so a rename of nothing tells without a trace.
    nothing = f".branchfit-none-{os.getpid()}"
    try:
        (start / nothing).rename(end / (nothing + "-either"))
    except FileNotFoundError:
        return None
    except OSError as error:
        return "it is on another mount" if error.errno == errno.EXDEV else error.strerror or str(error)
    return None


class Staging:
    """The staging folder of one model folder. Made by `prepare`; looking makes nothing."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.folder = root / name
        self.files = self.folder / "files"
        self.parts = self.folder / "parts"
        self.bad = self.folder / "bad"
        self.old = self.folder / "old"
        self._journal = self.folder / "journal.jsonl"
        self._write = threading.Lock()

    @contextlib.contextmanager
    def locked(self, wait: bool = True, on_wait: Callable[[int | None], None] | None = None) -> Iterator[None]:
        """Hold this folder's lock, across processes; the system frees it when its holder dies.

        Where another holds it: waits, after telling `on_wait` the holder's pid; with `wait=False`
        raises `DownloadError`.
        """
        path, pid_path = self.root / f"{self.name}.lock", self.root / f"{self.name}.pid"
        for made in (path, pid_path):
            if made.is_symlink():
                raise DownloadError(f"{made} is a link, and should be a file of BranchFit's: remove it.")
        make_folders(self.root, "")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            pid = _read_pid(pid_path)
            if not wait:
                raise DownloadError(
                    f"another BranchFit (pid {pid or 'unknown'}) is at work on {self.name}: wait until it is done."
                ) from None
            if on_wait is not None:
                on_wait(pid)
            lock.acquire(poll_interval=POLL_S)
        try:
            pid_path.write_text(str(os.getpid()))
            yield
        finally:
            pid_path.unlink(missing_ok=True)
            lock.release()

    def recover(self, target: Path) -> None:
        """Undo a swap that was killed halfway: the former folder goes back if its place is empty."""
        if not is_plain_folder(self.old):
            return
        if not target.exists() and not target.is_symlink():
            self.old.rename(target)
            sync(target.parent)
        else:
            delete_tree(self.old)

    def prune(self, files: Sequence[ListedFile]) -> None:
        """Delete what was staged and none of these files can use: the branch moved, or another repo was first."""
        paths = {file.path for file in files}
        parts = {self.part(file).name for file in files}
        for folder, useful in ((self.files, paths), (self.parts, parts)):
            if not is_plain_folder(folder):
                continue  # not made yet; a link is refused by `prepare`
            for relative, _ in list(walk(folder)):
                if relative not in useful:
                    (folder / relative).unlink()
            _drop_empty_folders(folder)

    def prepare(self, files: Sequence[ListedFile], commit: str) -> None:
        """Make the folders, and begin the journal anew with what it can still vouch for."""
        for folder in (self.folder, self.files, self.parts):
            make_folders(folder, "")
        verified = self.verified(files)
        delete_tree(self._journal)
        with open_regular(self._journal, "wb") as stream:
            stream.write(json.dumps({"folder": self.name, "commit": commit}).encode() + b"\n")
        for file in files:
            if file.path in verified:
                self._record(file)

    def part(self, file: ListedFile) -> Path:
        """Where an unfinished file grows. Its name tells the content and the path it is to have."""
        place = hashlib.sha256(file.path.encode()).hexdigest()[:12]
        return self.parts / f"{expected_hash(file)}-{place}.part"

    def verified(self, files: Sequence[ListedFile]) -> set[str]:
        """The paths among `files` that are staged, whole, and as they were when their hash was checked."""
        entries: dict[str, tuple[int, int, str]] = {}
        try:
            with open_regular(self._journal, "rb") as stream:
                for line in stream:
                    with contextlib.suppress(ValueError, KeyError, TypeError):  # a torn or foreign line proves nothing
                        entry = json.loads(line)
                        entries[entry["path"]] = (entry["size_bytes"], entry["mtime_ns"], entry["hash"])
        except OSError:
            return set()
        found = set()
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
        for path in (staged, self.part(file)):
            if path is not None and is_plain(path):
                size = path.lstat().st_size
                return size if size <= file.size_bytes else 0
        return 0

    def keep(self, path: Path, file: ListedFile) -> None:
        """Move a whole, verified file (a part, or a link to one installed) to its name, and record it.

        It is brought to the disk first, so that the record is never older than the bytes.
        """
        sync(path)
        with self._write:
            staged = make_folders(self.files, file.path)
            if path != staged:
                path.replace(staged)
            self._record(file)

    def set_aside(self, part: Path, file: ListedFile) -> Path:
        """Move a bad file out of the way, to be looked at; return where it is."""
        with self._write:
            kept = make_folders(self.bad, file.path)
            part.replace(kept)
        return kept

    def bring_back(self, source: Path, file: ListedFile) -> Path:
        """A part that is a second name for (or, where the disk has none, a copy of) an installed file."""
        part = self.part(file)
        delete_tree(part)
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part, follow_symlinks=False)
        return part

    def sync_folders(self) -> None:
        """Bring every folder below files/ to the disk."""
        for folder in {self.files} | {(self.files / relative).parent for relative, _ in walk(self.files)}:
            sync(folder)

    def clear(self) -> int:
        """Delete the staging folder; return the bytes given back. Its lock file stays: deleting it would race."""
        return delete_tree(self.folder)

    def _record(self, file: ListedFile) -> None:
        found = (self.files / file.path).lstat()
        entry = {
            "path": file.path,
            "size_bytes": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "hash": expected_hash(file),
        }
        with open_regular(self._journal, "r+b") as stream:
            stream.seek(0, os.SEEK_END)
            stream.write(json.dumps(entry).encode() + b"\n")


def _read_pid(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _drop_empty_folders(base: Path) -> None:
    """Remove the empty folders below `base`: one of them may stand where a file is to be."""
    folders = [base]
    for folder in folders:
        with os.scandir(folder) as entries:
            folders += [folder / entry.name for entry in entries if is_plain_folder(folder / entry.name)]
    for folder in reversed(folders[1:]):
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()
