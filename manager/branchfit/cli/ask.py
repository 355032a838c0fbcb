"""`branchfit ask`: one instruction to a model, from the shell, under its author's template."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..running import Loaded, load
from .as_json import dump
from .options import MAX_CONTEXT_TOKENS, json_option, to_option
from .texts import check_system, known_template, plain_form, standard_input


@click.command()
@click.argument("model", metavar="NAME")
@click.argument("instruction", required=False)
@click.option("--template", metavar="NAME", help="Use this known template instead (`branchfit prompt --list`).")
@click.option("--system", metavar="TEXT", help="The system message, where the template has one.")
@click.option("--plain", is_flag=True, help="The form without chain of thought, where the author has one.")
@click.option("--max-tokens", type=click.IntRange(1, MAX_CONTEXT_TOKENS), metavar="N", help="The longest reply.")
@click.option("--runtime", metavar="NAME", help="Load with this one (`branchfit doctor` lists them).")
@click.option("--device", metavar="DEVICE", help="cpu, cuda:0 ... Default: every GPU there is, else the CPU.")
@click.option("--context", type=click.IntRange(1, MAX_CONTEXT_TOKENS), metavar="N", help="Tokens to have room for.")
@to_option
@json_option
def ask(
    model: str,
    instruction: str | None,
    template: str | None,
    system: str | None,
    plain: bool,
    max_tokens: int | None,
    runtime: str | None,
    device: str | None,
    context: int | None,
    to: Path | None,
    json_: bool,
) -> None:
    """Load a model, send INSTRUCTION in its template, and print the reply as it comes.

    NAME is an installed model or a repo, owner/name[:branch]. Without INSTRUCTION, all of standard input is
    the instruction, byte for byte. Needs the `gptq` extra: pip install '.[gptq]' in BranchFit's folder.
    """
    named = known_template(template) if template is not None else None
    text = instruction if instruction is not None else standard_input()
    if not text:
        raise UsageError("the instruction is empty.")
    # Loaders print to stdout what is meant for the log; there the reply stands alone.
    with contextlib.redirect_stdout(sys.stderr):
        loaded = load(model, runtime=runtime, models_dir=to, device=device, context_tokens=context, on_step=_step)
    if named is not None:
        loaded.template = named
    if plain and loaded.template is not None:
        loaded.template = plain_form(loaded.template)
    if loaded.template is not None:
        check_system(loaded.template, system)
    for note in loaded.notes:
        click.echo(f"note: {note}", err=True)
    _reply(loaded, text, system, max_tokens, json_)
    if json_:
        click.echo(dump(_document(loaded)))
    else:
        click.echo(loaded.measured.line(), err=True)


def _step(step: str) -> None:
    click.echo(step, err=True)


def _reply(loaded: Loaded, text: str, system: str | None, max_tokens: int | None, json_: bool) -> None:
    """Print the reply as it comes; with --json only make it."""
    limit: dict[str, Any] = {} if max_tokens is None else {"max_new_tokens": max_tokens}
    with contextlib.closing(loaded.stream(text, system=system, **limit)) as pieces:
        for piece in pieces:
            if not json_:
                sys.stdout.write(piece)
                sys.stdout.flush()
    if not json_:
        sys.stdout.write("\n")
    if loaded.last is not None and loaded.last.ended == "length":
        click.echo(f"note: the reply was cut at {loaded.last.tokens} tokens; --max-tokens gives it more.", err=True)


def _document(loaded: Loaded) -> dict[str, Any]:
    reply, measured = loaded.last, loaded.measured
    assert reply is not None  # a reply was read to its end
    return {
        "name": str(loaded.folder_or_repo),
        "branch": loaded.branch,
        "commit": loaded.commit,
        "runtime": loaded.runtime,
        "template": loaded.template.name if loaded.template else None,
        "prompt": reply.prompt,
        "reply": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "tokens": reply.tokens,
        "ended": reply.ended,
        "seconds": round(reply.seconds, 3),
        "measured": {
            "device": measured.device,
            "predicted_bytes": measured.predicted_bytes,
            "error_bytes": measured.error_bytes,
            "peak_bytes": measured.peak_bytes,
            "resident_bytes": measured.resident_bytes,
        },
        "notes": list(loaded.notes),
    }
