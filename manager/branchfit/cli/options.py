"""Options that several commands share, worded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

MAX_CONTEXT_TOKENS = 100_000_000
"""Ten times the longest context any model has claimed (10 million, 2025): more is a slip."""

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

json_option = click.option("--json", "json_", is_flag=True, help="One JSON document on stdout, sizes in bytes.")

to_option = click.option(
    "--to",
    metavar="DIR",
    type=FOLDER,
    help="The models folder. Default: $BRANCHFIT_MODELS, else the models folder of the text-generation-webui "
    "you are in, else ./models.",
)

staging_option = click.option(
    "--staging",
    metavar="DIR",
    type=FOLDER,
    help="Where unfinished downloads grow; on the models folder's disk. Default: .branchfit-staging beside it.",
)

card_option = click.option("--card", metavar="FILE", type=FILE, help="Read this model card instead of asking the Hub.")

config_option = click.option("--config", metavar="FILE", type=FILE, help="The model's config.json, to go with --card.")


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a recommendation is made for: --gpu, --context, --loader, --runtime, --prefer."""
    options: list[Decorator] = [
        click.option(
            "--gpu",
            multiple=True,
            metavar="SIZE[@CAPABILITY][xN]",
            help="Plan for this GPU instead of the ones here: 24GiB, 24GiB@8.6, 24GiB@8.6x2, none. Repeatable.",
        ),
        click.option(
            "--context",
            type=click.IntRange(1, MAX_CONTEXT_TOKENS),
            metavar="N",
            help="Tokens to have room for. Default: the model's own, at most 4096.",
        ),
        click.option(
            "--loader",
            type=click.Choice(["ExLlama", "AutoGPTQ"], case_sensitive=False),
            help="Only this loader.",
        ),
        click.option(
            "--runtime",
            multiple=True,
            metavar="NAME",
            help="Which runtime exists (`branchfit doctor` lists them). Repeatable.",
        ),
        click.option(
            "--prefer",
            type=click.Choice(["quality", "speed", "context"]),
            help="Default: the best quality that ExLlama runs, then AutoGPTQ. quality: the best of either. "
            "speed: the fewest bytes to read for each token. context: the longest context.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command
