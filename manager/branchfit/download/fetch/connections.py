"""How many connections are worth having: more while that makes the whole faster, and only then.

A server that caps each connection (CDNs do), or a line that loses packets, gives several connections more than one;
a fast open line gives one as much as many, at less cost. Which it is shows only by trying.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST = 48
"""What a line of 100 Mbit/s, 50 ms and 1 % loss needs with Linux's cubic, which gives each 350 kB/s; with 32, which is
what aria2c opens for two files, 240 MB took a fifth longer. hf_transfer opens up to 64."""

SETTLE_S = 0.4
"""After a change nothing is concluded for so long: ten round trips of 40 ms, in which TCP finds its rate."""

WINDOW_S = 0.6
"""So long a rate is measured: a few times what a Wi-Fi access point makes one wait."""

EAGER = 0.5
"""To this share the first wait and window are shortened, and those after a trial that failed: what they mistake costs a
trial, and what they find has been missed for so much less."""

CLEAR = 0.5
"""A trial that brought this share of what as many more connections could at most is kept after `EAGER` of its time: the
rest of it would be missed by the next one."""

WORTH = 0.2
"""A trial is kept where it brought this share of what as many more connections could at most: over a window a noisy
line varies by less, and a cap or a loss gives nearly all."""

WORTH_MOST = 1.25
"""Or a quarter more in all, however many more."""

SLOW_BYTES_PER_S = 4_000_000
"""A connection below this is held by a cap or by losses, hardly by this machine: four times as many are tried."""

IDLE_SHARE = 0.7
"""Connections that wait for the line for less than this share of their time wait for this disk or processor as well:
more of them are no use. To hash and write a line of 2 Gbit/s takes a quarter of one connection's time."""

HOLD_S = (5.0, 20.0, 60.0, 180.0)
"""After a trial that was not worth it, until the next: the first may have met a bad second, and a trial costs one."""


@dataclass
class _Window:
    """A measurement: it begins at `from_s`, with `bytes_` done and `waited_s` waited by then."""

    from_s: float
    bytes_: int | None = None
    waited_s: float = 0.0


class Connections:
    """Says how many to have, from how the download goes. `target` is that number."""

    def __init__(self, first: int, most: int = MOST, now_s: float = 0.0) -> None:
        self.target = first
        self._most = most
        self._base: tuple[int, float] | None = None  # connections and rate before the trial under way
        self._undone: tuple[int, float] | None = None  # those of a trial that failed, until it is looked at again
        self._pace = EAGER
        self._window = self._settled(now_s)
        self._hold_until_s = now_s
        self._failed = 0

    def sample(self, now_s: float, done_bytes: int, waited_s: float, living: int = 0) -> int:
        """What was fetched until now, how long all connections together waited for it, and how many there are; the
        number to have."""
        if not done_bytes or living > self.target:  # names are looked up, doors knocked at; or some are at their last
            self._window = self._settled(now_s)
        window = self._window
        if now_s < window.from_s:
            return self.target
        if window.bytes_ is None:
            self._window = _Window(now_s, done_bytes, waited_s)
            return self.target
        elapsed_s = now_s - window.from_s
        rate = (done_bytes - window.bytes_) / elapsed_s if elapsed_s else 0.0
        if elapsed_s < WINDOW_S * (EAGER if self._clear(rate) else self._pace):
            return self.target
        idle_share = (waited_s - window.waited_s) / elapsed_s / self.target
        self._decide(now_s, rate, idle_share)
        return self.target

    def _clear(self, rate: float) -> bool:
        """Whether a trial is under way that need not be looked at for longer."""
        return self._base is not None and _worth(rate / self._base[1], self.target / self._base[0], CLEAR)

    def refused(self, now_s: float) -> int:
        """The server wants fewer (429, 503): half as many, and no trial for a while."""
        self._base = self._undone = None
        self.target = max(1, self.target // 2)
        self._hold(now_s)
        return self.target

    def _decide(self, now_s: float, rate: float, idle_share: float) -> None:
        self._window = _Window(now_s)
        if self._base is not None:
            before, base_rate = self._base
            self._base = None
            if not _worth(rate / base_rate, self.target / before):
                self._undone = (self.target, rate)
                self.target, self._pace = before, EAGER
                self._hold(now_s)
                return
            self._failed = 0
        elif self._undone is not None:
            tried, its_rate = self._undone
            self._undone, self._pace = None, 1.0
            if rate > 0 and _worth(its_rate / rate, tried / self.target):
                # What it was compared with was TCP's slow start, which no loss had reached yet.
                self.target = tried
                self._failed, self._hold_until_s = 0, now_s
                self._window = self._settled(now_s)
                return
        if now_s < self._hold_until_s or idle_share < IDLE_SHARE or self.target >= self._most or rate <= 0:
            return
        self._base = (self.target, rate)
        self.target = min(self._most, self.target * (4 if rate / self.target < SLOW_BYTES_PER_S else 2))
        self._pace = 1.0
        self._window = self._settled(now_s)

    def _hold(self, now_s: float) -> None:
        self._hold_until_s = now_s + HOLD_S[min(self._failed, len(HOLD_S) - 1)]
        self._failed += 1
        self._window = self._settled(now_s)

    def _settled(self, now_s: float) -> _Window:
        return _Window(now_s + SETTLE_S * self._pace)


def _worth(gain: float, times: float, share: float | None = None) -> bool:
    """Whether `times` as many connections are to be kept that are `gain` times as fast; with `share`, whether that
    share of the most they could bring has come."""
    return gain >= (min(WORTH_MOST, 1 + WORTH * (times - 1)) if share is None else 1 + share * (times - 1))
