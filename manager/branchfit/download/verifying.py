"""Hash an installed model again, several files at once, and compare with what the Hub published."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import DownloadError, UsageError
from .checking import Checked, Tally, check_all
from .disk import plain_path, walk
from .events import Event, FileBad, OnEvent
from .hashing import expected_hash
from .lockfile import Installed, LockedFile
from .names import LOCK_NAME, check_listing, left_out

if TYPE_CHECKING:
    from ..hub import BranchState

UNLISTED = "no such file on the Hub"
"""What was expected of a file that the lock names and the Hub's listing does not."""


@dataclass(frozen=True)
class BadFile:
    """A file that is not what the Hub published. `actual` is its hash, or a word for what is there instead.

    All before `first_bad_byte` is as it came at the pull, by the hashes of the file's beginnings in the lock. None
    where there are none, or the size is wrong.
    """

    path: str
    expected: str
    actual: str
    first_bad_byte: int | None = None


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found, by path. `extra` are files the pull did not bring; they are reported and do no harm.

    `against` says whose hashes they are: `hub`, those it gave for the commit just now; or `lock`, those
    it gave at the pull, as recorded beside the model: whoever changed a file could change these too.
    `installed` is the model as it was given, with the hashes of the beginnings of each file that is right.
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
    `on_event` gets `FileStarted`, `Progress`, and `FileVerified` or `FileBad` for each file, in this thread and in
    this order, those of several files in between each other; what it raises ends the hashing, as Ctrl-C does. Raises
    `DownloadError` where the folder cannot be read; `RefusedFiles` for a hostile listing; `UsageError`
    for one of another commit.
    """
    tell = on_event or _ignore
    files = published_files(model, listing)
    there, missing = [], []
    for file in files:
        place = plain_path(model.folder, file.path)
        if place is not None and (place.exists() or place.is_symlink()):
            there.append((file, place))
        else:
            missing.append(file.path)
    checked = check_all(there, Tally(tell, sum(file.size_bytes for file in files)))
    bad = [
        BadFile(one.file.path, expected_hash(one.file), one.actual, one.first_bad_byte) for one in checked if not one.ok
    ]
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
    return VerifyReport(
        installed=_with_beginnings(model, checked),
        checked_bytes=sum(one.file.size_bytes for one in checked),
        bad=tuple(sorted(bad, key=lambda one: one.path)),
        missing=tuple(sorted(missing)),
        extra=tuple(extra),
        against="lock" if listing is None else "hub",
    )


def published_files(model: Installed, listing: BranchState | None) -> tuple[LockedFile, ...]:
    """The files a model should have: those of the Hub's listing that a pull takes, or else those of the lock.

    What the lock knows of the beginnings of a file with the listing's hash comes along.
    """
    if listing is None:
        return model.files
    if listing.commit != model.commit:
        raise UsageError(f"{model.name} is commit {model.commit}; the listing given is of {listing.commit!r:.80}.")
    check_listing(model.repo, listing.files, model.folder)
    known = {(file.path, file.size_bytes, file.sha256): file.prefix_sha256 for file in model.files}
    return tuple(
        LockedFile(
            file.path,
            file.size_bytes,
            file.sha256,
            file.blob_id,
            known.get((file.path, file.size_bytes, file.sha256), ()),
        )
        for file in sorted(listing.files, key=lambda one: one.path)
        if left_out(file.path, model.allow_pickle) is None
    )


def _with_beginnings(model: Installed, checked: Sequence[Checked]) -> Installed:
    """The model with the hashes of the beginnings of what is right, in place of those recorded, if any."""
    found = {(one.file.path, expected_hash(one.file)): one.prefixes for one in checked if one.ok}
    files = tuple(
        dataclasses.replace(file, prefix_sha256=found.get((file.path, expected_hash(file)), file.prefix_sha256))
        for file in model.files
    )
    return dataclasses.replace(model, files=files)


def _ignore(event: Event) -> None:
    """For callers that want no events."""
