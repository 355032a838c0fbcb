"""Several files at once: worker threads fetch, the caller's thread tells and may be interrupted."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from .events import Event, FileStarted, OnEvent, Progress
from .lockfile import LockedFile
from .staging import Stopped

WORKERS = 4
"""Files at once. The webui's own downloader uses four threads; a quantised branch has one to four large files."""

POLL_S = 0.2
"""How long the caller's thread waits unbroken: Windows delivers Ctrl-C only between waits."""

JOIN_S = 2.0
"""How long a stop waits for workers that sit in a read or an fsync, which end in their own time.

Those can change nothing once the folder's lock is given back: `Staging.writing` is closed to them then."""


class Crew:
    """Runs a function over files in threads, its events in order in the caller's thread.

    `done` is each file's bytes on disk at the start; `overall` figures of `Progress` are kept here.
    """

    def __init__(self, done: dict[str, int], total_bytes: int, on_event: OnEvent) -> None:
        self.stop = threading.Event()
        self._done = dict(done)
        self._overall_bytes = sum(done.values())
        self._total_bytes = total_bytes
        self._on_event = on_event
        self._queue: queue.SimpleQueue[Event | BaseException | int] = queue.SimpleQueue()

    def tell(self, event: Event) -> None:
        """Called by workers."""
        self._queue.put(event)

    def run(self, files: Sequence[LockedFile], work: Callable[[LockedFile], int]) -> int:
        """Work on every file, small ones first; return the sum of what `work` returns.

        The first error stops the others and is raised when they have ended. So does whatever comes
        to the caller's thread meanwhile: Ctrl-C, or an `on_event` that raises.
        """
        waiting = deque(sorted(files, key=lambda file: (file.size_bytes, file.path)))

        def worker() -> None:
            fetched = 0
            try:
                while waiting and not self.stop.is_set():
                    try:
                        file = waiting.popleft()
                    except IndexError:  # another worker took the last one
                        break
                    fetched += work(file)
            except Stopped:
                pass  # whoever told us to stop knows why
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                self.stop.set()
                self._queue.put(error)
            self._queue.put(fetched)

        threads = [
            threading.Thread(target=worker, name=f"branchfit-pull-{number}", daemon=True)
            for number in range(min(WORKERS, len(files)))
        ]
        fetched, running, failure = 0, len(threads), None
        try:
            for thread in threads:
                thread.start()
            while running:
                try:
                    item = self._queue.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if isinstance(item, Event):
                    self._deliver(item)
                elif isinstance(item, BaseException):
                    failure = failure or item
                else:
                    fetched, running = fetched + item, running - 1
        finally:
            self.stop.set()
            deadline = time.monotonic() + JOIN_S
            for thread in threads:
                if thread.is_alive():
                    thread.join(max(0.0, deadline - time.monotonic()))
        if failure is not None:
            raise failure
        return fetched

    def _deliver(self, event: Event) -> None:
        if isinstance(event, (FileStarted, Progress)):
            self._overall_bytes += event.done_bytes - self._done.get(event.path, 0)
            self._done[event.path] = event.done_bytes
        if isinstance(event, Progress):
            event = dataclasses.replace(
                event, overall_done_bytes=self._overall_bytes, overall_total_bytes=self._total_bytes
            )
        self._on_event(event)
