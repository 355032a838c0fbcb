"""Where a text differs from what a template says, to the byte.

Excerpts are escaped: one printable ASCII character stands for its byte, everything else is written out
(`\\n`, `\\xe2`), and the differing byte stands between `>>>` and `<<<`.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .known import TEMPLATES
from .template import INSTRUCTION, Recognised, Template, check_text

CONTEXT_BYTES = 30
"""Shown before and behind the differing byte: enough to know the place, short enough for one line."""

_SHORT = {9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\"}


@dataclass(frozen=True)
class Difference:
    """The first differing byte. `expected` and `found` are escaped excerpts around it.

    `line` and `column` count from 1, columns in characters; `offset_bytes` counts from 0. Where one text
    ends there, its excerpt has `end` for a byte: `...step.>>>end<<<`.
    """

    offset_bytes: int
    expected: str
    found: str
    line: int
    column: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Explanation:
    """What a text is, seen from a template.

    `verdict`: `rendering` (exactly the template around an instruction), `continued` (a rendering with a
    reply behind it) or `different`. `others` names the other known templates that the text is exactly; where
    it is none, and not this one's either, those that it continues. The template None, which every text is
    exactly, is not named.
    """

    template: str
    verdict: Literal["rendering", "continued", "different"]
    size_bytes: int
    sha256: str
    recognised: Recognised | None
    difference: Difference | None
    others: tuple[str, ...] = ()

    @property
    def matches(self) -> bool:
        return self.verdict != "different"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def first_difference(expected: str, found: str) -> Difference | None:
    """Where the two texts' bytes (UTF-8) first differ; None where they are the same."""
    wanted, got = _bytes(expected), _bytes(found)
    if wanted == got:
        return None
    at = _common(wanted, got)
    line_start = wanted.rfind(b"\n", 0, at) + 1
    return Difference(
        at,
        _excerpt(wanted, at),
        _excerpt(got, at),
        line=wanted.count(b"\n", 0, at) + 1,
        column=len(wanted[line_start:at].decode("utf-8", "ignore")) + 1,
    )


def explain(
    template: Template, text: str, instruction: str | None = None, system_message: str | None = None
) -> Explanation:
    """Compare a text with a template; with an instruction, with exactly its rendering.

    White space alone behind a rendering is a difference, not a reply: hosts keep no reply that is only
    that, and a newline at the end is the very byte such a comparison is made for. Raises PromptError for
    lone surrogates.
    """
    check_text("text", text)
    raw = _bytes(text)
    own = template.recognise(text)
    recognised: Recognised | None
    if instruction is not None:
        expected = template.render(instruction, system_message)
        recognised = own if expected == text else None
    elif own is not None and own.reply and not own.reply.strip():
        expected, recognised = text[: len(text) - len(own.reply)], None
    else:
        expected, recognised = _nearest(template, text), own
    return Explanation(
        template.name,
        "different" if recognised is None else "continued" if recognised.reply else "rendering",
        len(raw),
        hashlib.sha256(raw).hexdigest(),
        recognised,
        None if recognised is not None else first_difference(expected, text),
        _others(template, text, continued=own is None),
    )


def _nearest(template: Template, text: str) -> str:
    """The rendering that the text comes nearest to, as far as the first difference and a piece beyond.

    Slot by slot: where the literal behind a slot is not in the text, the slot is taken to end where the
    longest beginning of the literal stands last.
    """
    pieces = template.pieces
    if not text.startswith(pieces[0]):
        return pieces[0]
    at = len(pieces[0])
    for literal in pieces[2::2]:
        found = text.find(literal, at)
        if found < 0:
            return text[: _last_beginning(literal, text, at)] + literal
        at = found + len(literal)
    return text[:at]


def _last_beginning(literal: str, text: str, start: int) -> int:
    """Where in `text` the longest beginning of `literal` stands last; the text's end where none does."""
    low, high = 0, len(literal)
    while low < high:  # a beginning that is there has all shorter ones there too
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text.find(literal[:middle], start) >= 0 else (low, middle - 1)
    return text.rfind(literal[:low], start) if low else len(text)


def _others(template: Template, text: str, continued: bool) -> tuple[str, ...]:
    """The other known templates that the text is exactly, else (where `continued` asks for it) continues."""
    exact, longer = [], []
    for other in TEMPLATES:
        found = other.recognise(text) if other.text != INSTRUCTION and other.name != template.name else None
        if found is not None and not found.reply:
            exact.append(other.name)
        elif continued and found is not None and found.reply.strip():
            longer.append(other.name)
    return tuple(exact or longer)


def _bytes(text: str) -> bytes:
    # Lone surrogates, which have no bytes, are kept as their own three: they are a difference like any other.
    return text.encode("utf-8", "surrogatepass")


def _common(one: bytes, other: bytes) -> int:
    """How many bytes the two begin with in common: by halves, since comparing slices is fast."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _excerpt(text: bytes, at: int) -> str:
    before = ("..." if at > CONTEXT_BYTES else "") + _escaped(text[max(0, at - CONTEXT_BYTES) : at])
    behind = _escaped(text[at + 1 : at + 1 + CONTEXT_BYTES]) + ("..." if at + 1 + CONTEXT_BYTES < len(text) else "")
    return f"{before}>>>{_escaped(text[at : at + 1]) or 'end'}<<<{behind}"


def _escaped(text: bytes) -> str:
    return "".join(_SHORT.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in text)
