"""`branchfit prompt`: the exact bytes a model was trained on, around an instruction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from .. import prompts
from ..errors import UsageError
from ..gather import read_file
from .as_json import dump, known_template_document
from .exits import EXIT_COULD_NOT
from .options import card_option, json_option, to_option
from .texts import check_system, decoded, find_template, plain_form, standard_input, write_exact


@click.command()
@click.argument("model", required=False, metavar="[REPO|NAME]")
@click.argument("instruction", required=False)
@click.option("--template", metavar="NAME", help="Use this known template instead (--list names them).")
@click.option("--system", metavar="TEXT", help="The system message, where the template has one.")
@click.option("--plain", is_flag=True, help="The form without chain of thought, where the author has one.")
@click.option(
    "--diff",
    "compared",
    metavar="FILE",
    help="Compare the text in FILE (- is standard input) with the template, or with INSTRUCTION in it: exit code 0 "
    "where it is exactly that, 1 and the first differing byte where it is not.",
)
@click.option("--jinja", is_flag=True, help="Print the template as a Jinja chat template, for hosts and servers.")
@click.option("--list", "list_", is_flag=True, help="Print the known templates: size, stop strings, source.")
@card_option
@to_option
@json_option
def prompt(
    model: str | None,
    instruction: str | None,
    template: str | None,
    system: str | None,
    plain: bool,
    compared: str | None,
    jinja: bool,
    list_: bool,
    card: Path | None,
    to: Path | None,
    json_: bool,
) -> None:
    """Print the exact prompt: INSTRUCTION in the model's template, no newline added.

    REPO|NAME is a repo or an installed model. Without INSTRUCTION, all of standard input is the
    instruction, byte for byte.
    """
    if (compared is not None) + jinja + list_ > 1:
        raise UsageError("--diff, --jinja and --list are three different answers; ask for one.")
    if json_ and not (list_ or compared is not None):
        raise UsageError("--json goes with --list or --diff; a prompt is its own bytes.")
    if list_:
        _print_known(json_)
        return
    chosen = find_template(model, template, card, to)
    if plain:
        chosen = plain_form(chosen)
    check_system(chosen, system)
    if jinja:
        write_exact(chosen.jinja())
    elif compared is not None:
        if system is not None and instruction is None:
            raise UsageError("--system is compared with INSTRUCTION only; give both or neither.")
        text = standard_input() if compared == "-" else decoded(read_file(Path(compared)), compared)
        _print_comparison(prompts.explain(chosen, text, instruction, system), json_)
    else:
        text = instruction if instruction is not None else standard_input()
        if not text and instruction is None and model is not None and (template or card):
            raise UsageError(
                f"the instruction is empty: {model!r} was read as the model, which --template and --card do without. "
                f"Put the instruction second, or on standard input."
            )
        write_exact(chosen.render(text, system))


def _print_known(json_: bool) -> None:
    if json_:
        click.echo(dump({"templates": [known_template_document(template) for template in prompts.TEMPLATES]}))
        return
    for template in prompts.TEMPLATES:
        size_bytes = len(template.text.encode("utf-8"))
        stops = ", ".join(json.dumps(string) for string in template.stop_strings) or "nothing"
        click.echo(f"{template.name}: {size_bytes} bytes, sha256 {template.sha256[:16]}..., stops at {stops}")
        click.echo(f"    {template.source}")


def _print_comparison(found: prompts.Explanation, json_: bool) -> None:
    """What the compared text is; leaves with exit code 1 where it is not what it should be."""
    if json_:
        click.echo(dump(found.to_dict()))
    else:
        click.echo("\n".join(_comparison(found)))
    if not found.matches:
        raise click.exceptions.Exit(EXIT_COULD_NOT)


def _comparison(found: prompts.Explanation) -> Iterator[str]:
    facts = f"{found.size_bytes} bytes, sha256 {found.sha256}"
    if found.verdict == "rendering":
        yield f"exactly {found.template}: {facts}"
    elif found.recognised is not None:
        behind = len(found.recognised.reply.encode("utf-8"))
        yield f"{found.template} with a reply of {behind} bytes behind it: {facts}"
    if found.difference is not None:
        place = found.difference
        yield f"not {found.template}: {facts}"
        yield f"first difference at byte {place.offset_bytes} (line {place.line}, column {place.column}):"
        yield f"    expected  {place.expected}"
        yield f"    found     {place.found}"
    if found.others and found.verdict != "rendering":
        yield f"this is {' or '.join(found.others)}"
