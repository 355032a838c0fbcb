"""The whole folder takes its place in one rename; what the user had in the former one goes along."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from ..errors import DownloadError
from .disk import folders, is_plain_folder, is_vacant, make_folders, sync, walk
from .hashing import hash_file
from .lockfile import Installed, LockedFile, read_lock, write_lock
from .names import FRESH_LOCK_NAME, LOCK_NAME, is_weights
from .staging import Staging


def land(staging: Staging, made: Installed) -> list[str]:
    """Put the staged files, all verified, in the target's place; return what the user should know, in sentences.

    Between the two renames of a swap the place is empty: killed there, `Staging.recover` undoes it.
    Raises `DownloadError` where a file of the user's stands in the way; `OSError`. The former folder
    is in its place again then.
    """
    target = staging.target
    write_lock(made, staging.files)
    former = not is_vacant(target)
    notes = _carry_over(staging, made) if former else []
    staging.sync_folders()
    try:
        if former:
            target.rename(staging.old)
        elif is_plain_folder(target):
            target.rmdir()  # Windows renames nothing onto a folder
        staging.files.rename(target)
    except BaseException:  # Ctrl-C too
        staging.recover()
        raise
    sync(target.parent)
    with contextlib.suppress(OSError):  # the model is there; what will not go now, the next command clears
        staging.recover()
        staging.clear()
    return notes


def _carry_over(staging: Staging, made: Installed) -> list[str]:
    """Give what is not the author's a place in the new folder, by a second name or a copy.

    That is every file the pull did not bring, every folder, and the files it brought and somebody
    changed since: these under a name that no loader takes for the model's.
    """
    target, published = made.folder, {file.path: file for file in read_lock(made.folder).files}
    locked_ns = (target / LOCK_NAME).lstat().st_mtime_ns
    notes = []
    for relative, found in list(walk(target)):
        if relative in (LOCK_NAME, FRESH_LOCK_NAME):
            continue
        file = published.get(relative)
        if file is None:
            _second_name(target / relative, _place_for(staging, relative))
        elif not _same_file(target / relative, staging.files / relative) and _changed(
            target / relative, file, found, locked_ns
        ):
            kept = _free_name(relative, target, staging.files)
            _second_name(target / relative, make_folders(staging.files, kept))
            notes.append(f"{relative} had been changed since it was pulled: what it was is kept as {target / kept}.")
    for relative in folders(target):
        with contextlib.suppress(DownloadError, FileExistsError):  # the branch has a file there now; this one is empty
            make_folders(staging.files, relative + "/")
    return notes


def _place_for(staging: Staging, relative: str) -> Path:
    """Where a file of the user's goes in the new folder. Raises `DownloadError` where the branch has another there."""
    try:
        place = make_folders(staging.files, relative)
        taken = place.is_symlink() or place.exists()
    except DownloadError:  # a file of the branch stands where its folder would
        taken = True
    if taken:
        raise DownloadError(
            f"{staging.target / relative} is not of the pull before, and the branch now has a file in its place: move "
            f"it away, then run the same command again."
        )
    return place


def _changed(path: Path, file: LockedFile, found: os.stat_result, locked_ns: int) -> bool:
    """True where an installed file is not what was published. `locked_ns` is when its lock was written, after it.

    Weights of the right size that nothing touched since then are taken for what they were: to hash tens of GB for
    what can only have rotted is not worth it.
    """
    if not stat.S_ISREG(found.st_mode) or found.st_size != file.size_bytes:
        return True
    touched = max(found.st_mtime_ns, found.st_ctime_ns) > locked_ns
    return (touched or not is_weights(file.path)) and not hash_file(path, file).matches


def _same_file(one: Path, other: Path) -> bool:
    """True for two names of one file."""
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except OSError:
        return False


def _free_name(relative: str, *bases: Path) -> str:
    number = 1
    while any((base / f"{relative}.edited-{number}").is_symlink() for base in bases) or any(
        (base / f"{relative}.edited-{number}").exists() for base in bases
    ):
        number += 1
    return f"{relative}.edited-{number}"


def _second_name(source: Path, place: Path) -> None:
    """`source` under another name: a link as a link, a file by a hard link or, where the disk has none, a copy."""
    if source.is_symlink():
        place.symlink_to(source.readlink())
        return
    try:
        os.link(source, place)
    except OSError:
        shutil.copy2(source, place, follow_symlinks=False)
        sync(place)
