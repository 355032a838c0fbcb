"""A function with a callback made into an iterator, which the eras' callbacks.py finish."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any


class Relay:
    """Runs `work(callback)` in a thread. What it hands to the callback comes out here, until it ends."""

    def __init__(self, work: Callable[[Callable[[Any], None]], None], halted: Callable[[], bool], halt: type) -> None:
        self.stop_now = False
        self._handed: SimpleQueue[tuple[Any, ...]] = SimpleQueue()

        def callback(value: Any) -> None:
            if self.stop_now or halted():
                raise halt
            self._handed.put((value,))

        def run() -> None:
            work(callback)
            self._handed.put(())

        Thread(target=run).start()

    def __iter__(self) -> Relay:
        return self

    def __next__(self) -> Any:
        for value in self._handed.get():
            return value
        raise StopIteration

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop_now = True


class Halting:
    """A stopping criterion: whether the page's Stop button was pressed."""

    def __init__(self, pressed: Callable[[], bool]) -> None:
        self._pressed = pressed

    def __call__(self, input_ids: Any, scores: Any) -> bool:
        return self._pressed()


class Telling:
    """A stopping criterion that never stops and tells of each token."""

    def __init__(self, callback_func: Any = None) -> None:
        self.callback_func = callback_func

    def __call__(self, input_ids: Any, scores: Any) -> bool:
        if self.callback_func:
            self.callback_func(input_ids[0])
        return False
