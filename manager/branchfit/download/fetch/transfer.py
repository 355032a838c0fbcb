"""Files from the Hub to the staging folder: range by range, resumed where they stopped, hashed as they come."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...errors import BadChecksum, HubUnreachable, RateLimited, TransferBroken
from ..disk import is_plain, plain_path, write_error
from ..events import Event, FileStarted, Note, Pace, Retrying
from ..hashing import CHUNK_BYTES, expected_hash
from ..lockfile import LockedFile
from ..planning import free_bytes
from ..reuse import Sources
from ..staging import Staging, Stopped
from .ahead import Ahead
from .limit import Limit
from .local import Local
from .part import Claim, Part
from .reading import WHOLE_ANSWERS, Broken, Growing, Hand, Held, Reader

if TYPE_CHECKING:
    from ...hub import Hub

RETRY_WAITS_S: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
"""Waits before the second to fifth try in a row; a line that is away for longer than these 15 s is worth a message."""

LATER_WAITS_S: tuple[float, ...] = (15.0, *(30.0,) * 9)
"""And before those after them, of a line that has worked in this run: a router that restarts, or gets its new
address of the night, is back within five minutes."""

JITTER = 0.25
"""Waits differ by so much: connections that were cut together must not come back together."""

MAX_RETRY_AFTER_S = 300.0
"""The Hub's rate windows are 5 minutes long (its documentation on rate limits); a longer wish is an error to show."""

PROGRESS_BYTES = CHUNK_BYTES
"""A stream that broke after at least this much was a working one: the count of tries starts again."""


class Transfer:
    """Brings files of one commit into `staging`. Its methods run in several threads at once.

    `tell` is called from those threads. `stop` ends every method with `Stopped` at its next chunk; while `hold` is
    set nothing is fetched. `fetched` is what came over the line of each file that is whole. Raises `BadChecksum`,
    `TransferBroken`, `NoSpace`, other `DownloadError`s, and what the Hub raises for a file that is gone or closed.
    """

    def __init__(
        self,
        hub: Hub,
        repo: str,
        commit: str,
        staging: Staging,
        *,
        sources: Sources,
        tell: Callable[[Event], None],
        stop: threading.Event,
        hold: threading.Event,
        limit: Limit,
        retry_waits_s: Sequence[float] = RETRY_WAITS_S,
    ) -> None:
        self._reader = Reader(hub, repo, commit, tell=tell, stop=stop, hold=hold, limit=limit)
        self._staging = staging
        self._local = Local(staging, sources, tell, stop)
        self._tell = tell
        self._stop = stop
        self._hold = hold
        self._waits_s = tuple(retry_waits_s)
        self._later_waits_s = LATER_WAITS_S if retry_waits_s is RETRY_WAITS_S else ()
        self._ahead = Ahead()
        self.fetched: dict[str, int] = {}
        self._wrong: dict[str, str] = {}
        self._worked = False

    def bring(self, file: LockedFile, hand: Hand) -> None:
        """Stage one file by one connection."""
        growing = self.begin(file)
        if growing is None:
            return
        try:
            done = False
            while not done:
                while (claim := growing.part.claim(file.size_bytes)) is not None:
                    self.fetch(growing, claim, hand)
                done = self.finish(growing)
        finally:
            growing.part.close()

    def begin(self, file: LockedFile) -> Growing | None:
        """Stage a file from what is here (None), or open what there is of it to go on with."""
        with self._disk(file):
            if self._local.bring(file):
                return None
            part = Part(self._staging, self._staging.part(file), file, self._ahead)
        self._tell(FileStarted(file.path, part.done_bytes, file.size_bytes))
        return Growing(part, pace=Pace(file.size_bytes))

    def fetch(self, growing: Growing, claim: Claim, hand: Hand) -> None:
        """Fetch a range, over as many streams as that takes, or until the hand is dismissed; the claim is released in
        any case."""
        part, failures = growing.part, 0
        try:
            with self._disk(part.file):
                while claim.at < claim.stop and not hand.dismissed:
                    before = part.fetched_bytes
                    cause: Exception | None = None
                    wait_s: float | None = None
                    try:
                        self._reader.read(growing, claim, hand)
                        reason = f"the answer ended {claim.stop - claim.at:,} bytes early"
                        if claim.at >= claim.stop:
                            break
                    except Held:
                        self._wait_while_held()
                        continue
                    except RateLimited as error:
                        reason, wait_s, cause = str(error), error.retry_after_s, error
                        hand.refused = True
                    except (HubUnreachable, Broken) as error:
                        reason, cause = getattr(error, "reason", str(error)), error
                        hand.refused = hand.refused or "answered 503" in reason
                    if hand.dismissed or (claim.at >= claim.stop and not growing.whole_answers):
                        break
                    worked = part.fetched_bytes - before >= PROGRESS_BYTES
                    self._worked = self._worked or worked
                    failures = 1 if worked else failures + 1
                    if growing.whole_answers > WHOLE_ANSWERS:  # its claim is over, and the next try is another's
                        growing.failures = failures = 1 if worked else growing.failures + 1
                    self._wait(growing, failures, wait_s, reason, cause)
        finally:
            with contextlib.suppress(OSError, Stopped):  # costs at most what was not written down yet
                part.release(claim)

    def finish(self, growing: Growing) -> bool:
        """All of it is here: verify it and give it its name. False where some of it has to be fetched (again).

        A file whose hash is wrong is fetched once more, since a byte may have been flipped on the way; if it is
        wrong again, it is put aside and refused.
        """
        part, file = growing.part, growing.file
        with self._disk(file):
            part.settle()
            if part.missing_bytes:  # a piece that an earlier run wrote has rotted
                self._tell(FileStarted(file.path, part.done_bytes, file.size_bytes))
                return False
            if part.matches:
                part.close()
                self._local.keep(part.path, file, part.prefixes)
                part.delete_map()
                self.fetched[file.path] = growing.fetched_bytes
                return True
            if part.drop_unproven():
                self._tell(Note(f"{file.path}: what was here of it is not all right; that is fetched again."))
                self._tell(FileStarted(file.path, part.done_bytes, file.size_bytes))
                return False
            found, first = part.actual, self._wrong.get(file.path)
            if not part.old_bytes:
                self._wrong[file.path] = found
            if first is None:
                self._tell(
                    Note(f"{file.path}: what came is not what the Hub announced (hash {found}); fetching it once more.")
                )
                part.start_over()
                growing.address.known = None
                self._tell(FileStarted(file.path, 0, file.size_bytes))
                return False
            part.close()
            kept = self._staging.set_aside(part.path, file)
            part.delete_map()
            raise BadChecksum(file.path, expected_hash(file), found, kept, twice=found == first)

    def _wait(
        self, growing: Growing, failures: int, wait_s: float | None, reason: str, cause: Exception | None
    ) -> None:
        """Before the next try; raises where there is none."""
        part = growing.part
        waits_s = self._waits_s + (self._later_waits_s if self._worked else ())
        if failures > len(waits_s) or (wait_s or 0) > MAX_RETRY_AFTER_S:
            if isinstance(cause, RateLimited):
                raise cause
            raise TransferBroken(part.file.path, part.done_bytes, part.file.size_bytes, reason) from cause
        own_s = waits_s[failures - 1] * random.uniform(1 - JITTER, 1 + JITTER)
        wait_s = max(wait_s or 0.0, own_s)
        self._tell(Retrying(part.file.path, failures, round(wait_s, 1), reason))
        if self._stop.wait(wait_s):
            raise Stopped

    @contextlib.contextmanager
    def _disk(self, file: LockedFile) -> Iterator[None]:
        """An `OSError` in the block, worded."""
        try:
            yield
        except OSError as error:
            staged = plain_path(self._staging.files, file.path)
            here = file.size_bytes if staged is not None and is_plain(staged) else self._staging.staged_bytes(file)
            missing_bytes = file.size_bytes - here
            free = free_bytes(self._staging.root)
            raise write_error(error, self._staging.files / file.path, missing_bytes, free) from error

    def _wait_while_held(self) -> None:
        while self._hold.is_set():
            if self._stop.wait(0.2):
                raise Stopped
