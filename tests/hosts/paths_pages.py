"""Every generating button of the pages: what a person does, and what has to enter the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .compare import Wanted
from .host import REPLY_TOKENS
from .page import CHAT, DEFAULT, NOTEBOOK, Page
from .paths_api import render

MODES = ("instruct", "chat-instruct", "chat")
REPLIES = (" ok" * REPLY_TOKENS, " ok" * (REPLY_TOKENS - 1))
"""The webuis of 2023 drop the last token of a streamed reply: its stopping criteria end before their callback."""

INSTRUCTION = "How much is 23 + {n}? Say it in one word: naïve, 中, 😀."
MULTILINE = "How much is 23 + {n}?\nSay it in one word: naïve, 中, 😀."
START = "Sure thing:"


@dataclass(frozen=True)
class Step:
    """`prepare` generates nothing; what `do` makes enter the model is compared. None: it goes on from the last step."""

    name: str
    do: Callable[[Page], None]
    wanted: Wanted
    prepare: Callable[[Page], None] | None = None


def continued(text: str) -> Wanted:
    return Wanted(either=tuple(render(text) + reply for reply in REPLIES))


def chat_steps(mode: str, n: int) -> Iterator[Step]:
    first, second = INSTRUCTION.format(n=n), MULTILINE.format(n=n + 1)
    name = f"Chat tab, {mode}"

    def write(text: str) -> Callable[[Page], None]:
        return lambda page: page.type("id", CHAT, text)

    def press(button: str) -> Callable[[Page], None]:
        return lambda page: page.click("id", button)

    def fresh(page: Page) -> None:
        page.new_chat(mode)
        page.type("id", CHAT, first)

    yield Step(f"{name}, send", press("#Generate"), Wanted((render(first),)), fresh)
    yield Step(f"{name}, regenerate", press("#Regenerate"), Wanted((render(first),)))
    yield Step(f"{name}, continue", press("#Continue"), continued(first))
    yield Step(f"{name}, second message", press("#Generate"), Wanted((render(second),)), write(second))

    def start_with(page: Page) -> None:
        page.new_chat(mode)
        page.type("box", "Start reply with", START)
        page.type("id", CHAT, second)

    def clear(page: Page) -> None:
        page.type("box", "Start reply with", "")
        page.type("id", CHAT, "I would like")

    yield Step(f"{name}, start reply with", press("#Generate"), Wanted((f"{render(second)} {START}",)), start_with)
    yield Step(
        f"{name}, impersonate", press("#Impersonate"), Wanted(says=(("mpersonat",), ("BranchFit did not",))), clear
    )


def box_steps(n: int) -> Iterator[Step]:
    text = MULTILINE.format(n=n)

    def press(button: str) -> Callable[[Page], None]:
        return lambda page: page.click("button", button)

    def default(page: Page) -> None:
        page.two_columns(True)
        page.type("id", DEFAULT, text)

    yield Step("Default tab, generate", press("Generate"), Wanted((render(text),)), default)
    yield Step("Default tab, continue", press("Continue"), continued(text))
    yield Step(
        "Default tab, logits",
        press("Get next token probabilities"),
        Wanted((render(text),)),
        lambda page: page.tab("Logits"),
    )

    other, third = MULTILINE.format(n=n + 1), MULTILINE.format(n=n + 2)

    def logits(page: Page) -> None:
        page.tab("Raw")
        page.two_columns(False)
        page.type("id", NOTEBOOK, third)
        page.tab("Logits")

    def notebook(page: Page) -> None:
        page.tab("Raw")
        page.type("id", NOTEBOOK, other)

    # Logits come before a generation: they leave a reply length of 1 in what the webui keeps across a restart.
    yield Step("Notebook tab, logits", press("Get next token probabilities"), Wanted((render(third),)), logits)
    yield Step("Notebook tab, generate", press("Generate"), Wanted((render(other),)), notebook)
    yield Step("Notebook tab, regenerate", press("Regenerate"), Wanted((render(other),)))
    yield Step("Notebook tab, generate on its own text", press("Generate"), continued(other))


def all_steps() -> Iterator[Step]:
    for place, mode in enumerate(MODES):
        yield from chat_steps(mode, 100 + 10 * place)
    yield from box_steps(200)


def after_restart() -> Iterator[Step]:
    yield from chat_steps("instruct", 300)
    yield next(box_steps(400))
