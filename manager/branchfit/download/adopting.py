"""A folder that something else made becomes an installed model, if it is the branch to the byte."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import DownloadError
from .disk import walk
from .events import Checking, FileVerified, Note, OnEvent, Pace
from .hashing import expected_hash, hash_file, hash_name
from .lockfile import Installed, LockedFile, write_lock
from .names import LOCK_NAME, left_out
from .wanted import pickle_warnings


def adopt(made: Installed, tell: OnEvent) -> None:
    """Write a lock into the folder `made.folder`, if every file has the Hub's hash. Raises `DownloadError`; `OSError`.

    What else lies there stays; a `Note` tells of what no pull would have brought.
    """
    target = made.folder
    for file in made.files:
        digest = hash_file(target / file.path, file, on_bytes=_checking(file, tell))
        if not digest.matches:
            raise DownloadError(
                f"{target} is there and was not made by BranchFit, and its {file.path} is not the branch's: "
                f"{hash_name(file)} {digest.actual}, the Hub's is {expected_hash(file)}. Move the folder away, or "
                f"give another one with --to."
            )
        tell(FileVerified(file.path, file.size_bytes, hash_name(file), expected_hash(file)))
    for relative, _ in walk(target):
        reason = left_out(relative, made.allow_pickle)
        if reason and relative != LOCK_NAME:
            tell(Note(f"{target / relative} was there before and stays; it is {reason}"))
    for warning in pickle_warnings(made.files):
        tell(Note(warning))
    write_lock(made, target)


def _checking(file: LockedFile, tell: OnEvent) -> Callable[[int], None]:
    pace = Pace(file.size_bytes)

    def told(done_bytes: int) -> None:
        if pace.due(done_bytes):
            tell(Checking(file.path, done_bytes, file.size_bytes))

    return told
