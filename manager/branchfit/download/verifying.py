"""Hash an installed model again, and compare with what the Hub published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import DownloadError, UsageError
from .disk import is_plain_folder, plain_path, walk
from .events import Event, FileBad, FileStarted, FileVerified, OnEvent, Pace, Progress
from .hashing import expected_hash, hash_file, hash_name
from .lockfile import Installed, LockedFile
from .names import LOCK_NAME, check_listing, left_out

if TYPE_CHECKING:
    from ..hub import BranchState

UNLISTED = "no such file on the Hub"
"""What was expected of a file that the lock names and the Hub's listing does not."""


@dataclass(frozen=True)
class BadFile:
    """A file that is not what the Hub published. `actual` is its hash, or a word for what is there instead."""

    path: str
    expected: str
    actual: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found. `extra` are files the pull did not bring; they are reported and do no harm.

    `against` says whose hashes they are: `hub`, those it gave for the commit just now; or `lock`, those
    it gave at the pull, as recorded beside the model: whoever changed a file could change these too.
    """

    installed: Installed
    checked_bytes: int
    bad: tuple[BadFile, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    against: Literal["hub", "lock"] = "lock"

    @property
    def ok(self) -> bool:
        """True when every file is there and has the Hub's hash."""
        return not self.bad and not self.missing


def verify(model: Installed, on_event: OnEvent | None = None, listing: BranchState | None = None) -> VerifyReport:
    """Hash every file of a model and compare with what the Hub says; changes nothing.

    `listing` is the Hub's, of the model's commit: `hub.branch_files(model.repo, model.commit)`. Without
    it the hashes are those it gave at the pull. A link in a file's place is bad, wherever it points.
    `on_event` gets `FileStarted`, `Progress`, and `FileVerified` or `FileBad` for each file. Raises
    `DownloadError` where the folder cannot be read; `RefusedFiles` for a hostile listing; `UsageError`
    for one of another commit.
    """
    tell = on_event or _ignore
    files = published_files(model, listing)
    total_bytes = sum(file.size_bytes for file in files)
    bad: list[BadFile] = []
    missing: list[str] = []
    checked_bytes = 0
    for file in files:
        place = plain_path(model.folder, file.path)
        if place is None or not (place.exists() or place.is_symlink()):
            missing.append(file.path)
            continue
        tell(FileStarted(file.path, 0, file.size_bytes))
        actual = _actual(place, file, _overall(tell, file, checked_bytes, total_bytes))
        expected = expected_hash(file)
        checked_bytes += file.size_bytes
        if actual == expected:
            tell(FileVerified(file.path, file.size_bytes, hash_name(file), expected))
        else:
            bad.append(BadFile(file.path, expected, actual))
            tell(FileBad(file.path, expected, actual))
    own = {file.path for file in files}
    for file in model.files:
        if file.path not in own:
            bad.append(BadFile(file.path, UNLISTED, "named in the lock"))
            tell(FileBad(file.path, UNLISTED, "named in the lock"))
    own |= {file.path for file in model.files} | {LOCK_NAME}
    try:
        extra = sorted(relative for relative, _ in walk(model.folder) if relative not in own)
    except OSError as error:
        raise DownloadError(f"{model.folder} cannot be listed: {error.strerror or error}.") from error
    against: Literal["hub", "lock"] = "lock" if listing is None else "hub"
    return VerifyReport(model, checked_bytes, tuple(bad), tuple(missing), tuple(extra), against)


def published_files(model: Installed, listing: BranchState | None) -> tuple[LockedFile, ...]:
    """The files a model should have: those of the Hub's listing that a pull takes, or else those of the lock."""
    if listing is None:
        return model.files
    if listing.commit != model.commit:
        raise UsageError(f"{model.name} is commit {model.commit}; the listing given is of {listing.commit!r:.80}.")
    check_listing(model.repo, listing.files, model.folder)
    return tuple(
        LockedFile(file.path, file.size_bytes, file.sha256, file.blob_id)
        for file in sorted(listing.files, key=lambda one: one.path)
        if left_out(file.path) is None
    )


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
    pace = Pace(file.size_bytes)

    def told(done_bytes: int) -> None:
        if pace.due(done_bytes):
            tell(Progress(file.path, done_bytes, file.size_bytes, before_bytes + done_bytes, total_bytes))

    return told


def _ignore(event: Event) -> None:
    """For callers that want no events."""
