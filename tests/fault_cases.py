"""The fault matrix: its rows, in the order of the table in docs/download-faults.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import fault_machine as machine
import fault_wire as wire
from fault_stage import Stage
from faults import Case, Client, Ended, Plan, nothing, run_once

ONCE, FOR_EVER = 1, None


def row(
    name: str,
    arrange: Callable[..., Plan],
    *arguments: object,
    play: Callable[[Stage, Client], Ended] = run_once,
    between: Callable[[Stage], None] = nothing,
    needs: Literal["", "mount", "read-only"] = "",
    own: bool = False,
    large: bool = False,
    slow: bool = False,
) -> Case:
    """A case whose `arrange` gets the arguments after the stage."""
    arranged = partial(_arranged, arrange, arguments)
    return Case(name, arranged, play, between, needs, own, large, slow or large or play is not run_once)


def _arranged(arrange: Callable[..., Plan], arguments: tuple[object, ...], stage: Stage) -> Plan:
    return arrange(stage, *arguments)


LINE = (
    row("connection closed, 1 to 3 times", wire.cut, False),
    row("connection reset, 1 to 3 times", wire.cut, True),
    row("small answers cut short", wire.cut_small_answers),
    row("the body stops coming", wire.stall, slow=True),
    row("no answer at all, once", wire.silence),
    row("a body of 20 bytes a second", wire.slow_loris),
    row("headers that drip", wire.dripping_headers, slow=True),
)

BYTES = (
    row("the server's copy is shorter, once", wire.short_copy, ONCE),
    row("the server's copy is shorter", wire.short_copy, FOR_EVER),
    row("the server's copy is longer", wire.long_copy),
    row("chunked, without a length, cut", wire.chunked, False),
    row("chunked, and goes on behind the end", wire.chunked, True),
    row("shorter ranges than asked for", wire.short_ranges),
    row("a byte flipped in transit", wire.flip_in_transit, False),
    row("a byte flipped in transit, small file", wire.flip_in_transit, True),
    row("a byte flipped at the source", wire.flip_at_the_source),
)

ANSWERS = (
    row("200 instead of 206, once", wire.ignored_range, ONCE),
    row("200 instead of 206, always", wire.ignored_range, FOR_EVER),
    *(
        row(f"Content-Range: {kind}", wire.wrong_content_range, kind)
        for kind in ("another start", "a start that is not true", "another total", "garbage")
    ),
    row("ETag changed between requests", wire.changed_etag),
    *(row(f"{status}, once or twice", wire.burst, status) for status in (401, 403, 404, 416, 429, 500, 502, 503)),
    row("429 with Retry-After", wire.burst, 429, "1", slow=True),
    row("429 amid the file", wire.rate_limited_amid, slow=True),
    row("one of these for ever", wire.for_ever),
)

ADDRESSES = (
    row("redirect loop", wire.redirect_loop),
    row("redirect to another host", wire.redirect_elsewhere),
    row("signed address expires in 0.2 s", wire.expiring, False),
    row("signed address good for one use", wire.expiring, True),
    row("Xet-backed, by plain HTTP, cut", wire.xet),
)

MACHINE = (
    row("disk full from the start", machine.full_disk, True, needs="mount"),
    row("disk full midway", machine.full_disk, False, needs="mount"),
    row("models folder read-only from the start", machine.read_only, True, needs="read-only"),
    row("models folder read-only midway", machine.read_only, False, needs="read-only"),
    row("clock jumps", machine.clock_jumps, own=True),
    row("broken off, mtimes from the future", machine.broken_off, between=machine.from_the_future, own=True),
    row("kill -9 at any byte", machine.to_be_killed, play=machine.in_a_process),
    row("kill -9 at any time", machine.any_moment, play=machine.killed_some_time),
    row("two processes, one killed", machine.any_moment, play=machine.one_of_two_killed),
)

LARGE = (
    row("80 MiB: connection closed", wire.cut, False, large=True),
    row("80 MiB: connection reset", wire.cut, True, large=True),
    row("80 MiB: the body stops coming", wire.stall, large=True),
    row("80 MiB: 429 amid the file", wire.rate_limited_amid, large=True),
    row("80 MiB: a byte flipped in transit", wire.flip_in_transit, False, large=True),
    row("80 MiB: 200 instead of 206, always", wire.ignored_range, FOR_EVER, large=True),
    row("80 MiB: kill -9 at any byte", machine.to_be_killed, play=machine.in_a_process, large=True),
)

CASES = (*LINE, *BYTES, *ANSWERS, *ADDRESSES, *MACHINE, *LARGE)
