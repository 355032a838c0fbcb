"""Fetch again what of an installed model is bad or missing, at the commit its lock names; nothing else is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DownloadError, NoSpace
from .disk import delete_tree, is_plain_folder, make_folders, space_for, sync, write_error
from .events import Finished, Note, OnEvent, Started
from .fetch import RETRY_WAITS_S, Manner, fetch_all, with_prefixes
from .lockfile import Installed, LockedFile, read_lock, write_lock
from .locks import hold, publishing, waited
from .mending import clone, copy, find_mends
from .places import staging_root
from .planning import free_bytes, resolved
from .staging import Staging
from .verifying import UNLISTED, BadFile, VerifyReport, published_files, verify

if TYPE_CHECKING:
    from ..hub import Hub


@dataclass(frozen=True)
class RepairReport:
    """What `repair` did. `before` is what it found, `repaired` the paths that were fetched again.

    `left` are files that the lock names and the Hub does not: nothing can be fetched in their place. `fetched_bytes` is
    all that came over the line; `fetched` says by path how much of that each repaired file took.
    """

    installed: Installed
    before: VerifyReport
    repaired: tuple[str, ...]
    left: tuple[str, ...]
    fetched_bytes: int
    fetched: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True when every file is now there and has the Hub's hash."""
        return not self.left


def repair(
    hub: Hub,
    model: Installed,
    on_event: OnEvent | None = None,
    *,
    staging_dir: Path | None = None,
    wait: bool = True,
    retry_waits_s: Sequence[float] = RETRY_WAITS_S,
) -> RepairReport:
    """Verify a model against the Hub; fetch each bad or missing file again, verify it, and put it in its place.

    Of a bad file whose lock has hashes of its beginnings, only the steps that are wrong or missing are fetched (see
    `mending`). It stays where it is until its successor is whole; then it is moved aside, and deleted when all are in
    place. Files that are not of the pull are not touched. An interrupted repair goes on where it stopped. Raises as
    `pull` does; `DownloadError` for a folder that is a link or changed meanwhile.
    """
    tell = on_event or (lambda event: None)
    target = resolved(model.folder.parent) / model.folder.name
    if target.is_symlink():
        raise DownloadError(f"{target} is a link: repair the model where it lies ({target.resolve()}).")
    staging = Staging(staging_root(target.parent, staging_dir), target)
    try:
        with staging.locked(wait, lambda holder: tell(waited(target, holder))) as notice:
            staging.recover()
            here = read_lock(target)
            if (here.repo, here.branch, here.commit) != (model.repo, model.branch, model.commit):
                raise DownloadError(
                    f"{target} was changed meanwhile: it is {here.repo}:{here.branch} at {here.commit}."
                )
            return _Repair(hub, here, staging, publishing(notice, tell)).run(retry_waits_s)
    except BrokenPipeError:  # of `on_event`'s output: no disk says that
        raise
    except OSError as error:
        path = Path(str(error.filename or staging.folder))
        raise write_error(error, path, model.size_bytes, free_bytes(staging.root)) from error


class _Repair:
    """One repair, under the folder's lock."""

    def __init__(self, hub: Hub, model: Installed, staging: Staging, tell: OnEvent) -> None:
        self._hub = hub
        self._model = model
        self._staging = staging
        self._tell = tell

    def run(self, retry_waits_s: Sequence[float]) -> RepairReport:
        model, target = self._model, self._model.folder
        listing = self._hub.branch_files(model.repo, model.commit)
        before = verify(model, self._tell, listing)
        files = published_files(before.installed, listing)
        left = tuple(bad.path for bad in before.bad if bad.expected == UNLISTED)
        broken = {bad.path for bad in before.bad} | set(before.missing)
        wanted = [file for file in files if file.path in broken]
        for file in wanted:
            if is_plain_folder(target / file.path):
                raise DownloadError(
                    f"{target / file.path} is a folder, and a file of the model belongs there: move it."
                )
        fetched: dict[str, int] = {}
        fetched_bytes = self._fetch(wanted, before.bad, retry_waits_s, fetched) if wanted else 0
        files = _recorded(model, with_prefixes(self._staging, files) if wanted else files, left)
        for file in wanted:
            self._put_in_place(file)
        whole = replace(model, files=files, size_bytes=sum(file.size_bytes for file in files))
        whole = whole if left else replace(whole, verified_at=_now())
        with contextlib.suppress(OSError):  # the files are right; that nobody could write it down is no harm
            write_lock(whole, target)
        with contextlib.suppress(OSError):
            self._staging.clear()
        self._tell(Finished(target, "repaired" if wanted else "already", whole.size_bytes, fetched_bytes))
        return RepairReport(whole, before, tuple(file.path for file in wanted), left, fetched_bytes, fetched)

    def _fetch(
        self,
        wanted: list[LockedFile],
        bad: Sequence[BadFile],
        retry_waits_s: Sequence[float],
        fetched: dict[str, int],
    ) -> int:
        """Stage every one of them, verified; return the bytes fetched. Raises `NoSpace` before the first."""
        model, staging = self._model, self._staging
        went_on = staging.folder.exists()
        staging.prune(wanted)
        staging.prepare(wanted, model.repo, model.branch, model.commit)
        mends = find_mends(staging, model.folder, wanted, bad)
        copies = [mend for mend in mends if not clone(staging, mend)]
        try:
            self._check_space(wanted)
        except NoSpace:
            if not went_on:
                staging.clear()
            raise
        to_copy = {mend.file.path: mend.here.total_bytes for mend in copies}
        done_bytes = sum(to_copy.values()) + sum(self._done(wanted).values())
        total = sum(file.size_bytes for file in wanted)
        self._tell(Started(model.repo, model.branch, model.commit, model.folder, len(wanted), done_bytes, total))
        for mend in copies:
            copy(staging, mend, self._tell)
        return fetch_all(
            self._hub,
            model.repo,
            model.commit,
            staging,
            wanted,
            here_bytes=self._done(wanted),
            sources={},
            tell=self._tell,
            manner=Manner(retry_waits_s=retry_waits_s),
            fetched=fetched,
        )

    def _done(self, wanted: Sequence[LockedFile]) -> dict[str, int]:
        """By path, the bytes that are staged."""
        verified = self._staging.verified(wanted)
        return {
            file.path: file.size_bytes if file.path in verified else self._staging.staged_bytes(file) for file in wanted
        }

    def _check_space(self, wanted: Sequence[LockedFile]) -> None:
        done, verified = self._done(wanted), self._staging.verified(wanted)
        needed = space_for([file.size_bytes - done[file.path] for file in wanted if file.path not in verified])
        free = free_bytes(self._staging.root)
        if needed > free:
            raise NoSpace(self._staging.root, needed, free)

    def _put_in_place(self, file: LockedFile) -> None:
        """The verified file takes the bad one's place; the bad one is aside, until the staging folder goes."""
        place = make_folders(self._model.folder, file.path)
        if place.is_symlink() or place.exists():
            aside = make_folders(self._staging.bad, file.path)
            delete_tree(aside)
            place.rename(aside)
        (self._staging.files / file.path).rename(place)
        sync(place.parent)
        self._tell(Note(f"{file.path} is as published again"))


def record_verified(model: Installed) -> None:
    """Write down that all of a model was right just now. Never raises: where it cannot be written, it is not.

    A lock that changed since it was read stays as it is.
    """
    with contextlib.suppress(OSError, DownloadError), hold(model.folder, None, wait=False, required=False):
        if read_lock(model.folder) == model:
            write_lock(replace(model, verified_at=_now()), model.folder)


def _recorded(model: Installed, files: Sequence[LockedFile], left: Sequence[str]) -> tuple[LockedFile, ...]:
    """The lock's files: those the Hub lists, and those it does not and that cannot be mended."""
    return tuple(sorted((*files, *(one for one in model.files if one.path in left)), key=lambda one: one.path))


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)
