"""Why a prompt was not sent, in sentences for whoever asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .chat import Built

MARK = "BranchFit did not send this"
"""How every refusal begins, so that one kept in a chat's history is known again and not sent as a reply."""


class Refused(Exception):
    """A prompt that must not reach the model. Its text is the sentence to show; `built` is what was known of it."""

    built: Built | None = None

    def __init__(self, reason: str) -> None:
        super().__init__(f"{MARK}: {reason}")


def impersonate() -> Refused:
    return Refused(
        "impersonating asks the model to write the turn of the user, and a locked template has no such turn. "
        'Write the message yourself, or set the template to "off" in the BranchFit tab.'
    )


def parts_missing(parts: list[str]) -> Refused:
    return Refused(
        f"the prompt lock cannot be put in place on this webui, {', '.join(parts)} not being there, so the template "
        f'cannot be held. Set the template to "off" in the BranchFit tab, or put "branchfit-lock: false" into '
        f"settings.yaml, to go on without it."
    )


def unreadable(what: str) -> Refused:
    return Refused(
        f"{what}, which says the template of this model. Mend it with `branchfit pull`, or choose a template or "
        f'"off" in the BranchFit tab.'
    )


def no_message() -> Refused:
    return Refused("there is no message, and the template needs an instruction.")


def too_long(tokens: int, limit: int, floor: int, source: str) -> Refused:
    return Refused(
        f"the prompt takes {tokens:,} tokens; {source} is {limit:,}, of which at least {floor:,} are kept for the "
        f"reply. Shorten it by {tokens + floor - limit:,} tokens, or load the model with a longer context. "
        f"Nothing was cut."
    )


def tokens_changed(what: str) -> Refused:
    return Refused(
        f"what arrived at the model is not the rendering of the template: {what}. Another extension or a setting "
        f'changes prompts on their way. Switch it off, or set the template to "off" in the BranchFit tab.'
    )


def called_directly() -> Refused:
    return Refused(
        "something asked the loaded model directly, past the guard, so the template cannot "
        'be held. Switch off the extension that does so, or set the template to "off" in the BranchFit tab.'
    )
