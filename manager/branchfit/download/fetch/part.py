"""A file as it grows: written where its bytes belong, by one connection or by several, and hashed in their order."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from ..disk import delete_tree, is_plain, open_regular
from ..extents import Extents
from ..lockfile import LockedFile
from ..partmap import PartMap
from ..staging import Staging
from .ahead import Ahead
from .inorder import InOrder
from .steps import Steps

if TYPE_CHECKING:
    from typing_extensions import Self

JOURNAL_BYTES = 2**20
"""How often a connection's progress is written down: a kill costs at most so much of it, and a line that is slow a
second's worth."""

WRITE_BACK_BYTES = 8 * 2**20
"""How often the system is asked to begin with bringing what was written to the disk."""


@dataclass(eq=False)
class Claim:
    """A range that one connection fetches: from `at`, which moves, to `stop`, which comes nearer where it is split."""

    at: int
    stop: int
    start: int = -1
    journalled: int = -1
    written_back: int = -1
    writing_to: int = -1
    began_s: float = field(default_factory=time.monotonic)
    first_s: float | None = None

    def __post_init__(self) -> None:
        self.start = self.journalled = self.written_back = self.writing_to = self.at

    def left_s(self, now_s: float) -> float:
        """How long the rest of it takes at its own pace; for one that has brought nothing yet, as long as it waits."""
        elapsed_s, done_bytes = now_s - self.began_s, self.at - self.start
        return elapsed_s * self.left_bytes / done_bytes if done_bytes else elapsed_s

    def hangs_s(self, now_s: float) -> float:
        """How much longer the rest of it takes, at its pace since its first byte, than a new request waits for its own
        first byte; 0 before the first."""
        if self.first_s is None:
            return 0.0
        rest_s = (now_s - self.first_s) * self.left_bytes / max(1, self.at - self.start)
        return rest_s - (self.first_s - self.began_s)

    @property
    def left_bytes(self) -> int:
        """What of it nobody has written nor is writing this moment."""
        return self.stop - max(self.at, self.writing_to)


class Part:
    """An open file in a staging folder's parts/. Every change is made under `Staging.writing`. Safe for threads.

    `fetched_bytes` is what came over the line for it, those bytes too that were here already.
    """

    def __init__(self, staging: Staging, path: Path, file: LockedFile, ahead: Ahead | None = None) -> None:
        """Go on with what is at `path`, or begin anew. Raises `OSError`, `Stopped`."""
        self.path = path
        self.file = file
        self.fetched_bytes = 0
        self.etag: str | None = None
        self._staging = staging
        self._map = PartMap(path, file.size_bytes)
        self._mutex = threading.Lock()
        self._stream: BinaryIO
        with staging.writing():
            if not (is_plain(path) and path.lstat().st_nlink == 1 and self._map.here.total_bytes):
                delete_tree(path)
                self._map.forget()
                open_regular(path, "wb").close()
            self._stream = open_regular(path, "r+b", buffering=0)
            self._map.open()
        self.etag = self._map.etag
        self._here = Extents(self._map.here)
        self._taken = Extents(self._map.here)
        self._claims: list[Claim] = []
        self._steps = Steps(self._map.prefixes, self._here, file.size_bytes)
        self.old_bytes = self._here.total_bytes
        self._hash = InOrder(file, self._here, self._mutex, ahead or Ahead(), self._read_at, self._step)
        with self._mutex:
            self._hash.catch_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write down what is here. A hashing that goes on ends at its next chunk."""
        self._hash.close()
        self._map.close()
        self._stream.close()

    @property
    def done_bytes(self) -> int:
        """How much of the file is here, wherever in it."""
        return self._here.total_bytes

    @property
    def missing_bytes(self) -> int:
        return self.file.size_bytes - self._here.total_bytes

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The sha256 of each step from the start; of the whole file once it `settle`d."""
        return tuple(self._hash.digest.prefixes)

    @property
    def actual(self) -> str:
        """The hash of the whole, once it `settle`d."""
        return self._hash.digest.actual

    @property
    def matches(self) -> bool:
        """True when size and hash are those the Hub announced, once it `settle`d."""
        return self._hash.digest.matches

    # Who fetches what

    def claim(self, most_bytes: int) -> Claim | None:
        """The first range that is not here and that nobody fetches, at most so long; None where there is none."""
        with self._mutex:
            gap = self._taken.gap(0, self.file.size_bytes)
            if gap is None:
                return None
            start, stop = gap[0], min(gap[1], gap[0] + max(1, most_bytes))
            self._taken.add(start, stop)
            claim = Claim(start, stop)
            self._claims.append(claim)
            return claim

    def claims_in(self, start: int, stop: int) -> list[Claim]:
        """Claims of all between these two that is not here and that nobody fetches."""
        found = []
        with self._mutex:
            for gap in self._taken.gaps(start, stop):
                self._taken.add(*gap)
                found.append(Claim(*gap))
                self._claims.append(found[-1])
        return found

    def split(self, least_bytes: int, least_s: float = 0.0, most_bytes: int | None = None) -> Claim | None:
        """Half of what is left of the claim that would take longest, or has most left; None where none has so much, or
        would take so long. With `most_bytes` none with more, and it has to hang for `least_s` (`Claim.hangs_s`).

        Its connection ends where the half begins, and what is on its way to it by then is lost.
        """
        now_s = time.monotonic()
        with self._mutex:
            worth = [claim for claim in self._claims if claim.left_bytes >= least_bytes]
            if most_bytes is not None:
                small = [claim for claim in worth if claim.left_bytes <= most_bytes]
                worth = [claim for claim in small if claim.hangs_s(now_s) >= least_s]
            longest = max(worth, key=lambda claim: (round(claim.left_s(now_s), 1), claim.left_bytes), default=None)
            if longest is None or longest.left_s(now_s) < least_s:
                return None
            middle = longest.stop - longest.left_bytes // 2
            half = Claim(middle, longest.stop)
            longest.stop = middle
            self._claims.append(half)
            return half

    def unclaimed_bytes(self) -> int:
        return self.file.size_bytes - self._taken.total_bytes

    def release(self, claim: Claim) -> None:
        """The connection is done with it, or gives up: what it did not bring is to be fetched. Raises `OSError`.

        It is at its end then: nothing more can be written for it.
        """
        with self._mutex:
            if claim in self._claims:
                self._claims.remove(claim)
                self._taken.remove(claim.at, claim.stop)
                claim.stop = claim.at
        self._journal(claim, 1)

    def served(self, etag: str | None) -> None:
        """The bytes come from a server that names them so."""
        with self._mutex:
            if etag is not None and etag != self._map.etag:
                self._map.served(etag)  # one that could not be sent back is not kept
                self.etag = self._map.etag

    # Bytes

    def write(self, claim: Claim, data: bytes | memoryview) -> int:
        """Put what came for a claim in its place; how many of the bytes were still the claim's. Raises `OSError`;
        `Stopped`."""
        whole = memoryview(data)
        with self._mutex:
            start, stop = claim.at, min(claim.at + len(whole), claim.stop)
            claim.writing_to = stop
            claim.first_s = claim.first_s or time.monotonic()
            # All of it; bytes that are here were hashed, and no other may take their place on the disk unseen.
            gaps = self._here.gaps(start, stop)
        for at, to in gaps:
            self._write_at(at, whole[at - start : to - start])
        with self._mutex:
            claim.at = stop
            self.fetched_bytes += stop - start
            for at, to in gaps:
                self._here.add(at, to)
            hash_on = [self._hash.came(at, whole[at - start : to - start]) for at, to in gaps]
        for go_on in hash_on:
            if go_on is not None:
                go_on()
        self._journal(claim, JOURNAL_BYTES)
        return stop - start

    def start_over(self) -> None:
        """Forget all bytes. Nobody may have a claim."""
        with self._mutex, self._staging.writing():
            for gone in (self._here, self._taken):
                gone.remove(0, self.file.size_bytes)
            self._hash.let_go(0, self.file.size_bytes)
            self._map.forget()
            self._steps = Steps({}, self._here, self.file.size_bytes)
            self.etag = None
            self.old_bytes = 0
            self._stream.truncate(0)
            self._hash.digest.restart()

    def drop_unproven(self) -> bool:
        """Forget what is here since an earlier run and only the whole hash speaks for. Nobody may have a claim.

        False where there is nothing of the kind.
        """
        with self._mutex, self._staging.writing():
            unproven = self._steps.unproven()
            if not unproven:
                return False
            self._drop(unproven)
            self._hash.digest.rewind(unproven[0][0])
            self.old_bytes -= sum(stop - start for start, stop in unproven)
            self.etag = None
            return True

    def settle(self) -> None:
        """Wait until all that is here is hashed. Raises `OSError` where it could not be read back; `Stopped`."""
        self._hash.settle()

    def delete_map(self) -> None:
        """The part is whole and gets its name."""
        self._map.delete()

    def _step(self, steps: int, found: str) -> bool:
        """With the mutex: so many steps have this hash. True where the last is not what it was when it came."""
        wrong = self._steps.wrong(steps, found)
        if not wrong and not self._steps.is_known(steps, found):
            self._map.prefix(steps, found)
        self._drop(wrong)
        return bool(wrong)

    def _drop(self, ranges: list[tuple[int, int]]) -> None:
        """With the mutex: these bytes are wrong, and are to be fetched again."""
        for start, stop in ranges:
            for gone in (self._here, self._taken):
                gone.remove(start, stop)
            self._hash.let_go(start, stop)
            self._map.remove(start, stop)

    # The disk

    def _journal(self, claim: Claim, least_bytes: int) -> None:
        """Write down what a claim brought since the last time, if it is so much."""
        if claim.at - claim.journalled >= least_bytes:
            with self._staging.writing():
                self._map.add(claim.journalled, claim.at)
            claim.journalled = claim.at
        size_bytes = claim.at - claim.written_back
        if size_bytes >= WRITE_BACK_BYTES and hasattr(os, "posix_fadvise"):
            # Without this the fsync at the end finds up to a fifth of the memory unwritten, and waits for all of it.
            os.posix_fadvise(self._stream.fileno(), claim.written_back, size_bytes, os.POSIX_FADV_DONTNEED)
            claim.written_back = claim.at

    def _write_at(self, start: int, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            with self._staging.writing():
                if hasattr(os, "pwrite"):
                    written = os.pwrite(self._stream.fileno(), left, start)
                else:
                    with self._mutex:
                        self._stream.seek(start)
                        written = self._stream.write(left)
            left, start = left[written:], start + written

    def _read_at(self, start: int, view: memoryview) -> int:
        if hasattr(os, "preadv"):
            count = os.preadv(self._stream.fileno(), [view], start)
        else:
            with self._mutex:
                self._stream.seek(start)
                count = self._stream.readinto(view) or 0  # type: ignore[attr-defined]
        if not count:
            raise OSError(f"{self.path} became shorter while it was read")
        return count
