"""From what the host knows of a chat to the one rendering that its model may get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from branchfit.errors import PromptError
from branchfit.prompts import Template

from . import refusal
from .choices import Decision
from .host import Host

_GREETING = "<|BEGIN-VISIBLE-CHAT|>"
"""What the host puts in the user's place in a greeting's row (modules/chat.py)."""


@dataclass(frozen=True)
class Built:
    """A prompt the lock made, remembered until it comes back to be sent.

    `text` is the prompt; `refused` stands in its place where there is none to send.
    """

    text: str
    instruction: str
    notes: tuple[str, ...] = ()
    wanted: Callable[[], str | None] | None = field(default=None, compare=False)
    refused: refusal.Refused | None = None
    decision: Decision | None = None
    """Under which it was made: it may wait for its turn while another model or template is chosen."""


def from_chat(
    host: Host, decision: Decision, text: str, state: dict[str, Any], arguments: Mapping[str, Any], floor_tokens: int
) -> Built:
    """The prompt for one turn of the host's chat.

    `text` is the user's message as the host hands it on, `arguments` are custom_generate_chat_prompt's:
    `_continue`, and `history`, whose last row is the turn itself when it is continued.
    """
    template = decision.held
    history = arguments.get("history") or state.get("history") or {}
    rows = [list(row) for row in history.get("internal") or () if _is_row(row)]
    continued = bool(arguments.get("_continue"))
    reply = ""
    if continued and rows:
        text, reply = rows[-1][0], rows[-1][1] if not rows[-1][1].startswith(refusal.MARK) else ""
        rows = rows[:-1]
    elif not text:
        text, rows = _last_user_message(rows)
    notes = _notes(host, template, state)
    typed = text
    if text:
        text += host.attachments(history, len(rows))
    arguments = {**arguments, "history": {**history, "internal": [*(history.get("internal") or ())]}}
    asked = dict(state)

    def wanted() -> str | None:
        return host.own_chat_prompt(typed, asked, dict(arguments))  # which appends the attachments itself

    if not text or text == _GREETING:
        return Built("", "", tuple(notes), wanted, refusal.no_message())
    system = str(state.get("custom_system_message") or "").strip() if template.takes_system_message else ""
    return _built(host, decision, text, reply, _turns(rows), system or None, state, notes, wanted, floor_tokens)


def from_messages(
    host: Host, decision: Decision, messages: list[Any], state: dict[str, Any], wanted: str, floor_tokens: int
) -> Built:
    """The prompt for the messages of the 2023 API, which renders them itself, before any hook."""
    template = decision.held
    turns: list[tuple[str, str]] = []
    system, pending = [], ""
    for message in filter(lambda each: isinstance(each, dict), messages):
        role, content = message.get("role"), message.get("content")
        content = content if isinstance(content, str) else ""
        if role == "system":
            system.append(content)
        elif role == "user":
            pending = content
        elif role == "assistant" and pending:
            if not content.startswith(refusal.MARK):
                turns.append((pending, content))
            pending = ""
    if not pending and turns:
        pending = turns.pop()[0]
    if not pending:
        return Built("", "", wanted=lambda: wanted, refused=refusal.no_message())
    said = "\n".join(system)
    notes = [_left_out("a system message", said, template)] if said and not template.takes_system_message else []
    shown = (said or None) if template.takes_system_message else None
    return _built(host, decision, pending, "", turns, shown, state, notes, lambda: wanted, floor_tokens)


def _built(
    host: Host,
    decision: Decision,
    instruction: str,
    reply: str,
    turns: list[tuple[str, str]],
    system: str | None,
    state: Mapping[str, Any],
    notes: list[str],
    wanted: Callable[[], str | None],
    floor_tokens: int,
) -> Built:
    template = decision.held
    kept = turns if decision.keep_turns and template.can_keep_turns else []
    try:
        prompt = template.render_turns(kept, instruction, system)
        if kept and _too_long(host, prompt, state, floor_tokens):
            least, most = 1, len(kept)  # dropped, oldest first: halved, since each try counts tokens
            while least < most:
                middle = (least + most) // 2
                longer = template.render_turns(kept[middle:], instruction, system)
                least, most = (middle + 1, most) if _too_long(host, longer, state, floor_tokens) else (least, middle)
            kept = kept[least:]
            prompt = template.render_turns(kept, instruction, system)
    except PromptError as error:
        return Built("", instruction, tuple(notes), wanted, refusal.Refused(str(error)))
    left_out = len(turns) - len(kept)
    if left_out:
        why = (
            "one turn by design"
            if not decision.keep_turns
            else "the context is full"
            if template.can_keep_turns
            else f"nobody has written down how {template.name} repeats"
        )
        notes.append(f"{left_out} earlier {'turn' if left_out == 1 else 'turns'} left out: {why}")
    return Built(template.with_reply(prompt, reply) if reply else prompt, instruction, tuple(notes), wanted)


def _too_long(host: Host, prompt: str, state: Mapping[str, Any], floor_tokens: int) -> bool:
    """Whether earlier turns leave the reply less than it asks for, and less than a quarter of the context: a request
    for all of it, which some clients send, must not cost every turn."""
    known = [
        size for size in (host.context_tokens(), state.get("truncation_length")) if isinstance(size, int) and size > 0
    ]
    if not known:
        return False
    limit = min(known)
    new = state.get("max_new_tokens")
    most = max(floor_tokens, limit // 4)
    room = limit - (min(new, most) if isinstance(new, int) and new > 0 else most)
    return len(prompt.encode()) > room and len(host.encode(prompt, True)) > room


def _turns(rows: list[list[Any]]) -> list[tuple[str, str]]:
    """Earlier (instruction, reply) pairs; greetings, half turns and our own refusals are no turns."""
    return [
        (row[0], row[1])
        for row in rows
        if row[0] and row[1] and row[0] != _GREETING and not str(row[1]).startswith(refusal.MARK)
    ]


def _is_row(row: Any) -> bool:
    return isinstance(row, (list, tuple)) and len(row) >= 2 and isinstance(row[0], str) and isinstance(row[1], str)


def _last_user_message(rows: list[list[Any]]) -> tuple[str, list[list[Any]]]:
    for place in range(len(rows) - 1, -1, -1):
        row = rows[place]
        is_system = len(row) > 3 and isinstance(row[3], Mapping) and row[3].get("role") == "system"
        if row[0] and row[0] != _GREETING and not is_system:
            return row[0], rows[:place]
    return "", []


def _notes(host: Host, template: Template, state: Mapping[str, Any]) -> list[str]:
    """What the host, its user or a client wanted in the prompt that the template has no place for."""
    notes = []
    system = str(state.get("custom_system_message") or "").strip()
    if system and not template.takes_system_message:
        notes.append(_left_out("a system message", system, template))
    own, default = state.get("instruction_template_str"), host.settings.get("instruction_template_str")
    if own and default and own != default:
        notes.append("an instruction template other than the webui's own was asked for; it is overruled")
    if state.get("mode") in ("chat", "chat-instruct"):
        notes.append("the character, its context and the chat's command are left out")
    if state.get("tools"):
        notes.append("tools are left out: the template has no place for them")
    others = host.own_hooks("custom_generate_chat_prompt")
    if others:
        notes.append(f"{', '.join(others)} would have built the prompt instead; overruled")
    return notes


def _left_out(what: str, text: str, template: Template) -> str:
    return f"{what} of {len(text):,} characters is left out: {template.name} has no place for one"
