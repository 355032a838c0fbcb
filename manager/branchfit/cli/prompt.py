"""`branchfit prompt`: the exact bytes a model was trained on, around an instruction."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .. import prompts
from ..errors import NotInstalled, PromptError, UsageError
from . import models
from .gather import gather_branch, read_file
from .options import card_option, to_option


@click.command()
@click.argument("model", required=False, metavar="[REPO|NAME]")
@click.argument("instruction", required=False)
@click.option("--template", metavar="NAME", help="Use this known template instead: Alpaca-CoT, WizardMath-plain.")
@click.option("--system", metavar="TEXT", default="", help="The system message, where the template has one.")
@click.option("--plain", is_flag=True, help="The form without chain of thought, where the author has one.")
@card_option
@to_option
def prompt(
    model: str | None,
    instruction: str | None,
    template: str | None,
    system: str,
    plain: bool,
    card: Path | None,
    to: Path | None,
) -> None:
    """Print the exact prompt: INSTRUCTION in the model's template, no newline added.

    REPO|NAME is a repo or an installed model. Without INSTRUCTION, all of standard input is the
    instruction, byte for byte.
    """
    chosen = _template(model, template, card, to)
    if plain:
        other = prompts.PLAIN_FORM.get(chosen.name)
        if other is None:
            raise PromptError(f"template {chosen.name} has no plain form.")
        chosen = other
    text = instruction if instruction is not None else _standard_input()
    if system and not chosen.takes_system_message:
        raise PromptError(f"template {chosen.name} has no system message; leave out --system.")
    sys.stdout.flush()
    sys.stdout.buffer.write(chosen.render(text, system).encode("utf-8"))
    sys.stdout.buffer.flush()


def _standard_input() -> str:
    if sys.stdin.isatty():
        raise UsageError("give the instruction as the second argument, or on standard input.")
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"standard input is not UTF-8: byte {error.start} is {raw[error.start]:#04x}.") from error


def _template(model: str | None, name: str | None, card: Path | None, to: Path | None) -> prompts.Template:
    """The template asked for: by name, from a card, as recorded with an installed model, or a repo's."""
    if name is not None:
        known = prompts.by_name(name)
        if known is None:
            raise PromptError(
                f"no template called {name} is known; there are: {', '.join(t.name for t in prompts.TEMPLATES)}."
            )
        return known
    if card is not None:
        from ..card import read_card

        found = read_card(read_file(card)).prompt_template
        if found is None:
            raise PromptError(f"{card} has no prompt template that can be used; name one with --template.")
        return prompts.Template(found.name or "the card's", found.text, str(card))
    if not model:
        raise PromptError("say which model: a repo, an installed model's name, --template NAME or --card FILE.")
    try:
        recorded = models.find(models.models_folder(to), model).template
        if recorded and isinstance(recorded.get("text"), str):
            return prompts.Template(str(recorded.get("name") or model), recorded["text"], "branchfit.lock.json")
    except NotInstalled:
        if "/" not in model:
            raise
    from ..hub import parse_repo

    guessed = gather_branch(parse_repo(model)).template
    if guessed is None:
        raise PromptError(f"{model}: its card has no prompt template that can be used; name one with --template.")
    return prompts.Template(guessed.name or model, guessed.text, guessed.source)
