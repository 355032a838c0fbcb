"""How the host asks its extensions, and how it cuts a reply at stop strings: the same in all eras."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections import deque
from collections.abc import Callable, Iterable
from inspect import signature
from pathlib import Path
from typing import Any

Loaded = Callable[[], Iterable[tuple[Any, str]]]


def hook_map(loaded: Loaded) -> dict[str, Callable[..., Any]]:
    """EXTENSION_MAP: for each kind of hook, the function that asks the extensions `loaded` gives, in order."""

    def of(hook: str) -> list[Any]:
        return [getattr(extension, hook) for extension, _ in loaded() if hasattr(extension, hook)]

    def strings(hook: str) -> Callable[..., Any]:
        def chained(text: str, state: Any, is_chat: bool = False) -> str:
            for function in of(hook):
                names = list(signature(function).parameters)
                keywords = {"is_chat": is_chat} if "is_chat" in names else {}
                takes_state = len([name for name in names if name != "is_chat"]) == 2
                text = function(*([text, state] if takes_state else [text]), **keywords)
            return text

        return chained

    def one(hook: str) -> Callable[..., Any]:
        def chained(value: Any) -> Any:
            for function in of(hook):
                value = function(value)
            return value

        return chained

    def chat_input(text: str, visible_text: str, state: Any) -> tuple[str, str]:
        for function in of("chat_input_modifier"):
            text, visible_text = function(text, visible_text, state)
        return text, visible_text

    def tokens(state: Any, prompt: str, input_ids: Any, input_embeds: Any) -> tuple[Any, ...]:
        for function in of("tokenizer_modifier"):
            prompt, input_ids, input_embeds = function(state, prompt, input_ids, input_embeds)
        return prompt, input_ids, input_embeds

    def processors(processor_list: Any, input_ids: Any) -> Any:
        for function in of("logits_processor_modifier"):
            result = function(processor_list, input_ids)
            processor_list = result if type(result) is list else processor_list
        return processor_list

    # The next three: only the first extension that has the hook counts, whatever it answers.

    def chat_prompt(text: str, state: Any, **kwargs: Any) -> str | None:
        return next((function(text, state, **kwargs) for function in of("custom_generate_chat_prompt")), None)

    def tokenized_length(prompt: str) -> int | None:
        return next((function(prompt) for function in of("custom_tokenized_length")), None)

    def reply() -> Callable[..., Any] | None:
        return next(iter(of("custom_generate_reply")), None)

    return {
        "input": strings("input_modifier"),
        "output": strings("output_modifier"),
        "chat_input": chat_input,
        "state": one("state_modifier"),
        "history": one("history_modifier"),
        "bot_prefix": strings("bot_prefix_modifier"),
        "tokenizer": tokens,
        "logits_processor": processors,
        "custom_generate_chat_prompt": chat_prompt,
        "custom_generate_reply": reply,
        "tokenized_length": tokenized_length,
        "css": lambda: "".join(function() for function in of("custom_css")),
        "js": lambda: "".join(function() for function in of("custom_js")),
    }


def set_up(extension: Any, name: str, done: set[Any], settings: dict[str, Any], once: bool) -> None:
    """Give an extension its settings and call its setup(), unless that was done. `once` is v1's: settings are given
    each time, and an extension whose setup() fails is not tried again."""
    if once:
        give_settings(extension, name, settings)
    if extension in done:
        return
    if not once:
        give_settings(extension, name, settings)
    elif hasattr(extension, "setup"):
        done.add(extension)
    getattr(extension, "setup", lambda: None)()
    done.add(extension)


def give_settings(extension: Any, name: str, settings: dict[str, Any]) -> None:
    own = getattr(extension, "params", {})
    own.update({key: settings[f"{name}-{key}"] for key in own if f"{name}-{key}" in settings})


def from_file(name: str, script: Path) -> Any:
    """A script executed as a new module, whether or not there is one of that name."""
    spec = importlib.util.spec_from_file_location(name, str(script))
    assert spec is not None and spec.loader is not None
    sys.modules[name] = made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def last(replies: Iterable[Any], otherwise: Any) -> Any:
    """The whole reply, of replies that grow."""
    return next(iter(deque(replies, maxlen=1)), otherwise)


def stop_strings(*given: Any) -> list[str]:
    """The stop strings of all sources; one given as text is the inside of a Python list."""
    found: list[str] = []
    for strings in given:
        found += ast.literal_eval(f"[{strings}]") if isinstance(strings, str) else strings or []
    return found


def cut_at_stop(reply: str, stops: list[str]) -> tuple[str, bool]:
    """The reply up to a stop string and True, or without the beginning of one at its end and False."""
    for stop in stops:
        if stop in reply:
            return reply[: reply.index(stop)], True
    for stop in stops:
        for size in range(len(stop) - 1, 0, -1):
            if reply.endswith(stop[:size]):
                return reply[:-size], False
    return reply, False
