"""`branchfit list`, `verify`, `repair` and `remove`: the models on disk."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .. import installed as on_disk
from ..download import Installed
from ..download.planning import resolved
from ..download.queue import Queue
from ..download.unfinished import unfinished
from ..errors import BranchFitError, HubError, NotFound, NotInstalled, UsageError
from ..hub import BranchState, Hub
from ..installed import models_folder
from ..units import gb
from .options import json_option, staging_option, to_option


def complete_name(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The names of installed models, for the shell."""
    try:
        found = on_disk.installed(models_folder(ctx.params.get("to")))
    except BranchFitError:
        return []
    return [model.folder.name for model in found if model.folder.name.startswith(incomplete)]


def asked_folder(to: Path | None) -> Path:
    """The models folder. Raises `UsageError` for one that was asked for and is not there: most likely a slip."""
    folder = models_folder(to)
    if to is not None and not folder.expanduser().is_dir():
        raise UsageError(f"there is no folder {folder}.")
    return folder


def installed_document(model: Installed) -> dict[str, Any]:
    """An installed model as --json prints it."""
    return {
        "name": model.folder.name,
        "folder": str(model.folder),
        "repo": model.repo,
        "branch": model.branch,
        "commit": model.commit,
        "size_bytes": model.size_bytes,
        "files": len(model.files),
        "loader": model.loader,
        "runtime": model.runtime,
        "prompt_template": model.template,
        "pulled_at": model.pulled_at.isoformat(),
        "verified_at": model.verified_at.isoformat() if model.verified_at is not None else None,
    }


@click.command("list")
@to_option
@json_option
def list_command(to: Path | None, json_: bool) -> None:
    """The models on disk: name, size, branch, when they came."""
    folder = asked_folder(to)
    found = on_disk.scan(folder)
    if json_:
        others = [{"name": other.folder.name, "reason": other.reason} for other in found.unknown]
        models = [installed_document(model) for model in found.installed]
        click.echo(json.dumps({"folder": str(folder), "models": models, "others": others}, indent=2))
        return
    if found.installed:
        from .render import models_table

        models_table(found.installed)
    else:
        click.echo(f"no models of BranchFit's under {folder}")
    going = _under_way()
    for partly in unfinished(folder):
        pid = going.get(resolved(folder) / partly.name)
        then = f"downloading now (pid {pid})" if pid else "pull it again to go on, or remove it"
        click.echo(f"unfinished: {partly.repo}:{partly.branch}, {gb(partly.size_bytes)} here; {then}")
    for other in found.unknown:
        click.echo(f"left alone: {other.folder.name} ({other.reason})")


@click.command("verify")
@click.argument("name", required=False, shell_complete=complete_name)
@to_option
@json_option
def verify_command(name: str | None, to: Path | None, json_: bool) -> None:
    """Hash every file again and compare with what the Hub published.

    NAME is a folder name from `branchfit list`, or owner/name[:branch]; without one, all are verified.
    """
    folder = asked_folder(to)
    found = on_disk.scan(folder)
    models = [find(folder, name)] if name else found.installed
    broken = [] if name else [other for other in found.unknown if other.broken]
    from .progress import PullProgress

    reports = []
    for model in models:
        listing = _published(model)
        with PullProgress(quiet=json_) as progress:
            reports.append((model, on_disk.verify(model, progress.tell, listing)))
    if json_:
        click.echo(
            json.dumps(
                {
                    "models": [
                        {
                            **installed_document(model),
                            "ok": report.ok,
                            "against": report.against,
                            "bad": [asdict(bad) for bad in report.bad],
                            "missing": list(report.missing),
                            "extra": list(report.extra),
                        }
                        for model, report in reports
                    ],
                    "broken": [{"name": other.folder.name, "reason": other.reason} for other in broken],
                },
                indent=2,
            )
        )
    else:
        if not models:
            click.echo(f"no models of BranchFit's under {folder}")
        for other in broken:
            click.echo(f"{other.folder.name}: cannot be verified, {other.reason}")
        for model, report in reports:
            by = "the Hub's hashes" if report.against == "hub" else "the hashes recorded at the pull"
            state = f"ok by {by}, {len(model.files)} files" if report.ok else f"NOT what was published, by {by}"
            click.echo(f"{model.folder.name}: {state}")
            for bad in report.bad:
                since = "" if bad.first_bad_byte is None else f", from byte {bad.first_bad_byte:,} on"
                click.echo(f"  bad      {bad.path}: expected {bad.expected}, got {bad.actual}{since}")
            for path in report.missing:
                click.echo(f"  missing  {path}")
            if not report.ok:
                where = f" --to {folder}" if to is not None else ""
                click.echo(f"  to mend it: `branchfit repair {model.folder.name}{where}`; only these are fetched again")
            for path in report.extra:
                click.echo(f"  extra    {path} (not the author's; left alone)")
    if broken or not all(report.ok for _, report in reports):
        raise click.exceptions.Exit(1)


@click.command("repair")
@click.argument("name", shell_complete=complete_name)
@to_option
@staging_option
@json_option
def repair_command(name: str, to: Path | None, staging: Path | None, json_: bool) -> None:
    """Fetch again what is bad or missing, at the commit that was pulled; touch nothing else.

    NAME is a folder name from `branchfit list`, or owner/name[:branch]. A bad file is kept until the new
    one is verified.
    """
    from .progress import PullProgress

    model = find(models_folder(to), name)
    with PullProgress(quiet=json_) as progress:
        report = on_disk.repair(Hub(), model, progress.tell, staging_dir=staging)
    if json_:
        document = {
            **installed_document(report.installed),
            "ok": report.ok,
            "against": report.before.against,
            "repaired": list(report.repaired),
            "left": list(report.left),
            "fetched_bytes": report.fetched_bytes,
            "fetched": dict(report.fetched),
            "extra": list(report.before.extra),
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        files = len(report.installed.files)
        state = f"ok by the Hub's hashes, {files} files" if report.ok else "NOT what was published, by the Hub's hashes"
        click.echo(f"{model.folder.name}: {state}")
        sizes = {file.path: file.size_bytes for file in report.installed.files}
        for path in report.repaired:
            click.echo(f"  repaired {path} ({gb(report.fetched.get(path, 0))} of {gb(sizes[path])} fetched)")
        for path in report.left:
            click.echo(f"  left     {path}: the Hub has no such file in this commit")
        for path in report.before.extra:
            click.echo(f"  extra    {path} (not the author's; left alone)")
    if not report.ok:
        raise click.exceptions.Exit(1)


def _published(model: Installed) -> BranchState | None:
    """The Hub's listing of a model's commit, None (with a remark) where it cannot be asked."""
    try:
        return Hub(timeout_s=5).branch_files(model.repo, model.commit)
    except HubError as error:
        click.echo(f"note: {model.folder.name} is compared with what was recorded at the pull: {error}", err=True)
        return None


@click.command("remove")
@click.argument("name", shell_complete=complete_name)
@to_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def remove_command(name: str, to: Path | None, yes: bool, json_: bool) -> None:
    """Delete a model, or a download that was not finished. Asks first; follows no link out of the folder.

    NAME is a folder name from `branchfit list`, or owner/name[:branch].
    """
    folder = models_folder(to)
    if not yes and json_:
        raise UsageError("--json cannot ask: give --yes to remove.")
    try:
        model = find(folder, name)
    except NotInstalled:
        partly = [one for one in unfinished(folder) if name in (one.name, one.repo, f"{one.repo}:{one.branch}")]
        if len(partly) != 1:
            raise
        _remove_unfinished(folder, partly[0], yes, json_)
        return
    if not yes:
        use = on_disk.folder_use(model.folder)
        if use.shared_bytes:
            click.echo(
                f"{use.shared_bytes:,} of its {use.size_bytes:,} bytes have another name elsewhere (another model, "
                f"huggingface_hub's cache): they stay there, and removing this one does not free them"
            )
        click.confirm(f"Delete {model.folder} ({gb(use.size_bytes)})?", abort=True)
    freed = on_disk.remove(model.folder)
    if json_:
        click.echo(json.dumps({"removed": str(model.folder), "freed_bytes": freed}, indent=2))
    else:
        click.echo(f"removed {model.folder}, {freed:,} bytes freed")


def _under_way() -> dict[Path, int | None]:
    """The folders that processes are downloading into at this moment, and their pids."""
    with contextlib.suppress(OSError):
        return {one.entry.wanted.target: one.entry.pid for one in Queue().listed() if one.alive}
    return {}


def _remove_unfinished(folder: Path, partly: on_disk.Unfinished, yes: bool, json_: bool) -> None:
    if not yes:
        what = f"the unfinished download of {partly.repo}:{partly.branch}"
        click.confirm(f"Delete {what} ({gb(partly.size_bytes)})?", abort=True)
    freed = on_disk.discard(folder, partly.name)
    with contextlib.suppress(OSError, NotFound):  # its place in the queue, if it has one
        for one in Queue().listed():
            if one.entry.wanted.target == resolved(folder) / partly.name and not one.alive:
                Queue().remove(one.entry.id)
    if json_:
        click.echo(json.dumps({"removed": str(folder / partly.name), "freed_bytes": freed}, indent=2))
    else:
        click.echo(f"removed what was there of {partly.repo}:{partly.branch}, {freed:,} bytes freed")


def find(folder: Path, name: str) -> Installed:
    """An installed model by folder name or by owner/name[:branch]. Raises NotInstalled."""
    return on_disk.find(folder, name)
