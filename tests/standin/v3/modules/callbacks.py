"""Generation in a thread of its own."""

import contextlib
import traceback

import modules.shared as shared
from standin.relay import Relay


class StopNowException(Exception):
    """The reply is wanted no more."""


class Iteratorize(Relay):
    def __init__(self, func, args=None, kwargs=None, callback=None):
        def work(callback):
            with contextlib.suppress(StopNowException):
                try:
                    func(*(args or ()), callback=callback, **(kwargs or {}))
                except StopNowException:
                    raise
                except BaseException:  # noqa: BLE001  (v3.23 prints it and ends the reply)
                    traceback.print_exc()

        Relay.__init__(self, work, lambda: shared.stop_everything, StopNowException)
