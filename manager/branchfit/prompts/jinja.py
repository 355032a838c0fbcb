"""A template as Jinja: the form that hosts and servers take a chat template in.

What it must survive in text-generation-webui (its `generate_chat_prompt`, read and run from v1.8 to v4.7.3):

- up to v3.11 `add_generation_prompt` is never set. The end of the prompt is cut out of a rendering of two
  replies in a row: what stands between them, less what stands behind the second, less spaces at its end.
  A continued reply is the whole conversation less what stands behind a reply.
- from v3.12 on it is set, but not for a continued reply: that is cut out of a rendering in front of a
  reply of known words.

So the end of the template stands in both places, before a reply and where one is to come. White space at
its start is printed with the instruction instead; so is all of it where it ends in a space, which the cut would lose.

The host makes its stop strings from the same cuts, and up to v3.11 an empty one would end every reply at
once; until March 2024 it also took an empty string behind a reply for the whole prompt. So something always
stands behind a reply, and, where nothing else does, between two instructions without one. From v3.12 on it
looks for them in a conversation of two turns, which must not lose its first one: from v3.20 on that one is
known by its variables (a bos_token and no tools, unlike any prompt).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .template import SYSTEM_MESSAGE

if TYPE_CHECKING:
    from .template import Template

__all__ = ["chat_template", "literal"]

END_OF_TEXT = "</s>"
"""Printed where a one-turn template without stop strings needs a mark: Llama's end of text, as text."""

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_STOP_STRINGS_ONLY = (
    "{%- if bos_token is defined and tools is not defined and not add_generation_prompt -%}"
    "{%- set ns.start = -1 -%}{%- endif -%}"
)
_MARK = re.compile(r"\s*(?:<[^<>]*>)?")
"""What of a next turn belongs behind the reply before it: white space, the end-of-turn token."""

_SYSTEM = "ns.system"
_CONTENT = "message['content']"


def chat_template(template: Template) -> str:
    """Jinja source that renders `messages` exactly as the template renders them.

    One instruction, and one with a reply to continue, give `render()` and `with_reply()`; a conversation
    gives `render_turns()`. A template that keeps no turns shows the last one alone; leading replies without
    an instruction (a character's greeting) are left out. A first system message fills `{system_message}`,
    or is left out where the template has none. Needs nothing but `messages` and `add_generation_prompt`;
    white space control is its own, so that trim_blocks and lstrip_blocks change nothing.
    """
    before, behind = template.around
    with_instruction, before_reply = _split_end(behind)
    next_turn = template.next_turn if template.next_turn is not None else (*template.stop_strings, END_OF_TEXT)[0]
    after_reply = (_MARK.match(next_turn) or [""])[0] if before_reply else ""
    after_reply = after_reply or next_turn
    lines = [
        "{%- set ns = namespace(system="
        + literal(template.default_system_message)
        + ", start=-1, before='', end='') -%}",
        "{%- for message in messages -%}",
        "  {%- if message['role'] == 'system' -%}",
        "    {%- if loop.first -%}{%- set ns.system = message['content'] -%}{%- endif -%}",
        "  {%- else -%}",
        "    {%- if message['role'] == 'user' and "
        + ("ns.start == -1" if template.can_keep_turns else "ns.before == 'assistant'")
        + " -%}{%- set ns.start = loop.index0 -%}{%- endif -%}",
        "    {%- set ns.before = message['role'] -%}",
        "  {%- endif -%}",
        "{%- endfor -%}",
        *([] if template.can_keep_turns else [_STOP_STRINGS_ONLY]),
        "{%- set ns.before = '' -%}",
        "{%- for message in messages -%}",
        "  {%- if loop.index0 >= ns.start and message['role'] == 'user' -%}",
        *_instruction(before, with_instruction, behind, next_turn, after_reply),
        "    {%- set ns.before = 'user' -%}",
        "  {%- elif loop.index0 >= ns.start and message['role'] == 'assistant' -%}",
        *_shown(before_reply, "    "),
        *_space(template, behind),
        f"    {{{{- {_CONTENT} -}}}}",
        *_shown(after_reply, "    "),
        "    {%- set ns.before = 'assistant' -%}",
        "  {%- endif -%}",
        "{%- endfor -%}",
    ]
    if before_reply:
        lines += ["{%- if add_generation_prompt -%}", *_shown(before_reply, "  "), "{%- endif -%}"]
    return "\n".join(lines)


def literal(text: str) -> str:
    """The Jinja string that stands for `text`: quoted, and without a character that Jinja would read as syntax.

    Jinja reads Python's escapes and makes every line end in its source a newline; other engines know fewer
    escapes. So only quotes, backslashes and control characters are escaped; the rest stands as it is.
    """
    return "'" + "".join(_ESCAPES.get(c) or (f"\\x{ord(c):02x}" if c < " " or c == "\x7f" else c) for c in text) + "'"


def _split_end(behind: str) -> tuple[str, str]:
    """What stands behind the instruction: the part printed with it, the part printed before a reply."""
    if SYSTEM_MESSAGE in behind or behind.endswith(" "):
        return behind, ""
    rest = behind.lstrip()
    return behind[: len(behind) - len(rest)], rest


def _instruction(before: str, with_instruction: str, behind: str, next_turn: str, after_reply: str) -> list[str]:
    """The branch of an instruction. `after_reply`, with which `next_turn` begins, stands behind any reply before it."""
    bare = not behind.replace(SYSTEM_MESSAGE, "").strip()
    lines = ["    {%- if ns.before == '' -%}", *_shown(before, "      ")]
    if after_reply != next_turn:
        lines += ["    {%- else -%}", *_shown(next_turn[len(after_reply) :], "      ")]
    else:
        # Two instructions without a reply between them: the host measures what stands around them.
        lines += ["    {%- elif ns.before == 'user' -%}"]
        lines += _shown((END_OF_TEXT if bare else "") + next_turn, "      ")
    lines += ["    {%- endif -%}", f"    {{{{- {_CONTENT} -}}}}", *_shown(with_instruction, "    ")]
    if bare:
        lines += [
            "    {%- if ns.before == 'user' and loop.last and not add_generation_prompt -%}",
            *_shown(END_OF_TEXT, "      "),
            "    {%- endif -%}",
        ]
    if _ends_in_a_slot(behind):
        shown = " ~ ".join([*_terms(before), _CONTENT, *_terms(behind)])
        lines += [f"    {{%- set ns.end = ({shown})[-1:] -%}}"]
    return lines


def _space(template: Template, behind: str) -> list[str]:
    """The space of `with_reply()`: put where the prompt so far ends in no space and the reply begins with none."""
    if not template.space_before_reply:
        return []
    if _ends_in_a_slot(behind):
        condition = f"ns.end | trim and {_CONTENT}[:1] | trim"
    elif behind[-1].isspace():
        return []
    else:
        condition = f"{_CONTENT}[:1] | trim"
    return ["    {%- if " + condition + " -%}{{- ' ' -}}{%- endif -%}"]


def _ends_in_a_slot(behind: str) -> bool:
    """Whether the prompt's last character is the instruction's or the system message's, not the template's."""
    return not behind or behind.endswith(SYSTEM_MESSAGE)


def _terms(text: str) -> list[str]:
    """Jinja terms that, joined, give the text with its system message filled in."""
    first, slot, last = text.partition(SYSTEM_MESSAGE)
    return [term for term in (first and literal(first), slot and _SYSTEM, last and literal(last)) if term]


def _shown(text: str, indent: str) -> list[str]:
    terms = _terms(text)
    return [indent + "{{- " + " ~ ".join(terms) + " -}}"] if terms else []
