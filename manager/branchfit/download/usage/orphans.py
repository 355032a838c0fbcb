"""Everything that downloads left behind: found, explained, and on request removed.

Looked at are the models folder, its staging folders and huggingface_hub's cache, nothing else; no link is followed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import DownloadError
from ...hub.hub_cache import hub_cache_dir
from ..disk import delete_tree, is_plain, is_plain_folder, plain_path
from ..journal import Journal
from ..lockfile import BadLock, Installed, read_lock
from ..locks import Busy
from ..places import STAGING_NAME
from ..planning import resolved
from ..staging import Staging, all_left_behind
from .census import plain_files
from .hub_leftovers import in_cache, in_folder, is_referred, links_of
from .leftovers import Orphan, changed_lately, orphan, remove_files


def find_orphans(models_dir: Path, models: Sequence[Installed]) -> tuple[Orphan, ...]:
    """What lies about, that of huggingface_hub's cache first; `models` are the installed ones. Only looks.

    Those with `in_use` are not to be removed now. Raises `DownloadError` where the models folder leads nowhere.
    """
    models_dir = resolved(models_dir)
    own = {model.folder.name: [file.path for file in model.files] for model in models}
    cache = hub_cache_dir().resolve()
    found = [*in_cache(cache, links_of(models_dir)), *in_folder(models_dir, models_dir, ())]
    with contextlib.suppress(OSError):  # not there, or closed to us: nothing of it is known
        for folder in sorted(models_dir.iterdir()):
            if is_plain_folder(folder) and folder != cache:
                found += in_folder(folder, models_dir, own.get(folder.name, ()))
    found += _in_staging(models_dir)
    return tuple(one for one in found if one is not None)


def remove_orphan(one: Orphan, models_dir: Path) -> int:
    """Remove an orphan that `find_orphans(models_dir, ...)` found; return the bytes of disk given back.

    What stands in its place by now is looked at again. Raises `DownloadError` where it has come into use, or
    something of it will not go.
    """
    if one.in_use:
        raise DownloadError(f"{one.path} was left alone: {one.in_use}.")
    try:
        if one.kind == "staging":
            return _remove_staging(one, resolved(models_dir))
        if one.kind == "blob":
            referred = is_referred(one.path.parent.parent)
            return remove_files(one, lambda: referred is not None and not referred(one.path))
        return remove_files(one)
    except OSError as error:
        raise DownloadError(f"{one.path} could not be removed: {error.strerror or error}.") from error


def _in_staging(models_dir: Path) -> Iterator[Orphan | None]:
    """BranchFit's own staging folders that no pull will go on with."""
    for staging in all_left_behind(models_dir):
        why = _why_over(staging)
        if why is not None:
            yield _staging_orphan(staging.folder, staging.root, why, _at_work(staging))
    root = models_dir.parent / STAGING_NAME
    if not is_plain_folder(root):
        return
    with contextlib.suppress(OSError):
        for folder in sorted(root.iterdir()):
            if is_plain_folder(folder) and _is_of_nobody(folder, root):
                purpose = Journal(folder / "journal.jsonl").purpose()
                what = f"a download of {purpose.repo}:{purpose.branch}" if purpose else "a download"
                former = "it holds the model that an update was about to replace" if (folder / "old").is_dir() else None
                why = f"{what} into a models folder that is gone from {root.parent}"
                yield _staging_orphan(folder, root, why, former)


def _staging_orphan(folder: Path, root: Path, why: str, in_use: str | None) -> Orphan | None:
    files = [folder / path for path, _ in plain_files(folder, [])]
    return orphan(folder, "staging", why, root, files, in_use=in_use)


def _why_over(staging: Staging) -> str | None:
    """Why no pull goes on with a staging folder, or None where one does, or it holds a model."""
    if is_plain_folder(staging.old):
        return None  # the former model of a swap that was killed: the next `scan` puts it back
    purpose = staging.journal.purpose()
    if purpose is None:
        # A pull of the same model would use its parts.
        nothing = not staging.is_under_way() and not is_plain_folder(staging.files)
        return "a staging folder of BranchFit's whose journal does not say what it is for" if nothing else None
    try:
        lock = read_lock(staging.target)
    except BadLock:
        return None
    if (lock.repo, lock.branch, lock.commit) != (purpose.repo, purpose.branch, purpose.commit) or not _is_whole(lock):
        return None
    return f"left by a pull or a repair of {staging.target.name}, which is whole"


def _is_whole(model: Installed) -> bool:
    """True where every file of a model is there, by size."""
    for file in model.files:
        place = plain_path(model.folder, file.path)
        if place is None or not is_plain(place) or place.lstat().st_size != file.size_bytes:
            return False
    return True


def _at_work(staging: Staging) -> str | None:
    try:
        with Staging(staging.root, staging.target).locked(wait=False):
            return None
    except Busy as error:
        return f"another BranchFit (pid {error.pid or 'unknown'}) is at work on it"
    except (DownloadError, OSError) as error:
        return str(error)


def _is_of_nobody(folder: Path, root: Path) -> bool:
    """True where the models folder that a staging folder was made for is gone; its journal says which that was."""
    purpose = Journal(folder / "journal.jsonl").purpose()
    if purpose is None or not purpose.target:
        return False
    target = Path(purpose.target)
    return Staging(root, target).folder == folder and not target.parent.exists()


def _remove_staging(one: Orphan, models_dir: Path) -> int:
    """All of a staging folder, under its model's lock where the models folder is there."""
    staging = next((each for each in all_left_behind(models_dir) if each.folder == one.path), None)
    if staging is not None and models_dir.is_dir():
        with staging.locked(wait=False):
            _check_still(one, _why_over(staging) is not None)
            staging.recover()
            staging.clear()
            return one.frees_bytes
    _check_still(one, is_plain_folder(one.within) and is_plain_folder(one.path) and _is_of_nobody(one.path, one.within))
    delete_tree(one.path)
    with contextlib.suppress(OSError):  # another's is in it
        one.within.rmdir()
    return one.frees_bytes


def _check_still(one: Orphan, still: bool) -> None:
    """Raise `DownloadError` where a staging folder has come into use since it was found."""
    newest_s = max((found.st_mtime for _, found in plain_files(one.path, [])), default=0.0)
    reason = changed_lately(newest_s) or (None if still else "a pull has use for it by now")
    if reason:
        raise DownloadError(f"{one.path} was left alone: {reason}.")
