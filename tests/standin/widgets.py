"""A button of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from standin.web import in_thread


@dataclass(frozen=True)
class Button:
    """What gradio keeps of one: the function it was given when the page was built."""

    pressed: Callable[..., Any]

    def press(self, *inputs: Any) -> list[Any]:
        """Everything the page is sent, in order. As in gradio, each step may run in another thread."""
        outputs, end = self.pressed(*inputs), object()
        if not hasattr(outputs, "__next__"):
            return [outputs]
        sent = []
        while (item := in_thread(lambda: next(outputs, end))) is not end:
            sent.append(item)
        return sent


def gradio_error(sentence: str) -> Exception:
    """What the page shows as an error. gradio is there only where a page is."""
    import gradio

    error: Exception = gradio.Error(sentence)
    return error
