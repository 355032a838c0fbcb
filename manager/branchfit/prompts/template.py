"""The template: text with one `{instruction}` in it, and a `{system_message}` where its model was trained with one.

Rendering always wraps: whatever the instruction contains, template text and braces included, stands in the
result byte for byte, once. Recognising is its opposite, for the places that need it (a prompt that a host
hands over): it never guesses, and takes time linear in the prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PromptError

INSTRUCTION = "{instruction}"
SYSTEM_MESSAGE = "{system_message}"

_SLOTS = re.compile(f"({re.escape(INSTRUCTION)}|{re.escape(SYSTEM_MESSAGE)})")


@dataclass(frozen=True)
class Recognised:
    """What a prompt says, taken out of a template's rendering. `reply` is "" for the rendering alone."""

    instruction: str
    reply: str
    system_message: str = ""


@dataclass(frozen=True)
class Template:
    """A prompt template: its usual name, its exact text, and where the bytes were read."""

    name: str
    text: str
    source: str
    stop_strings: tuple[str, ...] = ()
    """What marks the next turn: where the model writes one of these, its reply is over."""
    default_system_message: str = ""
    """Rendered where none is given."""
    next_turn: str | None = None
    """What stands between an earlier reply and the next instruction. None: nobody knows, one turn only."""
    space_before_reply: bool = True
    """Whether a reply begins with a space behind a template that ends in none (`ASSISTANT: Hello`)."""

    def __post_init__(self) -> None:
        if self.text.count(INSTRUCTION) != 1 or self.text.count(SYSTEM_MESSAGE) > 1:
            raise PromptError(
                f"template {self.name}: {INSTRUCTION} stands {self.text.count(INSTRUCTION)} times in it "
                f"and {SYSTEM_MESSAGE} {self.text.count(SYSTEM_MESSAGE)} times; one and at most one are needed."
            )
        check_text("template's text", self.text)
        if self.can_keep_turns and SYSTEM_MESSAGE in self.around[1]:
            raise PromptError(
                f"template {self.name}: {SYSTEM_MESSAGE} stands behind {INSTRUCTION}; later turns would repeat it."
            )

    @property
    def takes_system_message(self) -> bool:
        return SYSTEM_MESSAGE in self.text

    @property
    def can_keep_turns(self) -> bool:
        return self.next_turn is not None

    @property
    def sha256(self) -> str:
        """Of the text in UTF-8, slots included, in hex."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    @property
    def around(self) -> tuple[str, str]:
        """The text before `{instruction}` and the text behind it."""
        before, _, behind = self.text.partition(INSTRUCTION)
        return before, behind

    @property
    def pieces(self) -> list[str]:
        """The text cut at its slots: literal, slot, literal, (slot, literal)."""
        return _SLOTS.split(self.text)

    def render(self, instruction: str, system_message: str | None = None) -> str:
        """The prompt for one instruction, wrapped once. Without a system message, the template's own default.

        Raises PromptError for text that no byte string stands for (lone surrogates).
        """
        if system_message is None:
            system_message = self.default_system_message
        check_text("instruction", instruction)
        check_text("system message", system_message)
        values = {INSTRUCTION: instruction, SYSTEM_MESSAGE: system_message}
        # One pass over the template alone: an instruction that spells a slot is never filled again.
        return "".join(values.get(piece, piece) for piece in self.pieces)

    def render_turns(
        self, earlier: Sequence[tuple[str, str]], instruction: str, system_message: str | None = None
    ) -> str:
        """The prompt behind a conversation: `earlier` is (instruction, reply) for each turn, oldest first.

        Without earlier turns it is `render()`. Raises PromptError where there are some and nobody knows how
        this template keeps them, and for lone surrogates.
        """
        if not earlier:
            return self.render(instruction, system_message)
        if self.next_turn is None:
            raise PromptError(
                f"template {self.name} is for one instruction and its reply: it is not known how earlier turns "
                f"are kept. Send the instruction alone."
            )
        _, behind = self.around
        prompt = self.render(earlier[0][0], system_message)
        asked = [turn[0] for turn in earlier[1:]] + [instruction]
        for (_, reply), text in zip(earlier, asked, strict=True):
            check_text("instruction", text)
            check_text("reply", reply)
            prompt = self.with_reply(prompt, reply) + self.next_turn + text + behind
        return prompt

    def with_reply(self, rendering: str, reply: str) -> str:
        """The prompt that continues a reply.

        Hosts keep a reply without the space it began with. So one space is put between them where the
        rendering ends in a character that is no space and the reply begins with one that is none either.
        """
        joined = rendering and reply and not (rendering[-1].isspace() or reply[0].isspace())
        if self.space_before_reply and joined:
            return f"{rendering} {reply}"
        return rendering + reply

    def recognise(self, prompt: str) -> Recognised | None:
        """What this template was filled with to give `prompt`; None where it is no rendering.

        A prompt with exactly the template's head and tail is a rendering, even where the instruction has
        the tail in it once more. With more text behind a tail, the first tail ends the instruction and the
        text is a reply being continued. Text that has no bytes (lone surrogates) is never a rendering.
        """
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError:
            return None
        pieces = self.pieces
        if not prompt.startswith(pieces[0]):
            return None
        if len(pieces) == 3:
            return _instruction_before(prompt, len(pieces[0]), pieces[2], "")
        if pieces[1] == SYSTEM_MESSAGE:
            return self._behind_system_message(prompt, pieces)
        return self._before_system_message(prompt, pieces)

    def _behind_system_message(self, prompt: str, pieces: list[str]) -> Recognised | None:
        head, _, middle, _, tail = pieces
        default = self.default_system_message
        if prompt.startswith(default + middle, len(head)):
            found = _instruction_before(prompt, len(head) + len(default) + len(middle), tail, default)
            if found is not None:
                return found
        end = prompt.find(middle, len(head))
        if end < 0:
            return None
        return _instruction_before(prompt, end + len(middle), tail, prompt[len(head) : end])

    def _before_system_message(self, prompt: str, pieces: list[str]) -> Recognised | None:
        head, _, middle, _, tail = pieces
        found = _instruction_before(prompt, len(head), middle + self.default_system_message + tail, "")
        if found is not None:
            return Recognised(found.instruction, found.reply, self.default_system_message)
        if prompt.endswith(tail, len(head)):
            middle_at = prompt.rfind(middle, len(head), len(prompt) - len(tail))
            if middle_at >= 0:
                system = prompt[middle_at + len(middle) : len(prompt) - len(tail)]
                return Recognised(prompt[len(head) : middle_at], "", system)
        middle_at = prompt.find(middle, len(head))
        tail_at = prompt.find(tail, middle_at + len(middle))
        if middle_at < 0 or tail_at < 0:
            return None
        system = prompt[middle_at + len(middle) : tail_at]
        return Recognised(prompt[len(head) : middle_at], prompt[tail_at + len(tail) :], system)

    def jinja(self) -> str:
        """The chat template for hosts and servers that want one: see `jinja.chat_template`."""
        from .jinja import chat_template

        return chat_template(self)


def _instruction_before(prompt: str, start: int, tail: str, system_message: str) -> Recognised | None:
    """The instruction from `start` up to the tail at the end, else up to the first tail."""
    if prompt.endswith(tail, start):
        return Recognised(prompt[start : len(prompt) - len(tail)], "", system_message)
    end = prompt.find(tail, start)
    if end < 0:
        return None
    return Recognised(prompt[start:end], prompt[end + len(tail) :], system_message)


def check_text(what: str, text: str) -> None:
    """PromptError for text that no byte string stands for."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the {what} holds half a character (a lone surrogate) at position {error.start}; "
            f"no bytes stand for it. Send valid Unicode text."
        ) from error
