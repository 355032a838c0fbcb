"""Which files of a listing a pull takes: what is safe and no code, or what a lock names and no more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DownloadError, RefusedFiles
from .hashing import expected_hash, hash_name
from .lockfile import BadLock, Installed, LeftOutFile, LockedFile, has_lock, read_lock
from .names import check_listing, has_weights, is_commit, is_pickle, left_out

if TYPE_CHECKING:
    from ..hub import BranchState
    from .planning import PlannedFile

NOT_IN_LOCK = "the lock that is restored does not name it"

MAX_NAMED = 50
"""So many names an error says: the shards of the largest models of 2023 (46 of Falcon-180B's in float16) and some."""


class RefusedPickles(RefusedFiles):
    """Pickles without which there is no model, and that nobody allowed. `refused` names each of them."""

    def __init__(self, repo: str, paths: Sequence[str], why: str) -> None:
        self.repo = repo
        self.refused = tuple((path, left_out(path) or "a pickle") for path in paths)
        names = ", ".join(repr(path) for path in paths[:MAX_NAMED])
        names += f" and {len(paths) - MAX_NAMED:,} more" if len(paths) > MAX_NAMED else ""
        Exception.__init__(
            self,
            f"{why}: {names}. A pickle runs whatever code it holds, with all your rights, when it is read, and what is "
            f"in these nobody checked: nothing was downloaded. Choose a branch with .safetensors; or, if you trust "
            f"whoever made these with this machine, --allow-pickle fetches them.",
        )


Sorted = tuple[tuple[LockedFile, ...], tuple[LeftOutFile, ...]]
"""The files to fetch, and those left out; each by path."""


def sort_listing(
    state: BranchState, repo: str, target: Path, *, allow_pickle: bool = False, lock: Installed | None = None
) -> Sorted:
    """A listing's files to fetch, and those left out. With `lock` it is its files that are fetched, and no others.

    Raises `RefusedFiles` for a listing of which anything must not be written, for one whose only weights are pickles
    (unless `allow_pickle`), and for a lock that names code, or pickles that `allow_pickle` does not allow;
    `DownloadError` for a branch without weights, or that is not what the lock says.
    """
    if not is_commit(state.commit):
        raise DownloadError(f"the Hub names no commit for {repo}:{state.branch} but {state.commit!r:.80}.")
    check_listing(repo, state.files, target)
    if lock is not None:
        return _as_locked(state, repo, lock, allow_pickle)
    wanted, without = [], []
    for file in sorted(state.files, key=lambda one: one.path):
        reason = left_out(file.path, allow_pickle)
        if reason:
            without.append(LeftOutFile(file.path, file.size_bytes, reason))
        else:
            wanted.append(LockedFile(file.path, file.size_bytes, file.sha256, file.blob_id))
    if not has_weights((file.path for file in wanted), allow_pickle):
        pickles = [file.path for file in without if is_pickle(file.path)]
        if pickles:
            raise RefusedPickles(repo, pickles, f"branch {state.branch} of {repo} has its weights as pickles alone")
        raise DownloadError(
            f"branch {state.branch} of {repo} holds no weights: none of its {len(state.files)} files ends in "
            f".safetensors or .gguf. Choose another branch."
        )
    return tuple(wanted), tuple(without)


def _as_locked(state: BranchState, repo: str, lock: Installed, allow_pickle: bool) -> Sorted:
    """The files a lock names, as the Hub lists them, if they are the same; the lock is not to be believed."""
    code = [(file.path, reason) for file in lock.files if (reason := left_out(file.path, allow_pickle=True))]
    if code:
        raise RefusedFiles(repo, code)
    pickles = [file.path for file in lock.files if is_pickle(file.path)]
    if pickles and not allow_pickle:
        raise RefusedPickles(repo, pickles, "the lock that is to be restored names pickles")
    listed = {file.path: LockedFile(file.path, file.size_bytes, file.sha256, file.blob_id) for file in state.files}
    named = {file.path: file for file in lock.files}
    differing = [_difference(file, listed.get(path)) for path, file in sorted(named.items())]
    said = [difference for difference in differing if difference]
    if said:
        more = f"; and {len(said) - 5} more" if len(said) > 5 else ""
        raise DownloadError(
            f"the lock is not of commit {state.commit} of {repo} as the Hub lists it: {'; '.join(said[:5])}{more}. The "
            f"lock was changed, or this Hub is another than the one it was made from; nothing was downloaded."
        )
    without = [
        LeftOutFile(path, file.size_bytes, left_out(path) or NOT_IN_LOCK)
        for path, file in sorted(listed.items())
        if path not in named
    ]
    return tuple(listed[path] for path in sorted(named)), tuple(without)


def _difference(locked: LockedFile, listed: LockedFile | None) -> str:
    """In what a lock's file is not the Hub's, in words; "" where it is the same."""
    if listed is None:
        return f"{locked.path!r} is not there"
    if locked.size_bytes != listed.size_bytes:
        return f"{locked.path!r} has {listed.size_bytes:,} bytes there, {locked.size_bytes:,} in the lock"
    ours, theirs = (f"{hash_name(file)} {expected_hash(file)}" for file in (locked, listed))
    return "" if ours == theirs else f"{locked.path!r} has {theirs} there, {ours} in the lock"


def allowed_before(target: Path, repo: str, state: BranchState) -> bool:
    """Whether this very commit is installed with its pickles: they were allowed then, and are files of that model."""
    with contextlib.suppress(BadLock):
        if has_lock(target):
            lock = read_lock(target)
            here = (lock.repo.casefold(), lock.branch, lock.commit)
            return lock.allow_pickle and here == (repo.casefold(), state.branch, state.commit)
    return False


def pickle_warnings(files: Iterable[LockedFile | PlannedFile]) -> list[str]:
    """A sentence for each pickle among files that are fetched, or taken as they are."""
    return [
        f"WARNING: {file.path} is a pickle, taken because --allow-pickle was given: loading it runs whatever code it "
        f"holds, with all your rights. BranchFit opens it for nothing but its hash, and a right hash says who "
        f"published it, not that it is harmless."
        for file in files
        if is_pickle(file.path)
    ]
