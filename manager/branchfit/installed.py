"""The models on disk: list, find, verify, repair, update, remove; what they and what was left behind take.

A model is a folder with a lock that BranchFit wrote. Everything else in a models folder is reported,
never touched: the webui's own downloads, a lock that cannot be read, links to elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .download.changes import BranchChanges, FileChange, compare
from .download.disk import NO_SPACE, delete_tree, is_plain, walk
from .download.events import OnEvent
from .download.lockfile import BadLock, Installed, LockedFile, has_lock, read_lock
from .download.locks import Busy, hold
from .download.names import LOCK_NAME
from .download.places import STAGING_NAME, staging_root
from .download.planning import resolved
from .download.repairing import RepairReport, record_verified, repair
from .download.staging import Staging, all_left_behind, left_behind
from .download.unfinished import Unfinished, discard, unfinished
from .download.usage.census import FolderUse, folder_use
from .download.usage.leftovers import Orphan
from .download.usage.orphans import find_orphans, remove_orphan
from .download.usage.usage import DiskUse, disk_use
from .download.verifying import BadFile, VerifyReport
from .download.verifying import verify as _verify
from .errors import DownloadError, NotInstalled, PromptError
from .prompts import Template, named

if TYPE_CHECKING:
    from .hub import BranchState

__all__ = [
    "BadFile",
    "BranchChanges",
    "DiskUse",
    "FileChange",
    "FolderUse",
    "Installed",
    "Inventory",
    "LockedFile",
    "Orphan",
    "RepairReport",
    "Unfinished",
    "UnknownFolder",
    "VerifyReport",
    "compare",
    "discard",
    "disk_use",
    "disk_use_bytes",
    "find",
    "find_orphans",
    "folder_use",
    "installed",
    "models_folder",
    "recorded_template",
    "remove",
    "remove_orphan",
    "repair",
    "scan",
    "unfinished",
    "verify",
]


def models_folder(asked: Path | None = None) -> Path:
    """Where models live: what was asked for, else $BRANCHFIT_MODELS, else the place of the webui we are in, else
    ./models."""
    if asked is not None:
        return asked
    if os.environ.get("BRANCHFIT_MODELS"):
        return Path(os.environ["BRANCHFIT_MODELS"])
    here = Path.cwd()
    for folder in (here, *here.parents):
        # What makes a text-generation-webui, in every version: server.py beside modules/extensions.py.
        if (folder / "server.py").is_file() and (folder / "modules" / "extensions.py").is_file():
            newer = folder / "user_data" / "models"
            return newer if newer.is_dir() else folder / "models"
    return here / "models"


@dataclass(frozen=True)
class UnknownFolder:
    """A folder in the models folder that is no model of BranchFit's as it stands.

    `broken` tells what was one (its lock cannot be read, an update of it was interrupted) from what
    never was.
    """

    folder: Path
    reason: str
    broken: bool = False


@dataclass(frozen=True)
class Inventory:
    """What lies in a models folder, each by name."""

    installed: tuple[Installed, ...]
    unknown: tuple[UnknownFolder, ...]


def scan(models_dir: Path, staging_dir: Path | None = None) -> Inventory:
    """All folders in `models_dir` (none where it is missing), from their locks alone: no model file is read.

    A model whose update was killed between the two renames of its swap is put back first. Raises
    `DownloadError` where the folder cannot be listed.
    """
    models_dir = models_dir.expanduser()
    known: list[Installed] = []
    unknown = _recover(models_dir, staging_dir)
    try:
        folders = sorted(path for path in models_dir.iterdir() if path.is_dir() and path.name != STAGING_NAME)
    except FileNotFoundError:
        return Inventory((), ())
    except OSError as error:
        raise DownloadError(f"{models_dir} cannot be listed: {error.strerror or error}.") from error
    for folder in folders:
        if folder in unknown:
            continue
        if not has_lock(folder):
            unknown[folder] = UnknownFolder(folder, f"no {LOCK_NAME}: not made by BranchFit")
            continue
        try:
            known.append(read_lock(folder))
        except BadLock as error:
            unknown[folder] = UnknownFolder(folder, f"its {LOCK_NAME} cannot be read: {error.reason}", broken=True)
    return Inventory(tuple(known), tuple(unknown[folder] for folder in sorted(unknown)))


def installed(models_dir: Path, staging_dir: Path | None = None) -> list[Installed]:
    """The models BranchFit put into `models_dir`, by folder name. Does and raises as `scan`."""
    return list(scan(models_dir, staging_dir).installed)


def find(models_dir: Path, name: str, staging_dir: Path | None = None) -> Installed:
    """The model of that folder name, or, with a slash in it, of that `owner/name` or `owner/name:branch`.

    A repo and a branch are looked for in the locks, never made into a folder name: two repos can have
    the same. Spelling first, then without regard to case. Raises `NotInstalled`, which names what is
    there (of several branches of a repo, each as `repo:branch`); `BadLock` for a folder of that name
    whose lock cannot be read, `DownloadError` for one with an update that could not be undone.
    """
    inventory = scan(models_dir, staging_dir)
    known = inventory.installed
    if "/" in name:
        repo, _, branch = name.partition(":")
        of_repo: list[Installed] = []
        for fold in (str, str.casefold):
            of_repo = of_repo or [one for one in known if fold(one.repo) == fold(repo)]
            found = [one for one in of_repo if not branch or fold(one.branch) == fold(branch)]
            if len(found) == 1:
                return found[0]
            if found:
                raise NotInstalled(name, models_dir, _names(found))
        raise NotInstalled(name, models_dir, _names(of_repo or known))
    for fold in (str, str.casefold):
        found = [one for one in known if fold(one.name) == fold(name)]
        if len(found) == 1:
            return found[0]
    for broken in inventory.unknown:
        if broken.broken and broken.folder.name == name:
            if has_lock(broken.folder):
                read_lock(broken.folder)  # says what is wrong with it, if that is what is
            raise DownloadError(f"{broken.folder}: {broken.reason}")
    raise NotInstalled(name, models_dir, [one.name for one in known])


def verify(model: Installed, on_event: OnEvent | None = None, listing: BranchState | None = None) -> VerifyReport:
    """Hash every file of a model and compare with what the Hub says (see `download.verifying.verify`).

    Where all is right, the lock's `verified_at` says so from now on, if it can be written; nothing else changes.
    """
    report = _verify(model, on_event, listing)
    if report.ok:
        record_verified(report.installed)
    return report


def recorded_template(model: Installed) -> Template | None:
    """The prompt template recorded when the model was pulled; None where none was, or it cannot be one."""
    recorded = model.template or {}
    text = recorded.get("text")
    if not isinstance(text, str):
        return None
    try:
        return named(str(recorded.get("name") or model.repo), text, LOCK_NAME)
    except PromptError:  # the lock lies in a folder that others write to
        return None


def disk_use_bytes(model: Installed) -> int:
    """Bytes of all plain files in a model's folder, those not of the pull too."""
    return sum(found.st_size for relative, found in walk(model.folder) if is_plain(model.folder / relative))


def remove(model: Installed | Path, *, force: bool = False, staging_dir: Path | None = None) -> int:
    """Delete a model (or a folder, given by its path); return the bytes of disk given back.

    It leaves the models folder in one step, so that the webui never lists half of it, and is deleted
    beside it, with what lies there of it already. Links inside are deleted, what they point at is not;
    of a folder that is a link itself, only the link goes. Raises `NotInstalled` where nothing is there;
    `DownloadError` for a folder without a readable lock (unless `force`), one that another BranchFit is
    at work on, or one that will not go.
    """
    folder = (model if isinstance(model, Path) else model.folder).expanduser().absolute()
    if not folder.parent.is_dir():
        raise NotInstalled(folder.name, folder.parent, [])
    target = resolved(folder.parent) / folder.name
    try:
        if target.is_symlink():
            _check_lock(target, force)
            target.unlink()
            return 0
        staging = _staging_for(target, staging_dir)
        with hold(target, staging.root if staging else None, wait=False, required=False):
            return _remove(target, force, staging, left_behind(target, staging_dir))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise DownloadError(
            f"{target} could not be removed: {error.strerror or error}{where}. Is a program using it? Try again."
        ) from error


def _remove(target: Path, force: bool, staging: Staging | None, others: Sequence[Staging]) -> int:
    """Under the lock: delete the target, and every staging folder of it."""
    for one in [staging, *others]:
        if one is not None:
            one.check()
    freed_bytes = sum(one.recover() for one in others)
    if not target.is_dir():
        raise NotInstalled(target.name, target.parent, [one.name for one in installed(target.parent)])
    _check_lock(target, force)
    try:
        freed_bytes += staging.drop(target) if staging else _remove_in_place(target)
    except OSError as error:
        if error.errno not in NO_SPACE or not target.is_dir():
            raise
        freed_bytes += _remove_in_place(target)  # so full that nothing can be made beside it, not even a folder
    emptied = {one.folder: one for one in [staging, *others] if one is not None}
    return freed_bytes + sum(one.clear() for one in emptied.values())


def _check_lock(folder: Path, force: bool) -> None:
    """Raise `DownloadError` for a folder that BranchFit did not make."""
    if force:
        return
    if not has_lock(folder):
        raise DownloadError(
            f"{folder} was not made by BranchFit (it has no {LOCK_NAME}): remove it yourself, or force it."
        )
    read_lock(folder)


def _remove_in_place(folder: Path) -> int:
    """Where nothing beside the models folder can be written: the lock goes last, so that it can be run again."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name != LOCK_NAME]
    freed_bytes = sum(delete_tree(folder / name) for name in names)
    return freed_bytes + delete_tree(folder)


def _staging_for(target: Path, staging_dir: Path | None) -> Staging | None:
    try:
        return Staging(staging_root(target.parent, staging_dir), target)
    except DownloadError:
        if staging_dir is not None:
            raise
        return None


def _recover(models_dir: Path, staging_dir: Path | None) -> dict[Path, UnknownFolder]:
    """Put back what a killed swap took away; by folder, what could not be."""
    failed = {}
    if models_dir.is_dir():
        for staging in all_left_behind(resolved(models_dir), staging_dir):
            if not staging.old.is_dir():
                continue
            folder = models_dir / staging.target.name
            try:
                with contextlib.suppress(Busy), staging.locked(wait=False):  # busy: the swap goes on this moment
                    staging.recover()
            except (DownloadError, OSError) as error:
                reason = f"an update of it was interrupted, and could not be undone: {error}"
                failed[folder] = UnknownFolder(folder, reason, broken=True)
    return failed


def _names(models: Sequence[Installed]) -> list[str]:
    """`repo:branch` of each; of copies of one, the folders."""
    named = [f"{one.repo}:{one.branch}" for one in models]
    return named if len(set(named)) == len(named) else [one.name for one in models]
