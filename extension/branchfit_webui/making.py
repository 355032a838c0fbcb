"""Where prompts are made: from the chat's parts, from a box's text, from whatever text arrives."""

from __future__ import annotations

import contextlib
import functools
import html
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from branchfit.errors import PromptError
from branchfit.prompts import TEMPLATES, Template

from . import refusal
from .asked import Asked
from .chat import Built, from_chat, from_messages
from .choices import Decision
from .host import Host

_REMEMBERED = 64
"""Prompts made and not yet handed back. Each comes back at once, so parallel requests set the number."""


class Maker:
    """Makes the prompt of each generation, and remembers those made before the guard is reached."""

    def __init__(self, host: Host, decision: Callable[[], Decision], floor_tokens: int) -> None:
        self._host = host
        self._decision = decision
        self._floor_tokens = floor_tokens
        self._built: OrderedDict[str, Built] = OrderedDict()
        self._boxed: dict[int, tuple[str, str]] = {}
        self._mutex = threading.Lock()

    def build(self, decision: Decision, question: Any, state: dict[str, Any], origin: Asked) -> Built:
        template = decision.held
        if not isinstance(question, str):
            raise refusal.Refused(f"the prompt is no text but {type(question).__name__}.")
        if origin.kind == "impersonate":
            raise refusal.impersonate()
        with self._mutex:
            built = self._built.pop(question, None)
        if built is None or (built.decision is not None and built.decision != decision):
            built = self._structured(decision, question, state, origin) or self._wrapped(template, question)
        if built.refused is not None:
            built.refused.built = built
            raise built.refused
        return built

    def _structured(self, decision: Decision, question: str, state: dict[str, Any], origin: Asked) -> Built | None:
        """A prompt whose structure the host's own functions still hold, where no hook told it."""
        inner = origin.locals or {}
        if origin.kind == "messages":
            body = inner.get("body")
            if isinstance(body, dict) and isinstance(body.get("messages"), list):
                return from_messages(self._host, decision, body["messages"], state, question, self._floor_tokens)
        if origin.kind == "edit" and isinstance(inner.get("instruction"), str):
            given = inner.get("input")
            text = f"{inner['instruction']}\n\n{given}" if given else inner["instruction"]
            messages = [{"role": "user", "content": text}]
            return from_messages(self._host, decision, messages, state, question, self._floor_tokens)
        if origin.kind == "chat":
            history = inner.get("output")
            if not isinstance(inner.get("text"), str) or not isinstance(history, dict):
                raise refusal.parts_missing(["the chat's own message"])
            again = bool(inner.get("_continue"))
            rows = history.get("internal") or []
            unanswered = rows if again or not rows or rows[-1][0] != inner["text"] else rows[:-1]
            arguments = {"_continue": again, "history": {**history, "internal": unanswered}}
            return from_chat(self._host, decision, inner["text"], state, arguments, self._floor_tokens)
        return None

    def _wrapped(self, template: Template, question: str) -> Built:
        """A prompt that came as mere text: a rendering goes through, anything else is an instruction."""
        shown, typed = self._boxed.get(threading.get_ident(), (question, question))
        changed = question != shown and shown in question
        if changed:
            question = shown
        notes = ["another extension had changed the prompt; it is put back"] if changed else []
        known = template.recognise(question)
        if known is not None:
            if known.reply and not known.reply.strip():
                # No host keeps a reply of blanks alone, and one newline too many is what the lock is there against.
                question = question[: -len(known.reply)]
                notes.append(f"{known.reply!r} behind the rendering is left out: blanks are no reply")
            elif known.reply:
                notes.append(f"a reply of {len(known.reply.encode()):,} bytes is continued")
            return Built(question, known.instruction, tuple(notes), lambda: typed)
        if not question:
            raise refusal.no_message()
        notes += _already_wrapped(template, question)
        try:
            return Built(template.render(question), question, tuple(notes), lambda: question)
        except PromptError as error:
            raise refusal.Refused(str(error)) from error

    def chat_prompt(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def built(text: Any, state: dict[str, Any], **kwargs: Any) -> Any:
            decision = self._decision()
            if decision.template is None or not isinstance(text, str):
                return inner(text, state, **kwargs)
            made = from_chat(self._host, decision, text, state, kwargs, self._floor_tokens)
            made = replace(made, decision=decision)
            key = made.text if made.refused is None else f"{refusal.MARK} ({id(made)})"
            with self._mutex:
                self._built[key] = made
                while len(self._built) > _REMEMBERED:
                    self._built.popitem(last=False)
            return key

        return built

    def boxed_reply(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """Around the text boxes' generation: the box shows the whole prompt, so that what stands in it when it is
        continued is what the model has seen."""

        @functools.wraps(inner)
        def shown(question: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            template = self._decision().template
            if template is None or not isinstance(question, str):
                yield from inner(question, *args, **kwargs)
                return
            typed = question
            if question and template.recognise(question) is None:
                with contextlib.suppress(PromptError):  # the guard refuses it, in words
                    question = template.render(question)
            # The first is the prompt alone. It waits for the next, since a refusal must not write over what was typed.
            first: Any = None
            for number, boxes in enumerate(self._driven(inner(question, *args, **kwargs), question, typed)):
                if number == 0:
                    first = boxes
                    continue
                first = None
                yield _as_sent(question, typed, boxes)
            if first is not None:
                yield _as_sent(question, typed, first)

        return shown

    def _driven(self, generator: Iterator[Any], question: str, typed: str) -> Iterator[Any]:
        """The host's own steps, each with the box's prompt noted for the thread that takes it."""
        with contextlib.ExitStack() as ending:
            ending.callback(getattr(generator, "close", lambda: None))
            while True:
                me = threading.get_ident()
                self._boxed[me] = (question, typed)
                try:
                    boxes = next(generator, None)
                finally:
                    self._boxed.pop(me, None)
                if boxes is None:
                    return
                yield boxes


def _already_wrapped(template: Template, question: str) -> list[str]:
    """What to say of an instruction that looks like a prompt itself: it is wrapped whole all the same."""
    head = template.around[0].strip().split("\n")[0]
    others = [other.name for other in TEMPLATES if other.around[0].strip() and other.recognise(question) is not None]
    if not others and not (head and head in question):
        return []
    what = f"a prompt in {' or '.join(others)}" if others else "a prompt in this template, but not quite"
    return [f"the text looks like {what}, and was wrapped whole as an instruction: send the question alone"]


def _as_sent(question: str, typed: str, boxes: Any) -> Any:
    """What the host shows in its boxes, with the prompt as it was sent, or as it was typed where it was refused.

    From v1.6 on, formatted_outputs reads HTML entities in the user's own text as the characters they stand
    for, and the next Continue would send those.
    """
    read = html.unescape(question)
    if not (isinstance(boxes, tuple) and boxes and isinstance(boxes[0], str) and boxes[0].startswith(read)):
        return boxes
    reply = boxes[0][len(read) :]
    shown = f"{typed}\n\n" if reply.startswith(refusal.MARK) else question
    return (shown + reply, *boxes[1:])
