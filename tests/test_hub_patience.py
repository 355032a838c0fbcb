"""No wait without an end: answers that drip or never come, threads that hang, Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchfit.demo.server import LoopbackHub
from branchfit.errors import HubUnreachable, RepoNotFound
from branchfit.hub import BrokenStream, Hub
from branchfit.hub import wire as wire_module
from branchfit.hub.patience import SLOWEST_BYTES_PER_S, Deadline, TooSlow, Workers, within
from hub_samples import REPO, quantised

FOREVER_S = 60.0
"""What a server here would take; the tests allow a third of it."""

REFUSED = {"X-Error-Code": "RepoNotFound"}


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchfit.hub.http.FIRST_WAIT_S", 0.01)


@pytest.fixture(autouse=True)
def soon_over() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < FOREVER_S / 3


def asked(server: LoopbackHub, what: str) -> int:
    return sum(what in request.path for request in server.requests)


def test_one_answer_that_decides_does_not_wait_for_the_others(loopback_hub: LoopbackHub) -> None:
    loopback_hub.hang(FOREVER_S, matching="README", times=None)
    loopback_hub.fail_next(404, REFUSED, matching="refs")
    with pytest.raises(RepoNotFound):
        Hub(loopback_hub.endpoint, timeout_s=FOREVER_S).repo_state("o/none")


def test_a_process_ends_although_requests_of_it_hang(loopback_hub: LoopbackHub) -> None:
    loopback_hub.hang(FOREVER_S, matching="README", times=None)
    loopback_hub.fail_next(404, REFUSED, matching="refs")
    code = (
        "from branchfit.hub import Hub\n"
        f"try: Hub({loopback_hub.endpoint!r}, timeout_s={FOREVER_S}).repo_state('o/none')\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=FOREVER_S / 2)
    assert done.stdout == "RepoNotFound\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT for one other process")
def test_ctrl_c_ends_a_process_whose_every_request_hangs(loopback_hub: LoopbackHub) -> None:
    loopback_hub.hang(FOREVER_S, times=None)
    code = f"from branchfit.hub import Hub; Hub({loopback_hub.endpoint!r}, timeout_s={FOREVER_S}).repo_state('o/r')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    try:
        while len(loopback_hub.requests) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=FOREVER_S / 3)
    finally:
        process.kill()
    assert b"KeyboardInterrupt" in said


@pytest.mark.parametrize("status", [200, 404])
def test_headers_that_drip_are_given_up_on_at_the_answer_s_deadline(loopback_hub: LoopbackHub, status: int) -> None:
    loopback_hub.fail_next(status, matching="refs", times=None)
    loopback_hub.drip_headers(5.0, matching="refs", times=None)
    with pytest.raises(HubUnreachable, match="no answer came"):
        Hub(loopback_hub.endpoint, timeout_s=0.5).repo_state(REPO)
    # The deadline was the last: a server that drips is not asked again.
    assert asked(loopback_hub, "refs") == 1


def test_a_small_answer_that_drips_is_given_up_on(loopback_hub: LoopbackHub) -> None:
    commit = loopback_hub.add_repo(REPO, {"main": {"notes.txt": b"x" * 600}})["main"]
    loopback_hub.slow_down(10.0, matching="resolve-cache")
    with pytest.raises(HubUnreachable, match=r"only [0-9]+ bytes came in"):
        Hub(loopback_hub.endpoint, timeout_s=0.5).read(REPO, commit, "notes.txt")
    assert asked(loopback_hub, "resolve-cache") == 1


def test_a_refusal_s_body_that_drips_is_not_waited_for(loopback_hub: LoopbackHub) -> None:
    loopback_hub.fail_next(404, REFUSED, matching="refs", body=b"x" * 600)
    loopback_hub.slow_down(10.0, matching="refs")
    with pytest.raises(RepoNotFound):
        Hub(loopback_hub.endpoint, timeout_s=FOREVER_S).repo_state("o/none")


def test_a_stream_that_drips_is_broken_off(loopback_hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchfit.hub.body.SLOW_WINDOW_S", 0.5)
    commit = loopback_hub.add_repo(REPO, {"main": {"w.safetensors": b"x" * 60_000}})["main"]
    loopback_hub.slow_down(100.0, matching="cdn", times=1)
    hub = Hub(loopback_hub.endpoint)
    with pytest.raises(BrokenStream, match=r"only [0-9]+ bytes came in"), hub.open(REPO, commit, "w.safetensors") as b:
        list(b.iter_bytes())
    with hub.open(REPO, commit, "w.safetensors") as body:
        assert sum(map(len, body.iter_bytes())) == 60_000


def test_a_reader_that_takes_its_time_is_not_the_line_s_slowness(
    loopback_hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("branchfit.hub.body.SLOW_WINDOW_S", 0.2)
    monkeypatch.setattr("branchfit.hub.body.SLOWEST_STREAM_BYTES_PER_S", 1 << 20)
    commit = loopback_hub.add_repo(REPO, {"main": {"w.safetensors": b"x" * 400_000}})["main"]
    with Hub(loopback_hub.endpoint).open(REPO, commit, "w.safetensors") as body:
        got = 0
        for chunk in body.iter_bytes(100_000):
            got += len(chunk)
            time.sleep(0.3)
    assert got == 400_000


def test_bytes_that_keep_coming_earn_their_time() -> None:
    deadline = Deadline(-1.0)
    deadline.came(2 * SLOWEST_BYTES_PER_S)
    assert 0 < deadline.left_s <= 1
    with pytest.raises(TooSlow, match="no answer"):
        Deadline(0.0).check()


def test_work_that_is_left_behind_is_cleared_away_when_it_ends() -> None:
    late, cleared = threading.Event(), threading.Event()
    with pytest.raises(TooSlow):
        within(Deadline(0.05), lambda: late.wait(FOREVER_S), lambda result: cleared.set() if result else None)
    late.set()
    assert cleared.wait(FOREVER_S / 3)


def test_a_pool_that_is_stopped_begins_nothing_more() -> None:
    pool, go, begun = Workers(1), threading.Event(), []
    first = pool.submit(go.wait, FOREVER_S)
    second = pool.submit(begun.append, 1)
    pool.stop()
    go.set()
    assert first.result(FOREVER_S / 3) is True
    for thread in threading.enumerate():
        if thread.name == "branchfit-hub":
            thread.join(FOREVER_S / 3)
    assert begun == [] and not second.done()


def test_sessions_are_asked_for_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # huggingface_hub 1.5 makes a client for each of two threads that ask for the first one at once.
    inside, most, lock = 0, 0, threading.Lock()

    def get_session() -> object:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with lock:
            inside -= 1
        return object()

    monkeypatch.setattr("huggingface_hub.utils.get_session", get_session)
    threads = [threading.Thread(target=wire_module.shared_session) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_redirect_and_a_missing_file_leave_their_connection_usable(loopback_hub: LoopbackHub) -> None:
    commit = loopback_hub.add_repo(REPO, {"main": {"notes.txt": b"x"}})["main"]
    hub = Hub(loopback_hub.endpoint)
    hub.read(REPO, commit, "notes.txt")
    before = loopback_hub.connections_made
    for _ in range(4):
        hub.read(REPO, commit, "notes.txt")
        with pytest.raises(Exception, match="no file"):
            hub.read(REPO, commit, "nope.txt")
    assert loopback_hub.connections_made == before


def test_where_an_answer_is_remembered_a_silent_hub_is_asked_once(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    hub = Hub(loopback_hub.endpoint, timeout_s=0.5)
    hub.repo_state(REPO)
    loopback_hub.requests.clear()
    loopback_hub.hang(FOREVER_S, matching="refs", times=None)
    state = hub.repo_state(REPO)
    assert state.as_of is not None and state.as_of_reason is not None and "came" in state.as_of_reason
    assert asked(loopback_hub, "refs") == 1


def test_where_an_answer_is_remembered_a_hub_that_stumbles_is_asked_again(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    hub = Hub(loopback_hub.endpoint)
    hub.repo_state(REPO)
    loopback_hub.fail_next(502, matching="refs", times=2)
    assert hub.repo_state(REPO).as_of is None


def test_the_short_patience_does_not_exceed_five_seconds(tmp_path: Path) -> None:
    assert Hub("http://127.0.0.1:9", cache_dir=tmp_path, timeout_s=30.0)._short.again_s == 5.0
