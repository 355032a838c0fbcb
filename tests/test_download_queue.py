"""The queue of downloads: one at a time has the line, in order, and nothing of it is lost when a process is.

Most of it is seen from processes of their own, each of them a download that says on its output what it is told, and
stays in its turn until it is let go.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from branchfit.download.events import Checking, Event, Note, Paused, Progress, Queued, Resumed, Started, Waiting
from branchfit.download.queue import NotQueued, Queue, Wanted, at_once
from branchfit.download.queue import turns as queue_line
from branchfit.download.queue.entries import Entry, QueueFile
from branchfit.errors import DownloadError, UsageError
from downloads import BRANCH, FILES, MIB, REPO, World, a_world, contents, noise

SOON_S = 60.0

DOWNLOAD = """
import sys
from pathlib import Path
from branchfit.download.queue import turns as queue_line
from branchfit.download.events import Progress, Started
from branchfit.download.queue import Queue, Wanted

queue_line.POLL_S = 0.05
models, name = sys.argv[1:]
with Queue().joined(Wanted("o/r", name, Path(models))) as line:
    tell = line.watching(lambda event: print(event.to_dict(), flush=True))
    with line.turn(tell):
        tell(Started("o/r", name, "", Path(models), 1, 40, 100))
        print("fetching", flush=True)
        was = False
        import select
        while not select.select([sys.stdin], [], [], 0.02)[0]:
            now = line.paused()
            if now != was:
                print("paused" if now else "fetching", flush=True)
            was = now
        if "fail" in sys.stdin.readline():
            raise SystemExit("the line broke")
print("done", flush=True)
"""

posix = pytest.mark.skipif(os.name == "nt", reason="select reads no pipe there")


class Download:
    """A process that downloads `name`, as far as the queue is concerned."""

    def __init__(self, models: Path, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DOWNLOAD, str(models), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self.watchdog = threading.Timer(2 * SOON_S, self.process.kill)  # one that hangs is a failure, not a wait
        self.watchdog.start()

    def says(self, words: str) -> str:
        """Read on until it says that."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.strip())
            if words in line:
                return line.strip()
        raise AssertionError(f"it never said {words!r}: {self.said} {self.process.communicate()[1]}")

    def end(self, words: str = "") -> int:
        """Let it go, and wait until it has."""
        _, complaint = self.process.communicate(f"{words}\n", timeout=SOON_S)
        assert words or not complaint, complaint
        return self.process.returncode

    def kill(self) -> None:
        self.watchdog.cancel()
        self.process.kill()
        self.process.communicate(timeout=SOON_S)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Download]]:
    with contextlib.ExitStack() as open_ones:

        def started(name: str) -> Download:
            download = Download(tmp_path / "models", name)
            open_ones.callback(download.kill)
            return download

        yield started


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_line, "POLL_S", 0.02)


def wanted(tmp_path: Path, name: str, **more: Any) -> Wanted:
    return Wanted("o/r", name, tmp_path / "models", **more)


def states(queue: Queue) -> dict[str, str]:
    return {one.entry.wanted.branch: one.state for one in queue.listed()}


def until(queue: Queue, name: str, state: str) -> None:
    end = time.monotonic() + SOON_S
    while states(queue).get(name) != state:
        assert time.monotonic() < end, states(queue)


def number(queue: Queue, name: str) -> int:
    return next(one.entry.id for one in queue.listed() if one.entry.wanted.branch == name)


# ---- turns -------------------------------------------------------------------------------------


@posix
def test_one_at_a_time_has_the_line_in_the_order_of_coming(start: Callable[[str], Download], queue: Queue) -> None:
    first = start("a")
    first.says("fetching")
    second = start("b")
    told = second.says("queued")
    assert "'position': 1" in told and f"'o/r:a (pid {first.process.pid}, 40 %)'" in told
    third = start("c")
    told = third.says("'position': 2")
    assert f"'o/r:b (pid {second.process.pid})'" in told
    assert states(queue) == {"a": "running", "b": "waiting", "c": "waiting"}
    assert first.end() == 0
    second.says("fetching")
    third.says("'position': 1")
    assert states(queue) == {"b": "running", "c": "waiting"}
    assert second.end() == 0
    third.says("fetching")
    assert third.end() == 0
    assert states(queue) == {}
    assert "fetching" not in third.said[:-1]


@posix
def test_a_killed_process_hands_the_line_on_and_its_download_stays(
    start: Callable[[str], Download], queue: Queue
) -> None:
    first, second = start("a"), None
    first.says("fetching")
    second = start("b")
    second.says("queued")
    first.kill()
    second.says("fetching")
    listed = {one.entry.wanted.branch: one for one in queue.listed()}
    assert (listed["a"].state, listed["a"].done_bytes, listed["a"].total_bytes) == ("stopped", 40, 100)
    again = start("a")
    told = again.says("queued")  # first in order, but who has the line keeps it
    assert f"o/r:b (pid {second.process.pid}, 40 %)" in told
    assert [one.entry.wanted.branch for one in queue.listed()] == ["a", "b"]
    assert second.end() == 0
    again.says("fetching")
    assert again.end() == 0
    assert queue.listed() == []


def test_one_that_was_there_first_comes_first_though_it_takes_longer_to_ask_for_its_turn(
    tmp_path: Path, queue: Queue
) -> None:
    for name in ("a", "b"):
        queue.add(wanted(tmp_path, name))
    told: list[str] = []
    asked = threading.Event()

    def second() -> None:
        def show(event: Event) -> None:
            told.append(str(event))
            asked.set()

        with queue.joined(wanted(tmp_path, "b")) as line, line.turn(show):
            told.append("b")

    with queue.joined(wanted(tmp_path, "a")) as line:
        thread = threading.Thread(target=second)
        thread.start()
        assert asked.wait(SOON_S)  # nobody has the line, and it waits
        with line.turn(ignore):
            told.append("a")
    thread.join(SOON_S)
    assert told[0] == str(Queued(2, (f"o/r:a (pid {os.getpid()})",)))
    assert [one for one in told if one in ("a", "b")] == ["a", "b"]


@pytest.mark.parametrize("event", [Waiting(Path(), 1), Checking("w", 0, 1)])
def test_one_that_has_to_do_what_needs_no_line_keeps_nobody_waiting(tmp_path: Path, queue: Queue, event: Event) -> None:
    queue.add(wanted(tmp_path, "a"))
    with queue.joined(wanted(tmp_path, "a")) as first:
        first.watching(ignore)(event)
        assert states(queue) == {"a": "busy"}
        with queue.joined(wanted(tmp_path, "b")) as second, second.turn(ignore):
            assert states(queue) == {"a": "busy", "b": "running"}
        with first.turn(ignore):
            assert states(queue) == {"a": "running"}
            under_way, new = queue.add(wanted(tmp_path, "a", latest=True))
            assert not new and not under_way.wanted.latest  # too late for that
        with queue.joined(wanted(tmp_path, "b")) as second, second.turn(ignore):
            assert states(queue) == {"a": "busy", "b": "running"}


@posix
def test_a_failed_download_keeps_its_place_and_says_why(start: Callable[[str], Download], queue: Queue) -> None:
    first = start("a")
    first.says("fetching")
    second = start("b")
    second.says("queued")
    assert first.end("fail") == 1
    second.says("fetching")
    assert states(queue) == {"a": "stopped", "b": "running"}


def test_an_error_is_kept_and_the_next_try_clears_it(tmp_path: Path, queue: Queue) -> None:
    with pytest.raises(DownloadError), queue.joined(wanted(tmp_path, "a")) as line, line.turn(ignore):
        line.watching(ignore)(Started("o/r", "a", "", tmp_path, 1, 5, 10))
        raise DownloadError("the disk is full.")
    (left,) = queue.listed()
    assert (left.state, left.entry.error, left.done_bytes) == ("failed", "the disk is full.", 5)
    with queue.joined(wanted(tmp_path, "a")) as line:
        assert line.owned
        assert queue.listed()[0].entry.error is None
    assert queue.listed() == []


def test_what_never_began_is_not_kept_unless_it_was_put_there_for_later(tmp_path: Path, queue: Queue) -> None:
    queue.add(wanted(tmp_path, "later"), for_later=True)
    for name in ("now", "later"):
        with pytest.raises(DownloadError), queue.joined(wanted(tmp_path, name)) as line, line.turn(ignore):
            raise DownloadError("no such thing.")
    assert states(queue) == {"later": "failed"}


@posix
def test_more_at_once_where_the_user_says_so(start: Callable[[str], Download], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRANCHFIT_AT_ONCE", "2")
    first, second = start("a"), start("b")
    first.says("fetching")
    second.says("fetching")
    third = start("c")
    assert "'position': 1" in third.says("queued")
    assert first.end() == 0
    third.says("fetching")


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_number_at_once_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRANCHFIT_AT_ONCE", text)
    with pytest.raises(UsageError, match="BRANCHFIT_AT_ONCE"):
        at_once()


# ---- held up, moved, removed -------------------------------------------------------------------


@posix
def test_a_paused_download_stands_aside_and_goes_on_in_its_turn(start: Callable[[str], Download], queue: Queue) -> None:
    first = start("a")
    first.says("fetching")
    second = start("b")
    second.says("queued")
    queue.pause(number(queue, "a"))
    first.says("paused")
    second.says("fetching")
    assert states(queue) == {"a": "paused", "b": "running"}
    queue.resume(number(queue, "a"))
    until(queue, "a", "waiting")  # the line is taken: it is not taken back
    assert second.end() == 0
    first.says("fetching")
    assert first.end() == 0


@posix
def test_all_of_it_is_held_up_and_let_go(start: Callable[[str], Download], queue: Queue) -> None:
    first = start("a")
    first.says("fetching")
    queue.pause()
    first.says("paused")
    second = start("b")
    second.says("'event': 'paused'")
    assert queue.paused() and set(states(queue).values()) == {"paused"}
    queue.resume()
    first.says("fetching")
    second.says("queued")
    assert states(queue) == {"a": "running", "b": "waiting"}
    assert first.end() == 0
    second.says("'event': 'resumed'")
    second.says("fetching")


@posix
def test_one_put_first_takes_the_line_and_the_other_has_it_again_after(
    start: Callable[[str], Download], queue: Queue
) -> None:
    first = start("a")
    first.says("fetching")
    second, third = start("b"), start("c")
    second.says("queued")
    third.says("queued")
    queue.move(number(queue, "c"), 1)
    first.says("paused")
    third.says("fetching")
    assert next(iter(states(queue).items())) == ("c", "running")
    assert third.end() == 0
    first.says("fetching")
    queue.move(number(queue, "b"), 2)  # behind the one that has the line: nothing changes
    assert states(queue) == {"a": "running", "b": "waiting"}


@posix
def test_a_download_that_is_removed_stops_and_says_why(start: Callable[[str], Download], queue: Queue) -> None:
    first = start("a")
    first.says("fetching")
    second = start("b")
    second.says("queued")
    for name, download in (("b", second), ("a", first)):
        queue.remove(number(queue, name))
        assert download.process.stderr is not None
        complaint = download.process.stderr.read()  # its own end: nobody lets it go
        assert download.process.wait(SOON_S) == 1
        assert f"o/r:{name} was taken out of the queue" in complaint
    assert queue.listed() == []
    assert {path.name for path in QueueFile().folder.iterdir()} == {"queue.json", "queue.lock"}


def test_a_number_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path, queue: Queue) -> None:
    queue.add(wanted(tmp_path, "a"))
    for act in (queue.pause, queue.resume, queue.remove, lambda number: queue.move(number, 1)):
        with pytest.raises(NotQueued, match="no download 7; it has 1"):
            act(7)


def test_a_caller_that_wants_to_stop_is_heard_while_it_waits_and_while_it_is_paused(
    tmp_path: Path, queue: Queue
) -> None:
    class Enough(Exception):
        pass

    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) > 3:
            raise Enough

    with queue.joined(wanted(tmp_path, "a")) as running, running.turn(ignore):
        with pytest.raises(Enough), queue.joined(wanted(tmp_path, "b"), check=check) as line, line.turn(ignore):
            raise AssertionError("it was not its turn")
        asked.clear()
        beside = queue.joined(wanted(tmp_path, "b"), at_once_=2, check=check)
        with pytest.raises(Enough), beside as line, line.turn(ignore):
            while True:
                line.paused()
    assert queue.listed() == []


# ---- the file ----------------------------------------------------------------------------------


def test_the_queue_is_there_in_the_next_process_with_all_that_a_pull_needs(tmp_path: Path) -> None:
    asked = wanted(
        tmp_path, "a", commit="0" * 40, staging_dir=tmp_path / "stage", template={"name": "Alpaca", "text": "é"},
        loader="ExLlama", runtime="exllamav2", latest=True, limit_bytes_per_s=1e6, allow_pickle=True,
    )  # fmt: skip
    Queue().add(asked, for_later=True)
    Queue().pause(1)
    Queue().pause()
    code = (
        "from branchfit.download.queue import Queue\n"
        "queue = Queue()\n(one,) = queue.listed()\n"
        "print(repr((one.entry.wanted, one.entry.paused, one.state, queue.paused())))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == repr((asked, True, "paused", True))


def test_the_same_folder_is_one_download_and_the_later_wish_counts(tmp_path: Path, queue: Queue) -> None:
    entry, new = queue.add(wanted(tmp_path, "a"))
    again, once_more = queue.add(wanted(tmp_path, "a", latest=True), for_later=True)
    assert new and not once_more and again.id == entry.id and again.wanted.latest
    assert queue.add(Wanted("o/r", "a", tmp_path / "other"))[1]
    (tmp_path / "models").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "models")
    assert not queue.add(Wanted("o/r", "a", tmp_path / "link"))[1]


def test_a_number_of_a_process_that_another_has_now_counts_for_nothing(tmp_path: Path, queue: Queue) -> None:
    file = QueueFile()
    dead, _ = queue.add(wanted(tmp_path, "dead"))
    (file.folder / f"{dead.id}.lock").touch()
    with file.changing() as draft:
        draft.state = draft.state.put(
            Entry(dead.id, dead.wanted, dead.added_at, wants_line=True, has_line=True, pid=os.getpid())
        )
    told: list[Event] = []
    with queue.joined(wanted(tmp_path, "b")) as line, line.turn(told.append):
        assert states(queue) == {"dead": "added", "b": "running"}
    assert told == []


TORN = {
    "torn": b'{"format": 1, "entri',
    "empty": b"",
    "of another format": b'{"format": 2, "entries": []}',
    "a list": b"[]",
    "no JSON": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "hostile": json.dumps(
        {
            "format": 1, "made": "x", "next_id": 2, "paused": False, "entries": [
                {"id": 1, "added_at": "2023-01-01", "wanted": {"repo": "../../x", "branch": "..", "models_dir": "/"}},
            ],
        }
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("content", TORN.values(), ids=TORN)
def test_a_queue_that_does_not_read_is_put_aside_and_said(tmp_path: Path, queue: Queue, content: bytes) -> None:
    queue.add(wanted(tmp_path, "a"))
    folder = QueueFile().folder
    (folder / "queue.json").write_bytes(content)
    assert queue.listed() == []
    (note,) = queue.take_notes()
    (aside,) = folder.glob("queue.bad-*.json")
    assert str(aside) in note and aside.read_bytes() == content
    queue.add(wanted(tmp_path, "b"))
    assert states(queue) == {"b": "added"} and queue.take_notes() == ()


def test_a_link_in_the_queues_place_is_not_written_through(tmp_path: Path, queue: Queue) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = QueueFile().folder
    folder.mkdir(parents=True)
    (folder / "queue.json").symlink_to(precious)
    queue.add(wanted(tmp_path, "a"))
    assert precious.read_text() == "precious" and states(queue) == {"a": "added"}


@posix
def test_a_download_under_way_outlives_the_queues_file(start: Callable[[str], Download], queue: Queue) -> None:
    first = start("a")
    first.says("fetching")
    (QueueFile().folder / "queue.json").write_bytes(b"torn")
    second = start("b")
    until(queue, "a", "running")
    assert second.says("o/r:a") or True
    assert states(queue) == {"a": "running", "b": "waiting"}
    assert first.end() == 0
    second.says("fetching")
    assert second.end() == 0
    assert first.said == [*first.said[:1], "fetching"]


def test_where_no_queue_can_be_kept_a_download_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv("BRANCHFIT_CACHE", str(tmp_path / "a file"))
    told: list[Event] = []
    with Queue().joined(wanted(tmp_path, "a")) as line, line.turn(told.append):
        assert not line.paused()
        line.watching(told.append)(Started("o/r", "a", "", tmp_path, 1, 0, 10))
    (note, _) = told
    assert isinstance(note, Note) and "no queue can be kept" in note.message


def test_twenty_processes_that_add_at_the_same_moment_are_all_there(tmp_path: Path, queue: Queue) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom branchfit.download.queue import Queue, Wanted\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "Queue().add(Wanted('o/r', sys.argv[2], Path(sys.argv[1])), for_later=True)"
    )
    adding = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), f"branch-{one}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for one in range(20)
    ]
    for process in adding:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    for process in adding:
        process.communicate(b"go\n", timeout=SOON_S)
        assert process.returncode == 0
    listed = queue.listed()
    assert {one.entry.wanted.branch for one in listed} == {f"branch-{one}" for one in range(20)}
    assert sorted(one.entry.id for one in listed) == list(range(1, 21))


# ---- with real bytes ---------------------------------------------------------------------------


def test_a_pull_that_is_paused_fetches_nothing_and_goes_on_where_it_was(tmp_path: Path, queue: Queue) -> None:
    with a_world(tmp_path) as world:
        world.serve({**FILES, "model.safetensors": noise(6 * MIB)})
        world.server.slow_down(4 * MIB, "cdn GET")
        held_up, seen = threading.Event(), threading.Event()

        def show(event: Event) -> None:
            world.events.append(event)
            if isinstance(event, Progress) and event.done_bytes >= MIB and not seen.is_set():
                seen.set()
                queue.pause(number(queue, BRANCH))
            if isinstance(event, Paused):
                held_up.set()

        def work() -> None:
            with queue.joined(Wanted(REPO, BRANCH, world.models_dir)) as line:
                world.pull(on_event=line.watching(show), line=line)

        puller = threading.Thread(target=work)
        puller.start()
        assert held_up.wait(SOON_S)
        assert states(queue) == {BRANCH: "paused"} and not world.target.exists()
        server_idle(world)
        before = world.fetched_bytes("cdn")
        queue.resume(number(queue, BRANCH))
        puller.join(SOON_S)
        assert world.of(Resumed) and contents(world.target)["model.safetensors"] == noise(6 * MIB)
        assert world.fetched_bytes("cdn") - before <= 6 * MIB - MIB
        assert queue.listed() == []


def server_idle(world: World) -> None:
    """No request is being answered, though the download is not over: its connections are closed."""
    end = time.monotonic() + SOON_S
    while world.server._open_requests:
        assert time.monotonic() < end


def ignore(event: Event) -> None:
    """For those who are told things a test does not look at."""
