"""`branchfit du`: what takes the disk, and what of it is nobody's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .. import installed as on_disk
from ..errors import DownloadError, UsageError
from ..hub.state import plain
from ..installed import DiskUse, Orphan
from ..units import gb
from .models import asked_folder
from .options import json_option, to_option
from .render import cached_repos_table, folders_table


@click.command("du")
@to_option
@click.option("--clean", is_flag=True, help="Remove what downloads left behind; asks first.")
@click.option("--yes", "-y", is_flag=True, help="With --clean: do not ask.")
@click.option("--dry-run", is_flag=True, help="With --clean: only say what would go.")
@json_option
def du_command(to: Path | None, clean: bool, yes: bool, dry_run: bool, json_: bool) -> None:
    """Disk use: models, unfinished downloads, huggingface_hub's cache, and what was left behind in any of them.

    A file that two of them share by a hard link counts once in the total. Without --clean nothing is changed.
    """
    if (yes or dry_run) and not clean:
        raise UsageError(f"{'--yes' if yes else '--dry-run'} goes with --clean; without it nothing is removed.")
    if clean and json_ and not (yes or dry_run):
        raise UsageError("--json cannot ask: give --yes to remove, or --dry-run.")
    folder = asked_folder(to)
    models = on_disk.scan(folder).installed
    orphans = on_disk.find_orphans(folder, models)
    use = on_disk.disk_use(folder, models, orphans)
    idle = [one for one in orphans if one.in_use is None]
    if not json_:
        _show(use)
        where = f" --to {folder}" if to is not None else ""
        _show_orphans(orphans, idle, f"`branchfit du{where} --clean` removes them" if not clean else "")
    removed: list[tuple[Orphan, int]] = []
    failed: list[tuple[Orphan, str]] = []
    if clean and idle and not dry_run:
        if not yes:
            click.confirm(f"Remove {_these(idle)}?", abort=True)
        removed, failed = _remove(idle, folder)
    if json_:
        click.echo(json.dumps(_document(use, orphans, removed, failed), indent=2, ensure_ascii=False))
    elif removed or failed:
        for _, reason in failed:
            click.echo(f"left alone: {plain(reason)}")
        freed_bytes = sum(freed for _, freed in removed)
        click.echo(f"removed {len(removed)} of {len(idle)}, {freed_bytes:,} bytes freed")
    if failed:
        raise click.exceptions.Exit(1)


def _remove(orphans: Sequence[Orphan], folder: Path) -> tuple[list[tuple[Orphan, int]], list[tuple[Orphan, str]]]:
    """Each with the bytes it gave back, and those that stayed with the reason. Lock files last: others look at them."""
    removed, failed = [], []
    for one in sorted(orphans, key=lambda one: one.kind == "locks"):
        try:
            removed.append((one, on_disk.remove_orphan(one, folder)))
        except DownloadError as error:
            failed.append((one, str(error)))
    return removed, failed


def _show(use: DiskUse) -> None:
    click.echo(f"models folder {plain(str(use.models_dir))}")
    if use.models:
        folders_table(use.models)
    else:
        click.echo("  no models of BranchFit's")
    for other in use.others:
        shared = f" ({gb(other.shared_bytes)} of it shared)" if other.shared_bytes else ""
        click.echo(f"not BranchFit's: {plain(other.name)}, {gb(other.size_bytes)}{shared}")
    for partly in use.unfinished:
        click.echo(f"unfinished: {partly.repo}:{partly.branch}, {gb(partly.size_bytes)} here; pull it again to go on")
    for bad in use.bad:
        click.echo(f"kept as bad: {plain(str(bad.path))}, {gb(bad.size_bytes)}; the next whole pull of it removes it")
    if use.hub_cache is not None:
        click.echo(f"huggingface_hub's cache {plain(str(use.hub_cache.folder))}, {gb(use.hub_cache.size_bytes)}")
        if use.hub_cache.repos:
            cached_repos_table(use.hub_cache.repos)
    for folder in use.unread:
        click.echo(f"could not be read, and is not counted: {plain(str(folder))}")
    click.echo(f"in all {gb(use.total_bytes)}, each file once")
    for disk in use.disks:
        click.echo(f"free: {gb(disk.free_bytes)} of {gb(disk.total_bytes)} on the disk of {plain(str(disk.folder))}")


def _show_orphans(orphans: Sequence[Orphan], idle: Sequence[Orphan], remedy: str) -> None:
    for one in orphans:
        several = f", {len(one.files)} files" if len(one.files) > 1 else ""
        click.echo(f"left behind: {plain(str(one.path))}, {gb(one.size_bytes)}{several}: {plain(one.why)}")
        if one.in_use:
            click.echo(f"  stays for now: {plain(one.in_use)}")
        elif one.frees_bytes < one.size_bytes:
            click.echo(f"  {gb(one.size_bytes - one.frees_bytes)} of it have another name elsewhere and stay")
    if idle and remedy:
        click.echo(f"{remedy}: {_these(idle)}")
    elif not idle:
        click.echo("nothing was left behind that could go")


def _these(orphans: Sequence[Orphan]) -> str:
    freed_bytes = sum(one.frees_bytes for one in orphans)
    return f"{len(orphans)} leftover{'s' if len(orphans) != 1 else ''}, {gb(freed_bytes)} to be freed"


def _document(
    use: DiskUse,
    orphans: Sequence[Orphan],
    removed: Sequence[tuple[Orphan, int]],
    failed: Sequence[tuple[Orphan, str]],
) -> dict[str, Any]:
    """`du --json`: the fields of `DiskUse` under their own names, the orphans, and how their removal went."""
    freed = {one.path: freed_bytes for one, freed_bytes in removed}
    errors = {one.path: reason for one, reason in failed}
    document: dict[str, Any] = json.loads(json.dumps(asdict(use), default=str))
    document["orphans"] = [
        {
            "path": str(one.path),
            "kind": one.kind,
            "size_bytes": one.size_bytes,
            "frees_bytes": one.frees_bytes,
            "files": len(one.files),
            "why": one.why,
            "in_use": one.in_use,
            "removed": one.path in freed,
            "error": errors.get(one.path),
        }
        for one in orphans
    ]
    return {**document, "freed_bytes": sum(freed.values())}
