"""What a pull would do, from a branch's listing and what is on disk; nothing is made or changed here."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DownloadError, NoSpace
from .disk import can_link, existing_ancestor, free_inodes, is_plain, is_plain_folder, plain_path, space_for, walk
from .lockfile import Installed, LeftOutFile, LockedFile, has_lock, read_lock
from .names import LOCK_NAME, folder_name
from .places import staging_root
from .reuse import Sources, copied_bytes, find_sources, renamed
from .staging import Staging
from .wanted import allowed_before, sort_listing

if TYPE_CHECKING:
    from ..hub import BranchState

OWN_FILES = 16
"""Inodes of a pull beside the branch's files: its folders, journal and locks; 9, and some for subfolders."""

Standing = Literal["absent", "already", "moved", "damaged", "foreign"]
"""What is in the target's place: nothing; this commit, all files there by size; the same branch at
another commit; this commit with files missing or of another size; a folder without a lock whose files
have this commit's sizes."""


@dataclass(frozen=True)
class PlannedFile:
    """A file of the branch. `here_bytes` of `size_bytes` need no transfer: they are in place, staged, or elsewhere.

    `origin` says where elsewhere: "huggingface_hub's cache", another model's folder; "" where nowhere.
    """

    path: str
    size_bytes: int
    here_bytes: int
    origin: str = ""


@dataclass(frozen=True)
class DownloadPlan:
    """What a pull of this commit would fetch, and where.

    `fetch_bytes` come over the line; `needed_bytes` is the disk they take (whole blocks, some overhead,
    and copies where the disk has no hard links), `free_bytes` what is free there. `moved` stands for what
    `latest=True` would do; without it a moved branch is left as it is.
    """

    repo: str
    branch: str
    commit: str
    folder: Path
    staging: Path
    standing: Standing
    files: tuple[PlannedFile, ...]
    left_out: tuple[LeftOutFile, ...]
    total_bytes: int
    fetch_bytes: int
    needed_bytes: int
    free_bytes: int

    @property
    def fetch(self) -> tuple[PlannedFile, ...]:
        """The files of which bytes are still to come."""
        return tuple(file for file in self.files if file.here_bytes < file.size_bytes)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object of the fields, sizes as integer bytes, folders as text."""
        return {
            "repo": self.repo,
            "branch": self.branch,
            "commit": self.commit,
            "folder": str(self.folder),
            "staging": str(self.staging),
            "standing": self.standing,
            "files": [asdict(file) for file in self.files],
            "left_out": [asdict(file) for file in self.left_out],
            "total_bytes": self.total_bytes,
            "fetch_bytes": self.fetch_bytes,
            "needed_bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
        }


def plan(
    state: BranchState,
    repo: str,
    models_dir: Path,
    *,
    staging_dir: Path | None = None,
    require_space: bool = True,
    allow_pickle: bool = False,
    lock: Installed | None = None,
) -> DownloadPlan:
    """Say what `pull` would do with this listing (see `commits.pin` for which); the disk is only looked at.

    Raises `RefusedFiles` for a listing that must not be written, or whose only weights are pickles (see `wanted`);
    `NoSpace` or, out of inodes, `DownloadError` (unless `require_space` is False); `DownloadError` for a
    branch without weights, a place taken by something else, or no place to download into; `UsageError`
    for a bad name.
    """
    models_dir = resolved(models_dir)
    target = models_dir / folder_name(repo, state.branch)
    allow_pickle = allow_pickle or (lock is None and allowed_before(target, repo, state))
    wanted, without = sort_listing(state, repo, target, allow_pickle=allow_pickle, lock=lock)
    standing = look(target, repo, state, wanted)
    check_models_dir(models_dir)
    staging = Staging(staging_root(models_dir, staging_dir), target)
    planned = planned_with(state, repo, standing, staging, without, look_around(repo, standing, staging, wanted))
    if require_space:
        check_space(planned)
    return planned


def planned_with(
    state: BranchState,
    repo: str,
    standing: Standing,
    staging: Staging,
    without: tuple[LeftOutFile, ...],
    around: Around,
) -> DownloadPlan:
    """The plan that follows from what is there; `around` has the files wanted."""
    wanted, here = around.wanted, around.here_bytes
    return DownloadPlan(
        repo=repo,
        branch=state.branch,
        commit=state.commit,
        folder=staging.target,
        staging=staging.folder,
        standing=standing,
        files=tuple(
            PlannedFile(file.path, file.size_bytes, here[file.path], around.origins.get(file.path, ""))
            for file in wanted
        ),
        left_out=without,
        total_bytes=sum(file.size_bytes for file in wanted),
        fetch_bytes=sum(file.size_bytes - here[file.path] for file in wanted),
        needed_bytes=space_for(new_bytes(standing, staging, around)),
        free_bytes=free_bytes(staging.root),
    )


def check_space(planned: DownloadPlan) -> None:
    """Raise `NoSpace` if what is to come takes more disk than is free, `DownloadError` if more inodes."""
    where = existing_ancestor(planned.staging)
    if planned.needed_bytes > planned.free_bytes:
        raise NoSpace(where, planned.needed_bytes, planned.free_bytes)
    needed, free = len(planned.fetch) + OWN_FILES, free_inodes(where)
    if planned.fetch and free is not None and needed > free:
        raise DownloadError(
            f"no room for more files under {where}: {needed:,} inodes needed, {free:,} free ({planned.free_bytes:,} "
            f"bytes are free). Remove files there (`df -i` tells), or give another folder with --to."
        )


def resolved(models_dir: Path) -> Path:
    """The models folder, links on the way to it (which users set up) followed once.

    Raises `DownloadError` where they lead nowhere.
    """
    try:
        return Path(models_dir).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links before Python 3.13, or no home folder
        raise DownloadError(f"{models_dir} cannot be found: {error}.") from error


def check_models_dir(models_dir: Path) -> None:
    """Raise `DownloadError` where no folder can be put into `models_dir` (resolved): no folder, or not writable."""
    found = existing_ancestor(models_dir)
    if not found.is_dir():
        raise DownloadError(f"{found} is no folder, so no models can be put into {models_dir}.")
    if not os.access(found, os.W_OK | os.X_OK):
        raise DownloadError(
            f"{found} cannot be written by you: change its permissions, or give another folder with --to."
        )


def free_bytes(root: Path) -> int:
    """Bytes free to this user on the file system that holds (or will hold) `root`."""
    return shutil.disk_usage(existing_ancestor(root)).free


def look(target: Path, repo: str, state: BranchState, wanted: Sequence[LockedFile]) -> Standing:
    """What is in the target's place. Raises `DownloadError` where a pull must not touch it, or it cannot be read."""
    try:
        return _look(target, repo, state, wanted)
    except OSError as error:
        raise DownloadError(f"{target} cannot be read: {error.strerror or error}.") from error


def _look(target: Path, repo: str, state: BranchState, wanted: Sequence[LockedFile]) -> Standing:
    if target.is_symlink():
        if has_lock(target) and _same(read_lock(target), repo, state, wanted) and not differing(target, wanted):
            return "already"
        raise DownloadError(f"{target} is a link: remove it, or give another folder with --to.")
    if not target.exists() or (is_plain_folder(target) and not any(target.iterdir())):
        return "absent"
    if not is_plain_folder(target):
        raise DownloadError(f"{target} is there and is no folder: move it away, or give another folder with --to.")
    others = differing(target, wanted)
    if not has_lock(target):
        if others:
            raise DownloadError(
                f"{target} is there and was not made by BranchFit, and {len(others)} of the branch's {len(wanted)} "
                f"files are missing there or have another size ({', '.join(others[:3])}). Move it away, or give "
                f"another folder with --to."
            )
        return "foreign"
    lock = read_lock(target)
    if (lock.repo.casefold(), lock.branch) != (repo.casefold(), state.branch):
        raise DownloadError(
            f"{target} holds {lock.repo}:{lock.branch}, whose folder has the same name as that of "
            f"{repo}:{state.branch}. Remove that one, or give another folder with --to."
        )
    if lock.commit != state.commit:
        return "moved"
    return "already" if _same(lock, repo, state, wanted) and not others else "damaged"


@dataclass(frozen=True)
class Around:
    """What is on this machine of the files a pull wants, by sizes and records; a pull hashes it before it believes.

    By path: `here_bytes` need no transfer; `sources` and their `origins` are there for files that are not staged, and
    are in this folder already or elsewhere.
    """

    wanted: Sequence[LockedFile]
    here_bytes: Mapping[str, int]
    sources: Sources
    origins: Mapping[str, str]


def look_around(repo: str, standing: Standing, staging: Staging, wanted: Sequence[LockedFile]) -> Around:
    """Look for the files wanted: staged under their name or a former one, installed, in huggingface_hub's cache."""
    if standing in ("already", "foreign"):
        return Around(wanted, {file.path: file.size_bytes for file in wanted}, {}, {})
    verified = staging.verified(wanted)
    missing = [file for file in wanted if file.path not in verified]
    sources = find_sources(staging.target, repo, missing, former=standing in ("moved", "damaged"))
    moving, here = renamed(staging, wanted), dict[str, int]()
    for file in wanted:
        if file.path in verified or file.path in sources:
            here[file.path] = file.size_bytes
        elif file.path in moving:
            here[file.path] = moving[file.path][1]
        else:
            here[file.path] = staging.staged_bytes(file)
    return Around(wanted, here, sources, {path: found[0].origin for path, found in sources.items()})


def new_bytes(standing: Standing, staging: Staging, around: Around) -> list[int]:
    """The sizes of what a pull will write: what comes, and what is copied as it cannot be linked."""
    here = around.here_bytes
    sizes = [file.size_bytes - here[file.path] for file in around.wanted if here[file.path] < file.size_bytes]
    sizes += copied_bytes(around.sources, [file for file in around.wanted if file.path in around.sources], staging.root)
    target = staging.target
    if standing in ("moved", "damaged") and not can_link(target / LOCK_NAME, existing_ancestor(staging.root)):
        brought = {file.path for file in read_lock(target).files} | {LOCK_NAME}
        own = [found for relative, found in walk(target) if relative not in brought]
        sizes += [found.st_size for found in own if stat.S_ISREG(found.st_mode)]
    return sizes


def _same(lock: Installed, repo: str, state: BranchState, wanted: Sequence[LockedFile]) -> bool:
    """True when a lock names this repo, branch, commit and these very files."""
    named = (lock.repo.casefold(), lock.branch, lock.commit)
    return named == (repo.casefold(), state.branch, state.commit) and set(lock.files) == set(wanted)


def differing(target: Path, wanted: Sequence[LockedFile]) -> list[str]:
    """Files that are missing in a folder, are no plain files, or have another size."""
    found = []
    for file in wanted:
        place = plain_path(target, file.path)
        if place is None or not is_plain(place) or place.lstat().st_size != file.size_bytes:
            found.append(file.path)
    return found
