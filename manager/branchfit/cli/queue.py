"""`branchfit queue`: the downloads of this user, in order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from ..download import Installed, pull
from ..download.events import Failed
from ..download.queue import Entry, Listed, Queue, QueueLine, Wanted
from ..errors import BranchFitError, DownloadError, HubUnreachable, UsageError
from ..gather import gather_branch
from ..hub import Hub, parse_repo
from ..hub.state import plain
from ..installed import models_folder
from ..units import gb
from .models import installed_document
from .options import json_option, limit_option, staging_option, to_option

Found = TypeVar("Found")

LOOK_S = 1.0
"""How often a download under way looks whether it was paused and another could have its turn."""

_POSITION = click.IntRange(min=1)


@click.group("queue", invoke_without_command=True)
@json_option
@click.pass_context
def queue(ctx: click.Context, json_: bool) -> None:
    """The downloads under way and those that were stopped: one at a time has the line, in this order.

    \b
    branchfit queue                        what is in it, and how far it is
    branchfit queue add REPO:BRANCH        put a download there for later
    branchfit queue run                    download all of it that nothing is at work on
    branchfit queue pause [ID]             hold one up, or all; `resume` lets it go on
    branchfit queue first ID               its turn comes next; `move ID POSITION` puts it elsewhere
    branchfit queue remove ID              take one out; what was fetched of it stays

    Every `branchfit pull` and every download of the webui's tab is in it as long as it takes. With
    BRANCHFIT_AT_ONCE=2, a download starts while one other has the line.
    """
    if ctx.invoked_subcommand is None:
        _list(json_)
    elif json_:
        raise UsageError(f"--json goes behind the subcommand: branchfit queue {ctx.invoked_subcommand} --json.")


@queue.command("list")
@json_option
def list_command(json_: bool) -> None:
    """What is in the queue, and how far it is."""
    _list(json_)


def _list(json_: bool) -> None:
    all_of_it = Queue()
    listed, paused = _kept(all_of_it.listed), _kept(all_of_it.paused)
    _remark(all_of_it)
    if json_:
        click.echo(json.dumps({"paused": paused, "entries": [one.to_dict() for one in listed]}, indent=2))
        return
    for one in listed:
        _show(one)
    if not listed:
        click.echo("the queue is empty")
    if paused:
        click.echo("all of it is paused; `branchfit queue resume` lets it go on")


def _show(one: Listed) -> None:
    """A line, and what went wrong on another: both can be copied whole, which a table on a narrow terminal cannot."""
    wanted, words = one.entry.wanted, one.state
    if one.total_bytes:
        share = 100 * one.done_bytes // one.total_bytes
        words += f" at {gb(one.done_bytes)} of {gb(one.total_bytes)} ({share} %)"
    if one.alive:
        words += f", pid {one.entry.pid}"
    click.echo(f"{one.entry.id:>3}  {wanted.name}  {words}")
    if one.entry.error is not None:
        click.echo(f"     {plain(one.entry.error)}")


@queue.command("add")
@click.argument("repo", metavar="REPO:BRANCH")
@to_option
@staging_option
@click.option("--latest", is_flag=True, help="If the branch has moved on, fetch its newest commit.")
@limit_option
@json_option
def add_command(
    repo: str, to: Path | None, staging: Path | None, latest: bool, limit_rate: float | None, json_: bool
) -> None:
    """Put a download at the end of the queue, for `branchfit queue run`."""
    ref = parse_repo(repo)
    if ref.branch is None:
        raise UsageError(f"{repo} names no branch: write {repo}:BRANCH (`branchfit recommend {repo}` says which fits).")
    template = None
    try:
        template = gather_branch(ref).template_record  # a misspelt name is said now, not in the night
    except HubUnreachable as error:
        click.echo(f"note: {ref.repo}:{ref.branch} was not looked up: {error.reason}", err=True)
    wanted = Wanted(
        ref.repo,
        ref.branch,
        models_folder(to),
        staging_dir=staging,
        template=template,
        latest=latest,
        limit_bytes_per_s=limit_rate,
    )
    all_of_it = Queue()
    entry, new = _kept(lambda: all_of_it.add(wanted, for_later=True))
    _remark(all_of_it)
    if json_:
        click.echo(json.dumps(_document(all_of_it, entry), indent=2))
    else:
        click.echo(f"{entry.wanted.name} is {'' if new else 'there already: '}download {entry.id} of the queue")


@queue.command("run")
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    metavar="N",
    help="Start while N-1 others have the line. Default: $BRANCHFIT_AT_ONCE, else 1.",
)
@json_option
@click.option("--json-lines", is_flag=True, help="One JSON object an event on stdout, as it happens.")
def run_command(at_once: int | None, json_: bool, json_lines: bool) -> None:
    """Download all that is in the queue and that no other process is at work on, one after the other.

    One that fails keeps its place, and the next one's turn comes; the exit code is 1 then. One that is paused,
    or gets paused while it runs, is passed over.
    """
    if json_ and json_lines:
        raise UsageError("--json and --json-lines exclude each other: one document, or one a line.")
    all_of_it, tried = Queue(), set[int]()
    done: list[Installed] = []
    failed: list[tuple[Entry, str]] = []
    while (entry := _next(_kept(all_of_it.listed), tried)) is not None:
        tried.add(entry.id)
        _remark(all_of_it)
        try:
            check = _Passing(all_of_it, entry, tried)
            with all_of_it.joined(entry.wanted, at_once_=at_once, check=check) as line:
                if line.owned:  # else another process was faster
                    done.append(_download(entry.wanted, line, json_, json_lines))
        except _PassedOver:
            click.echo(f"{entry.wanted.name} is paused; the next one's turn comes", err=True)
            tried.discard(entry.id)
        except BranchFitError as error:
            failed.append((entry, str(error)))
            if json_lines:
                click.echo(json.dumps(Failed(type(error).__name__, str(error)).to_dict(), ensure_ascii=False))
            click.echo(f"branchfit: {entry.wanted.name}: {error}", err=True)
    if json_:
        models = [installed_document(model) for model in done]
        errors = [{"id": entry.id, "name": entry.wanted.name, "message": said} for entry, said in failed]
        click.echo(json.dumps({"models": models, "failed": errors}, indent=2, ensure_ascii=False))
    elif not json_lines and not tried:
        click.echo("nothing in the queue waits for somebody to download it")
    if failed:
        raise click.exceptions.Exit(1)


class _PassedOver(Exception):
    """The download was paused while it ran, and another waits for its turn."""


class _Passing:
    """Ends a download that was paused, where there is another for this process to do."""

    def __init__(self, all_of_it: Queue, entry: Entry, tried: set[int]) -> None:
        self._queue, self._entry, self._tried = all_of_it, entry, tried
        self._looked_s = 0.0

    def __call__(self) -> None:
        if time.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = time.monotonic()
        try:
            listed = self._queue.listed()
        except OSError:
            return
        paused = any(one.entry.id == self._entry.id and one.entry.paused for one in listed)
        if paused and _next(listed, self._tried) is not None:
            raise _PassedOver


def _next(listed: list[Listed], tried: set[int]) -> Entry | None:
    waiting = [one.entry for one in listed if not one.alive and not one.entry.paused]
    return next((entry for entry in waiting if entry.id not in tried), None)


def _download(wanted: Wanted, line: QueueLine, json_: bool, json_lines: bool) -> Installed:
    from .progress import PullProgress

    options = wanted.options()
    if options["template"] is None:
        options["template"] = gather_branch(parse_repo(wanted.name)).template_record
    with PullProgress(lines=json_lines, quiet=json_, latest=wanted.latest) as progress:
        tell = line.watching(progress.tell)
        made = pull(Hub(), wanted.repo, wanted.branch, wanted.models_dir, on_event=tell, line=line, **options)
    if not json_ and not json_lines:
        click.echo(f"{progress.outcome}: {made.folder}")
    return made


@queue.command("pause")
@click.argument("id_", metavar="[ID]", type=int, required=False)
def pause_command(id_: int | None) -> None:
    """Hold a download up, or all of them; one under way stops fetching, and keeps what it has."""
    _kept(lambda: Queue().pause(id_))
    click.echo(f"paused: {'all of the queue' if id_ is None else f'download {id_}'}")


@queue.command("resume")
@click.argument("id_", metavar="[ID]", type=int, required=False)
def resume_command(id_: int | None) -> None:
    """Let a download go on when its turn comes, or all of them."""
    _kept(lambda: Queue().resume(id_))
    click.echo(f"no longer paused: {'all of the queue' if id_ is None else f'download {id_}'}")


@queue.command("move")
@click.argument("id_", metavar="ID", type=int)
@click.argument("position", metavar="POSITION", type=_POSITION)
def move_command(id_: int, position: int) -> None:
    """Put a download to another position, 1 being the first."""
    _kept(lambda: Queue().move(id_, position))
    _list(json_=False)


@queue.command("first")
@click.argument("id_", metavar="ID", type=int)
def first_command(id_: int) -> None:
    """Put a download before all others; the one that has the line waits for it."""
    _kept(lambda: Queue().move(id_, 1))
    _list(json_=False)


@queue.command("remove")
@click.argument("id_", metavar="ID", type=int)
def remove_command(id_: int) -> None:
    """Take a download out of the queue; one under way stops. What was fetched stays on disk."""
    entry = _kept(lambda: Queue().remove(id_))
    click.echo(f"removed from the queue: {entry.wanted.name}")


def _document(all_of_it: Queue, entry: Entry) -> object:
    return next((one.to_dict() for one in _kept(all_of_it.listed) if one.entry.id == entry.id), None)


def _remark(all_of_it: Queue) -> None:
    from .render import notes

    notes(all_of_it.take_notes())


def _kept(act: Callable[[], Found]) -> Found:
    """What a method of the queue gives. Raises DownloadError where no queue can be kept."""
    try:
        return act()
    except OSError as error:
        raise DownloadError(
            f"the queue cannot be read or written: {error}. It lies in BranchFit's cache folder; BRANCHFIT_CACHE names "
            f"another one."
        ) from error
