"""What is on disk and whose: models, unfinished downloads, what was kept as bad, huggingface_hub's cache."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...hub.hub_cache import hub_cache_dir
from ..disk import existing_ancestor, is_plain_folder
from ..lockfile import Installed
from ..names import LOCK_NAME
from ..places import candidates
from ..planning import resolved
from ..reuse import HUB_CACHE
from ..staging import Staging, all_left_behind
from ..unfinished import Unfinished, unfinished
from .census import Census, ExtraFile, FolderUse, on_disk_bytes, plain_files
from .leftovers import Orphan


@dataclass(frozen=True)
class CachedRepo:
    """A repo in huggingface_hub's cache. `problem` is why huggingface_hub cannot read it, None where it can.

    `size_bytes` is huggingface_hub's figure, what its snapshots refer to; with a problem, all files there.
    """

    repo: str
    kind: str
    folder: Path
    size_bytes: int
    revisions: int
    problem: str | None = None


@dataclass(frozen=True)
class HubCache:
    """huggingface_hub's cache; `size_bytes` is all of it, orphans too, each file once."""

    folder: Path
    size_bytes: int
    repos: tuple[CachedRepo, ...]


@dataclass(frozen=True)
class KeptBad:
    """A file whose checksum was wrong, kept for whoever wants to look. `name` is the model's."""

    name: str
    path: Path
    size_bytes: int


@dataclass(frozen=True)
class Disk:
    """A file system, by one folder on it."""

    folder: Path
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class DiskUse:
    """All of it. `total_bytes` counts each file once, whoever has a name for it; `unread` are folders closed to us."""

    models_dir: Path
    models: tuple[FolderUse, ...]
    others: tuple[FolderUse, ...]
    unfinished: tuple[Unfinished, ...]
    bad: tuple[KeptBad, ...]
    hub_cache: HubCache | None
    disks: tuple[Disk, ...]
    total_bytes: int
    unread: tuple[Path, ...]


def disk_use(models_dir: Path, models: Sequence[Installed], orphans: Sequence[Orphan] = ()) -> DiskUse:
    """What a models folder, the downloads for it and huggingface_hub's cache take; `models` are the installed ones.

    Everything else in the models folder is in `others`; what is among `orphans` is not `unfinished` any more. Changes
    nothing. Raises `DownloadError` where the
    models folder leads nowhere.
    """
    models_dir = resolved(models_dir)
    census, installed = Census(), {model.folder.name: model for model in models}
    found: dict[str, list[ExtraFile]] = {}
    for name in _names(models_dir, census.unread):
        path = models_dir / name
        found[name] = [] if path.is_symlink() else census.add(name, path)  # a link takes no space
    bad = []
    for staging in all_left_behind(models_dir):
        census.add(f"the unfinished {staging.target.name}", staging.folder)
        bad += [
            KeptBad(staging.target.name, staging.bad / relative, on_disk_bytes(one))
            for relative, one in plain_files(staging.bad, census.unread)
        ]
    cache = hub_cache_dir().resolve()
    if is_plain_folder(cache):
        census.add(HUB_CACHE, cache)
    uses = {
        name: census.use(name, name, _extra(files, installed[name]) if name in installed else ())
        for name, files in found.items()
    }
    return DiskUse(
        models_dir=models_dir,
        models=tuple(uses[name] for name in sorted(installed) if name in uses),
        others=tuple(use for name, use in sorted(uses.items()) if name not in installed),
        unfinished=_unfinished(models_dir, orphans),
        bad=tuple(bad),
        hub_cache=_hub_cache(cache, census) if is_plain_folder(cache) else None,
        disks=_disks([models_dir, *candidates(models_dir)[:1], cache]),
        total_bytes=census.total_bytes,
        unread=tuple(census.unread),
    )


def _names(folder: Path, unread: list[Path]) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError:
        unread.append(folder)
        return []


def _unfinished(models_dir: Path, orphans: Sequence[Orphan]) -> tuple[Unfinished, ...]:
    over = {one.path for one in orphans}
    return tuple(
        one
        for one in unfinished(models_dir)
        if not any(Staging(root, models_dir / one.name).folder in over for root in candidates(models_dir))
    )


def _extra(files: Sequence[ExtraFile], model: Installed) -> list[ExtraFile]:
    own = {file.path for file in model.files} | {LOCK_NAME}
    return [file for file in files if file.path not in own]


def _hub_cache(cache: Path, census: Census) -> HubCache:
    """The cache by repo: as huggingface_hub reads it, and what it cannot read by its files."""
    scanned, problems = _scanned(cache)
    repos = []
    for name in _names(cache, census.unread):
        kind, mark, repo = name.partition("--")
        if not mark or not is_plain_folder(cache / name):
            continue
        if name in scanned:
            one = scanned[name]
            repos.append(CachedRepo(one.repo_id, one.repo_type, cache / name, one.size_on_disk, len(one.revisions)))
        else:
            alone = Census()
            alone.add("", cache / name)
            reason = next((text for text in problems if name in text), "huggingface_hub cannot read it")
            size_bytes = alone.total_bytes
            repos.append(
                CachedRepo(repo.replace("--", "/"), kind.removesuffix("s"), cache / name, size_bytes, 0, reason)
            )
    return HubCache(cache, census.use(HUB_CACHE, HUB_CACHE).size_bytes, tuple(repos))


def _scanned(cache: Path) -> tuple[dict[str, Any], list[str]]:
    """huggingface_hub's own reading: folder name -> CachedRepoInfo, and what it says of those it cannot read."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.utils import CacheNotFound

    try:
        found = scan_cache_dir(cache)
    except (CacheNotFound, ValueError, OSError) as error:  # ValueError: a ref that is no text, too
        return {}, [str(error)]
    return {one.repo_path.name: one for one in found.repos}, [str(warning) for warning in found.warnings]


def _disks(folders: Sequence[Path]) -> tuple[Disk, ...]:
    """The file systems of these folders (or of where they would be made), each once."""
    found: dict[int, Disk] = {}
    for folder in folders:
        there = existing_ancestor(folder)
        device = there.stat().st_dev
        if device not in found:
            usage = shutil.disk_usage(there)
            found[device] = Disk(folder, usage.free, usage.total)
    return tuple(found.values())
