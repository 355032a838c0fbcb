"""Downloads that were begun and did not end: what is on disk of them, and away with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .disk import is_plain_folder
from .partmap import SUFFIX as PART_MAP
from .planning import resolved
from .staging import Staging, all_left_behind
from .usage.census import on_disk_bytes, plain_files


@dataclass(frozen=True)
class Unfinished:
    """A download that can go on with a pull of the same branch. `name` is that of the folder it will be."""

    name: str
    repo: str
    branch: str
    commit: str
    size_bytes: int


def unfinished(models_dir: Path, staging_dir: Path | None = None) -> list[Unfinished]:
    """The unfinished downloads into `models_dir`, by name, from their journals; sizes are bytes on disk.

    Those in a staging folder of the user's own are found where `staging_dir` names it.
    """
    found = []
    for staging in all_left_behind(resolved(models_dir), staging_dir):
        purpose = staging.journal.purpose()
        if purpose is not None:
            size_bytes = _size_bytes(staging)
            found.append(Unfinished(staging.target.name, purpose.repo, purpose.branch, purpose.commit, size_bytes))
    return found


def discard(models_dir: Path, name: str, staging_dir: Path | None = None) -> int:
    """Delete what is on disk of an unfinished download; return the bytes given back, 0 where there is none.

    What is installed under that name stays. Raises `DownloadError` where another BranchFit is at work on it.
    """
    freed_bytes = 0
    for staging in all_left_behind(resolved(models_dir), staging_dir):
        if staging.target.name == name:
            with staging.locked(wait=False):
                freed_bytes += staging.recover() + staging.clear()
    return freed_bytes


def _size_bytes(staging: Staging) -> int:
    places = [folder for folder in (staging.files, staging.parts, staging.bad) if is_plain_folder(folder)]
    held = [found for folder in places for name, found in plain_files(folder, []) if not name.endswith(PART_MAP)]
    return sum(on_disk_bytes(found) for found in held)
