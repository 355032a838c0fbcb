"""Jobs of the tab: they outlive pages, take turns, can be stopped, and say how they ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchfit.download.events import FileStarted, Note, Paused, Progress, Queued, Resumed, Started, Waiting
from branchfit.errors import NoSpace
from branchfit_webui.jobs import LINE, Job, Jobs, Seen
from branchfit_webui.panel.progress import board_html

SOON_S = 10.0


class Gate:
    """Work that goes on until it is let go, so that a test decides what happens when."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> str:
        with job.turn(LINE):
            self.entered.set()
            while not self.open.wait(0.005):
                job.check()
        return "well done"


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    for seen in made.seen():
        made.cancel(seen.key)


def started(jobs: Jobs, key: str, gate: Gate) -> None:
    assert jobs.start(key, key, gate)


def seen(jobs: Jobs, key: str) -> Seen:
    return next(each for each in jobs.seen() if each.key == key)


def until(jobs: Jobs, key: str, phase: str) -> None:
    end = time.monotonic() + SOON_S
    while phase not in seen(jobs, key).phase:
        assert time.monotonic() < end, seen(jobs, key)
        time.sleep(0.005)


def test_a_job_ends_with_what_its_work_says(jobs: Jobs) -> None:
    gate = Gate()
    started(jobs, "a", gate)
    assert gate.entered.wait(SOON_S) and seen(jobs, "a").alive and jobs.alive()
    gate.open.set()
    ended = jobs.wait("a", SOON_S)
    assert (ended.state, ended.result) == ("done", "well done")
    assert not jobs.alive()


def test_the_same_thing_asked_for_twice_is_one_job(jobs: Jobs) -> None:
    gate = Gate()
    started(jobs, "a", gate)
    assert not jobs.start("a", "a", lambda job: "another")
    gate.open.set()
    assert jobs.wait("a", SOON_S).result == "well done"
    assert jobs.start("a", "a", lambda job: "another")
    assert jobs.wait("a", SOON_S).result == "another"


def test_downloads_take_turns_in_the_order_they_were_asked_for(jobs: Jobs) -> None:
    gates = {name: Gate() for name in "abc"}
    started(jobs, "a", gates["a"])
    assert gates["a"].entered.wait(SOON_S)
    started(jobs, "b", gates["b"])
    until(jobs, "b", "waiting for a")
    started(jobs, "c", gates["c"])
    until(jobs, "c", "waiting for b and 1 more")
    gates["c"].open.set()
    gates["a"].open.set()
    assert gates["b"].entered.wait(SOON_S) and not gates["c"].entered.is_set()
    gates["b"].open.set()
    assert jobs.wait("c", SOON_S).state == "done"


def test_one_that_waits_can_be_stopped_and_those_behind_it_move_up(jobs: Jobs) -> None:
    gates = {name: Gate() for name in "abc"}
    started(jobs, "a", gates["a"])
    assert gates["a"].entered.wait(SOON_S)
    started(jobs, "b", gates["b"])
    until(jobs, "b", "waiting for a")
    started(jobs, "c", gates["c"])
    until(jobs, "c", "waiting for b")
    assert jobs.cancel("b")
    assert jobs.wait("b", SOON_S).state == "cancelled"
    gates["a"].open.set()
    assert gates["c"].entered.wait(SOON_S) and not gates["b"].entered.is_set()
    gates["c"].open.set()
    assert jobs.wait("c", SOON_S).state == "done"


def test_a_stopped_job_says_that_what_was_fetched_is_kept(jobs: Jobs) -> None:
    def work(job: Job) -> str:
        job.tell(Started("r", "b", "c", Path("f"), 1, 100, 1100))
        return Gate()(job)

    jobs.start("a", "a", work)
    while not seen(jobs, "a").total_bytes:
        time.sleep(0.005)
    assert jobs.cancel("a")
    ended = jobs.wait("a", SOON_S)
    assert ended.state == "cancelled" and "kept" in ended.result
    assert not jobs.cancel("a")


def test_a_stopped_job_that_fetched_nothing_speaks_of_no_download(jobs: Jobs) -> None:
    gate = Gate()
    started(jobs, "a", gate)
    assert gate.entered.wait(SOON_S) and jobs.cancel("a")
    assert jobs.wait("a", SOON_S).result == "Stopped."


def test_a_download_is_stopped_at_its_next_event(jobs: Jobs) -> None:
    told, go_on = threading.Event(), threading.Event()

    def work(job: Job) -> str:
        told.set()
        go_on.wait(SOON_S)
        job.tell(Note("one more chunk"))
        return "not stopped"

    jobs.start("a", "a", work)
    assert told.wait(SOON_S) and jobs.cancel("a") and seen(jobs, "a").stopping
    go_on.set()
    assert jobs.wait("a", SOON_S).state == "cancelled"


def test_an_error_of_ours_is_its_own_sentence_and_any_other_is_said_with_its_kind(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(job: Job) -> str:
        raise NoSpace(Path("/models"), 5_000_000_000, 1_000_000_000)

    jobs.start("full", "full", full)
    ended = jobs.wait("full", SOON_S)
    assert ended.state == "failed" and "5,000,000,000" in ended.result and "1,000,000,000" in ended.result

    jobs.start("odd", "odd", lambda job: str({}["nothing"]))
    ended = jobs.wait("odd", SOON_S)
    assert ended.state == "failed" and "KeyError" in ended.result
    assert "Traceback" in capsys.readouterr().err


def test_progress_gives_bytes_speed_and_time_left(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("branchfit_webui.jobs.time.monotonic", lambda: now[0])
    told, go_on = threading.Event(), threading.Event()

    def work(job: Job) -> str:
        job.tell(Started("r", "b", "c", Path("f"), 1, 100, 1100))
        now[0] += 2.0
        job.tell(Progress("model.safetensors", 300, 1000, 300, 1100))
        told.set()
        go_on.wait()
        return ""

    jobs.start("a", "a", work)
    told.wait()
    found = seen(jobs, "a")
    # 200 bytes in 2 seconds, 800 to go.
    assert (found.done_bytes, found.total_bytes, found.bytes_per_s, found.left_s) == (300, 1100, 100.0, 8.0)
    now[0] += 2.0  # a line gone silent is seen to slow down
    assert seen(jobs, "a").bytes_per_s == 50.0
    go_on.set()


def test_a_page_can_tell_whether_something_has_ended_since_it_looked(jobs: Jobs) -> None:
    before = jobs.ended
    gate = Gate()
    started(jobs, "a", gate)
    assert jobs.ended == before
    gate.open.set()
    jobs.wait("a", SOON_S)
    end = time.monotonic() + SOON_S
    while jobs.ended == before:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_last_to_end_comes_first_and_a_failure_is_shown_whatever_ended_since(jobs: Jobs) -> None:
    gate = Gate()

    def fails(job: Job) -> str:
        gate(job)
        raise NoSpace(Path("/models"), 5, 1)

    jobs.start("long", "long", fails)
    assert gate.entered.wait(SOON_S)
    for name in ("b", "c"):
        jobs.start(name, name, lambda job: "done")
        jobs.wait(name, SOON_S)
    gate.open.set()
    jobs.wait("long", SOON_S)
    assert [each.key for each in jobs.seen()] == ["long", "c", "b"]
    for name in ("d", "e", "f"):
        jobs.start(name, name, lambda job: "done")
        jobs.wait(name, SOON_S)
    assert "no space" in board_html(jobs.seen())


def test_ended_jobs_are_forgotten_in_the_end_and_the_newest_come_first(jobs: Jobs) -> None:
    for number in range(12):
        jobs.start(str(number), str(number), lambda job: "")
        jobs.wait(str(number), SOON_S)
    keys = [each.key for each in jobs.seen()]
    assert keys[0] == "11" and 6 <= len(keys) <= 7 and "0" not in keys


def test_a_job_says_for_whom_it_waits_that_it_is_paused_and_when_it_goes_on(jobs: Jobs) -> None:
    tell: list[Job] = []
    ready, gate = threading.Event(), threading.Event()

    def work(job: Job) -> str:
        job.say("downloading")
        tell.append(job)
        ready.set()
        assert gate.wait(SOON_S)
        return ""

    def phase() -> str:
        return seen(jobs, "a").phase

    jobs.start("a", "a", work)
    assert ready.wait(SOON_S)
    (job,) = tell
    job.tell(Queued(2, ("o/r:x (pid 7, 40 %)", "o/r:y (pid 8)")))
    assert phase() == "waiting for o/r:x (pid 7, 40 %) and 1 more"
    job.tell(FileStarted("w", 0, 100))
    assert phase() == "downloading"
    job.tell(Paused())
    job.tell(Progress("w", 10, 100, 10, 100))  # it was on its way
    assert phase() == "paused" and seen(jobs, "a").done_bytes == 10
    job.tell(Resumed())
    assert phase() == "downloading"
    job.tell(Waiting(Path("f"), 12, 30, 90))
    assert phase() == "another program (pid 12) is at work on it; waiting for it"
    assert (seen(jobs, "a").done_bytes, seen(jobs, "a").total_bytes) == (30, 90)
    gate.set()
    jobs.wait("a", SOON_S)
