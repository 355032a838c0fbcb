"""The prompt template of a card, byte for byte.

Where it may stand, in the order in which it is taken: a fence under the prompt template heading, the
front matter's `prompt_template`, a quoted one-line string with `\\n` spelt out. Bytes are never
mended, with one exception that DESIGN.md draws: under the heading Alpaca-CoT a body that is the known
template but for its whitespace is that template, since such cards have lost their blank lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..prompts import ALPACA_COT, INSTRUCTION, SYSTEM_MESSAGE
from .blocks import Document, Fence, Heading
from .model import CardTemplate

__all__ = ["read_template"]

_HEADING = re.compile(r"\bprompt(?:ing)?[\s_-]*(?:template|format)s?\b[\s:\-\u2013\u2014]*", re.IGNORECASE)
_SECTION_ENDS = re.compile(r"\b(?:provided files|how to|original model)\b", re.IGNORECASE)
_LINE_ENDS = re.compile(r"\r\n?")
_CODE = re.compile(
    r"(?:python|py|bash|sh|shell|console|powershell|json|yaml|toml|js|javascript|ts|cpp|rust)\b", re.IGNORECASE
)
_USER_SLOT = re.compile(r"(?<!\{)\{(?:prompt|instruction|query|input|user_message)\}(?!\})")
_SYSTEM_SLOT = re.compile(r"(?<!\{)\{(?:system_message|system_prompt)\}(?!\})")
_LITERAL_SLOTS = ("### Human: prompt", "your prompt here", "<prompt>")
_ESCAPE = re.compile(r"\\([nt\"'\\])")
_ESCAPES = {"n": "\n", "t": "\t"}
_LABEL = re.compile(r"\b(default|cot) version\b", re.IGNORECASE)

MAX_HEADINGS = 8
"""Prompt headings looked under; the card with most (a model with three dialects) has 3."""


@dataclass(frozen=True)
class _Body:
    """A candidate: its bytes as the card has them, where it starts (0-based), and the label before it."""

    text: str
    line: int
    quoted: bool = False
    label: str = ""


def read_template(document: Document, front_matter: Mapping[str, Any]) -> tuple[CardTemplate | None, list[str]]:
    """The template, or None, and notes. A card without one is noted, never an error."""
    notes: list[str] = []
    headings = [h for h in document.headings if h.line < document.original_from and _HEADING.search(h.text)]
    field = front_matter.get("prompt_template")
    named = [(heading, list(_bodies(document, heading))) for heading in headings[:MAX_HEADINGS]]
    heading, found = next((pair for pair in named if pair[1]), named[0] if named else (None, []))
    name = _name(heading) if heading is not None else None
    if heading is None:
        found = list(_labelled_strings(document))
    cot = name is not None and re.sub(r"[^a-z]", "", name.lower()) == "alpacacot"

    candidates = [body for body in found if not body.quoted][:1]
    if isinstance(field, str) and field.strip():
        candidates.append(_Body(_LINE_ENDS.sub("\n", field), 0))
    quoted = [body for body in found if body.quoted]
    if quoted:
        wanted = "cot" if cot else "default"
        candidates.append(next((body for body in quoted if body.label == wanted), quoted[0]))

    if cot and any(_blind(body.text) == _blind(ALPACA_COT.text) for body in candidates):
        return CardTemplate(name, ALPACA_COT.text, "registry"), notes
    for body in candidates:
        text = _with_slots(body, notes)
        if text is not None:
            if cot:
                notes.append(f"The heading says {name}, but the template is another one; the card's own is used.")
            return CardTemplate(name, text, "card"), notes
    if cot:
        return CardTemplate(name, ALPACA_COT.text, "registry"), notes
    if not candidates:
        notes.append("The card gives no prompt template.")
    return None, notes


def _name(heading: Heading) -> str | None:
    """`Prompt template: Alpaca-CoT` -> `Alpaca-CoT`, `Prompt format (Alpaca-chat):` -> `Alpaca-chat`."""
    found = _HEADING.search(heading.text)
    name = heading.text[found.end() :].strip().rstrip(":").strip() if found else ""
    if name.startswith("(") and name.endswith(")"):
        name = name[1:-1].strip()
    return name or None


def _bodies(document: Document, heading: Heading) -> Iterator[_Body]:
    """What could be the template in a heading's section, in the card's order."""
    end = document.section_end(heading)
    for other in document.headings:
        if heading.line < other.line < end and _SECTION_ENDS.search(other.text):
            end = other.line
            break
    fences = {fence.first: fence for fence in document.fences if heading.line < fence.first < end}
    before = ""
    at = heading.line + 1
    while at < end:
        fence = fences.get(at)
        if fence is not None:
            if (body := _fence_body(fence, before)) is not None:
                yield body
            at = fence.last + 1
            continue
        line = document.lines[at]
        if '"' in line:
            string = _quoted(line[line.find('"') : line.rfind('"') + 1])
            if string is not None:
                yield _Body(string, at, quoted=True, label=_label(line) or _label(before))
        if line:
            before = line
        at += 1


def _labelled_strings(document: Document) -> Iterator[_Body]:
    """Without a heading (WizardLM's own cards): quoted strings, alone in their fences."""
    for fence in document.fences:
        if fence.first >= document.original_from:
            return
        if fence.body.lstrip().startswith('"'):
            above = reversed(document.lines[max(0, fence.first - 4) : fence.first])
            body = _fence_body(fence, next((text for text in above if text), ""))
            if body is not None and body.quoted:
                yield body


def _label(line: str) -> str:
    found = _LABEL.search(line)
    return found[1].lower() if found else ""


def _fence_body(fence: Fence, before: str) -> _Body | None:
    """A fence's content, unless it is a program or nothing. `before` is the text above, for its label."""
    if not fence.body.strip() or _CODE.match(fence.info):
        return None
    string = _quoted(fence.body.strip())
    if string is not None:
        return _Body(string, fence.first, quoted=True, label=_label(before))
    return _Body(fence.body, fence.first)


def _quoted(text: str) -> str | None:
    r"""The string that `"...\n{instruction}..."` writes; None for what is no such literal.

    Only the escapes for newline, tab, quotes and backslash are read; any other stays as it is.
    """
    if len(text) < 2 or text[0] != '"' or text[-1] != '"' or "\n" in text:
        return None
    inner = text[1:-1]
    if "\\n" not in inner or not _USER_SLOT.search(inner):
        return None
    return _ESCAPE.sub(lambda escape: _ESCAPES.get(escape[1], escape[1]), inner)


def _with_slots(body: _Body, notes: list[str]) -> str | None:
    """The body with the slots named our way; None, and a note, where they cannot be told."""
    where = f"in line {body.line + 1}" if body.line else "in the front matter"
    text = _SYSTEM_SLOT.sub(SYSTEM_MESSAGE, _USER_SLOT.sub(INSTRUCTION, body.text))
    literal = INSTRUCTION not in text
    if literal:
        text = _with_literal_slot(text)
    slots = len(_USER_SLOT.findall(text))
    systems = len(_SYSTEM_SLOT.findall(text))
    if slots == 1 and systems <= 1:
        if literal:
            notes.append(f"The prompt template {where} has plain words as the instruction's place; they are its slot.")
        return text
    if slots == 0:
        notes.append(f"The prompt template {where} has no place for the instruction and is not used.")
    else:
        what = "the instruction" if slots > 1 else "the system message"
        notes.append(f"The prompt template {where} has {max(slots, systems)} places for {what} and is not used.")
    return None


def _with_literal_slot(text: str) -> str:
    """The literal wordings seen on cards (guanaco, stable-vicuna, EverythingLM), in exactly these spellings."""
    lines = text.split("\n")
    if "### Human: prompt" in lines:
        return "\n".join("### Human: " + INSTRUCTION if line == "### Human: prompt" else line for line in lines)
    for words in ("your prompt here", "<prompt>"):
        if words in text:
            return text.replace(words, INSTRUCTION)
    return text


def _blind(text: str) -> str:
    """The text without whitespace and with our slot names."""
    return "".join(_USER_SLOT.sub(INSTRUCTION, text).split())
