"""`branchfit update`: what has become of the branches of the models on disk, and fetching it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click

from .. import installed as on_disk
from ..download import Installed, pull
from ..download.queue import Queue, Wanted
from ..errors import BranchFitError, UsageError
from ..hub import Hub
from ..hub.state import plain
from ..installed import BranchChanges, FileChange, find
from ..units import gb
from .models import asked_folder, complete_name
from .options import json_option, staging_option, to_option

Outcome = Literal["unchanged", "changed", "updated", "skipped", "failed"]
"""`changed`: told, and not fetched."""


@dataclass(frozen=True)
class Answer:
    """What was found of a model. `reason` is why it was skipped or failed; `error` the kind of failure."""

    model: Installed
    outcome: Outcome
    changes: BranchChanges | None = None
    reason: str | None = None
    error: str | None = None


@click.command("update")
@click.argument("name", required=False, shell_complete=complete_name)
@to_option
@staging_option
@click.option("--dry-run", is_flag=True, help="Only say what changed.")
@click.option("--yes", "-y", is_flag=True, help="Fetch without asking.")
@json_option
def update_command(
    name: str | None, to: Path | None, staging: Path | None, dry_run: bool, yes: bool, json_: bool
) -> None:
    """What changed on the branch of each model since it was pulled, file by file; asks, then fetches that.

    NAME is a folder name from `branchfit list`, or owner/name[:branch]; without one, all are asked about. Files that
    did not change are not fetched again, and what you put into the folder stays there.
    """
    folder = asked_folder(to)
    found = on_disk.scan(folder)
    models = [find(folder, name)] if name else found.installed
    broken = [] if name else [other for other in found.unknown if other.broken]
    hub = Hub()
    for other in broken:
        click.echo(f"{plain(other.folder.name)}: cannot be updated, {other.reason}", err=json_)
    answers = []
    for model in models:
        answers.append(_ask(hub, model, staging, alone=name is not None))
        if not json_:
            _show(answers[-1])
    if not models and not json_:
        click.echo(f"no models of BranchFit's under {folder}")
    if not dry_run and _may_fetch([one for one in answers if one.outcome == "changed"], yes, json_):
        answers = [_fetch(hub, one, staging, json_, alone=name is not None) for one in answers]
    if json_:
        document = {
            "folder": str(folder),
            "models": [_document(one) for one in answers],
            "broken": [{"name": other.folder.name, "reason": other.reason} for other in broken],
        }
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    if broken or any(one.outcome == "failed" for one in answers):
        raise click.exceptions.Exit(1)


def _ask(hub: Hub, model: Installed, staging: Path | None, alone: bool) -> Answer:
    """How a model's branch stands. Raises, of a model that was asked for `alone`, what is in the way."""
    if model.endpoint is not None and model.endpoint.rstrip("/") != hub.endpoint.rstrip("/"):
        reason = f"it was pulled from {model.endpoint}, and HF_ENDPOINT is {hub.endpoint}"
        if alone:
            raise UsageError(
                f"{model.name} was not asked about: {reason}. Set HF_ENDPOINT={model.endpoint} to update it."
            )
        return Answer(model, "skipped", reason=reason)
    try:
        changes = on_disk.compare(model, hub.branch_files(model.repo, model.branch), staging)
    except BranchFitError as error:
        if alone:
            raise
        return Answer(model, "failed", reason=str(error), error=type(error).__name__)
    return Answer(model, "changed" if changes.moved else "unchanged", changes)


def _may_fetch(changed: Sequence[Answer], yes: bool, json_: bool) -> bool:
    """Whether to fetch: as told with --yes, else as a person says; where there is none to ask, not."""
    if not changed or yes:
        return bool(changed)
    models = f"{len(changed)} model{'s' if len(changed) != 1 else ''}"
    fetch_bytes = sum(one.changes.fetch_bytes for one in changed if one.changes is not None)
    if json_ or sys.stdin is None or not sys.stdin.isatty():
        click.echo(f"nothing was fetched: {models} changed, {gb(fetch_bytes)} to fetch; --yes fetches them", err=True)
        return False
    return click.confirm(f"Fetch {gb(fetch_bytes)} for {models}?", err=True)


def _fetch(hub: Hub, answer: Answer, staging: Path | None, json_: bool, alone: bool) -> Answer:
    """Pull what changed, at the commit that was told; what was recorded at the pull stays recorded."""
    if answer.outcome != "changed" or answer.changes is None:
        return answer
    from .progress import PullProgress

    model = answer.model
    folder = model.folder.parent
    wanted = Wanted(
        model.repo,
        model.branch,
        folder,
        commit=answer.changes.commit,
        latest=True,
        staging_dir=staging,
        template=model.template,
        loader=model.loader,
        runtime=model.runtime,
        allow_pickle=model.allow_pickle,
    )
    try:
        with PullProgress(quiet=json_, latest=True) as progress, Queue().joined(wanted) as line:
            tell = line.watching(progress.tell)
            pull(hub, model.repo, model.branch, folder, on_event=tell, line=line, **wanted.options())
    except BranchFitError as error:
        if alone:
            raise
        if not json_:
            click.echo(f"{model.name}: not updated, and left as it was: {error}")
        return replace(answer, outcome="failed", reason=str(error), error=type(error).__name__)
    if not json_:
        click.echo(f"{model.name}: updated to commit {answer.changes.commit[:12]}, verified")
    return replace(answer, outcome="updated")


def _show(answer: Answer) -> None:
    model, changes = answer.model, answer.changes
    if changes is None:
        word = "skipped" if answer.outcome == "skipped" else "could not be asked about"
        click.echo(f"{model.name}: {word}: {answer.reason}")
        return
    if not changes.moved:
        click.echo(f"{model.name}: nothing changed, {model.branch} is at commit {changes.commit[:12]}")
        if changes.standing == "damaged":
            click.echo(f"  but files of it are missing or cut: `branchfit repair {model.name}` fetches them")
        return
    click.echo(f"{model.name}: {model.branch} moved from commit {model.commit[:12]} to {changes.commit[:12]}")
    for file in changes.files:
        if file.kind != "unchanged":
            click.echo(f"  {file.kind:9} {gb(file.size_bytes):>10}  {plain(file.path)}{_before(file)}")
    same = changes.of("unchanged")
    if same:
        many = "file" if len(same) == 1 else "files"
        click.echo(f"  unchanged {gb(sum(file.size_bytes for file in same)):>10}  {len(same)} {many}")
    click.echo(f"  to fetch  {gb(changes.fetch_bytes):>10}")


def _before(file: FileChange) -> str:
    if file.kind == "renamed":
        return f" (was {plain(file.was_path or '')})"
    return f" (was {gb(file.was_bytes)})" if file.kind == "changed" and file.was_bytes != file.size_bytes else ""


def _document(answer: Answer) -> dict[str, Any]:
    """One model of `update --json`; the commits and files are left out where they are not known."""
    model = answer.model
    changes = answer.changes.to_dict() if answer.changes is not None else {"commit": model.commit}
    return {
        "name": model.name,
        "repo": model.repo,
        "branch": model.branch,
        "outcome": answer.outcome,
        **changes,
        "reason": answer.reason,
        "error": answer.error,
    }
