"""A chat's history: `internal` holds [message, reply] as they are, `visible` as the page shows them."""

from __future__ import annotations

import html
import re
from typing import Any

History = dict[str, Any]

GREETING = "<|BEGIN-VISIBLE-CHAT|>"


def nothing_to_repeat(history: History) -> bool:
    """Whether there is no reply to make again or to continue."""
    shown = history["visible"]
    return not history["internal"] or (len(shown) == 1 and shown[0][0] == "")


def append(history: History, message: str, shown: str) -> None:
    for part, text in (("internal", message), ("visible", shown)):
        history[part].append([text, ""])


def append_dummy(history: History, message: str, typed: str) -> History:
    append(history, message, html.escape(typed))
    return history


def answer_dummy(history: History, reply: str, typed: str) -> History:
    if any(row[1] for row in history["visible"][-1:]):
        append(history, "", "")
    history["visible"][-1][1], history["internal"][-1][1] = html.escape(typed), reply
    return history


def take_last(history: History) -> str:
    """Take the last row out; its message as it was typed."""
    if not history["visible"] or history["internal"][-1][0] == GREETING:
        return ""
    del history["internal"][-1]
    return html.unescape(history["visible"].pop()[0])


def without_last(history: History) -> History:
    """The history before its last row."""
    return {name: part[:-1] if name in ("internal", "visible") else part for name, part in history.items()}


def waiting(history: History, shown: str, reply: str) -> History:
    """What the page shows while the last row's reply is made."""
    return {**history, "visible": [*history["visible"][:-1], [shown, reply]]}


def note(history: History, role: str, row: int) -> History:
    """The newer hosts keep when and by whom a row was written."""
    history.setdefault("metadata", {})[f"{role}_{row}"] = {"timestamp": "now"}
    return history


def without_name(reply: str, state: dict[str, Any], continued: bool) -> str:
    """A character's reply without a name it opens with."""
    reply = reply if continued else reply.lstrip()
    opening = next((f"{state[name]}:" for name in ("name2", "name1") if reply.startswith(f"{state[name]}:")), "")
    return reply[len(opening) :]


def named(reply: str, state: dict[str, Any]) -> str:
    return re.sub("(<USER>|<user>|{{user}})", state["name1"], reply)


class Turn:
    """The row whose reply is being made. `before` is what stands in it already where it is continued."""

    def __init__(
        self, history: History, text: str, visible: str, before: tuple[str, str] | None, has_row: bool = False
    ) -> None:
        self._history, self._text, self._visible, self._before = history, text, visible, before
        self._has_row = has_row or before is not None

    def grow(self, reply: str, visible: str) -> bool:
        """Take the reply so far. False while it is empty."""
        visible = html.escape(visible)
        if not self._has_row:
            append(self._history, "", "")
            self._has_row = True
        if self._before is not None:
            reply, visible = self._before[0] + reply, self._before[1] + visible
        elif not visible.strip():
            return False
        else:
            reply, visible = reply.lstrip(" "), visible.lstrip(" ")
        self._history["internal"][-1] = [self._text, reply]
        self._history["visible"][-1] = [self._visible, visible]
        return True

    @property
    def shown(self) -> str:
        text: str = self._history["visible"][-1][1]
        return text

    def show(self, text: str) -> None:
        self._history["visible"][-1][1] = text
