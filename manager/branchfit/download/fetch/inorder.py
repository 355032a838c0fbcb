"""The hash of a part, taken in the order of its bytes in whatever order these come.

Bytes that come in their turn are hashed as they are handed over. Those that come before it (other connections are
behind) wait in memory, within a room that all parts share; only what did not fit there, and what an earlier run wrote,
is read back, from the system's cache mostly, by a thread of its own, while the line goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..extents import Extents
from ..hashing import CHUNK_BYTES, FileHash
from ..lockfile import LockedFile
from ..staging import Stopped
from .ahead import Ahead, Kept

HELP_BYTES = 8 * 2**20
"""A connection's thread hashes at most so much that is not its own in one go (5 ms): its socket waits meanwhile."""

ReadBack = Callable[[int, memoryview], int]
"""Reads a part's bytes from an offset into a buffer; how many they were. Raises `OSError`."""

OnStep = Callable[[int, str], bool]
"""Told, with the mutex, the hash of so many whole steps; True where the last of them is wrong and gone from `here`."""


class InOrder:
    """Safe for threads; `mutex` guards `here`, and `came` and the like are called with it, where they say so.

    Whoever has `_hashing` alone changes the digest; it is given up under the mutex.
    """

    def __init__(
        self, file: LockedFile, here: Extents, mutex: threading.Lock, room: Ahead, read: ReadBack, on_step: OnStep
    ) -> None:
        self.digest = FileHash(file)
        self._size_bytes = file.size_bytes
        self._here = here
        self._mutex = mutex
        self._room = room
        self._read = read
        self._on_step = on_step
        self._waiting: dict[int, Kept] = {}
        self._hashing = False
        self._closed = False
        self._settled = threading.Condition(mutex)
        self._failure: BaseException | None = None
        # One buffer: blocks of a mebibyte, made and freed by many threads, stay with each thread's heap.
        self._buffer = memoryview(bytearray(min(CHUNK_BYTES, max(1, file.size_bytes))))

    def came(self, start: int, data: bytes | memoryview) -> Callable[[], None] | None:
        """With the mutex: these bytes are on disk and in `here`. What is to be called without it, if anything is."""
        at = self.digest.done_bytes if not self._hashing else -1
        if start == at:
            self._hashing = True
            return lambda: self._go_on(data, HELP_BYTES)
        kept = self._room.keep(data)
        if kept is not None:
            self._waiting[start] = kept
        if self._hashing or self._here.end_of(at) == at:
            return None
        self._hashing = True
        return lambda: self._go_on(None, HELP_BYTES)

    def catch_up(self) -> None:
        """With the mutex: a thread that goes on with what is here, if something is next and nobody is at it."""
        at = self.digest.done_bytes if not self._hashing else -1
        if at >= 0 and not self._closed and self._failure is None and self._here.end_of(at) > at:
            self._hashing = True
            threading.Thread(target=self._go_on, args=(None, None), name="branchfit-hash", daemon=True).start()

    def settle(self) -> None:
        """Wait until all that is here is hashed. Raises `OSError` where it could not be read back; `Stopped`."""
        with self._mutex:
            self.catch_up()
            while self._hashing:
                self._settled.wait()
            if self._failure is not None:
                raise self._failure
            if self._closed:  # the hashing ended before its time
                raise Stopped

    def close(self) -> None:
        """A hashing that goes on ends at its next chunk, and is waited for."""
        with self._mutex:
            self._closed = True
            while self._hashing:
                self._settled.wait()
            self.let_go(0, self._size_bytes)

    def let_go(self, start: int, stop: int) -> None:
        """With the mutex: what waits of these bytes is not to be hashed."""
        for at in [at for at in self._waiting if start <= at < stop]:
            self._room.free(self._waiting.pop(at))

    def _go_on(self, data: bytes | memoryview | None, most_bytes: int | None) -> None:
        """Hash `data`, then what is here next; after `most_bytes` of that a thread of its own goes on with it."""
        try:
            if data is not None:
                self._feed(data)
            helped_bytes = 0
            while (count := self._feed_next()) is not None:
                helped_bytes += count
                if most_bytes is not None and helped_bytes >= most_bytes:
                    with self._mutex:
                        self._hashing = False
                        self.catch_up()
                        self._settled.notify_all()
                    return
        except BaseException as error:  # noqa: BLE001 - raised by `settle`, in the thread that waits for the hash
            with self._mutex:
                self._failure, self._hashing = error, False
                self._settled.notify_all()

    def _feed_next(self) -> int | None:
        """Hash what is next; how much it was. None, and the hashing given up, where that is not here."""
        with self._mutex:
            at = self.digest.done_bytes
            kept = None if self._closed else self._waiting.pop(at, None)
            end = at if self._closed or kept is not None else self._next_in_memory(at)
            if kept is None and end == at:
                self._hashing = False
                self._settled.notify_all()
                return None
        if kept is None:
            count = self._read(at, self._buffer[: end - at])
            self._feed(self._buffer[:count])
            return count
        for piece in kept.pieces:
            if not self._feed(piece):  # a step before it is wrong: what follows is read back when that one is right
                break
        self._room.free(kept)
        return sum(map(len, kept.pieces))

    def _next_in_memory(self, at: int) -> int:
        """With the mutex: up to where bytes from `at` on have to be read back."""
        end = self._here.end_of(at)
        return min((start for start in self._waiting if at < start < end), default=end)

    def _feed(self, data: bytes | memoryview) -> bool:
        """Hash what comes next. False where that showed its step to be wrong, which is forgotten then."""
        steps = len(self.digest.prefixes)
        self.digest.update(data)
        if len(self.digest.prefixes) > steps:
            with self._mutex:
                if self._on_step(steps + 1, self.digest.prefixes[-1]):
                    self.digest.back()
                    return False
        return True
