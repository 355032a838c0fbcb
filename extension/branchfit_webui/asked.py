"""Who asks for a generation: read from the names of the functions that wait for it.

The webui tells a generation neither which page or address asked for it nor which button. Its
generators run inside one another, so all of them stand on the call stack at the moment the guard is
entered, in every version from 2023 to today. Nothing has to be patched for that, and parallel
requests cannot be mixed up, since each has a stack of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import FrameType
from typing import Any, Literal

Kind = Literal["chat", "messages", "edit", "box", "impersonate", "logits", "text"]

_DEEPEST = 200
"""Frames looked at. Gradio and FastAPI put some 40 between a thread's start and the guard."""

_KNOWN = frozenset(
    {
        "chatbot_wrapper",
        "impersonate_wrapper",
        "generate_search_query",
        "generate_reply_wrapper",
        "generate_and_save_wrapper_notebook",
        "get_next_logits",
        "_get_next_logits",
        "chat_completions_common",
        "completions_common",
        "chat_completions",
        "stream_chat_completions",
        "completions",
        "stream_completions",
        "edits",
        "do_POST",
        "_handle_stream_message",
        "_handle_chat_stream_message",
    }
)
"""modules/chat.py, text_generation.py, ui_notebook.py, logits.py, modules/api or extensions/openai
(completions.py, edits.py), extensions/api (blocking_api.py, streaming_api.py) of v1.5 to v4.7.3."""


@dataclass(frozen=True)
class Asked:
    """One generation's origin.

    `path` is for people. `api` is true where the OpenAI-compatible API asks, whose error class a
    refusal may use, and `stream` where it has sent its headers by then. `locals` are those of the
    host's function that knows the structure: chatbot_wrapper's for `chat`, the 2023 API's for
    `messages` and `edit`.
    """

    path: str
    kind: Kind
    api: bool = False
    stream: bool = False
    locals: Mapping[str, Any] | None = None


def asked(skip: int = 1) -> Asked:
    """What stands on the stack above the caller, `skip` frames up."""
    found: dict[str, FrameType] = {}
    caller: FrameType | None = None
    frame: FrameType | None = sys._getframe(skip)
    for _ in range(_DEEPEST):
        if frame is None:
            break
        name = frame.f_code.co_name
        if name in _KNOWN:
            found.setdefault(name, frame)
        elif caller is None and _folder(frame) not in ("branchfit_webui", "modules", "lib"):
            caller = frame
        frame = frame.f_back
    return _read(found, caller)


def _read(found: Mapping[str, FrameType], caller: FrameType | None) -> Asked:
    if "impersonate_wrapper" in found:
        return Asked("Chat tab, impersonate", "impersonate")
    if "generate_search_query" in found:
        return Asked("Chat tab, web search query", "text")
    stream = "stream_completions" in found or "stream_chat_completions" in found
    if "chatbot_wrapper" in found:
        return _chat(found, stream)
    if "_get_next_logits" in found or "get_next_logits" in found:
        return Asked("Logits, with samplers", "logits")
    for name in ("chat_completions", "stream_chat_completions"):
        if name in found:  # the 2023 API renders messages itself and generates from text
            path = "/v1/chat/completions" + (", stream" if stream else "")
            return Asked(path, "messages", api=True, stream=stream, locals=found[name].f_locals)
    if "edits" in found:
        return Asked("/v1/edits", "edit", api=True, locals=found["edits"].f_locals)
    if any(name in found for name in ("completions", "stream_completions", "completions_common")):
        return Asked("/v1/completions" + (", stream" if stream else ""), "text", api=True, stream=stream)
    if "generate_and_save_wrapper_notebook" in found:
        return Asked("Notebook tab", "box")
    if "generate_reply_wrapper" in found:
        return Asked("Default or Notebook tab", "box")
    if "do_POST" in found:
        return Asked("/api/v1/generate", "text")
    if "_handle_stream_message" in found:
        return Asked("/api/v1/stream", "text")
    if caller is None:
        return Asked("unknown", "text")
    return Asked(f"{_folder(caller)}/{PurePath(caller.f_code.co_filename).name}:{caller.f_code.co_name}", "text")


def _chat(found: Mapping[str, FrameType], stream: bool) -> Asked:
    inner = found["chatbot_wrapper"].f_locals
    button = "continue" if inner.get("_continue") else "regenerate" if inner.get("regenerate") else ""
    api = "chat_completions_common" in found
    if api:
        path = _openai_or_anthropic(found["chat_completions_common"]) + (", stream" if stream else "")
    elif "do_POST" in found:
        path = "/api/v1/chat"
    elif "_handle_chat_stream_message" in found:
        path = "/api/v1/chat-stream"
    else:
        state = inner.get("state")
        path = f"Chat tab, {state.get('mode') if isinstance(state, dict) else '?'}"
        button = button or "send"
    return Asked(path + (f", {button}" if button else ""), "chat", api=api, stream=stream, locals=inner)


def _openai_or_anthropic(frame: FrameType) -> str:
    """v4.2 and newer turn an Anthropic request into an OpenAI one, without OpenAI's own extra fields."""
    body = frame.f_locals.get("body")
    if "modules.api.anthropic" in sys.modules and isinstance(body, dict):
        openai = "tools" in body and "max_completion_tokens" in body
        return "/v1/chat/completions" if openai else "/v1/messages"
    return "/v1/chat/completions"


def _folder(frame: FrameType) -> str:
    return PurePath(frame.f_code.co_filename).parent.name
