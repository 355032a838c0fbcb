"""Whole files where ranges were asked for: by slip, by changed ETags, by servers without ranges, cut and paused amid.

What is on disk and hashed is never written over: a byte that is wrong the second time must not get in unseen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchfit.download import Event
from branchfit.download.events import Finished, Progress, Retrying
from branchfit.errors import TransferBroken
from downloads import BRANCH, MIB, REPO, World, a_world, contents, noise

LARGE = noise(40 * MIB + 5, seed=3)
FILES = {"config.json": b"{}", "model.safetensors": LARGE}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as one:
        one.serve(FILES)
        yield one


def fetched_twice(world: World) -> int:
    return world.of(Finished)[0].fetched_bytes - len(LARGE) - 2


def test_a_whole_answer_that_is_cut_is_gone_on_with_and_not_written_over(world: World) -> None:
    world.server.ignore_range(matching="cdn GET", times=1)
    world.server.cut_after(5 * MIB + 123, matching="cdn GET", times=1)
    # The next answer for the same range has a wrong byte where the first had a right one.
    world.server.corrupt(matching="cdn GET", times=1, offset=MIB, skip=1)
    world.pull()
    assert contents(world.target) == FILES


def test_a_whole_answer_that_is_held_up_is_gone_on_with_and_not_written_over(world: World) -> None:
    class Line:
        held, at_pause = False, 0

        def turn(self, tell: object) -> object:
            import contextlib

            return contextlib.nullcontext()

        def paused(self) -> bool:
            return self.held

        def tell(self, event: Event) -> None:
            world.events.append(event)
            if isinstance(event, Progress) and event.done_bytes > 4 * MIB and not self.at_pause:
                self.held, self.at_pause = True, event.done_bytes
                world.server.corrupt(matching="cdn GET", times=1, offset=MIB)
                threading.Timer(0.6, self.go_on).start()

        def go_on(self) -> None:
            self.held = False

    line = Line()
    world.server.ignore_range(matching="cdn GET", times=1)
    world.server.slow_down(8 * MIB, matching="cdn GET", times=1)
    world.pull(line=line, on_event=line.tell)
    assert line.at_pause
    assert contents(world.target) == FILES


def test_a_server_without_ranges_that_always_breaks_is_an_error_after_the_usual_tries(world: World) -> None:
    world.server.ignore_range(matching="cdn GET", times=None)
    world.server.cut_after(MIB, matching="cdn GET", times=None)
    with pytest.raises(TransferBroken):
        world.pull()
    assert len(world.of(Retrying)) <= 5
    world.server.clear_faults()
    world.pull()
    assert contents(world.target) == FILES


def test_etags_that_keep_changing_cost_one_answer_and_not_the_file_each_time(world: World) -> None:
    world.server.slow_down(8 * MIB, matching="cdn GET")
    world.server.change_etag(matching="cdn GET", skip=1)
    world.pull()
    assert contents(world.target) == FILES
    bound = [one for one in world.fetches() if one.origin == "cdn" and "if-range" in one.headers]
    free = [one for one in world.fetches() if one.origin == "cdn" and "if-range" not in one.headers]
    assert len(free) > 2 and fetched_twice(world) == 0
    assert sum(one.status == 200 for one in bound) <= 8  # as many as were under way with the former ETag


def test_a_slip_does_not_leave_a_file_with_one_connection(world: World) -> None:
    world.server.slow_down(4 * MIB, matching="cdn GET")
    world.server.ignore_range(matching="cdn GET", times=1, skip=2)
    world.pull()
    assert contents(world.target) == FILES
    after = world.events[max(index for index, event in enumerate(world.events) if isinstance(event, Retrying)) :]
    assert max(event.connections for event in after if isinstance(event, Progress)) >= 4


_PULL = """
import sys
from pathlib import Path
from branchfit.download import pull
from branchfit.hub import Hub
endpoint, cache, repo, branch, models = sys.argv[1:]
made = pull(Hub(endpoint=endpoint, cache_dir=Path(cache)), repo, branch, Path(models),
            on_event=lambda event: print(type(event).__name__, flush=True))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no locks on folders")
def test_processes_with_other_cache_folders_see_each_other_at_the_staging_folder(world: World, tmp_path: Path) -> None:
    world.server.slow_down(12 * MIB, matching="cdn GET")

    def start(cache: str) -> subprocess.Popen[str]:
        arguments = [world.server.endpoint, str(tmp_path / cache), REPO, BRANCH, str(world.models_dir)]
        return subprocess.Popen(
            [sys.executable, "-c", _PULL, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "BRANCHFIT_CACHE": str(tmp_path / cache)},
        )

    with start("a") as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line == "Progress\n":
                break
        with start("b") as second:
            said, _ = second.communicate(timeout=60)
        first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "Waiting" in said and "Progress" not in said
    assert contents(world.target) == FILES
    assert world.fetched_bytes() == len(LARGE) + 2
