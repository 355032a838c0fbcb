"""One large file by several connections: ranges, ETags, limits and pauses, against the loopback Hub."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from branchfit.download import Event
from branchfit.download.events import Finished, OnEvent, Paused, Progress, Queued, Resumed
from branchfit.download.fetch import crew as crew_module
from branchfit.download.fetch.limit import Limit
from branchfit.download.fetch.part import Part
from branchfit.download.fetch.reading import Growing, Hand
from branchfit.download.fetch.transfer import Transfer
from branchfit.download.lockfile import LockedFile, read_lock
from branchfit.download.staging import Staging
from branchfit.errors import DownloadError, HubUnreachable
from branchfit.hub import Hub
from branchfit.hub.body import Body
from downloads import MIB, World, a_world, contents, noise, sha256

LARGE = noise(80 * MIB, seed=9)
FILES = {"config.json": b"{}", "model.safetensors": LARGE}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        one.serve(FILES)
        yield one


def ranges(world: World) -> list[tuple[int, int]]:
    found = []
    for one in world.fetches():
        if one.origin == "cdn":
            start, _, stop = one.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
            found.append((int(start), int(stop) + 1 if stop else len(LARGE)))
    return found


def test_a_server_that_caps_each_connection_is_asked_by_several(world: World) -> None:
    world.server.slow_down(8 * MIB, "cdn GET")
    world.pull()
    assert contents(world.target) == FILES
    assert max(event.connections for event in world.of(Progress)) >= 4
    # Each range was asked for once; the last of them are shared out to whoever has nothing left to do.
    asked = sorted(ranges(world))
    assert asked[0][0] == 0 and max(stop for _, stop in asked) == len(LARGE)
    assert len({start for start, _ in asked}) == len(asked)
    assert all(before[1] >= after[0] for before, after in pairwise(asked))
    assert world.of(Finished)[0].fetched_bytes == len(LARGE) + 2
    addresses = [one for one in world.server.requests if one.origin == "hub" and one.path.endswith("model.safetensors")]
    assert len(addresses) <= 4  # as many connections as began before the first had an answer


def test_the_lock_records_the_hashes_of_a_large_files_beginnings(world: World) -> None:
    world.pull()
    (large,) = (file for file in read_lock(world.target).files if file.path == "model.safetensors")
    assert large.prefix_sha256 == tuple(sha256(LARGE[: steps * 16 * MIB]) for steps in range(1, 5))


def test_ranges_are_bound_to_the_content_that_the_first_one_had(world: World) -> None:
    world.server.slow_down(8 * MIB, "cdn GET")
    world.pull()
    later = [one for one in world.fetches() if one.origin == "cdn"][4:]
    assert later
    assert {one.headers.get("if-range") for one in later} == {f'"{sha256(LARGE)}"'}


def test_a_server_without_ranges_sends_a_large_file_once(world: World) -> None:
    world.server.ignore_range("cdn GET", times=None)
    world.server.slow_down(40 * MIB, "cdn GET")
    world.pull()
    assert contents(world.target) == FILES
    assert world.of(Finished)[0].fetched_bytes == len(LARGE) + 2


def test_a_hub_that_names_other_content_than_it_listed_is_not_believed(world: World) -> None:
    headers = {"Location": "http://127.0.0.1:9/", "X-Linked-Etag": f'"{"f" * 64}"', "X-Linked-Size": str(len(LARGE))}
    address = world.server.cdn_endpoint
    world.server.fail_next(302, {**headers, "Location": f"{address}/x"}, matching="hub GET .*safetensors", times=None)
    world.server.fail_next(200, {}, matching="cdn GET", times=None, body=LARGE)
    with pytest.raises(DownloadError, match="the Hub now ffff"):
        world.pull()
    assert list(world.models_dir.iterdir()) == []


def test_a_limit_holds_for_all_connections_together(world: World) -> None:
    waited: list[float] = []

    class Watched(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            return super().wait(0)

    from branchfit.download.fetch.limit import BURST_S, Limit

    limit = Limit(1000.0, Watched())
    for _ in range(10):
        limit.took(1000)
    # Nobody really waits here: 10,000 bytes at 1,000 a second, less what may be made up for.
    assert 10 - BURST_S - 0.5 <= waited[-1] <= 10
    world.pull(limit_bytes_per_s=40 * MIB)
    assert contents(world.target) == FILES


class Pausing:
    """A line that is held up once bytes flow, and let go when they have stopped."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.held = False
        self.at_pause = 0

    @contextmanager
    def turn(self, tell: OnEvent) -> Iterator[None]:
        tell(Queued(1, ("another",)))
        yield

    def paused(self) -> bool:
        return self.held

    def tell(self, event: Event) -> None:
        self.world.events.append(event)
        if isinstance(event, Progress) and event.done_bytes > 10 * MIB and not self.at_pause:
            self.held, self.at_pause = True, event.done_bytes
        elif isinstance(event, Paused):
            threading.Timer(0.6, self.go_on).start()

    def go_on(self) -> None:
        self.held = False


def test_a_download_that_is_held_up_fetches_nothing_until_it_goes_on(world: World) -> None:
    line = Pausing(world)
    world.server.slow_down(16 * MIB, "cdn GET")
    world.pull(line=line, on_event=line.tell)
    assert contents(world.target) == FILES
    kinds = [type(event) for event in world.events if isinstance(event, (Queued, Paused, Resumed))]
    assert kinds == [Queued, Paused, Resumed]
    between = world.events[world.events.index(Paused()) : world.events.index(Resumed())]
    grown = [event.done_bytes for event in between if isinstance(event, Progress)]
    assert all(done < len(LARGE) / 2 for done in grown)
    assert world.of(Finished)[0].fetched_bytes == len(LARGE) + 2


def test_the_last_of_a_file_is_shared_out_to_connections_that_have_nothing_left(world: World) -> None:
    world.server.slow_down(2 * MIB, "cdn GET", times=1)  # one connection is slow, those after it are not
    world.pull()
    assert contents(world.target) == FILES
    # The slow one had asked for 16 MiB at least; others took what it would have been at for eight seconds.
    slow, *others = [one for one in world.fetches() if one.origin == "cdn"]
    assert slow.sent_bytes < 16 * MIB
    assert len({one.headers.get("range") for one in others}) == len(others)
    assert world.of(Finished)[0].fetched_bytes == len(LARGE) + 2


class Enough(Exception):
    """What was to be seen was seen."""


def test_connections_that_are_too_many_end_at_once_and_leave_their_ranges_to_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial is only known to have failed when its connections are gone, and each has seconds of its range to go."""
    begun: list[float] = []
    fewer: list[int] = []

    def sample(connections: object, now_s: float, *more: object) -> int:
        begun.append(now_s)
        return 8 if 0.2 < now_s - begun[0] < 1.0 else 1

    def told(event: Event) -> None:
        if isinstance(event, Progress) and begun and time.monotonic() - begun[0] > 1.0:
            fewer.append(event.connections)
            if time.monotonic() - begun[0] > 1.8:
                raise Enough

    # Each begins a range of two seconds some tenths of a second after it was hired.
    with monkeypatch.context() as patched:
        patched.setattr(crew_module.Connections, "sample", sample)
        world.server.slow_down(MIB, "cdn GET")
        with pytest.raises(Enough):
            world.pull(on_event=told)
    assert min(fewer) == 1
    world.server.clear_faults()
    world.pull()
    assert contents(world.target) == FILES


class Failing(Hub):
    """A Hub whose files cannot be had, and a hand that is dismissed while it finds that out."""

    hand = Hand()
    asked = 0

    @contextmanager
    def open(self, *arguments: Any, **options: Any) -> Iterator[Body]:
        self.asked += 1
        self.hand.dismissed = True
        raise HubUnreachable("http://127.0.0.1:9", "the connection was refused")
        yield


def test_a_dismissed_connection_that_fails_neither_waits_nor_ends_the_download(tmp_path: Path) -> None:
    hub, told = Failing("http://127.0.0.1:9", cache_dir=tmp_path), []
    staging = Staging(tmp_path / "staging", tmp_path / "models" / "m")
    staging.parts.mkdir(parents=True)
    file = LockedFile("model.safetensors", MIB, "0" * 64, None)
    never = threading.Event()
    transfer = Transfer(
        hub, "o/r", "0" * 40, staging, sources={}, tell=told.append, stop=never, hold=never,
        limit=Limit(None, never), retry_waits_s=(),
    )  # fmt: skip
    with Part(staging, staging.part(file), file) as part:
        claim = part.claim(MIB)
        assert claim is not None
        transfer.fetch(Growing(part), claim, hub.hand)
        assert (hub.asked, part.unclaimed_bytes(), told) == (1, MIB, [])
