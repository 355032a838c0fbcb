"""`branchfit variants` and `branchfit recommend`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from ..errors import HubUnreachable, UsageError
from ..gather import Gathered, gather
from ..gpus import Machine, detect, parse_gpus
from ..loaders import Availability, available_runtimes, of_loader
from ..memory.correcting import corrections_here
from ..recommend import Recommendation, recommend
from .exits import EXIT_NOTHING_FITS
from .options import card_option, config_option, json_option, machine_options

repo_argument = click.argument("repo", required=False, metavar="[REPO[:BRANCH]]")


@click.command()
@repo_argument
@card_option
@config_option
@json_option
def variants(repo: str | None, card: Path | None, config: Path | None, json_: bool) -> None:
    """Every variant of a repo, from its card, its branches and their own files.

    REPO is owner/name or the page's address.
    """
    found = gathered(repo, card, config)
    if json_:
        from .as_json import dump, variants_document

        click.echo(dump(variants_document(found.listed, found.template, found.sisters, found.notes)))
        return
    from . import render

    if found.listed.variants:
        render.variants_table(found.listed)
    render.disagreements(found.listed.disagreements)
    if found.template:
        click.echo(f"\nprompt template: {found.template.name or 'unnamed'} ({found.template.source})")
    for sister in found.sisters:
        click.echo(f"also as {sister.kind.upper()}: {sister.repo}")
    render.notes((*found.notes, *found.listed.notes))


def gathered(repo: str | None, card: Path | None, config: Path | None) -> Gathered:
    """What `gather` gives; where the Hub cannot be reached, with a word on how to do without."""
    try:
        return gather(repo, card, config)
    except HubUnreachable:
        click.echo("note: a card on disk is read without network: --card README.md --config config.json", err=True)
        raise


def target(gpu: Sequence[str], loader: str | None, runtime: Sequence[str]) -> tuple[Machine, Availability]:
    """The machine an answer is for, and the runtimes it may choose between. Raises UsageError."""
    machine = parse_gpus(gpu) if gpu else detect()
    available = available_runtimes(list(runtime) or None, simulated=bool(gpu))
    runtimes = of_loader(available.runtimes, loader)
    if runtime and not runtimes:
        raise UsageError(f"none of the runtimes you named ({', '.join(runtime)}) plays {loader}.")
    return machine, replace(available, runtimes=runtimes)


def advise(
    found: Gathered,
    gpu: Sequence[str] = (),
    context: int | None = None,
    loader: str | None = None,
    runtime: Sequence[str] = (),
    prefer: str | None = None,
) -> Recommendation:
    """The recommendation for what was gathered; shared with `pull` and `demo`."""
    machine, available = target(gpu, loader, runtime)
    return recommend(
        found.listed,
        machine,
        available,
        context_tokens=context,
        prefer=prefer,
        branch=found.branch,
        sisters=found.sisters,
        corrections=None if gpu else corrections_here(),
    )


@click.command("recommend")
@repo_argument
@card_option
@config_option
@machine_options
@json_option
def recommend_command(
    repo: str | None,
    card: Path | None,
    config: Path | None,
    gpu: Sequence[str],
    context: int | None,
    loader: str | None,
    runtime: Sequence[str],
    prefer: str | None,
    json_: bool,
) -> None:
    """Which branch fits this machine, with which loader, and why.

    REPO is owner/name, owner/name:branch to ask about one branch, or the page's address.
    """
    found = gathered(repo, card, config)
    answer = advise(found, gpu, context, loader, runtime, prefer)
    if json_:
        from .as_json import dump, recommendation_document

        click.echo(dump(recommendation_document(answer, found.notes)))
    else:
        from . import render

        render.recommendation(answer)
        render.disagreements(answer.disagreements)
        render.notes((*found.notes, *answer.notes))
    if answer.choice is None:
        if json_:
            click.echo(f"branchfit: {answer.reason}", err=True)
        raise click.exceptions.Exit(EXIT_NOTHING_FITS)
