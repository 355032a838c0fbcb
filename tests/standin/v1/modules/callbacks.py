"""Generation in a thread of its own."""

import traceback

import modules.shared as shared
from standin.relay import Halting, Relay, Telling


class _StopEverythingStoppingCriteria(Halting):
    def __init__(self):
        Halting.__init__(self, lambda: shared.stop_everything)


class Stream(Telling):
    pass


class Iteratorize(Relay):
    def __init__(self, func, args=None, kwargs=None, callback=None):
        def work(callback):
            try:
                func(*(args or ()), callback=callback, **(kwargs or {}))
            except ValueError:
                pass  # how a stop is told here, and so every ValueError is lost
            except BaseException:  # noqa: BLE001  (v1.7 prints it and ends the reply)
                traceback.print_exc()

        Relay.__init__(self, work, lambda: shared.stop_everything, ValueError)
