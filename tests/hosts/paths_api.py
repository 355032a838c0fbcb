"""Every generating path of the APIs of November 2023 and newer: what is sent, and what has to enter the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from branchfit.prompts import ALPACA_COT

from .client import post
from .compare import Answer, Wanted
from .host import REPLY_TOKENS, Running
from .model import CONTEXT_TOKENS

TEMPLATE = ALPACA_COT
HEAD, TAIL = TEMPLATE.render("\0").split("\0")
render = TEMPLATE.render

INSTRUCTION = "How much is 17 + {n}?\nSay it in one word: naïve, 中, 😀."
PARTIAL = "First, 17"
ALREADY = "a rendering"
"""In the names of paths whose client sends the rendering itself: they are exact without a lock too."""

TOO_LONG = "x" * 2500
ALMOST = "x" * (CONTEXT_TOKENS - 100)
"""Fits, until it is rendered: what a webui counts by itself lets it through."""

TIGHT = "x" * (CONTEXT_TOKENS - 2 - len(HEAD + TAIL) - 120)
"""Leaves 120 tokens of the context: a token a character, BOS and the blank in front."""


HOSTS_OWN = "context length"
"""In the sentence with which the API of 2023 refuses by itself, before anything is asked to generate."""


@dataclass(frozen=True)
class Path:
    name: str
    send: Callable[[Running], Answer]
    wanted: Wanted


def tokens(text: str) -> int:
    """Counted by hand: see model.py."""
    return 2 + sum(1 if letter.isascii() and letter.isprintable() else len(letter.encode()) for letter in text)


def too_long(text: str, limit: int = CONTEXT_TOKENS) -> Wanted:
    """Refused, with the prompt's tokens and the limit in the answer.

    The API of 2023 refuses many by itself, with a sentence of its own, before anything is asked to generate.
    """
    count = tokens(text)
    return Wanted(says=((str(count), f"{count:,}", HOSTS_OWN), (str(limit), f"{limit:,}")))


def whole_or_refused(text: str, limit: int) -> Wanted:
    return Wanted((text,), too_long(text, limit).says, or_refused=True)


class Numbered:
    """Instructions, no two alike, so that no recording can be taken for another's."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> str:
        self.n += 1
        return INSTRUCTION.format(n=self.n)


def completions(**body: Any) -> Callable[[Running], Answer]:
    return lambda host: post(f"{host.openai}/v1/completions", {"max_tokens": REPLY_TOKENS, **body})


def chat(messages: list[tuple[str, str]], **body: Any) -> Callable[[Running], Answer]:
    spoken = [{"role": role, "content": content} for role, content in messages]
    return lambda host: post(
        f"{host.openai}/v1/chat/completions", {"messages": spoken, "max_tokens": REPLY_TOKENS, **body}
    )


def anthropic(text: str, **body: Any) -> Callable[[Running], Answer]:
    said = [{"role": "user", "content": text}]
    return lambda host: post(
        f"{host.openai}/v1/messages", {"model": "m", "messages": said, "max_tokens": REPLY_TOKENS, **body}
    )


def together(sends: list[Callable[[Running], Answer]]) -> Callable[[Running], Answer]:
    def send(host: Running) -> Answer:
        with ThreadPoolExecutor(len(sends)) as pool:
            answers = list(pool.map(lambda one: one(host), sends))
        return max(answers, key=lambda answer: answer.status)

    return send


def both_apis(host: Running, say: Numbered) -> Iterator[Path]:
    """What the OpenAI-compatible API takes in every version."""

    def lowered(text: str) -> Wanted:
        """The reply must be shortened, never the prompt. The API of 2023 refuses instead."""
        return Wanted((text,), ((HOSTS_OWN,),), or_refused=host.source.is_legacy)

    text = say()
    yield Path("/v1/completions", completions(prompt=text), Wanted((render(text),)))
    text = say()
    yield Path("/v1/completions, stream", completions(prompt=text, stream=True), Wanted((render(text),)))
    texts = [say(), say()]
    yield Path("/v1/completions, list", completions(prompt=texts), Wanted(tuple(map(render, texts))))
    text = say()
    yield Path("/v1/completions, echo", completions(prompt=text, echo=True), Wanted((render(text),)))
    text = f"  {say()}\n\n "
    yield Path("/v1/completions, blanks at both ends", completions(prompt=text), Wanted((render(text),)))
    text = render(say())
    yield Path("/v1/completions, a rendering already", completions(prompt=text), Wanted((text,)))
    text = render(say()) + f" {PARTIAL}"
    yield Path("/v1/completions, a rendering and a reply's start", completions(prompt=text), Wanted((text,)))
    text = say()
    yield Path("/v1/completions, stop", completions(prompt=text, stop=["\n", "zzz"]), Wanted((render(text),)))
    text = say()
    yield Path(
        "/v1/completions, max_tokens 100000",
        completions(prompt=text, max_tokens=100000, stop=["ok ok"]),
        lowered(render(text)),
    )
    yield Path(
        "/v1/completions, longer than the model's context", completions(prompt=TOO_LONG), too_long(render(TOO_LONG))
    )
    yield Path(
        "/v1/completions, stream, too long", completions(prompt=TOO_LONG, stream=True), too_long(render(TOO_LONG))
    )
    numbers = too_long(render(ALMOST)).says
    strict = Wanted(says=tuple(tuple(text for text in spelled if text != HOSTS_OWN) for spelled in numbers))
    yield Path("/v1/completions, too long once rendered", completions(prompt=ALMOST), strict)
    yield Path("/v1/completions, stream, too long once rendered", completions(prompt=ALMOST, stream=True), strict)
    yield Path(
        "/v1/completions, less room than max_tokens", completions(prompt=TIGHT, max_tokens=400), lowered(render(TIGHT))
    )
    text = say()
    yield Path("/v1/chat/completions", chat([("user", text)]), Wanted((render(text),)))
    text = say()
    yield Path("/v1/chat/completions, stream", chat([("user", text)], stream=True), Wanted((render(text),)))
    text = say()
    yield Path(
        "/v1/chat/completions, system message", chat([("system", "Be terse."), ("user", text)]), Wanted((render(text),))
    )
    text = say()
    yield Path(
        "/v1/chat/completions, history",
        chat([("user", "Hello."), ("assistant", "Hello to you."), ("user", text)]),
        Wanted((render(text),)),
    )
    text = f"  {say()}\n "
    yield Path("/v1/chat/completions, blanks at both ends", chat([("user", text)]), Wanted((render(text),)))
    yield Path(
        "/v1/chat/completions, only a system message", chat([("system", "Be terse.")]), Wanted(says=(("message",),))
    )
    yield Path("/v1/chat/completions, too long", chat([("user", TOO_LONG)]), too_long(render(TOO_LONG)))
    yield Path(
        "/v1/chat/completions, stream, too long", chat([("user", TOO_LONG)], stream=True), too_long(render(TOO_LONG))
    )
    yield Path(
        "/v1/chat/completions, less room than max_tokens",
        chat([("user", TIGHT)], max_tokens=400),
        lowered(render(TIGHT)),
    )
    texts = [say() for _ in range(8)]
    sends = [completions(prompt=text) for text in texts[:4]] + [chat([("user", text)]) for text in texts[4:]]
    yield Path("8 requests at once", together(sends), Wanted(tuple(map(render, texts))))


def newer_api(host: Running, say: Numbered) -> Iterator[Path]:
    """What only the FastAPI server of November 2023 and newer takes."""
    text = say()
    begun = [("user", text), ("assistant", PARTIAL)]
    yield Path("/v1/chat/completions, continue_", chat(begun, continue_=True), Wanted((f"{render(text)} {PARTIAL}",)))
    text = say()
    begun = [("user", text), ("assistant", PARTIAL)]
    yield Path(
        "/v1/chat/completions, stream, continue_",
        chat(begun, continue_=True, stream=True),
        Wanted((f"{render(text)} {PARTIAL}",)),
    )
    text = say()
    own = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    yield Path(
        "/v1/chat/completions, the client's own template",
        chat([("user", text)], instruction_template_str=own),
        Wanted((render(text),)),
    )
    for mode in ("instruct", "chat-instruct", "chat"):
        text = say()
        yield Path(f"/v1/chat/completions, mode {mode}", chat([("user", text)], mode=mode), Wanted((render(text),)))
    text = say()
    begun = [("user", text), ("assistant", PARTIAL)]
    yield Path(
        "/v1/chat/completions, mode chat, continue_",
        chat(begun, mode="chat", continue_=True),
        Wanted((f"{render(text)} {PARTIAL}",)),
    )
    for name, value in (
        ("truncation_length", 64),
        ("truncation_length", 10_000_000),
        ("add_bos_token", False),
        ("custom_stopping_strings", ['"###"']),
    ):
        for path, send in (("/v1/completions", completions), ("/v1/chat/completions", chat)):
            text = say()
            asked = {name: value} | ({"prompt": text} if send is completions else {"messages": [("user", text)]})
            yield Path(
                f"{path}, {name} {value}",
                send(**asked),
                _over(host, path, render(text)) if value == 64 else Wanted((render(text),)),
            )
    if host.source.gives_logits:
        text = say()
        body = {"prompt": text, "use_samplers": True}
        yield Path(
            "/v1/internal/logits, samplers",
            lambda host: post(f"{host.openai}/v1/internal/logits", body),
            Wanted((render(text),)),
        )
    if host.source.has_messages:
        for name, more in (("", {}), (", stream", {"stream": True}), (", system", {"system": "Be terse."})):
            text = say()
            yield Path(f"/v1/messages{name}", anthropic(text, **more), Wanted((render(text),)))
        yield Path("/v1/messages, too long", anthropic(TOO_LONG), too_long(render(TOO_LONG)))


def _over(host: Running, path: str, prompt: str) -> Wanted:
    wanted = whole_or_refused(prompt, 64)
    return replace(wanted, or_fails=True) if "chat" in path and host.source.counts_first else wanted
