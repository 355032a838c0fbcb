"""The names of the ways by which text reaches the model, era by era."""

from __future__ import annotations

PARTIAL = "First, add the two numbers."
"""A reply that is continued. With no space at its ends, since the hosts strip those."""
EARLIER = ("What is 1 + 1?", "It is 2.")
MODES = ("instruct", "chat-instruct", "chat")

_API = (
    "completions",
    "completions_stream",
    "completions_list",
    "chat_plain",
    "chat_stream",
    "chat_system",
    "chat_history",
)
_LEGACY = (
    "legacy_generate",
    "legacy_stream",
    "legacy_chat",
    "legacy_chat_stream",
    "legacy_regenerate",
    "legacy_continue",
)
_NEWER = ("completions_echo", "chat_continue", "chat_mode_chat", "chat_mode_chat_instruct", "chat_client_template")
_PAGE = (
    *("default_generate", "default_continue", "notebook_generate", "notebook_regenerate", "notebook_continue"),
    *(
        f"{button}[{mode}]"
        for button in ("send", "regenerate", "continue", "start_with", "impersonate")
        for mode in MODES
    ),
    *("logits_samplers", "logits_direct"),
)
PATHS = {
    "v1": (*_API, "edits", *_LEGACY, *_PAGE),
    "v3": (*_API, *_NEWER, "chat_prompt", *_PAGE, "web_search"),
    "v4": (*_API, *_NEWER, "messages", "messages_stream", "api_logits_samplers", "chat_prompt", *_PAGE, "web_search"),
}


class Refusal(Exception):
    """An error in the reply's place; `status` of the API, None on the page. `said` is whether whoever asked gets to
    read the sentence: a server keeps other exceptions to itself, and a stream just ends."""

    def __init__(self, sentence: str, status: int | None, said: bool = True) -> None:
        super().__init__(sentence)
        self.status, self.said = status, said


def kind_of(name: str) -> str:
    if "continue" in name:
        return "continue"
    for kind in ("impersonate", "start_with", "regenerate", "chat_prompt", "direct", "web_search"):
        if kind in name:
            return kind
    return "send"
