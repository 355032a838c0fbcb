"""`branchfit pull`: a branch, the recommended one or the one named, onto the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..download import DownloadPlan, Installed, folder_name, pin, plan, pull, read_lock_file
from ..download.commits import begun_commit
from ..download.events import Finished, Note
from ..download.planning import differing, resolved
from ..download.queue import Queue, Wanted
from ..download.wanted import pickle_warnings
from ..errors import HubUnreachable, NothingFits, NotInstalled, UsageError
from ..gather import gather, gather_branch
from ..hub import BranchState, Hub, RepoRef, parse_repo
from ..installed import models_folder
from ..units import gb
from . import advise
from .models import find, installed_document
from .options import FILE, json_option, limit_option, machine_options, staging_option, to_option

Wishes = tuple[Sequence[str], int | None, str | None, Sequence[str], str | None]
"""--gpu, --context, --loader, --runtime and --prefer."""


@click.command("pull")
@click.argument("repo", metavar="REPO[:BRANCH]", required=False)
@to_option
@staging_option
@click.option("--dry-run", is_flag=True, help="Say what would be fetched and where; change nothing.")
@click.option("--latest", is_flag=True, help="If the branch has moved on, fetch its newest commit.")
@click.option(
    "--lock",
    "lock_file",
    metavar="FILE",
    type=FILE,
    help="Restore the very files of this branchfit.lock.json, at its commit; REPO may be left out.",
)
@click.option(
    "--allow-pickle",
    is_flag=True,
    help="Fetch pickles (.bin, .pt, ...) too. DANGEROUS: loading one runs whatever code it holds, as you.",
)
@limit_option
@machine_options
@json_option
@click.option("--json-lines", is_flag=True, help="One JSON object an event on stdout, as it happens.")
def pull_command(
    repo: str | None,
    to: Path | None,
    staging: Path | None,
    dry_run: bool,
    latest: bool,
    lock_file: Path | None,
    allow_pickle: bool,
    limit_rate: float | None,
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
    wishes = (gpu, context, loader, runtime, prefer)
    if lock_file is not None:
        if any(wishes):
            raise UsageError("--lock says which branch it is: no --gpu, --context, --loader, --runtime or --prefer.")
        lock = read_lock_file(lock_file)
        ref = _agreed(lock, repo)
    elif repo is None:
        raise UsageError("name a REPO (owner/name, or owner/name:branch), or give a --lock FILE.")
    else:
        lock, ref = None, parse_repo(repo)
    job = _Job(ref, models_folder(to), staging, latest, allow_pickle, limit_rate, lock)
    try:
        made, outcome = job.run(wishes, dry_run, json_, json_lines)
    except HubUnreachable as error:
        here = job.installed_already()
        if here is None or latest or dry_run:
            raise
        why = f"the Hub could not be asked: {error.reason}"
        made, outcome = here, f"already there ({why})"
        if json_lines:
            for event in (Note(why), Finished(here.folder, "already", here.size_bytes, 0)):
                click.echo(json.dumps(event.to_dict(), ensure_ascii=False))
    if made is None:
        return
    if json_:
        click.echo(json.dumps(installed_document(made), indent=2, ensure_ascii=False))
    elif not json_lines:
        click.echo(f"{outcome}: {made.folder}")


def _agreed(lock: Installed, repo: str | None) -> RepoRef:
    """What a lock is of, if it is what was asked for too."""
    if repo is not None:
        asked = parse_repo(repo)
        if asked.repo.casefold() != lock.repo.casefold() or asked.branch not in (None, lock.branch):
            raise UsageError(
                f"the lock is of {lock.repo}:{lock.branch}, and {repo} was asked for: leave one of them out."
            )
    return RepoRef(lock.repo, lock.branch)


@dataclass(frozen=True)
class _Job:
    """What a `pull` was asked for."""

    ref: RepoRef
    folder: Path
    staging: Path | None
    latest: bool
    allow_pickle: bool
    limit_rate: float | None
    lock: Installed | None

    def run(self, wishes: Wishes, dry_run: bool, json_: bool, json_lines: bool) -> tuple[Installed | None, str]:
        """Recommend where no branch was named, then pull; the model and how it went, None for a dry run."""
        hub, ref, lock = Hub(), self.ref, self.lock
        chosen = _chosen(ref, wishes) if lock is None else _Chosen(ref.branch or "")
        branch, commit = chosen.branch, chosen.commit
        if lock is None:
            # What was recommended is what is fetched, though the branch may move meanwhile; what was begun comes first.
            target = resolved(self.folder) / folder_name(ref.repo, branch)
            if not self.latest and begun_commit(target, ref.repo, branch, self.staging):
                commit = None
        if dry_run:
            pinned = pin(
                hub,
                ref.repo,
                branch,
                self.folder,
                commit=commit,
                latest=self.latest,
                lock=lock,
                staging_dir=self.staging,
                listing=chosen.listing,
                note=lambda sentence: click.echo(f"note: {sentence}", err=True),
            )
            found = plan(
                pinned.state,
                ref.repo,
                self.folder,
                staging_dir=self.staging,
                require_space=False,
                allow_pickle=self.allow_pickle,
                lock=lock,
            )
            _show_plan(found, json_)
            return None, ""
        from .progress import PullProgress

        wanted = Wanted(
            ref.repo,
            branch,
            self.folder,
            commit=commit if lock is None else lock.commit,
            latest=self.latest,
            staging_dir=self.staging,
            template=chosen.template,
            loader=chosen.loader,
            runtime=chosen.runtime,
            allow_pickle=self.allow_pickle,
            limit_bytes_per_s=self.limit_rate,
        )
        with PullProgress(lines=json_lines, latest=self.latest) as progress, Queue().joined(wanted) as line:
            tell = line.watching(progress.tell)
            made = pull(
                hub,
                ref.repo,
                branch,
                self.folder,
                on_event=tell,
                line=line,
                lock=lock,
                listing=chosen.listing,
                **wanted.options(),
            )
        return made, progress.outcome

    def installed_already(self) -> Installed | None:
        """What is asked for, if all its files are there by size; of a lock, the same commit."""
        ref = self.ref
        try:
            found = find(self.folder, f"{ref.repo}:{ref.branch}" if ref.branch else ref.repo)
        except NotInstalled:
            return None
        whole = not differing(found.folder, found.files)
        return found if whole and (self.lock is None or self.lock.commit == found.commit) else None


@dataclass(frozen=True)
class _Chosen:
    """What is to be pulled: `commit` of a recommended branch, `listing` as the Hub gave it just now."""

    branch: str
    commit: str | None = None
    template: Mapping[str, Any] | None = None
    loader: str | None = None
    runtime: str | None = None
    listing: BranchState | None = None


def _chosen(ref: RepoRef, wishes: Wishes) -> _Chosen:
    """The branch that was named, or the recommended one; says what there is to say of it."""
    loader = runtime = None
    if ref.branch is None:
        found = gather(ref.repo, None, None)
        answer = advise.advise(found, *wishes)
        if answer.choice is None:
            raise NothingFits(answer.repo, answer.reason)
        branch, loader, runtime = answer.choice.branch, answer.choice.loader, answer.choice.runtime
        click.echo(answer.choice.reason, err=True)
    else:
        branch = ref.branch
        found = gather_branch(ref)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    variant = found.listed.get(branch)
    if variant is not None and variant.format not in ("gptq", "exl2", "none"):
        click.echo(f"note: {branch} is {variant.format.upper()}; no ExLlama or AutoGPTQ runtime reads that", err=True)
    commit = variant.commit if variant is not None and ref.branch is None else None
    return _Chosen(branch, commit, found.template_record, loader, runtime, found.listing(branch))


def _show_plan(found: DownloadPlan, json_: bool) -> None:
    models_dir = found.folder.parent
    if not models_dir.parent.exists():  # most likely a slip of the keyboard
        click.echo(f"note: neither {models_dir} nor the folder it would lie in is there; they will be made", err=True)
    if json_:
        click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
        return
    click.echo(f"{found.repo}:{found.branch} at commit {found.commit[:12]} -> {found.folder}")
    for file in found.files:
        where = f", in {file.origin}" if file.origin else ""
        here = f", {gb(file.here_bytes)} of it here{where}" if file.here_bytes else ""
        click.echo(f"  {gb(file.size_bytes):>10}  {file.path}{here}")
    for warning in pickle_warnings(found.files):
        click.echo(f"  {warning}")
    for left in found.left_out:
        click.echo(f"  left out    {left.path}: {left.reason}")
    click.echo(
        f"to fetch: {gb(found.fetch_bytes)} of {gb(found.total_bytes)}; "
        f"disk: {found.needed_bytes:,} bytes needed, {found.free_bytes:,} free"
    )
