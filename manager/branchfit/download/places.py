"""Where a download can grow: on the models folder's file system, and never in the models folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ..errors import DownloadError
from ..hub.cache import default_cache_dir
from .disk import existing_ancestor, is_plain_folder

STAGING_NAME = ".branchfit-staging"


def candidates(models_dir: Path, staging_dir: Path | None = None) -> list[Path]:
    """The folders in which downloads for `models_dir` (resolved) may lie, the best first; fit or not."""
    if staging_dir is not None:
        return [staging_dir.expanduser().resolve()]
    return [models_dir.parent / STAGING_NAME, default_cache_dir().resolve() / "staging"]


def staging_root(models_dir: Path, staging_dir: Path | None = None) -> Path:
    """The folder in which downloads for `models_dir` (resolved) grow; makes nothing.

    `staging_dir` is taken if given; else `.branchfit-staging` beside the models folder, else
    `staging` in BranchFit's cache folder. Raises `DownloadError` where none can be written or none is on the
    models folder's file system.
    """
    why = ""
    for candidate in candidates(models_dir, staging_dir):
        reason = _unfit(candidate, models_dir)
        if reason is None:
            return candidate
        why += f" {candidate}: {reason}."
    raise DownloadError(
        f"no folder to download into before a model appears whole in {models_dir}.{why} Give one with --staging, on "
        f"the file system of {models_dir}; where that is a mount of its own, {models_dir / STAGING_NAME} will do, and "
        f"the webui lists it while it is there."
    )


def _unfit(candidate: Path, models_dir: Path) -> str | None:
    """Why a whole folder cannot be renamed from `candidate` into `models_dir`, or None."""
    start, end = existing_ancestor(candidate), existing_ancestor(models_dir)
    if not is_plain_folder(start):
        return "it is a link or a file" if start == candidate else f"{start} is a link or a file"
    if not os.access(start, os.W_OK | os.X_OK):
        return f"{start} is not writable"
    if start.stat().st_dev != end.stat().st_dev:
        return "it is on another file system"
    # A bind mount has the same st_dev. Linux refuses to rename across mounts before it looks whether
    # the names exist (do_renameat2 in fs/namei.c), so a rename of nothing tells without a trace.
    nothing = f".branchfit-none-{os.getpid()}"
    try:
        (start / nothing).rename(end / (nothing + "-either"))
    except FileNotFoundError:
        return None
    except OSError as error:
        return "it is on another mount" if error.errno == errno.EXDEV else error.strerror or str(error)
    return None
