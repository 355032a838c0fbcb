"""How the v3 and v4 hosts make a prompt of a chat, from a template and the history.

The host's templates are Jinja; here one is JSON with a text for each kind of message, since what counts
for these tests is when a template is used and what is fed to it, not its language.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Message = dict[str, str]

_CUT = "\x00 the reply that is continued \x00"

_OPENING = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
ALPACA = json.dumps(
    {
        "opening": _OPENING,
        "system": "{content}\n\n",
        "user": "### Instruction:\n{content}\n\n",
        "assistant": "### Response:\n{content}\n\n",
        "generation": "### Response:\n",
    }
)
CHATML = json.dumps(
    {
        "opening": "",
        "system": "<|im_start|>system\n{content}<|im_end|>\n",
        "user": "<|im_start|>user\n{content}<|im_end|>\n",
        "assistant": "<|im_start|>assistant\n{content}<|im_end|>\n",
        "generation": "<|im_start|>assistant\n",
    }
)
TRANSCRIPT = json.dumps(
    {
        "opening": "",
        "system": "{content}\n\n",
        "user": "{name1}: {content}\n",
        "assistant": "{name2}: {content}\n",
        "generation": "{name2}:",
    }
)
TEMPLATES = {"Alpaca": ALPACA, "ChatML": CHATML}


def render(template: str, messages: list[Message], generation: bool, state: dict[str, Any]) -> str:
    """The text of `messages`. `generation` asks for what comes before the model's own next message."""
    parts = json.loads(template)
    text = "" if any(message["role"] == "system" for message in messages) else parts["opening"]
    for message in messages:
        form = parts.get(message["role"], "{content}\n")
        text += names(form, state).replace("{content}", message["content"])
    return text + (names(parts["generation"], state) if generation else "")


def names(text: str, state: dict[str, Any]) -> str:
    return text.replace("{name1}", state["name1"]).replace("{name2}", state["name2"])


def messages_of(user_input: str, state: dict[str, Any], history: list[list[Any]], sends: bool) -> list[Message]:
    """The rows as messages. Each is stripped, so a reply's own leading or trailing space does not survive."""
    instruct = state["mode"] == "instruct"
    first = state["custom_system_message"] if instruct else names(state["context"], state)
    messages = [{"role": "system", "content": first}] if first.strip() else []
    for row in history:
        of_system = len(row) > 3 and row[3].get("role") == "system"
        if row[0].strip() not in ("", "<|BEGIN-VISIBLE-CHAT|>"):
            messages.append({"role": "system" if of_system else "user", "content": row[0].strip()})
        if row[1].strip():
            messages.append({"role": "assistant", "content": row[1].strip()})
        if len(row) > 2 and row[2].strip():
            messages.append({"role": "tool", "content": row[2].strip()})
    if sends and user_input.strip():
        messages.append({"role": "user", "content": user_input.strip()})
    return messages


def build(
    user_input: str,
    state: dict[str, Any],
    history: list[list[Any]],
    bot_prefix: Callable[[], str],
    *,
    continued: bool,
    impersonate: bool,
) -> Callable[[list[Message]], str]:
    """The function that makes the prompt of a list of messages, for the state's mode."""
    instruct, both = state["mode"] == "instruct", state["mode"] == "chat-instruct"
    template = state["instruction_template_str"] if instruct else state["chat_template_str"]

    def prompt(messages: list[Message]) -> str:
        reply = messages[-1]["content"] if continued else ""
        shown = messages[:-1] if continued else messages
        if continued and not both:
            shown = [*shown, {"role": messages[-1]["role"], "content": _CUT}]
        if impersonate and not both:
            shown = [*shown, {"role": "user", "content": _CUT}]
        text = render(template, shown, not (both or continued or impersonate), state)
        if both:
            character = state["name1"] if impersonate else state["name2"]
            command = state["chat-instruct_command"].replace("<|character|>", character).replace("<|prompt|>", text)
            outer = [{"role": "user", "content": command}]
            if state["custom_system_message"].strip():
                outer.insert(0, {"role": "system", "content": state["custom_system_message"]})
            if continued:
                outer.append({"role": "assistant", "content": _CUT})
            text = render(state["instruction_template_str"], outer, not continued, state)
        text = text.split(_CUT)[0] + reply
        if not instruct and not impersonate and not continued:
            text += bot_prefix()
        return text

    return prompt


def shorten(messages: list[Message], prompt: Callable[[list[Message]], str], fits: Callable[[str], bool]) -> str:
    """Drop the oldest messages, then the end of the last one, until the prompt fits. Raises ValueError."""
    text = prompt(messages)
    while not fits(text):
        keep = 1 if messages[0]["role"] == "system" else 0
        if len(messages) > keep + 1:
            del messages[keep]
            text = prompt(messages)
            continue
        last = messages[-1]["content"]
        low, high = 0, len(last)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (
                (middle, high)
                if fits(prompt([*messages[:-1], {**messages[-1], "content": last[:middle]}]))
                else (
                    low,
                    middle - 1,
                )
            )
        text = prompt([*messages[:-1], {**messages[-1], "content": last[:low]}])
        if not fits(text):
            raise ValueError
        return text
    return text


def stop_strings(state: dict[str, Any]) -> list[str]:
    """What begins the other's turn, read off a rendering of two turns of each."""
    template = state["chat_template_str"] if state["mode"] == "chat" else state["instruction_template_str"]
    said = ["first question", "first answer", "second question", "second answer"]
    roles = ("user", "assistant") * 2
    text = render(
        template, [{"role": role, "content": words} for role, words in zip(roles, said, strict=True)], False, state
    )
    ends = [text.index(words) + len(words) for words in said]
    between = [text[ends[0] : text.index(said[1])], text[ends[1] : text.index(said[2])], text[ends[3] :]]
    found = []
    for words in between:
        if words.strip().startswith("<") and ">" in words:
            found.append(words.strip().split(">")[0] + ">")
        elif ":" in words:
            found.append(words.split(":")[0] + ":")
    given = state.pop("stopping_strings", None)
    return sorted({*found, *(given if isinstance(given, list) else [])})
