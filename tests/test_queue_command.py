"""`branchfit queue`, and `branchfit pull` in it, run as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from branchfit.demo.server import LoopbackHub
from branchfit.download import folder_name
from branchfit.download.queue import Queue
from downloads import MIB, noise

REPO = "TheBloke/Tiny-GPTQ"
BRANCHES = ("one", "two", "three")
WEIGHTS = 3 * MIB
SOON_S = 60.0


@pytest.fixture
def hub(loopback_hub: LoopbackHub) -> LoopbackHub:
    files = {"README.md": b"# Tiny\n", "config.json": b'{"model_type": "llama"}'}
    branches = {name: {**files, "model.safetensors": noise(WEIGHTS, seed)} for seed, name in enumerate(BRANCHES)}
    loopback_hub.add_repo(REPO, {"main": files, **branches})
    return loopback_hub


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "the höst" / "models"


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(hub: LoopbackHub, models: Path) -> Iterator[Start]:
    processes: list[tuple[subprocess.Popen[str], threading.Timer]] = []

    def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "branchfit", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_ENDPOINT": hub.endpoint, "BRANCHFIT_MODELS": str(models), **environment},
        )
        watchdog = threading.Timer(2 * SOON_S, process.kill)  # one that hangs is a failure, not a wait
        watchdog.start()
        processes.append((process, watchdog))
        return process

    yield started
    for process, watchdog in processes:
        watchdog.cancel()
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Start) -> Callable[..., str]:
    """Run a command to its end; what it said on stdout."""

    def ran(*arguments: str, code: int = 0) -> str:
        process = start(*arguments)
        said, complaint = process.communicate(timeout=SOON_S)
        assert process.returncode == code, complaint
        assert "Traceback" not in complaint
        return said if code in (0, 1) and said else complaint

    return ran


def told(process: subprocess.Popen[str], event: str, until: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
    """Read a process's lines of JSON up to such an event."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event and until(found):
            return found
    raise AssertionError(f"no {event}: {process.communicate()[1]}")


def whole(models: Path) -> list[str]:
    """The branches whose folders are there, as they were published."""
    return [
        name
        for seed, name in enumerate(BRANCHES)
        if (models / folder_name(REPO, name)).is_dir()
        and (models / folder_name(REPO, name) / "model.safetensors").read_bytes() == noise(WEIGHTS, seed)
    ]


def slow(hub: LoopbackHub) -> None:
    hub.slow_down(MIB, "cdn GET")


def test_what_is_added_for_later_is_downloaded_in_order_by_one_run(
    run: Callable[..., str], models: Path, hub: LoopbackHub
) -> None:
    assert run("queue") == "the queue is empty\n"
    for name in ("one", "two"):
        assert "download" in run("queue", "add", f"{REPO}:{name}")
    assert "there already: download 1" in run("queue", "add", f"{REPO}:one")
    added = json.loads(run("queue", "add", f"{REPO}:three", "--limit-rate", "100MB", "--json"))
    assert (added["id"], added["position"], added["state"]) == (3, 3, "added")
    assert not models.exists() and Queue().listed()[2].entry.wanted.limit_bytes_per_s == 100_000_000
    run("queue", "move", "3", "2")
    assert [one["branch"] for one in json.loads(run("queue", "--json"))["entries"]] == ["one", "three", "two"]
    run("queue", "run")
    assert whole(models) == list(BRANCHES)
    fetched = [one for one in hub.requests if one.method == "GET" and "model.safetensors" in one.path]
    asked = [name for one in fetched for name in BRANCHES if commit_of(hub, name) in one.path]
    assert list(dict.fromkeys(asked)) == ["one", "three", "two"]
    assert run("queue") == "the queue is empty\n"
    assert "nothing in the queue" in run("queue", "run")


def commit_of(hub: LoopbackHub, branch: str) -> str:
    return hub.protocol.repos[REPO].branches[branch]


def test_a_run_goes_on_after_a_failure_and_ends_with_1(run: Callable[..., str], models: Path, hub: LoopbackHub) -> None:
    for name in ("one", "two"):
        run("queue", "add", f"{REPO}:{name}")
    hub.remove_branch(REPO, "one")
    done = json.loads(run("queue", "run", "--json", code=1))
    assert [model["branch"] for model in done["models"]] == ["two"] == whole(models)
    (failed,) = done["failed"]
    assert failed["name"] == f"{REPO}:one" and "no branch one" in failed["message"]
    listed = run("queue")
    assert f"{REPO}:one  failed" in listed and "no branch one" in listed


def test_a_run_passes_over_what_is_paused(run: Callable[..., str], models: Path, hub: LoopbackHub) -> None:
    for name in ("one", "two"):
        run("queue", "add", f"{REPO}:{name}")
    run("queue", "pause", "1")
    run("queue", "run")
    assert whole(models) == ["two"]
    run("queue", "resume")
    run("queue", "run")
    assert whole(models) == ["one", "two"]


def test_a_run_passes_over_what_is_paused_while_it_runs(
    start: Start, run: Callable[..., str], models: Path, hub: LoopbackHub
) -> None:
    for name in ("one", "two"):
        run("queue", "add", f"{REPO}:{name}")
    hub.slow_down(100_000, "cdn GET", times=1)
    process = start("queue", "run", "--json-lines")
    told(process, "progress", lambda event: event["overall_done_bytes"] > 0)
    run("queue", "pause", "1")
    _, complaint = process.communicate(timeout=SOON_S)
    assert process.returncode == 0, complaint
    assert f"{REPO}:one is paused; the next one's turn comes" in complaint
    assert whole(models) == ["two"]
    assert [(one.entry.wanted.branch, one.state) for one in Queue().listed()] == [("one", "paused")]


def test_an_unfinished_download_is_removed_with_its_place_in_the_queue(
    start: Start, run: Callable[..., str], models: Path, hub: LoopbackHub
) -> None:
    slow(hub)
    process = start("pull", f"{REPO}:one", "--json-lines")
    told(process, "progress", lambda event: event["overall_done_bytes"] > 0)
    assert "downloading now (pid" in run("list")
    run("remove", f"{REPO}:one", "--yes", code=1)  # another is at work on it
    process.kill()
    process.wait()
    assert "or remove it" in run("list")
    assert f"removed what was there of {REPO}:one" in run("remove", f"{REPO}:one", "--yes")
    assert "unfinished:" not in run("list")
    assert Queue().listed() == []


def test_a_second_pull_waits_for_the_first_and_says_for_whom(start: Start, models: Path, hub: LoopbackHub) -> None:
    slow(hub)
    first = start("pull", f"{REPO}:one", "--json-lines")
    told(first, "progress", lambda event: event["overall_done_bytes"] > 0)
    second = start("pull", f"{REPO}:two", "--json-lines")
    queued = told(second, "queued")
    assert queued["position"] == 1 and f"{REPO}:one (pid {first.pid}" in queued["ahead"][0]
    assert not [one for one in hub.requests if one.method == "GET" and commit_of(hub, "two") in one.path + one.origin
                and "safetensors" in one.path]  # fmt: skip
    hub.clear_faults()
    for process in (first, second):
        process.communicate(timeout=SOON_S)
        assert process.returncode == 0
    assert whole(models) == ["one", "two"]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_killed_pull_hands_the_line_on_stays_in_the_queue_and_a_run_ends_it(
    start: Start, run: Callable[..., str], models: Path, hub: LoopbackHub
) -> None:
    slow(hub)
    first = start("pull", f"{REPO}:one", "--json-lines")
    told(first, "progress", lambda event: event["overall_done_bytes"] > MIB)
    second = start("pull", f"{REPO}:two", "--json-lines")
    told(second, "queued")
    first.send_signal(signal.SIGKILL)
    told(second, "file_started", lambda event: event["path"] == "model.safetensors")
    (stopped, running) = json.loads(run("queue", "list", "--json"))["entries"]
    assert (stopped["state"], stopped["pid"], running["state"], running["pid"]) == (
        "stopped", None, "running", second.pid
    )  # fmt: skip
    assert 0 < stopped["done_bytes"] < stopped["total_bytes"]
    assert "one  stopped at" in run("queue")
    hub.clear_faults()
    second.communicate(timeout=SOON_S)
    run("queue", "run")
    assert whole(models) == ["one", "two"] and Queue().listed() == []


def test_a_pull_is_paused_and_goes_on_from_another_terminal(
    start: Start, run: Callable[..., str], models: Path, hub: LoopbackHub
) -> None:
    slow(hub)
    first = start("pull", f"{REPO}:one", "--json-lines")
    told(first, "progress", lambda event: event["overall_done_bytes"] > 0)
    run("queue", "pause", "1")
    told(first, "paused")
    assert "one  paused at" in run("queue")
    second = start("pull", f"{REPO}:two", "--json-lines")
    told(second, "file_started")  # a paused one is in nobody's way
    run("queue", "pause")
    assert "all of it is paused" in run("queue")
    told(second, "paused")
    hub.clear_faults()
    run("queue", "resume")
    told(first, "resumed")
    for process in (first, second):
        process.communicate(timeout=SOON_S)
        assert process.returncode == 0
    assert whole(models) == ["one", "two"]


def test_a_pull_that_is_removed_from_the_queue_stops_with_1_and_keeps_what_it_has(
    start: Start, run: Callable[..., str], models: Path, hub: LoopbackHub
) -> None:
    slow(hub)
    first = start("pull", f"{REPO}:one", "--json-lines")
    told(first, "progress", lambda event: event["overall_done_bytes"] > MIB)
    assert f"removed from the queue: {REPO}:one" in run("queue", "remove", "1")
    _, complaint = first.communicate(timeout=SOON_S)
    assert first.returncode == 1 and "taken out of the queue" in complaint and "branchfit pull" in complaint
    assert whole(models) == [] and Queue().listed() == []
    hub.clear_faults()
    second = start("pull", f"{REPO}:one", "--json-lines")
    assert told(second, "started")["done_bytes"] > MIB
    second.communicate(timeout=SOON_S)
    assert whole(models) == ["one"]


def test_the_same_branch_twice_is_one_download_and_the_second_shows_how_far_it_is(
    start: Start, models: Path, hub: LoopbackHub
) -> None:
    slow(hub)
    first = start("pull", f"{REPO}:one", "--json-lines")
    told(first, "progress", lambda event: event["overall_done_bytes"] > 0)
    second = start("pull", f"{REPO}:one", "--json-lines")
    early = told(second, "waiting", lambda event: event["done_bytes"] > 0)
    assert early["pid"] == first.pid and early["total_bytes"] > WEIGHTS
    told(second, "waiting", lambda event: event["done_bytes"] > early["done_bytes"])
    assert [one.state for one in Queue().listed()] == ["running"]
    hub.clear_faults()
    for process in (first, second):
        process.communicate(timeout=SOON_S)
        assert process.returncode == 0
    assert whole(models) == ["one"] and Queue().listed() == []


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_second_pull_of_the_same_branch_takes_over_when_the_first_is_killed(
    start: Start, models: Path, hub: LoopbackHub
) -> None:
    slow(hub)
    first = start("pull", f"{REPO}:one", "--json-lines")
    told(first, "progress", lambda event: event["overall_done_bytes"] > MIB)
    second = start("pull", f"{REPO}:one", "--json-lines")
    told(second, "waiting")
    first.send_signal(signal.SIGKILL)
    assert f"pid {first.pid} is gone" in told(second, "note")["message"]
    told(second, "progress")
    hub.clear_faults()
    second.communicate(timeout=SOON_S)
    assert second.returncode == 0 and whole(models) == ["one"] and Queue().listed() == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("add", REPO), 2, "names no branch"),
        (("add", f"{REPO}:nonsense"), 4, "no branch nonsense"),
        (("pause", "9"), 4, "no download 9"),
        (("move", "9", "1"), 4, "no download 9"),
        (("move", "9", "0"), 2, "0"),
        (("remove", "x"), 2, "x"),
        (("run", "--json", "--json-lines"), 2, "exclude"),
        (("--json", "run"), 2, "--json goes behind"),
    ],
)
def test_what_makes_no_sense_is_said(
    run: Callable[..., str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    assert words in run("queue", *arguments, code=code)


def test_a_queue_that_does_not_read_is_put_aside_and_said_once(start: Start, own_folders: Path) -> None:
    folder = own_folders / "branchfit-cache" / "queue"
    folder.mkdir(parents=True)
    (folder / "queue.json").write_bytes(b"torn")
    listing = start("queue", "--json")
    said, complaint = listing.communicate(timeout=SOON_S)
    assert json.loads(said) == {"paused": False, "entries": []} and "put aside as" in complaint
    assert start("queue").communicate(timeout=SOON_S) == ("the queue is empty\n", "")


def test_a_branch_can_be_added_without_the_hub(run: Callable[..., str], hub: LoopbackHub) -> None:
    hub.stop()
    assert json.loads(run("queue", "add", f"{REPO}:one", "--json"))["state"] == "added"
    hub.start()
