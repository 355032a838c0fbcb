"""Options that several commands share, worded once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..units import GB, GIB, KB, MB, MIB

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


_RATE_UNITS = {"": 1, "K": KB, "M": MB, "G": GB, "KI": 2**10, "MI": MIB, "GI": GIB}


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Bytes a second: `5MB`, `800kB`, `1.5MiB`, `5M` (decimal, as networks count)."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([KMG]?I?)B?(?:/S)?", value.strip().upper())
    rate = float(found[1]) * _RATE_UNITS.get(found[2], 0) if found else 0.0
    if rate < 1:
        raise click.BadParameter(f"{value!r:.40} is no rate: write bytes a second, as 5MB, 800kB or 1.5MiB.")
    return rate


limit_option = click.option(
    "--limit-rate",
    metavar="RATE",
    callback=_rate,
    help="At most so many bytes a second, all connections together: 5MB, 800kB, 1.5MiB. Default: no limit.",
)

card_option = click.option("--card", metavar="FILE", type=FILE, help="Read this model card instead of asking the Hub.")

config_option = click.option("--config", metavar="FILE", type=FILE, help="The model's config.json, to go with --card.")


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What an answer is for: --gpu, --context, --loader, --runtime."""
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
    ]
    for option in reversed(options):
        command = option(command)
    return command


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a recommendation is made for: the target's options and --prefer."""
    prefer = click.option(
        "--prefer",
        type=click.Choice(["quality", "speed", "context"]),
        help="Default: the best quality that ExLlama runs, then AutoGPTQ. quality: the best of either. "
        "speed: the fewest bytes to read for each token. context: the longest context.",
    )
    return target_options(prefer(command))
