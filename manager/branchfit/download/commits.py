"""Which commit a pull takes: where the branch stands, unless one was begun, locked or asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BranchNotFound, DownloadError, UsageError
from ..hub.state import plain
from .disk import is_plain_folder
from .lockfile import BadLock, Installed, has_lock, read_lock
from .names import folder_name, is_commit
from .planning import differing, resolved
from .staging import left_behind

if TYPE_CHECKING:
    from ..hub import BranchState, Hub

SHORT = 12
"""Digits of a commit where people read it, as the command shows them everywhere; git itself needs 7 to 12."""


@dataclass(frozen=True)
class Pinned:
    """The listing a pull takes, under the branch's name. `moved_to` is where the branch stands, if that is news."""

    state: BranchState
    moved_to: str | None = None


def pin(
    hub: Hub,
    repo: str,
    branch: str,
    models_dir: Path,
    *,
    commit: str | None = None,
    latest: bool = False,
    lock: Installed | None = None,
    staging_dir: Path | None = None,
    listing: BranchState | None = None,
    note: Callable[[str], None] = lambda sentence: None,
) -> Pinned:
    """The commit that a pull with these arguments takes, and its files; changes nothing.

    That is, in this order: the lock's; the one asked for; the one that an unfinished download into this place was
    begun for (not with `latest`); the one where the branch stands, which is `listing` if the caller has just asked the
    Hub and else asked for. `note` is told a sentence where it is not the last.
    Raises `UsageError` for what contradicts itself, `DownloadError` where the commit is no longer on the Hub,
    `HubError`s.
    """
    target = resolved(models_dir) / folder_name(repo, branch)
    if lock is not None:
        return Pinned(_locked(hub, repo, branch, commit, lock, note))
    if commit is not None:
        return Pinned(_asked_for(hub, repo, branch, commit, listing, note))
    begun = begun_commit(target, repo, branch, staging_dir)
    try:
        state = listing or hub.branch_files(repo, branch)
    except BranchNotFound:
        if begun is None or latest:
            raise
        note(f"{branch} is gone from {repo}; commit {begun[:SHORT]} is finished, for which this download was begun")
        return Pinned(_at(hub, repo, branch, begun, "no branch has taken its place"))
    if begun is None or begun == state.commit:
        return Pinned(state)
    moved = f"the branch moved from {begun[:SHORT]} to {state.commit[:SHORT]} since this download began"
    if latest:
        note(f"{moved}; {state.commit[:SHORT]} is taken, and what did not change is kept")
        return Pinned(state)
    note(f"{moved}; {begun[:SHORT]} is finished, as begun; --latest takes {state.commit[:SHORT]}")
    remedy = f"--latest takes {state.commit[:SHORT]}, where {branch} stands now, and keeps what did not change"
    return Pinned(_at(hub, repo, branch, begun, remedy), moved_to=state.commit)


def begun_commit(target: Path, repo: str, branch: str, staging_dir: Path | None = None) -> str | None:
    """The commit that a download into `target` (resolved) was begun for and that is not whole there; None if none was.

    An update of a model that is there is nothing begun: it stays as it is until `latest` is said again. And neither is
    what a torn journal does not tell.
    """
    for staging in left_behind(target, staging_dir):
        purpose = staging.journal.purpose() if is_plain_folder(staging.folder) else None
        if purpose is None or is_plain_folder(staging.old) or not _is_whole_commit(purpose.commit):
            continue
        if (purpose.folder, purpose.repo.casefold(), purpose.branch) != (target.name, repo.casefold(), branch):
            continue
        if has_lock(target):
            try:
                here = read_lock(target)
            except BadLock:
                return None
            if here.commit != purpose.commit or not differing(target, here.files):
                return None
        return purpose.commit
    return None


def commit_gone(repo: str, commit: str, remedy: str) -> DownloadError:
    """The error for a commit that the Hub does not know, or no more; `remedy` is a clause."""
    return DownloadError(
        f"the Hub has no commit {commit} of {repo}, which this download is for: its history was rewritten, or it is "
        f"another Hub. What was fetched is kept; {remedy}."
    )


def _at(hub: Hub, repo: str, branch: str, commit: str, remedy: str) -> BranchState:
    """The files of a commit, under the branch's name."""
    try:
        state = hub.branch_files(repo, commit)
    except BranchNotFound as error:
        raise commit_gone(repo, commit, remedy) from error
    if state.commit != commit:
        raise DownloadError(f"the Hub answers with commit {state.commit!r:.80}, {commit} was asked for.")
    return dataclasses.replace(state, branch=branch)


def _asked_for(
    hub: Hub, repo: str, branch: str, commit: str, listing: BranchState | None, note: Callable[[str], None]
) -> BranchState:
    if not _is_whole_commit(commit):
        raise UsageError(f"{commit!r:.80} is no whole commit: 40 digits from 0 to f are.")
    state = listing or hub.branch_files(repo, branch)
    if state.commit == commit:
        return state
    note(f"{branch} of {repo} has moved on to commit {state.commit}; {commit}, which was asked for, is taken.")
    return _at(hub, repo, branch, commit, f"{branch} stands at {state.commit} now")


def _locked(
    hub: Hub, repo: str, branch: str, commit: str | None, lock: Installed, note: Callable[[str], None]
) -> BranchState:
    """The lock's commit. What became of the branch since does not matter, and is not asked."""
    if (repo.casefold(), branch) != (lock.repo.casefold(), lock.branch):
        raise UsageError(f"the lock is of {lock.repo}:{lock.branch}, and {repo}:{branch} was asked for.")
    if commit not in (None, lock.commit) or not _is_whole_commit(lock.commit):
        raise UsageError(f"the lock is of commit {lock.commit}; {commit or 'a whole commit, of 40 digits,'} is wanted.")
    if lock.endpoint is not None and lock.endpoint != hub.endpoint:
        note(f"the lock was made from {plain(lock.endpoint)!r:.200}; {hub.endpoint} is asked now")
    remedy = f"`branchfit pull {lock.repo}:{lock.branch}` takes what is there now"
    return _at(hub, repo, branch, lock.commit, remedy)


def _is_whole_commit(commit: str) -> bool:
    return is_commit(commit) and len(commit) in (40, 64)  # SHA-1 and SHA-256 in hexadecimal
