"""What `prompt` and `ask` share: the template that is meant, the instruction, and exact bytes on stdout."""

from __future__ import annotations

import sys
from pathlib import Path

from .. import prompts
from ..errors import NotInstalled, PromptError, UsageError
from ..gather import gather_branch, read_file
from ..installed import find, models_folder, recorded_template


def known_template(name: str) -> prompts.Template:
    """The known template of that name. Raises PromptError naming those there are."""
    known = prompts.by_name(name)
    if known is None:
        raise PromptError(
            f"no template called {name} is known; there are: {', '.join(t.name for t in prompts.TEMPLATES)}."
        )
    return known


def plain_form(template: prompts.Template) -> prompts.Template:
    """The form without chain of thought. Raises PromptError where the author has none."""
    other = prompts.PLAIN_FORM.get(template.name)
    if other is None:
        raise PromptError(f"template {template.name} has no plain form.")
    return other


def check_system(template: prompts.Template, system: str | None) -> None:
    """Raises PromptError for a system message that the template has no place for."""
    if system and not template.takes_system_message:
        raise PromptError(f"template {template.name} has no system message; leave out --system.")


def find_template(model: str | None, name: str | None, card: Path | None, to: Path | None) -> prompts.Template:
    """The template asked for: by name, from a card, as recorded with an installed model, or a repo's."""
    if name is not None:
        return known_template(name)
    if card is not None:
        from ..card import read_card

        found = read_card(read_file(card)).prompt_template
        if found is None:
            raise PromptError(f"{card} has no prompt template that can be used; name one with --template.")
        return prompts.named(found.name or "the card's", found.text, str(card))
    if not model:
        raise PromptError("say which model: a repo, an installed model's name, --template NAME or --card FILE.")
    try:
        recorded = recorded_template(find(models_folder(to), model))
        if recorded is not None:
            return recorded
    except NotInstalled:
        if "/" not in model:
            guessed_by_name = prompts.guess_by_model(model)
            if guessed_by_name is None:
                raise
            return guessed_by_name
    from ..hub import parse_repo

    guessed = gather_branch(parse_repo(model)).template
    if guessed is None:
        raise PromptError(f"{model}: its card has no prompt template that can be used; name one with --template.")
    return prompts.named(guessed.name or model, guessed.text, guessed.source)


def standard_input() -> str:
    """All of it, byte for byte. Raises UsageError where a person sits there, PromptError for what is no UTF-8."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("give the text as the second argument, or on standard input.")
    return decoded(sys.stdin.buffer.read(), "standard input")


def decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"{where} is not UTF-8: byte {error.start} is {raw[error.start]:#04x}.") from error


def write_exact(text: str) -> None:
    """The exact bytes on standard output."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8"))
    sys.stdout.buffer.flush()
