"""The loopback Hub's misbehaviour on command: what may be asked of it, and which request gets it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

SaidRange = Callable[[int, int, int], str]
"""(first byte, last byte, file's size), as they are -> the text of a Content-Range."""


@dataclass
class Fault:
    """A misbehaviour waiting for the requests that match `pattern`: `skip` of them are spared, then `times` get it.

    `times` None is for ever.
    """

    kind: str
    pattern: re.Pattern[str]
    times: int | None
    skip: int = 0
    number: float = 0
    seconds: float = 0.0
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    said: SaidRange | None = None

    def can_show(self, asked_range: str | None) -> bool:
        """False where a request cannot show this misbehaviour: it waits for one that can."""
        if self.kind in ("ignore_range", "shift_range", "say_range", "shorten_range"):
            return asked_range is not None
        bounds = re.fullmatch(r"\s*bytes\s*=\s*(\d+)\s*-\s*(\d*)\s*", asked_range or "")
        if bounds is None:
            return True
        first, last = int(bounds[1]), float(bounds[2] or "inf")
        if self.kind in ("cut", "reset", "stall"):
            return first + self.number <= last
        return self.kind != "corrupt" or first <= self.number <= last


@dataclass
class Watch:
    """Somebody to call when `left_bytes` more of the matching answers' bodies are out."""

    pattern: re.Pattern[str]
    left_bytes: int
    then: Callable[[], object]


class Misbehaviour:
    """The faults of a LoopbackHub. `matching`, a regular expression, is searched in "ORIGIN METHOD /path?query",
    for example "cdn GET" or "refs"; of the requests that match, the first `skip` are spared."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._watches: list[Watch] = []
        self._fault_lock = threading.Lock()

    def fail_next(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        matching: str = "",
        times: int | None = 1,
        body: bytes = b"",
        skip: int = 0,
    ) -> None:
        """The next `times` matching requests get this answer (a 200 with a foreign body is possible too)."""
        self._add("answer", matching, times, skip, status=status, headers=headers or {}, body=body)

    def redirect(
        self, to: str = "{path}", matching: str = "", times: int | None = 1, status: int = 302, skip: int = 0
    ) -> None:
        """Sends a client to another address; "{path}" in it is the path asked for, alone it is a loop."""
        self._add("answer", matching, times, skip, status=status, headers={"Location": to})

    def cut_after(
        self, after_bytes: int, matching: str = "", times: int | None = 1, reset: bool = False, skip: int = 0
    ) -> None:
        """Closes the connection after so many bytes of the body; with `reset` by RST instead of a clean close.

        It waits for a request that asks for more than that.
        """
        self._add("reset" if reset else "cut", matching, times, skip, number=after_bytes)

    def stall(self, after_bytes: int, seconds: float, matching: str = "", times: int | None = 1, skip: int = 0) -> None:
        """Says nothing more after so many bytes of the body; closes after so many seconds, or when the client does."""
        self._add("stall", matching, times, skip, number=after_bytes, seconds=seconds)

    def corrupt(self, matching: str = "", times: int | None = 1, offset: int = 0, skip: int = 0) -> None:
        """Flips every bit of the byte at this offset of the file; waits for a request that asks for it."""
        self._add("corrupt", matching, times, skip, number=offset)

    def ignore_range(self, matching: str = "", times: int | None = 1, skip: int = 0) -> None:
        """Answers a Range request with 200 and the whole file."""
        self._add("ignore_range", matching, times, skip)

    def shift_range(self, by_bytes: int, matching: str = "", times: int | None = 1, skip: int = 0) -> None:
        """Answers another range than was asked for, and says so honestly in Content-Range."""
        self._add("shift_range", matching, times, skip, number=by_bytes)

    def shorten_range(self, to_bytes: int, matching: str = "", times: int | None = 1, skip: int = 0) -> None:
        """Answers a Range request with its first bytes alone and says so, as HTTP allows."""
        self._add("shorten_range", matching, times, skip, number=to_bytes)

    def say_range(self, said: SaidRange, matching: str = "", times: int | None = 1, skip: int = 0) -> None:
        """Answers the range that was asked for with a Content-Range that says what `said` makes of it."""
        self._add("say_range", matching, times, skip, said=said)

    def resize(self, by_bytes: int, matching: str = "cdn GET", times: int | None = None, skip: int = 0) -> None:
        """The CDN's copy is so much longer than the listing says, or shorter; its answers are honest about that."""
        self._add("resize", matching, times, skip, number=by_bytes)

    def change_etag(self, matching: str = "cdn GET", times: int | None = None, skip: int = 0) -> None:
        """The CDN names a file by another ETag: If-Range with the one it had gets a 200 with the whole file."""
        self._add("other_etag", matching, times, skip)

    def chunk_up(self, extra_bytes: int = 0, matching: str = "", times: int | None = 1, skip: int = 0) -> None:
        """Sends the body chunked, without telling its length, and so many bytes that nobody announced behind it."""
        self._add("chunked", matching, times, skip, number=extra_bytes)

    def hang(self, seconds: float, matching: str = "", times: int | None = 1, skip: int = 0) -> None:
        """Says nothing for so long, then answers if the client is still there."""
        self._add("hang", matching, times, skip, seconds=seconds)

    def slow_down(self, bytes_per_s: float, matching: str = "", times: int | None = None, skip: int = 0) -> None:
        """Caps a matching answer's body, each connection by itself, as CDNs do."""
        self._add("slow", matching, times, skip, number=bytes_per_s)

    def drip_headers(self, bytes_per_s: float, matching: str = "", times: int | None = 1, skip: int = 0) -> None:
        """Sends the status line and headers byte by byte."""
        self._add("drip_head", matching, times, skip, number=bytes_per_s)

    def when_sent(self, total_bytes: int, then: Callable[[], object], matching: str = "cdn GET") -> None:
        """Calls `then` once, in the sending thread, when the matching answers have sent so many bytes together."""
        with self._fault_lock:
            self._watches.append(Watch(re.compile(matching), total_bytes, then))

    def clear_faults(self) -> None:
        """From now on it behaves."""
        with self._fault_lock:
            self._faults.clear()
            self._watches.clear()

    @property
    def watched(self) -> bool:
        """Whether somebody waits for a number of bytes."""
        return bool(self._watches)

    def take_faults(self, line: str, asked_range: str | None) -> dict[str, Fault]:
        """The faults that are meant for this request, by kind; each has one time less then."""
        taken: dict[str, Fault] = {}
        with self._fault_lock:
            for fault in list(self._faults):
                if fault.kind in taken or not fault.pattern.search(line) or not fault.can_show(asked_range):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                taken[fault.kind] = fault
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
        return taken

    def went_out(self, line: str, number_bytes: int) -> None:
        """So many bytes of an answer's body were sent."""
        due = []
        with self._fault_lock:
            for watch in list(self._watches):
                if watch.pattern.search(line):
                    watch.left_bytes -= number_bytes
                    if watch.left_bytes <= 0:
                        self._watches.remove(watch)
                        due.append(watch)
        for watch in due:
            watch.then()

    def _add(
        self,
        kind: str,
        matching: str,
        times: int | None,
        skip: int,
        number: float = 0,
        seconds: float = 0.0,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        said: SaidRange | None = None,
    ) -> None:
        fault = Fault(kind, re.compile(matching), times, skip, number, seconds, status, headers or {}, body, said)
        with self._fault_lock:
            self._faults.append(fault)
