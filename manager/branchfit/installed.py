"""The models on disk: list, find, verify, remove.

A model is a folder with a lock that BranchFit wrote. Everything else in a models folder is reported,
never touched: the webui's own downloads, a lock that cannot be read, links to elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .download.disk import delete_tree, is_plain, is_plain_folder, plain_path, walk
from .download.events import Event, FileBad, FileStarted, FileVerified, OnEvent, Progress
from .download.hashing import expected_hash, hash_file, hash_name
from .download.lockfile import BadLock, Installed, LockedFile, has_lock, read_lock
from .download.names import LOCK_NAME
from .download.staging import STAGING_NAME, Staging, staging_root
from .errors import DownloadError, NotInstalled, UsageError

__all__ = [
    "BadFile",
    "Installed",
    "Inventory",
    "LockedFile",
    "UnknownFolder",
    "VerifyReport",
    "disk_use_bytes",
    "find",
    "installed",
    "remove",
    "scan",
    "verify",
]


@dataclass(frozen=True)
class UnknownFolder:
    """A folder in the models folder that BranchFit did not make, or whose lock cannot be read."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Inventory:
    """What lies in a models folder, each by name."""

    installed: tuple[Installed, ...]
    unknown: tuple[UnknownFolder, ...]


@dataclass(frozen=True)
class BadFile:
    """A file that is not what the Hub published. `actual` is its hash, or a word for what is there instead."""

    path: str
    expected: str
    actual: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found. `extra` are files the pull did not bring; they are reported and do no harm."""

    installed: Installed
    checked_bytes: int
    bad: tuple[BadFile, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True when every file is there and has the Hub's hash."""
        return not self.bad and not self.missing


def scan(models_dir: Path) -> Inventory:
    """All folders in `models_dir` (none where it is missing), from their locks alone: no model file is read.

    Raises `DownloadError` where the folder cannot be listed.
    """
    models_dir = models_dir.expanduser()
    known: list[Installed] = []
    unknown: list[UnknownFolder] = []
    try:
        folders = sorted(path for path in models_dir.iterdir() if path.is_dir() and path.name != STAGING_NAME)
    except FileNotFoundError:
        return Inventory((), ())
    except OSError as error:
        raise DownloadError(f"{models_dir} cannot be listed: {error.strerror or error}.") from error
    for folder in folders:
        if not has_lock(folder):
            unknown.append(UnknownFolder(folder, f"no {LOCK_NAME}: not made by BranchFit"))
            continue
        try:
            known.append(read_lock(folder))
        except BadLock as error:
            unknown.append(UnknownFolder(folder, f"its {LOCK_NAME} cannot be read: {error.reason}"))
    return Inventory(tuple(known), tuple(unknown))


def installed(models_dir: Path) -> list[Installed]:
    """The models BranchFit put into `models_dir`, by folder name. Raises as `scan` does."""
    return list(scan(models_dir).installed)


def find(models_dir: Path, name: str) -> Installed:
    """The model of that folder name, `repo:branch`, or `repo` (its main branch, or the only one there is).

    Spelling first, then without regard to case. Raises `NotInstalled`, which names what is there;
    `UsageError` where `repo` has several branches and none is main; `BadLock` for a folder of that
    name whose lock cannot be read.
    """
    known = installed(models_dir)
    for fold in (str, str.casefold):
        wanted = fold(name)
        exact = [one for one in known if wanted in (fold(one.name), fold(f"{one.repo}:{one.branch}"))]
        of_repo = [one for one in known if fold(one.repo) == wanted]
        found = exact or [one for one in of_repo if one.branch == "main"] or of_repo
        if len(found) > 1:
            raise UsageError(
                f"{name} is several models: {', '.join(f'{one.repo}:{one.branch}' for one in found)}. Name one."
            )
        if found:
            return found[0]
    folder = models_dir.expanduser() / name
    if name and folder.parent == models_dir.expanduser() and has_lock(folder):
        read_lock(folder)  # says what is wrong with it
    raise NotInstalled(name, models_dir, [one.name for one in known])


def verify(model: Installed, on_event: OnEvent | None = None) -> VerifyReport:
    """Hash every file of a model and compare with what the Hub said when it was pulled; changes nothing.

    A link in a file's place is bad, wherever it points. `on_event` gets `FileStarted`, `Progress`, and
    `FileVerified` or `FileBad` for each file. Raises `DownloadError` where the folder cannot be read.
    """
    tell = on_event or _ignore
    bad: list[BadFile] = []
    missing: list[str] = []
    checked_bytes = 0
    for file in model.files:
        place = plain_path(model.folder, file.path)
        if place is None or not (place.exists() or place.is_symlink()):
            missing.append(file.path)
            continue
        tell(FileStarted(file.path, 0, file.size_bytes))
        actual = _actual(place, file, _overall(tell, file, checked_bytes, model.size_bytes))
        expected = expected_hash(file)
        checked_bytes += file.size_bytes
        if actual == expected:
            tell(FileVerified(file.path, file.size_bytes, hash_name(file), expected))
        else:
            bad.append(BadFile(file.path, expected, actual))
            tell(FileBad(file.path, expected, actual))
    own = {file.path for file in model.files} | {LOCK_NAME}
    try:
        extra = sorted(relative for relative, _ in walk(model.folder) if relative not in own)
    except OSError as error:
        raise DownloadError(f"{model.folder} cannot be listed: {error.strerror or error}.") from error
    return VerifyReport(model, checked_bytes, tuple(bad), tuple(missing), tuple(extra))


def disk_use_bytes(model: Installed) -> int:
    """Bytes of all plain files in a model's folder, those not of the pull too."""
    return sum(found.st_size for relative, found in walk(model.folder) if is_plain(model.folder / relative))


def remove(model: Installed | Path, *, force: bool = False, staging_dir: Path | None = None) -> int:
    """Delete a model (or a folder, given by its path); return the bytes of disk given back.

    It leaves the models folder in one step, so that the webui never lists half of it, and is deleted
    beside it. Links inside are deleted, what they point at is not; of a folder that is a link itself,
    only the link goes. Raises `NotInstalled` where nothing is there; `DownloadError` for a folder
    without a readable lock (unless `force`), one that another BranchFit is at work on, or one that
    will not go.
    """
    folder = (model if isinstance(model, Path) else model.folder).expanduser().absolute()
    if not folder.is_symlink() and not folder.is_dir():
        raise NotInstalled(folder.name, folder.parent, [one.name for one in installed(folder.parent)])
    if not force:
        if not has_lock(folder):
            raise DownloadError(
                f"{folder} was not made by BranchFit (it has no {LOCK_NAME}): remove it yourself, or force it."
            )
        read_lock(folder)
    try:
        if folder.is_symlink():
            folder.unlink()
            return 0
        staging = _staging_for(folder, staging_dir)
        if staging is None:
            return _remove_in_place(folder)
        with staging.locked(wait=False):
            return _remove_aside(folder, staging)
    except OSError as error:
        raise DownloadError(
            f"{folder} could not be removed: {error.strerror or error} ({error.filename}). Is a program using it? Try "
            f"again."
        ) from error


def _remove_aside(folder: Path, staging: Staging) -> int:
    staging.folder.mkdir(exist_ok=True)
    aside = staging.folder / "removed"
    freed_bytes = delete_tree(aside)  # of a remove that was killed
    folder.rename(aside)
    freed_bytes += delete_tree(aside)
    with contextlib.suppress(OSError):  # an unfinished download lies in it too
        staging.folder.rmdir()
    return freed_bytes


def _remove_in_place(folder: Path) -> int:
    """Where nothing beside the models folder can be written: the lock goes last, so that it can be run again."""
    freed_bytes = 0
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name != LOCK_NAME]
    for name in names:
        freed_bytes += delete_tree(folder / name)
    return freed_bytes + delete_tree(folder)


def _staging_for(folder: Path, staging_dir: Path | None) -> Staging | None:
    try:
        return Staging(staging_root(folder.parent.resolve(), staging_dir), folder.name)
    except DownloadError:
        if staging_dir is not None:
            raise
        return None


def _actual(place: Path, file: LockedFile, told: Callable[[int], None]) -> str:
    """The hash of what is in a file's place, or a word for what cannot be hashed."""
    if place.is_symlink():
        return "a link"
    if is_plain_folder(place):
        return "a folder"
    try:
        size_bytes = place.lstat().st_size
        if size_bytes != file.size_bytes:
            return f"{size_bytes:,} bytes instead of {file.size_bytes:,}"
        return hash_file(place, file, on_bytes=told).actual
    except OSError as error:
        return f"unreadable ({error.strerror or error})"


def _overall(tell: OnEvent, file: LockedFile, before_bytes: int, total_bytes: int) -> Callable[[int], None]:
    def told(done_bytes: int) -> None:
        tell(Progress(file.path, done_bytes, file.size_bytes, before_bytes + done_bytes, total_bytes))

    return told


def _ignore(event: Event) -> None:
    """For callers that want no events."""
