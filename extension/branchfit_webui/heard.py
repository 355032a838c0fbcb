"""Who wants to know of each generation: before it, and after it how many tokens it read.

The prompt lock sees every generation, whatever template holds. It knows nothing of loads, and whoever measures a
load knows nothing of the lock: they meet here. Nothing that a listener does can harm a reply.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from .host import Host


class Listener(Protocol):
    """`begin` before a generation; `read` after it, with the tokens of the prompt, and of it and its reply."""

    def begin(self) -> None: ...

    def read(self, prompt_tokens: int, read_tokens: int) -> None: ...


_asked: list[Callable[[Host], Listener | None]] = []


def listen(to_whom: Callable[[Host], Listener | None]) -> None:
    """Have `to_whom` asked at each generation who listens now; once, whoever says so again."""
    if to_whom not in _asked:
        _asked.append(to_whom)


def heard(host: Host, inner: Callable[..., Any]) -> Callable[..., Any]:
    """One of the host's generating functions, heard. Prompts that are no text are not counted."""

    @functools.wraps(inner)
    def generate(question: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        listener = _listener(host) if isinstance(question, str) else None
        if listener is None:
            yield from inner(question, *args, **kwargs)
            return
        with suppress(Exception):
            listener.begin()
        reply: Any = ""
        generator = iter(inner(question, *args, **kwargs))
        try:
            for reply in generator:
                yield reply
        finally:
            getattr(generator, "close", lambda: None)()
            with suppress(Exception):
                prompt = len(host.encode(question, True))
                written = len(host.encode(reply, False)) if isinstance(reply, str) and reply else 0
                listener.read(prompt, prompt + written)

    return generate


def _listener(host: Host) -> Listener | None:
    with suppress(Exception):
        return next((found for ask in _asked if (found := ask(host)) is not None), None)
    return None
