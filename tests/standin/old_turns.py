"""How the v1 host makes a prompt of a chat: templates of turns, and rows dropped until it fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_OPENING = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
TEMPLATES = {
    "Alpaca": {
        "user": "### Instruction:",
        "bot": "### Response:",
        "turn_template": "<|user|>\n<|user-message|>\n\n<|bot|>\n<|bot-message|>\n\n",
        "context": _OPENING,
    },
    "Vicuna-v1.1": {
        "user": "USER:",
        "bot": "ASSISTANT:",
        "turn_template": "<|user|> <|user-message|>\n<|bot|> <|bot-message|></s>\n",
        "context": "A chat between a curious user and an artificial intelligence assistant.\n\n",
    },
}
CHARACTERS = {"Assistant": {"name": "AI", "context": "The following is a conversation with an AI.\n", "greeting": ""}}

_TRANSCRIPT = "<|user|>: <|user-message|>\n<|bot|>: <|bot-message|>\n"


class Turn:
    """One template of a turn: the user's half and the bot's, with names filled in."""

    def __init__(self, template: str, user: str, bot: str) -> None:
        filled = template.replace("<|bot|>", "\x00", 1)
        self.user, self.bot = (half.replace("<|user|>", user.strip()) for half in filled.split("\x00"))
        self.bot = bot.strip() + self.bot
        self.before_user = self.user.split("<|user-message|>")[0]
        self.before_bot = self.bot.split("<|bot-message|>")[0]

    def asks(self, message: str) -> str:
        return self.user.replace("<|user-message|>", message.strip())

    def answers(self, message: str) -> str:
        return self.bot.replace("<|bot-message|>", message.strip())


def turn(state: dict[str, Any], instruct: bool) -> Turn:
    if instruct:
        return Turn(state["turn_template"].replace(r"\n", "\n"), state["name1_instruct"], state["name2_instruct"])
    return Turn(_TRANSCRIPT, state["name1"], state["name2"])


def build(
    user_input: str,
    state: dict[str, Any],
    history: list[list[str]],
    bot_prefix: Callable[[str], str],
    fits: Callable[[str], bool],
    *,
    continued: bool,
    impersonate: bool,
) -> str:
    instruct, both = state["mode"] == "instruct", state["mode"] == "chat-instruct"
    own, frame = turn(state, instruct), "<|prompt|>"
    if both:
        outer = turn(state, True)
        command = state["chat-instruct_command"].replace("<|character|>", state["name1" if impersonate else "name2"])
        frame = state["context_instruct"] + outer.user.replace("<|user-message|>", command) + outer.before_bot
        if impersonate:
            frame += own.before_user.rstrip(" ")
        else:
            frame += bot_prefix(own.before_bot if continued else own.before_bot.rstrip(" "))
            frame += history[-1][1] if continued else ""
    rows = [state["context_instruct"] if instruct else f"{state['context'].strip()}\n"]
    for place, (message, reply) in enumerate(history):
        if message not in ("", "<|BEGIN-VISIBLE-CHAT|>"):
            rows.append(own.asks(message))
        if not (continued and place == len(history) - 1):
            rows.append(own.answers(reply))
        elif not both:
            rows.append(own.before_bot + reply.strip())
    fewest = 3
    if impersonate:
        fewest = 1 if both else 2
        rows += [] if both else [own.before_user.rstrip(" ")]
    elif not continued:
        rows += [own.asks(user_input)] if user_input else []
        rows += [] if both else [bot_prefix(own.before_bot.rstrip(" "))]
    while len(rows) > fewest and not fits(frame.replace("<|prompt|>", "".join(rows))):
        rows.pop(1)
    return frame.replace("<|prompt|>", "".join(rows))


def stop_strings(state: dict[str, Any]) -> list[str]:
    found = []
    if state["mode"] != "chat":
        template = turn(state, True)
        after_user = template.user.split("<|user-message|>")[1]
        after_bot = template.bot.split("<|bot-message|>")[1]
        found += [after_user + state["name2_instruct"], after_bot + state["name1_instruct"]]
    if state["mode"] != "instruct":
        found += [f"\n{state['name1']}:", f"\n{state['name2']}:"]
    given = state.pop("stopping_strings", None)
    return found + (given if isinstance(given, list) else [])
