"""What happens to a reply between the model and whoever asked: shared by the eras' text_generation.py."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Counter:
    """How many generations run now: `with counted():` around each."""

    def __init__(self, mutex: Any) -> None:
        self.running, self._mutex = 0, mutex

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)

    def _add(self, number: int) -> None:
        with self._mutex:
            self.running += number


Failed = Callable[[], None]
"""How an era tells its log of an error that it then forgets: the reply just ends."""


def streamed(
    replies: Iterable[str],
    stops: list[str],
    *,
    cut: Callable[[str, list[str]], tuple[str, bool]],
    stream: bool,
    halted: Callable[[], Any],
    escape: str = "",
) -> Iterator[str]:
    """Pass on growing replies until a stop string or `halted`; returns the last. `escape` says when HTML is
    escaped: "before" stop strings are looked for, "after", or not at all."""
    reply = ""
    for made in replies:
        text = html.escape(made) if escape == "before" else made
        reply, found = cut(text, stops)
        reply = html.escape(reply) if escape == "after" else reply
        if stream:
            yield reply
        if found or halted():
            return reply
    return reply


def by_own_sampling(model: Any, prompt: str, state: dict[str, Any], opening: bool, failed: Failed) -> Iterator[str]:
    """The replies of a model that takes text. `opening` asks for an empty one first."""
    try:
        yield from [""] * opening
        whole = [] if state["stream"] else [model.generate(prompt, state)]
        yield from model.generate_with_streaming(prompt, state) if state["stream"] else whole
    except Exception:  # noqa: BLE001 (as all eras do)
        failed()


def kept(replies: Iterable[str]) -> Iterator[str]:
    """Pass on growing replies; returns the last."""
    reply = ""
    for reply in replies:
        yield reply
    return reply


class Growing:
    """The reply so far, of sequences that grow. Half a character is waited for."""

    def __init__(self, text_from: Callable[[Any, int], str], begin: int) -> None:
        self._text_from, self._begin, self._reply = text_from, begin, ""

    def __call__(self, sequence: Any) -> list[str]:
        new = self._text_from(sequence, self._begin)
        if "\N{REPLACEMENT CHARACTER}" in new:
            return []
        self._reply, self._begin = self._reply + new, len(sequence)
        return [self._reply]


def by_tokens(
    shared: Any,
    arguments: dict[str, Any],
    replies_of: Callable[[Any], Iterable[str]],
    threads: tuple[Callable[..., Any], Callable[..., Any]] | None,
    opening: bool,
    failed: Failed,
) -> Iterator[str]:
    """The replies of a transformers model. `threads` are the era's Iteratorize and Stream where the reply is wanted
    token by token; `replies_of` reads replies off a sequence of tokens."""
    try:
        yield from [""] * opening
        if threads is None:
            yield from replies_of(shared.model.generate(**arguments)[0])
            return
        iterate, tell = threads

        def generate_with_callback(callback: Any = None, **given: Any) -> None:
            given["stopping_criteria"].append(tell(callback_func=callback))
            shared.model.generate(**given)

        with iterate(generate_with_callback, [], arguments) as sequences:
            for sequence in sequences:
                if sequence[-1] == shared.tokenizer.eos_token_id:
                    return
                yield from replies_of(sequence)
    except Exception:  # noqa: BLE001 (as all eras do)
        failed()
