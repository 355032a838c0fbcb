"""`pull`: a branch becomes a folder that appears whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DownloadError, NoSpace, UsageError
from .crew import Crew
from .disk import delete_tree, space_for, walk, write_error
from .events import (
    BranchMoved,
    Checking,
    Event,
    FileVerified,
    Finished,
    LeftOut,
    Note,
    OnEvent,
    Pace,
    Started,
    Waiting,
)
from .hashing import expected_hash, hash_file, hash_name
from .landing import land
from .lockfile import Installed, LockedFile, read_lock, write_lock
from .locks import Busy
from .names import LOCK_NAME, folder_name, is_commit, left_out
from .planning import (
    DownloadPlan,
    Standing,
    check_space,
    free_bytes,
    here_bytes,
    look,
    new_bytes,
    plan,
    resolved,
    reusable,
    sort_listing,
)
from .staging import Staging, left_behind
from .transfer import RETRY_WAITS_S, Transfer

if TYPE_CHECKING:
    from ..hub import BranchState, Hub


def pull(
    hub: Hub,
    repo: str,
    branch: str,
    models_dir: Path,
    *,
    commit: str | None = None,
    on_event: OnEvent | None = None,
    latest: bool = False,
    staging_dir: Path | None = None,
    template: Mapping[str, Any] | None = None,
    loader: str | None = None,
    runtime: str | None = None,
    wait: bool = True,
    retry_waits_s: Sequence[float] = RETRY_WAITS_S,
) -> Installed:
    """Put a branch into `models_dir/owner_repo_branch`, every file verified against the Hub's hash.

    The branch's commit is asked for once and everything comes from it; with `commit` it is that one
    (all its digits), and a `Note` tells where the branch has moved on from it. The folder appears by one
    rename when all of it is whole; until then it grows beside the models folder (see `staging`),
    and a pull that was interrupted or killed goes on there. What is there already decides:

    - this commit, all files there: nothing is done, and nothing asked but the listing;
    - this commit with files missing or of another size: what is missing comes, what is right stays, and
      what was changed is kept as `NAME.edited-1` (a `Note` tells);
    - another commit of the branch: `BranchMoved` is told and the old one stays; with `latest` the new
      one is fetched (files that did not change are not), and takes its place. Files that are not the
      branch's own, or were changed, move along;
    - a folder without a lock whose files all have the Hub's hashes: it gets a lock (`adopted`);
    - anything else: `DownloadError`, and it is not touched.

    One pull at a time works on a folder; a second waits (`Waiting`), or with `wait=False` raises.
    `template`, `loader` and `runtime` are recorded in the lock as given. `on_event` is called in this
    thread; what it raises ends the pull, as Ctrl-C does, and what was fetched is kept.

    Raises `RefusedFiles`, `NoSpace`, `BadChecksum`, `TransferBroken` and other `DownloadError`s;
    `HubError`s; `UsageError` for a bad name or commit.
    """
    tell = on_event or _ignore
    name = folder_name(repo, branch)
    state = _listing(hub, repo, branch, commit, tell)
    target = resolved(models_dir) / name
    wanted, without = sort_listing(state, repo, target)
    standing = look(target, repo, state, wanted)
    if standing == "already" or (standing == "moved" and not latest):
        _tidy(target, staging_dir, whole=standing == "already")
        return _stays(target, standing, state.commit, tell)
    first = plan(state, repo, target.parent, staging_dir=staging_dir, require_space=False)
    staging = Staging(first.staging.parent, target)
    if not staging.folder.exists():
        check_space(first)
    now = datetime.now(timezone.utc).replace(microsecond=0)
    made = Installed(
        folder=target,
        repo=repo,
        branch=branch,
        commit=state.commit,
        size_bytes=first.total_bytes,
        files=wanted,
        pulled_at=now,
        template=template,
        loader=loader,
        runtime=runtime,
        endpoint=getattr(hub, "endpoint", None),
        left_out=without,
        branchfit=_version(),
        verified_at=now,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with staging.locked(wait, lambda pid: tell(Waiting(target, pid))):
            return _Pull(hub, state, staging, made, tell).run(latest, staging_dir, retry_waits_s)
    except BrokenPipeError:  # of `on_event`'s output: no disk says that
        raise
    except OSError as error:
        free = free_bytes(staging.root)
        raise write_error(error, Path(str(error.filename or staging.folder)), first.needed_bytes, free) from error


class _Pull:
    """One pull, under the folder's lock."""

    def __init__(self, hub: Hub, state: BranchState, staging: Staging, made: Installed, tell: OnEvent) -> None:
        self._hub = hub
        self._state = state
        self._staging = staging
        self._made = made
        self._target = made.folder
        self._tell = tell

    def run(self, latest: bool, staging_dir: Path | None, retry_waits_s: Sequence[float]) -> Installed:
        """Decide by what is in the target's place now that nobody else is at work on it, then do it."""
        made, wanted = self._made, self._made.files
        self._staging.recover()
        standing = look(self._target, made.repo, self._state, wanted)
        if standing == "already" or (standing == "moved" and not latest):
            if standing == "already":
                with contextlib.suppress(OSError):
                    self._staging.clear()
            return _stays(self._target, standing, made.commit, self._tell)
        if standing == "moved":
            self._tell(BranchMoved(self._target, read_lock(self._target).commit, made.commit))
        if standing == "foreign":
            return self._adopt()
        self._staging.prune(wanted)
        self._check_space(staging_dir)
        done = here_bytes(self._target, standing, self._staging, wanted)
        self._announce(sum(done.values()))
        self._staging.prepare(wanted, made.repo, made.branch, made.commit)
        crew = Crew(done, made.size_bytes, self._tell)
        transfer = Transfer(
            self._hub,
            made.repo,
            made.commit,
            self._staging,
            reusable=reusable(self._target, standing, wanted),
            tell=crew.tell,
            stop=crew.stop,
            retry_waits_s=retry_waits_s,
        )
        verified = self._staging.verified(wanted)
        try:
            fetched_bytes = crew.run([file for file in wanted if file.path not in verified], transfer.bring)
        except NoSpace as error:  # of one file: say it of the whole
            needed_bytes = space_for(new_bytes(self._target, standing, self._staging, wanted))
            raise NoSpace(error.path, max(needed_bytes, error.needed_bytes), error.free_bytes) from error
        for note in land(self._staging, made):
            self._tell(Note(note))
        self._tell(Finished(self._target, "fetched", made.size_bytes, fetched_bytes))
        return made

    def _check_space(self, staging_dir: Path | None) -> None:
        """Raise `NoSpace` if what is to come does not fit, even without the bad files kept for whoever looks."""
        planned = self._plan(staging_dir)
        if planned.needed_bytes > planned.free_bytes and delete_tree(self._staging.bad):
            planned = self._plan(staging_dir)
        check_space(planned)

    def _plan(self, staging_dir: Path | None) -> DownloadPlan:
        return plan(self._state, self._made.repo, self._target.parent, staging_dir=staging_dir, require_space=False)

    def _announce(self, done_bytes: int) -> None:
        made, root = self._made, self._staging.root
        self._tell(
            Started(made.repo, made.branch, made.commit, made.folder, len(made.files), done_bytes, made.size_bytes)
        )
        for file in made.left_out:
            self._tell(LeftOut(file.path, file.size_bytes, file.reason))
        if self._target.parent in (root, *root.parents):
            self._tell(Note(f"{root} lies in the models folder: the webui lists it while it is there."))

    def _adopt(self) -> Installed:
        """Write a lock into a folder something else made, if every file has the Hub's hash."""
        made = self._made
        for file in made.files:
            digest = hash_file(self._target / file.path, file, on_bytes=self._checking(file))
            if not digest.matches:
                raise DownloadError(
                    f"{self._target} is there and was not made by BranchFit, and its {file.path} is not the branch's: "
                    f"{hash_name(file)} {digest.actual}, the Hub's is {expected_hash(file)}. Move the folder away, or "
                    f"give another one with --to."
                )
            self._tell(FileVerified(file.path, file.size_bytes, hash_name(file), expected_hash(file)))
        for relative, _ in walk(self._target):
            reason = left_out(relative)
            if reason and relative != LOCK_NAME:
                self._tell(Note(f"{self._target / relative} was there before and stays; it is {reason}"))
        write_lock(made, self._target)
        self._tell(Finished(self._target, "adopted", made.size_bytes, 0))
        return made

    def _checking(self, file: LockedFile) -> Callable[[int], None]:
        pace = Pace(file.size_bytes)

        def told(done_bytes: int) -> None:
            if pace.due(done_bytes):
                self._tell(Checking(file.path, done_bytes, file.size_bytes))

        return told


def _listing(hub: Hub, repo: str, branch: str, commit: str | None, tell: OnEvent) -> BranchState:
    """The files of a branch, or of one commit of it."""
    if commit is not None and not (is_commit(commit) and len(commit) in (40, 64)):  # SHA-1 and SHA-256 in hexadecimal
        raise UsageError(f"{commit!r:.80} is no whole commit: 40 digits from 0 to f are.")
    state = hub.branch_files(repo, branch)
    if commit is None or state.commit == commit:
        return state
    tell(Note(f"{branch} of {repo} has moved on to commit {state.commit}; {commit}, which was asked for, is taken."))
    wanted = hub.branch_files(repo, commit)
    if wanted.commit != commit:
        raise DownloadError(f"the Hub answers with commit {wanted.commit!r:.80}, {commit} was asked for.")
    return dataclasses.replace(wanted, branch=branch)


def _tidy(target: Path, staging_dir: Path | None, whole: bool) -> None:
    """Clear what a killed pull left of a model that is not going to change now; all of it, if that is `whole`."""
    for staging in left_behind(target, staging_dir):
        with contextlib.suppress(Busy, OSError), staging.locked(wait=False):
            staging.recover()
            if whole:
                staging.clear()


def _stays(target: Path, standing: Standing, hub_commit: str, tell: OnEvent) -> Installed:
    """The installed model, which is left as it is: nothing to do, or the branch moved and nobody asked for that."""
    found = read_lock(target)
    if standing == "moved":
        tell(BranchMoved(target, found.commit, hub_commit))
    tell(Finished(target, "already" if standing == "already" else "kept", found.size_bytes, 0))
    return found


def _version() -> str:
    try:
        return metadata.version("branchfit")
    except metadata.PackageNotFoundError:
        return "unknown"


def _ignore(event: Event) -> None:
    """For callers that want no events."""
