"""A rate that no more than so many bytes a second keep to, whichever connection they come by."""

from __future__ import annotations

import threading
import time

BURST_S = 0.5
"""What was not used in the last half second may be made up for: a read comes in pieces, a rate does not."""


class Limit:
    """Bytes a second, shared by all connections of a download; None is no limit."""

    def __init__(self, bytes_per_s: float | None, stop: threading.Event) -> None:
        self._bytes_per_s = bytes_per_s
        self._stop = stop
        self._lock = threading.Lock()
        self._free_at_s = time.monotonic()

    def took(self, size_bytes: int) -> None:
        """So many came just now: wait until the rate allows for them, or the download is stopped."""
        if not self._bytes_per_s:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at_s = max(self._free_at_s, now - BURST_S) + size_bytes / self._bytes_per_s
            wait_s = self._free_at_s - now
        if wait_s > 0:
            self._stop.wait(wait_s)
