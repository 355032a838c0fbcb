"""`pull`: a branch becomes a folder that appears whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DownloadError, NoSpace
from .crew import Crew
from .disk import delete_tree, is_plain_folder, make_folders, space_for, sync, walk, write_error
from .events import (
    BranchMoved,
    Checking,
    Event,
    FileVerified,
    Finished,
    LeftOut,
    Note,
    OnEvent,
    Started,
    Waiting,
)
from .hashing import expected_hash, hash_file, hash_name
from .lockfile import Installed, LockedFile, read_lock, write_lock
from .names import LOCK_NAME, folder_name, left_out
from .planning import (
    DownloadPlan,
    Standing,
    check_space,
    free_bytes,
    here_bytes,
    look,
    plan,
    resolved,
    reusable,
    sort_listing,
)
from .staging import Staging
from .transfer import RETRY_WAITS_S, Transfer

if TYPE_CHECKING:
    from ..hub import BranchState, Hub


def pull(
    hub: Hub,
    repo: str,
    branch: str,
    models_dir: Path,
    *,
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

    The branch's commit is asked for once and everything comes from it. The folder appears by one
    rename when all of it is whole; until then it grows beside the models folder (see `staging`),
    and a pull that was interrupted or killed goes on there. What is there already decides:

    - this commit, all files there: nothing is done, and nothing asked but the listing;
    - this commit with files missing or of another size: what is missing comes, what is right stays;
    - another commit of the branch: `BranchMoved` is told and the old one stays; with `latest` the new
      one is fetched (files that did not change are not), and takes its place. Files that are not the
      branch's own move along;
    - a folder without a lock whose files all have the Hub's hashes: it gets a lock (`adopted`);
    - anything else: `DownloadError`, and it is not touched.

    One pull at a time works on a folder; a second waits (`Waiting`), or with `wait=False` raises.
    `template`, `loader` and `runtime` are recorded in the lock as given. `on_event` is called in this
    thread; what it raises ends the pull, as Ctrl-C does, and what was fetched is kept.

    Raises `RefusedFiles`, `NoSpace`, `BadChecksum`, `TransferBroken` and other `DownloadError`s;
    `HubError`s; `UsageError` for a bad name.
    """
    tell = on_event or _ignore
    name = folder_name(repo, branch)
    state = hub.branch_files(repo, branch)
    target = resolved(models_dir) / name
    wanted, without = sort_listing(state, repo, target)
    standing = look(target, repo, state, wanted)
    if standing == "already" or (standing == "moved" and not latest):
        return _stays(target, standing, state.commit, tell)
    first = plan(state, repo, target.parent, staging_dir=staging_dir, require_space=False)
    staging = Staging(first.staging.parent, name)
    if not staging.folder.exists():
        check_space(first)
    made = Installed(
        folder=target,
        repo=repo,
        branch=branch,
        commit=state.commit,
        size_bytes=first.total_bytes,
        files=wanted,
        pulled_at=datetime.now(timezone.utc).replace(microsecond=0),
        template=template,
        loader=loader,
        runtime=runtime,
        endpoint=getattr(hub, "endpoint", None),
        left_out=without,
        branchfit=_version(),
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
        self._staging.recover(self._target)
        standing = look(self._target, made.repo, self._state, wanted)
        if standing == "already" or (standing == "moved" and not latest):
            return _stays(self._target, standing, made.commit, self._tell)
        if standing == "moved":
            self._tell(BranchMoved(self._target, read_lock(self._target).commit, made.commit))
        if standing == "foreign":
            return self._adopt()
        self._staging.prune(wanted)
        self._check_space(staging_dir)
        done = here_bytes(self._target, standing, self._staging, wanted)
        self._announce(sum(done.values()))
        self._staging.prepare(wanted, made.commit)
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
            here = here_bytes(self._target, standing, self._staging, wanted)
            needed_bytes = space_for([file.size_bytes - here[file.path] for file in wanted])
            raise NoSpace(error.path, max(needed_bytes, error.needed_bytes), error.free_bytes) from error
        self._land()
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

    def _land(self) -> None:
        """The whole folder takes its place in one rename; a former one leaves in another just before."""
        write_lock(self._made, self._staging.files)
        former = is_plain_folder(self._target) and any(self._target.iterdir())
        if former:
            self._carry_over()
        self._staging.sync_folders()
        if former:
            self._target.rename(self._staging.old)
        elif is_plain_folder(self._target):
            self._target.rmdir()  # empty; Windows renames nothing onto a folder
        try:
            self._staging.files.rename(self._target)
        except OSError:
            self._staging.recover(self._target)
            raise
        sync(self._target.parent)
        with contextlib.suppress(OSError):  # the model is there; what will not go now, the next pull clears
            self._staging.clear()

    def _carry_over(self) -> None:
        """Files in the former folder that are not the branch's own go along, by a second name or a copy."""
        own = {file.path for file in read_lock(self._target).files} | {LOCK_NAME, LOCK_NAME + ".new"}
        for relative, _ in list(walk(self._target)):
            if relative in own:
                continue
            try:
                place = make_folders(self._staging.files, relative)
            except DownloadError:
                place = self._staging.files / relative  # a file of the branch stands where its folder would
            if place.is_symlink() or place.exists() or not is_plain_folder(place.parent):
                raise DownloadError(
                    f"{self._target / relative} is not of the pull before, and the branch now has a file in its place: "
                    f"move it away, then run the same command again."
                )
            _second_name(self._target / relative, place)

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
        return lambda done_bytes: self._tell(Checking(file.path, done_bytes, file.size_bytes))


def _stays(target: Path, standing: Standing, hub_commit: str, tell: OnEvent) -> Installed:
    """The installed model, which is left as it is: nothing to do, or the branch moved and nobody asked for that."""
    found = read_lock(target)
    if standing == "moved":
        tell(BranchMoved(target, found.commit, hub_commit))
    tell(Finished(target, "already" if standing == "already" else "kept", found.size_bytes, 0))
    return found


def _second_name(source: Path, place: Path) -> None:
    """`source` under another name: a link as a link, a file by a hard link or, where the disk has none, a copy."""
    if source.is_symlink():
        place.symlink_to(source.readlink())
        return
    try:
        os.link(source, place)
    except OSError:
        shutil.copy2(source, place, follow_symlinks=False)


def _version() -> str:
    try:
        return metadata.version("branchfit")
    except metadata.PackageNotFoundError:
        return "unknown"


def _ignore(event: Event) -> None:
    """For callers that want no events."""
