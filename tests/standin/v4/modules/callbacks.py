"""Generation in a thread of its own."""

import modules.shared as shared
from modules.logging_colors import logger
from standin.relay import Relay


class StopNowException(Exception):
    """The reply is wanted no more."""


class Iteratorize(Relay):
    def __init__(self, func, args=None, kwargs=None, callback=None):
        def work(callback):
            try:
                func(*(args or ()), callback=callback, **(kwargs or {}))
            except Exception as error:  # noqa: BLE001  (v4.7.3 logs it and ends the reply)
                if not isinstance(error, StopNowException):
                    logger.exception("generation failed")

        Relay.__init__(self, work, lambda: shared.stop_everything, StopNowException)
