"""The faults of the server and the line: each arranges itself for one trial and says what may come of it."""

from __future__ import annotations

import branchfit.hub.body as hub_body
import branchfit.hub.http as hub_http
from downloads import MIB
from fault_stage import CHUNK_BYTES, SMALL, Stage
from faults import Plan

API, RESOLVE, CDN = "hub GET /api/", "hub (GET|HEAD) .*/resolve/", "cdn GET"
FOR_EVER = None
LONG_S = 60.0
"""Longer than any client here waits for."""

RANGE_BYTES = 4 * MIB
"""Parallel ranges are hardly shorter than that: half of the breaks fall in here, so that they meet every client."""

WHILE_BYTES_PER_S = 16 * MIB
"""A line on which the small repo takes 0.4 s: at any byte something is on its way, and nothing waits in buffers."""

LARGE_BYTES_PER_S = 80 * MIB
"""A connection's cap in the large repo: one fetches it in a second, several are worth it."""

OFTEN = "each break drops what the client's socket had received and it had not read"
WHOLE_AGAIN = "the answer is the whole file, and who hangs up at one to ask again has received a socket's buffer of it"

SOCKET_BYTES = (6 + 4) * MIB
"""What a server counts as sent and nobody has read: the client's receive buffer and its own for sending, at their
largest by Linux's defaults (net.ipv4.tcp_rmem and tcp_wmem)."""


def ready(stage: Stage) -> None:
    """What all trials share: our own client's short waits between tries are none."""
    stage.set(hub_http, "FIRST_WAIT_S", 0.01)
    if stage.large:
        stage.server.slow_down(LARGE_BYTES_PER_S, "cdn GET")


def break_at(stage: Stage) -> int:
    """After how many bytes of an answer a connection breaks."""
    return stage.offset(stage.rng.choice((RANGE_BYTES, stage.weights_bytes)))


# ---- the line ------------------------------------------------------------------------------------


def cut(stage: Stage, reset: bool) -> Plan:
    ready(stage)
    times, lost = stage.rng.randint(1, 3), 0
    for _ in range(times):
        after = break_at(stage)
        lost += min(after, CHUNK_BYTES) if reset else 0
        stage.server.cut_after(after, stage.weights, reset=reset, skip=stage.rng.randint(0, 1))
    return Plan(breaks=times, again_bytes=lost, because=OFTEN if reset else "")


def cut_small_answers(stage: Stage) -> Plan:
    ready(stage)
    for place in (API, RESOLVE, "GET .*resolve-cache"):
        stage.server.cut_after(stage.rng.randrange(20), place, reset=stage.rng.random() < 0.5)
    return Plan(breaks=1)


def stall(stage: Stage) -> Plan:
    ready(stage)
    stage.impatient()
    times = stage.rng.randint(1, 2)
    for _ in range(times):
        stage.server.stall(break_at(stage), LONG_S, stage.weights)
    return Plan(breaks=times)


def silence(stage: Stage) -> Plan:
    ready(stage)
    stage.impatient()
    stage.server.hang(LONG_S, stage.rng.choice((API, RESOLVE, CDN)))
    return Plan()


def slow_loris(stage: Stage) -> Plan:
    ready(stage)
    stage.impatient()
    stage.set(hub_body, "SLOW_WINDOW_S", 0.3)
    stage.server.slow_down(20, stage.weights, times=1)
    return Plan(breaks=1)


def dripping_headers(stage: Stage) -> Plan:
    ready(stage)
    stage.impatient(0.3)
    place, bytes_per_s = stage.rng.choice(((API, 60), (RESOLVE, 250), (CDN, 250)))  # its headers are the shortest
    stage.server.drip_headers(bytes_per_s, place)
    # A small answer that took all of its time is not asked for again: by then the user should know.
    return Plan("either" if place == API else "whole", 1)


# ---- the bytes -----------------------------------------------------------------------------------


def short_copy(stage: Stage, times: int | None) -> Plan:
    ready(stage)
    stage.server.resize(-1 - stage.offset(), stage.weights, times=times)
    again = stage.weights_bytes
    return Plan("refused" if times is FOR_EVER else "either", 1, False, again, "the copy is worth nothing")


def long_copy(stage: Stage) -> Plan:
    ready(stage)
    stage.server.resize(1 + stage.offset(), stage.weights)
    # What a client knows of it is the announced size alone: one that reads no further gets the whole file.
    return Plan("either", 1, False, 2 * stage.weights_bytes, "the copy is worth nothing")


def chunked(stage: Stage, extra: bool) -> Plan:
    ready(stage)
    stage.server.chunk_up(1 + stage.offset() if extra else 0, stage.weights, times=FOR_EVER)
    if not extra:
        stage.server.cut_after(stage.offset(), stage.weights)
        return Plan(breaks=1)
    return Plan("either", 1, False, 2 * stage.weights_bytes, "what goes on behind the file")


def short_ranges(stage: Stage) -> Plan:
    ready(stage)
    stage.server.cut_after(stage.offset(), stage.weights)
    stage.server.shorten_range(1 + stage.offset(MIB), stage.weights, times=2)
    return Plan(breaks=3)


def flip_in_transit(stage: Stage, plain: bool) -> Plan:
    ready(stage)
    if plain:
        stage.server.corrupt(
            r"GET .*resolve-cache.*config\.json", offset=stage.rng.randrange(len(SMALL["config.json"]))
        )
        return Plan(breaks=1)
    stage.server.corrupt(stage.weights, offset=stage.offset())
    # What was on its way to a connection that another one relieved of the rest of its range: see `Part.split`. A chunk.
    under_way_bytes = 16 * 2**20 if stage.large else 0
    return Plan(
        again_bytes=stage.weights_bytes + under_way_bytes,
        because="no hash says which byte it was: the file comes once more",
    )


def flip_at_the_source(stage: Stage) -> Plan:
    ready(stage)
    stage.server.corrupt(stage.weights, times=FOR_EVER, offset=stage.offset())
    why = "it comes again to see whether the line did it, and once more when the source is mended"
    return Plan("refused", 0, False, 2 * stage.weights_bytes, why)


# ---- what the server says of them ----------------------------------------------------------------


def ignored_range(stage: Stage, times: int | None) -> Plan:
    ready(stage)
    at = break_at(stage)
    stage.server.cut_after(at, stage.weights, skip=stage.rng.randint(0, 1) if stage.large else 0)
    stage.server.ignore_range(stage.weights, times=times)
    return Plan(breaks=1, again_bytes=stage.weights_bytes + SOCKET_BYTES, because=WHOLE_AGAIN)


def wrong_content_range(stage: Stage, kind: str) -> Plan:
    ready(stage)
    stage.server.cut_after(break_at(stage), stage.weights)
    by = stage.rng.choice((-1, 1)) * stage.rng.randint(1, MIB)
    if kind == "another start":
        stage.server.shift_range(by, stage.weights)
    elif kind == "a start that is not true":
        stage.server.say_range(lambda a, b, size: f"bytes {max(0, a + by)}-{max(0, b + by)}/{size}", stage.weights)
    elif kind == "another total":
        stage.server.say_range(lambda a, b, size: f"bytes {a}-{b}/{size + abs(by)}", stage.weights)
        return Plan("either", 2, False, stage.weights_bytes, "what such an answer brings is worth nothing")
    else:
        garbage = stage.rng.choice(("bytes", "", "bytes */*", "bytes a-b/c", "items 0-1/2", "bytes 9-1/5"))
        stage.server.say_range(lambda a, b, size: garbage, stage.weights)
    return Plan("whole", 2, False, stage.weights_bytes, "what such an answer brings is worth nothing")


def changed_etag(stage: Stage) -> Plan:
    ready(stage)
    stage.server.cut_after(break_at(stage), stage.weights)
    stage.server.change_etag(stage.weights, skip=1)
    return Plan(breaks=1, again_bytes=stage.weights_bytes + SOCKET_BYTES, because=WHOLE_AGAIN)


def burst(stage: Stage, status: int, retry_after: str = "") -> Plan:
    ready(stage)
    place, times = stage.rng.choice((API, RESOLVE, CDN)), 1 if retry_after else stage.rng.randint(1, 2)
    said = {"Retry-After": retry_after} if retry_after else {}
    skip = stage.rng.randint(0, 1) if place != API else 0
    stage.server.fail_next(status, said, place, times, skip=skip)
    passes = status in (429, 500, 502, 503) or (status == 403 and place == CDN)
    return Plan("whole" if passes else "either", 1, retry_after_s=float(retry_after or 0))


def for_ever(stage: Stage) -> Plan:
    ready(stage)
    status, place = stage.rng.choice((401, 403, 404, 416, 429, 500, 503)), stage.rng.choice((API, RESOLVE, CDN))
    stage.server.fail_next(status, matching=place, times=FOR_EVER)
    return Plan("refused", 1)


def rate_limited_amid(stage: Stage) -> Plan:
    ready(stage)
    stage.server.cut_after(break_at(stage), stage.weights)
    stage.server.fail_next(429, {"Retry-After": "1"}, stage.weights, skip=1)
    return Plan(breaks=1)


# ---- where it sends us ---------------------------------------------------------------------------


def redirect_loop(stage: Stage) -> Plan:
    ready(stage)
    stage.server.redirect("{path}", stage.rng.choice((API, RESOLVE, CDN)), times=FOR_EVER)
    return Plan("refused", 1)


def redirect_elsewhere(stage: Stage) -> Plan:
    ready(stage)
    place, status = stage.rng.choice((API, RESOLVE, CDN)), stage.rng.choice((301, 302, 303, 307, 308))
    stage.server.redirect(stage.server.other_endpoint + "{path}", place, FOR_EVER, status)
    return Plan()


def expiring(stage: Stage, after_one_use: bool) -> Plan:
    ready(stage)
    times = stage.rng.randint(1, 2)
    for _ in range(times):
        stage.server.cut_after(break_at(stage), stage.weights)
    if after_one_use:
        stage.server.protocol.address_uses = 1
    else:
        stage.server.slow_down(WHILE_BYTES_PER_S, stage.weights)
        stage.server.protocol.address_lifetime_s = 0.2
    return Plan(breaks=times)


def xet(stage: Stage) -> Plan:
    ready(stage)
    stage.server.protocol.xet = True
    stage.server.cut_after(stage.offset(), stage.weights)
    return Plan(breaks=1)
