"""`branchfit pull`, `list`, `verify`, `repair` and `remove`: the models on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .. import installed as on_disk
from ..download import DownloadPlan, Installed, plan, pull
from ..download.unfinished import unfinished
from ..errors import BranchFitError, HubError, HubUnreachable, NothingFits, NotInstalled, UsageError
from ..gather import gather, gather_branch
from ..hub import BranchState, Hub, RepoRef, parse_repo
from ..installed import models_folder
from ..units import gb
from . import advise
from .options import json_option, machine_options, staging_option, to_option


def _complete_name(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The names of installed models, for the shell."""
    try:
        found = on_disk.installed(models_folder(ctx.params.get("to")))
    except BranchFitError:
        return []
    return [model.folder.name for model in found if model.folder.name.startswith(incomplete)]


@click.command("pull")
@click.argument("repo", metavar="REPO[:BRANCH]")
@to_option
@staging_option
@click.option("--dry-run", is_flag=True, help="Say what would be fetched and where; change nothing.")
@click.option("--latest", is_flag=True, help="If the branch has moved on, fetch its newest commit.")
@machine_options
@json_option
@click.option("--json-lines", is_flag=True, help="One JSON object an event on stdout, as it happens.")
def pull_command(
    repo: str,
    to: Path | None,
    staging: Path | None,
    dry_run: bool,
    latest: bool,
    gpu: Sequence[str],
    context: int | None,
    loader: str | None,
    runtime: Sequence[str],
    prefer: str | None,
    json_: bool,
    json_lines: bool,
) -> None:
    """Download a branch: every file verified, the folder there when it is whole.

    REPO:BRANCH is what to pull; without a branch, the recommended one is taken.
    """
    if json_ and json_lines:
        raise UsageError("--json and --json-lines exclude each other: one document, or one a line.")
    ref = parse_repo(repo)
    try:
        made, outcome = _pull(
            ref, to, staging, dry_run, latest, (gpu, context, loader, runtime, prefer), json_, json_lines
        )
    except HubUnreachable as error:
        here = _installed_already(models_folder(to), ref)
        if here is None or latest or dry_run:
            raise
        made, outcome = here, f"already there (the Hub could not be asked: {error.reason})"
    if made is None:
        return
    if json_:
        click.echo(json.dumps(_installed(made), indent=2, ensure_ascii=False))
    elif not json_lines:
        click.echo(f"{outcome}: {made.folder}")


def _installed_already(folder: Path, ref: RepoRef) -> Installed | None:
    try:
        return find(folder, f"{ref.repo}:{ref.branch}" if ref.branch else ref.repo)
    except NotInstalled:
        return None


def _pull(
    ref: RepoRef,
    to: Path | None,
    staging: Path | None,
    dry_run: bool,
    latest: bool,
    wishes: tuple[Sequence[str], int | None, str | None, Sequence[str], str | None],
    json_: bool,
    json_lines: bool,
) -> tuple[Installed | None, str]:
    """Recommend where no branch was named, then pull; the model and how it went, None for a dry run."""
    hub = Hub()
    chosen_loader = chosen_runtime = None
    if ref.branch is None:
        found = gather(ref.repo, None, None)
        answer = advise.advise(found, *wishes)
        if answer.choice is None:
            raise NothingFits(answer.repo, answer.reason)
        branch, chosen_loader, chosen_runtime = answer.choice.branch, answer.choice.loader, answer.choice.runtime
        click.echo(answer.choice.reason, err=True)
    else:
        branch = ref.branch
        found = gather_branch(ref)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    variant = found.listed.get(branch)
    if variant is not None and variant.format not in ("gptq", "exl2", "none"):
        click.echo(f"note: {branch} is {variant.format.upper()}; no ExLlama or AutoGPTQ runtime reads that", err=True)
    folder = models_folder(to)
    if dry_run:
        state = hub.branch_files(ref.repo, branch)
        _show_plan(plan(state, ref.repo, folder, staging_dir=staging, require_space=False), json_)
        return None, ""
    from .progress import PullProgress

    with PullProgress(lines=json_lines, latest=latest) as progress:
        made = pull(
            hub,
            ref.repo,
            branch,
            folder,
            # What was recommended is what is fetched, though the branch may move meanwhile.
            commit=variant.commit if variant is not None and ref.branch is None else None,
            on_event=progress.tell,
            latest=latest,
            staging_dir=staging,
            template=found.template_record,
            loader=chosen_loader,
            runtime=chosen_runtime,
        )
    return made, progress.outcome


def _show_plan(found: DownloadPlan, json_: bool) -> None:
    if json_:
        click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
        return
    click.echo(f"{found.repo}:{found.branch} at commit {found.commit[:12]} -> {found.folder}")
    for file in found.files:
        here = f", {gb(file.here_bytes)} of it here" if file.here_bytes else ""
        click.echo(f"  {gb(file.size_bytes):>10}  {file.path}{here}")
    for left in found.left_out:
        click.echo(f"  left out    {left.path}: {left.reason}")
    click.echo(
        f"to fetch: {gb(found.fetch_bytes)} of {gb(found.total_bytes)}; "
        f"disk: {found.needed_bytes:,} bytes needed, {found.free_bytes:,} free"
    )


def _installed(model: Installed) -> dict[str, Any]:
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
    folder = models_folder(to)
    found = on_disk.scan(folder)
    if json_:
        others = [{"name": other.folder.name, "reason": other.reason} for other in found.unknown]
        models = [_installed(model) for model in found.installed]
        click.echo(json.dumps({"folder": str(folder), "models": models, "others": others}, indent=2))
        return
    if found.installed:
        from .render import models_table

        models_table(found.installed)
    else:
        click.echo(f"no models of BranchFit's under {folder}")
    for partly in unfinished(folder):
        click.echo(f"unfinished: {partly.repo}:{partly.branch}, {gb(partly.size_bytes)} here; pull it again to go on")
    for other in found.unknown:
        click.echo(f"left alone: {other.folder.name} ({other.reason})")


@click.command("verify")
@click.argument("name", required=False, shell_complete=_complete_name)
@to_option
@json_option
def verify_command(name: str | None, to: Path | None, json_: bool) -> None:
    """Hash every file again and compare with what the Hub published.

    NAME is a folder name from `branchfit list`, or owner/name[:branch]; without one, all are verified.
    """
    folder = models_folder(to)
    found = on_disk.scan(folder)
    models = [find(folder, name)] if name else found.installed
    broken = [] if name else [other for other in found.unknown if other.broken]
    if to is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {folder}.")
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
                            **_installed(model),
                            "ok": report.ok,
                            "against": report.against,
                            "bad": [{"path": b.path, "expected": b.expected, "actual": b.actual} for b in report.bad],
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
                click.echo(f"  bad      {bad.path}: expected {bad.expected}, got {bad.actual}")
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
@click.argument("name", shell_complete=_complete_name)
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
            **_installed(report.installed),
            "ok": report.ok,
            "against": report.before.against,
            "repaired": list(report.repaired),
            "left": list(report.left),
            "fetched_bytes": report.fetched_bytes,
            "extra": list(report.before.extra),
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        files = len(report.installed.files)
        state = f"ok by the Hub's hashes, {files} files" if report.ok else "NOT what was published, by the Hub's hashes"
        click.echo(f"{model.folder.name}: {state}")
        for path in report.repaired:
            click.echo(f"  repaired {path}")
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
@click.argument("name", shell_complete=_complete_name)
@to_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def remove_command(name: str, to: Path | None, yes: bool, json_: bool) -> None:
    """Delete a model from disk. Asks first; links are never followed out of the folder.

    NAME is a folder name from `branchfit list`, or owner/name[:branch].
    """
    folder = models_folder(to)
    model = find(folder, name)
    if not yes:
        if json_:
            raise UsageError("--json cannot ask: give --yes to remove.")
        click.confirm(f"Delete {model.folder} ({gb(on_disk.disk_use_bytes(model))})?", abort=True)
    freed = on_disk.remove(model.folder)
    if json_:
        click.echo(json.dumps({"removed": str(model.folder), "freed_bytes": freed}, indent=2))
    else:
        click.echo(f"removed {model.folder}, {freed:,} bytes freed")


def find(folder: Path, name: str) -> Installed:
    """An installed model by folder name or by owner/name[:branch]. Raises NotInstalled."""
    return on_disk.find(folder, name)
