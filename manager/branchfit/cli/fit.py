"""`branchfit fit`: branch x cache type x the longest context that fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..memory.correcting import corrections_here
from ..recommend import Grid, context_grid
from .advise import gathered, repo_argument, target
from .exits import EXIT_NOTHING_FITS
from .options import card_option, config_option, json_option, target_options


@click.command("fit")
@repo_argument
@card_option
@config_option
@target_options
@click.option("--all-runtimes", is_flag=True, help="A row for each runtime that loads a branch, not just the best.")
@json_option
def fit_command(
    repo: str | None,
    card: Path | None,
    config: Path | None,
    gpu: Sequence[str],
    context: int | None,
    loader: str | None,
    runtime: Sequence[str],
    all_runtimes: bool,
    json_: bool,
) -> None:
    """The longest context that fits, for every branch and every cache type of its runtime.

    REPO is owner/name, owner/name:branch for one branch, or the page's address. Contexts are looked for in steps of
    256 tokens, up to the model's own; with --context further if need be, and those that have room for so many are
    marked. The runtime is the one `recommend` would take, or where nothing has room for
    the planned context the one with the longest. Exit code 3 where no branch fits at any context.
    """
    found = gathered(repo, card, config)
    machine, available = target(gpu, loader, runtime)
    grid = context_grid(
        found.listed,
        machine,
        available,
        context_tokens=context,
        branch=found.branch,
        all_runtimes=all_runtimes,
        corrections=None if gpu else corrections_here(),
    )
    if json_:
        from .as_json import dump, grid_document

        click.echo(dump(grid_document(grid, found.notes)))
    else:
        from . import render

        render.context_grid(grid)
        render.notes((*found.notes, *grid.notes))
    if not grid.fits:
        click.echo(f"branchfit: {_nothing(grid)}", err=True)
        raise click.exceptions.Exit(EXIT_NOTHING_FITS)


def _nothing(grid: Grid) -> str:
    nearest = grid.nearest
    if nearest is None:
        return "no branch can be loaded here."
    return f"nothing fits at any context; {nearest.variant.branch}, the nearest, {nearest.why}."
