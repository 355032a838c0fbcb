"""Large files and the connections that work on them: who opens which, who fetches what of it, who finishes it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..hashing import PIECE_BYTES
from ..lockfile import LockedFile
from .ahead import AHEAD_BYTES
from .part import Claim
from .reading import Growing, Hand

FILES_AT_ONCE = 4
"""The webui's own downloader takes four, too; more would only spread what a break leaves unfinished."""

CLAIM_S = 2.0
"""So long a range takes at the connection's rate: a round trip (20 to 100 ms) is at most a twentieth of it."""

MOST_ALONE_BYTES = 16 * PIECE_BYTES
"""Of a connection that has a file to itself: a request each 256 MiB costs nothing, and one that is joined by others
is not further ahead of the hash than the system's cache holds."""

LEAST_S = 0.5
"""A range takes at least so long, as far as its connection's rate tells: in less it would be mostly round trips."""

LEAST_BYTES = 2**17, 2**20
"""Half a second's worth is never taken for less than the first (what TCP sends in its first three round trips) nor
for more than the second (at 50 ms and 10 MB/s, a third of that range's time is its round trip)."""

HELP_S = 1.0
"""A range that its own connection brings in less than that is left to it: to ask for half of it takes a round trip, and
what is under way to the other is lost."""

LAST_BYTES = 2**15, 2**20
LAST_S = 0.25
"""The very last of a file, ranges of between so many bytes, is helped sooner, where it hangs for so long: a packet that
is lost at the end of a range is missed for a fifth of a second, and of so little hardly anything is under way."""

POLL_S = 0.2
"""How long a connection without work waits before it looks again, told or not."""


@dataclass
class _Open:
    growing: Growing
    hands: int = 0
    finishing: bool = False


@dataclass
class Work:
    """What a hand is to do next: `begin` a file, or fetch `claim` of one, or `finish` it."""

    begin: LockedFile | None = None
    fetch: tuple[Growing, Claim] | None = None
    finish: Growing | None = None


@dataclass
class Board:
    """Safe for threads. `hands` is how many there are to be; one that is too many is told to leave."""

    files: Sequence[LockedFile]
    hands: int
    living: int = 0
    _opening: int = 0
    _waiting: deque[LockedFile] = field(init=False)
    _open: list[_Open] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopped: bool = False

    def __post_init__(self) -> None:
        self._waiting = deque(self.files)

    def next(self, hand: Hand) -> Work | None:
        """What to do now; waits while others have all of it in hand. None: leave."""
        with self._changed:
            while not self._stopped:
                if self.living > self.hands:
                    return None  # `left` is called by the hand that goes
                found = self._find(hand)
                if found is not None:
                    return found
                if not (self._waiting or self._open or self._opening):
                    return None
                self._changed.wait(POLL_S)
            return None

    def wants_more(self) -> bool:
        """Whether there is work, and fewer hands than there are to be."""
        with self._changed:
            return self.living < self.hands and bool(self._waiting or self._open or self._opening)

    def joined(self) -> None:
        """One more hand."""
        with self._changed:
            self.living += 1

    def left(self) -> None:
        """One hand less."""
        with self._changed:
            self.living -= 1

    def opened(self, growing: Growing | None) -> None:
        """A file that was to be begun is open, or (None) needs no more work."""
        with self._changed:
            self._opening -= 1
            if growing is not None:
                self._open.append(_Open(growing))
            self._changed.notify_all()

    def released(self, growing: Growing) -> None:
        """A hand is done with its range of it."""
        with self._changed:
            self._of(growing).hands -= 1
            self._changed.notify_all()

    def finished(self, growing: Growing, done: bool) -> None:
        """A file was verified, or has to be worked on again."""
        with self._changed:
            one = self._of(growing)
            one.finishing = False
            if done:
                self._open.remove(one)
            self._changed.notify_all()

    def stop(self) -> list[Growing]:
        """Nothing more is given out; the files that are open."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            return [one.growing for one in self._open]

    def _find(self, hand: Hand) -> Work | None:
        for one in self._open:
            if not one.hands and not one.finishing and not one.growing.part.missing_bytes:
                one.finishing = True
                return Work(finish=one.growing)
        at_once = min(FILES_AT_ONCE, max(1, self.hands))
        if self._waiting and len(self._open) + self._opening < at_once:
            return self._begin()
        for one in sorted(self._open, key=lambda each: each.hands):
            if one.finishing or (one.hands and one.growing.whole_answers):  # a server without ranges: one is enough
                continue
            claim = one.growing.part.claim(self._claim_bytes(one, hand))
            if claim is not None:
                one.hands += 1
                return Work(fetch=(one.growing, claim))
        return self._begin() if self._waiting else self._help(hand)

    def _help(self, hand: Hand) -> Work | None:
        """Half of what another hand has left: the last of a file must not hang on its slowest connection."""
        shared = [one for one in self._open if one.hands and not one.finishing and not one.growing.whole_answers]
        for least_bytes, most_bytes, least_s in ((2 * _least_bytes(hand), None, HELP_S), (*LAST_BYTES, LAST_S)):
            for one in shared:
                half = one.growing.part.split(least_bytes, least_s, most_bytes)
                if half is not None:
                    one.hands += 1
                    return Work(fetch=(one.growing, half))
        return None

    def _begin(self) -> Work:
        self._opening += 1
        return Work(begin=self._waiting.popleft())

    def _claim_bytes(self, one: _Open, hand: Hand) -> int:
        """How much a hand takes at a time: some seconds' worth, less where several share what may wait for the hash."""
        wanted = int(hand.bytes_per_s * CLAIM_S)
        if not one.hands and self.living <= len(self._open) + self._opening:
            return min(max(wanted, PIECE_BYTES), MOST_ALONE_BYTES)
        share = max(AHEAD_BYTES // max(1, self.living), 2 * LEAST_BYTES[1])
        # Towards the end less and less, so that all of them come to it together.
        left = one.growing.part.unclaimed_bytes() // (2 * max(1, self.living))
        return max(_least_bytes(hand), min(wanted, share, PIECE_BYTES, left))

    def _of(self, growing: Growing) -> _Open:
        return next(one for one in self._open if one.growing is growing)


def _least_bytes(hand: Hand) -> int:
    """The least that is worth a request of this connection; one that has no rate yet shows it soonest by the least."""
    least, most = LEAST_BYTES
    return min(max(int(hand.bytes_per_s * LEAST_S), least), most)
