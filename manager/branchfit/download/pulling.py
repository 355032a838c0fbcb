"""`pull`: a branch becomes a folder that appears whole and verified, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BranchNotFound, DownloadError, NoSpace
from .adopting import adopt
from .commits import Pinned, commit_gone, pin
from .disk import delete_tree, space_for, write_error
from .events import (
    BranchMoved,
    Event,
    Finished,
    LeftOut,
    Note,
    OnEvent,
    Started,
)
from .fetch import RETRY_WAITS_S, Manner, fetch_all, with_prefixes
from .landing import land
from .line import Line
from .lockfile import Installed, read_lock
from .locks import Busy, publishing, waited
from .names import folder_name, is_pickle
from .places import staging_root
from .planning import (
    Around,
    DownloadPlan,
    Standing,
    check_models_dir,
    check_space,
    free_bytes,
    look,
    look_around,
    new_bytes,
    planned_with,
    resolved,
)
from .reuse import keep_renamed
from .staging import Staging, left_behind
from .wanted import allowed_before, pickle_warnings, sort_listing

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
    line: Line | None = None,
    limit_bytes_per_s: float | None = None,
    allow_pickle: bool = False,
    lock: Installed | None = None,
    listing: BranchState | None = None,
) -> Installed:
    """Put a branch into `models_dir/owner_repo_branch`, every file verified against the Hub's hash.

    The branch's commit is asked for once (not even once with `listing`: what the Hub said of the branch just now) and
    everything comes from it; with `commit` it is that one (all its digits), and a `Note` tells where the branch has
    moved on from it. The folder appears by one rename when all of it is whole; until then it grows beside the models
    folder (see `staging`), and a pull that was interrupted or killed goes on there, with the commit that was begun: a
    `Note`, and at the end `BranchMoved`, tell if the branch moved on meanwhile, and with `latest` the new one comes,
    what did not change being kept. What is there already decides:

    - this commit, all files there: nothing is done, and nothing asked but the listing;
    - this commit with files missing or of another size: what is missing comes, what is right stays, and
      what was changed is kept as `NAME.edited-1` (a `Note` tells);
    - another commit of the branch: `BranchMoved` is told and the old one stays; with `latest` the new
      one is fetched (files that did not change are not), and takes its place. Files that are not the
      branch's own, or were changed, move along;
    - a folder without a lock whose files all have the Hub's hashes: it gets a lock (`adopted`);
    - anything else: `DownloadError`, and it is not touched.

    Files that lie on this machine already, in another model or in huggingface_hub's cache, are linked or copied
    from there once their hash is seen to be right (`Reused`).

    Pickles are left out, unless `allow_pickle`: then a `Note` warns of each, and the lock says so. Code is always
    left out. With `lock` (see `read_lock_file`) its files come, at its commit, and no others, if the Hub still lists
    them all with the same hashes; its template, loader and runtime are taken over where none are given. Another commit
    in its place is then an error, unless `latest` lets it go.

    One pull at a time works on a folder; a second waits (`Waiting`), or with `wait=False` raises.
    `template`, `loader` and `runtime` are recorded in the lock as given. `on_event` is called in this
    thread; what it raises ends the pull, as Ctrl-C does, and what was fetched is kept.

    Raises `RefusedFiles`, `NoSpace`, `BadChecksum`, `TransferBroken` and other `DownloadError`s;
    `HubError`s; `UsageError` for a bad name or commit, or a lock of something else.
    """
    tell = on_event or _ignore
    target = resolved(models_dir) / folder_name(repo, branch)
    pinned = pin(
        hub,
        repo,
        branch,
        target.parent,
        commit=commit,
        latest=latest,
        lock=lock,
        staging_dir=staging_dir,
        listing=listing,
        note=lambda sentence: tell(Note(sentence)),
    )
    state = pinned.state
    allow_pickle = allow_pickle or (lock is None and allowed_before(target, repo, state))
    wanted, without = sort_listing(state, repo, target, allow_pickle=allow_pickle, lock=lock)
    standing = look(target, repo, state, wanted)
    if standing == "moved" and lock is not None and not latest:
        raise _other_commit(target, lock)
    if standing == "already" or (standing == "moved" and not latest):
        _tidy(target, staging_dir, whole=standing == "already")
        return _stays(target, standing, state.commit, tell)
    check_models_dir(target.parent)
    staging = Staging(staging_root(target.parent, staging_dir), target)
    first = planned_with(state, repo, standing, staging, without, look_around(repo, standing, staging, wanted))
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
        template=template if template is not None or lock is None else lock.template,
        loader=loader if loader is not None or lock is None else lock.loader,
        runtime=runtime if runtime is not None or lock is None else lock.runtime,
        endpoint=getattr(hub, "endpoint", None),
        left_out=without,
        branchfit=_version(),
        verified_at=now,
        allow_pickle=allow_pickle and (lock is None or lock.allow_pickle or any(is_pickle(one.path) for one in wanted)),
    )
    manner = Manner(line, limit_bytes_per_s, retry_waits_s)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with staging.locked(wait, lambda holder: tell(waited(target, holder))) as notice:
            return _Pull(hub, pinned, staging, made, publishing(notice, tell), lock).run(latest, manner)
    except BrokenPipeError:  # of `on_event`'s output: no disk says that
        raise
    except OSError as error:
        free = free_bytes(staging.root)
        raise write_error(error, Path(str(error.filename or staging.folder)), first.needed_bytes, free) from error


class _Pull:
    """One pull, under the folder's lock."""

    def __init__(
        self, hub: Hub, pinned: Pinned, staging: Staging, made: Installed, tell: OnEvent, lock: Installed | None
    ) -> None:
        self._hub = hub
        self._pinned = pinned
        self._staging = staging
        self._made = made
        self._target = made.folder
        self._tell = tell
        self._lock = lock

    def run(self, latest: bool, manner: Manner) -> Installed:
        """Decide by what is in the target's place now that nobody else is at work on it, then do it."""
        made, wanted = self._made, self._made.files
        self._staging.recover()
        standing = look(self._target, made.repo, self._pinned.state, wanted)
        if standing == "moved" and self._lock is not None and not latest:
            raise _other_commit(self._target, self._lock)
        if standing == "already" or (standing == "moved" and not latest):
            if standing == "already" and not self._staging.is_under_way():
                with contextlib.suppress(OSError):
                    self._staging.clear()
            return _stays(self._target, standing, made.commit, self._tell)
        if standing == "moved":
            self._tell(BranchMoved(self._target, read_lock(self._target).commit, made.commit))
        if standing == "foreign":
            adopt(made, self._tell)
            return self._finished("adopted", 0)
        keep_renamed(self._staging, wanted)
        around = look_around(made.repo, standing, self._staging, wanted)
        self._check_space(standing, around)
        self._announce(sum(around.here_bytes.values()))
        self._staging.prepare(wanted, made.repo, made.branch, made.commit)
        try:
            fetched_bytes = fetch_all(
                self._hub,
                made.repo,
                made.commit,
                self._staging,
                wanted,
                here_bytes=around.here_bytes,
                sources=around.sources,
                tell=self._tell,
                manner=manner,
            )
        except NoSpace as error:  # of one file: say it of the whole
            around = look_around(made.repo, standing, self._staging, wanted)
            needed_bytes = space_for(new_bytes(standing, self._staging, around))
            raise NoSpace(error.path, max(needed_bytes, error.needed_bytes), error.free_bytes) from error
        except BranchNotFound as error:
            if error.branch != made.commit:
                raise
            remedy = f"--latest takes what {made.branch} has now" if self._lock is None else "the lock has no other"
            raise commit_gone(made.repo, made.commit, remedy) from error
        self._made = made = replace(made, files=with_prefixes(self._staging, wanted))
        for note in land(self._staging, made):
            self._tell(Note(note))
        return self._finished("fetched", fetched_bytes)

    def _finished(self, outcome: str, fetched_bytes: int) -> Installed:
        made, now_at = self._made, self._pinned.moved_to
        if now_at is not None:
            self._tell(BranchMoved(self._target, made.commit, now_at))
        self._tell(Finished(self._target, outcome, made.size_bytes, fetched_bytes))
        return made

    def _check_space(self, standing: Standing, around: Around) -> None:
        """Raise `NoSpace` if what is to come does not fit, even without the bad files kept for whoever looks."""
        planned = self._plan(standing, around)
        if planned.needed_bytes > planned.free_bytes and delete_tree(self._staging.bad):
            planned = self._plan(standing, around)
        check_space(planned)

    def _plan(self, standing: Standing, around: Around) -> DownloadPlan:
        made = self._made
        return planned_with(self._pinned.state, made.repo, standing, self._staging, made.left_out, around)

    def _announce(self, done_bytes: int) -> None:
        made, root = self._made, self._staging.root
        self._tell(
            Started(made.repo, made.branch, made.commit, made.folder, len(made.files), done_bytes, made.size_bytes)
        )
        for file in made.left_out:
            self._tell(LeftOut(file.path, file.size_bytes, file.reason))
        for warning in pickle_warnings(made.files):
            self._tell(Note(warning))
        if self._target.parent in (root, *root.parents):
            self._tell(Note(f"{root} lies in the models folder: the webui lists it while it is there."))


def _other_commit(target: Path, lock: Installed) -> DownloadError:
    return DownloadError(
        f"{target} is commit {read_lock(target).commit}, and the lock is of {lock.commit}: --latest lets the one that "
        f"is there go for the lock's; or give another folder with --to."
    )


def _tidy(target: Path, staging_dir: Path | None, whole: bool) -> None:
    """Clear what a killed pull left of a model that is not going to change now; all of it, if that is `whole`."""
    for staging in left_behind(target, staging_dir):
        with contextlib.suppress(Busy, OSError), staging.locked(wait=False):
            staging.recover()
            if whole and not staging.is_under_way():  # a repair may be
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
