"""The tab's buttons: real downloads from a loopback Hub, and a host whose loader only remembers what it was told.

What a load does in a host is tested in test_loading_*.py; here it is what the page asks for, and what it is told.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from branchfit.demo.repo import BRANCHES, REPO, demo_repo
from branchfit.demo.server import LoopbackHub
from branchfit.download import folder_name
from branchfit.download.places import STAGING_NAME
from branchfit.download.queue import Queue, Wanted
from branchfit.download.queue.entries import QueueFile
from branchfit.errors import LoadError, NotFound, NotInstalled, UsageError
from branchfit.units import GIB
from branchfit_webui.advice import Advice, Wishes, context_tokens
from branchfit_webui.downloads import Downloads
from branchfit_webui.jobs import Seen
from branchfit_webui.office import Office
from tab_host import Loading, stand_in

SOON_S = 60.0
BEST = "gptq-4bit-32g-actorder_True"


@pytest.fixture(scope="module")
def repo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo_repo(folder)
    return folder


@pytest.fixture
def hub(loopback_hub: LoopbackHub, repo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    files = {
        branch: {path.name: path for path in (repo_folder / branch).iterdir() if path.is_file()} for branch in BRANCHES
    }
    loopback_hub.add_repo(REPO, files)
    # huggingface_hub has read its endpoint by now: a Hub made without one has to ask this server all the same.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", loopback_hub.endpoint)
    yield loopback_hub


@pytest.fixture
def loading() -> Loading:
    return Loading()


@pytest.fixture
def office(tmp_path: Path, loading: Loading, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Office:
    return stand_in(tmp_path / "user data é" / "models", loading, monkeypatch.setattr)


def looked(office: Office, text: str = REPO, wishes: Wishes | None = None) -> Advice:
    return office.desk.answer(office.desk.ask(text), wishes or Wishes())


def done(office: Office, key: str) -> Seen:
    return office.jobs.wait(key, SOON_S)


def test_a_repo_is_looked_at_by_its_name_its_branch_or_its_address(office: Office) -> None:
    assert looked(office).branch == BEST
    assert looked(office, f"https://huggingface.co/{REPO}").branches == list(BRANCHES)
    assert looked(office, f"{REPO}:main").branch == "main"
    assert looked(office, f"https://huggingface.co/{REPO}/tree/gptq-3bit-128g-actorder_True").branch.startswith(
        "gptq-3bit"
    )
    # What the page's address ends in where nobody chose a branch.
    for shown in ("tree/main", "blob/main/README.md"):
        assert looked(office, f"https://huggingface.co/{REPO}/{shown}").branch == BEST
    for wrong in ("", "   ", "no repo at all"):
        with pytest.raises(UsageError):
            office.desk.ask(wrong)
    with pytest.raises(NotFound):
        office.desk.ask("BranchFit/Nothing-GPTQ")


def test_other_wishes_are_answered_without_asking_the_hub_again(office: Office, hub: LoopbackHub) -> None:
    first = looked(office)
    asked = len(hub.requests)
    found = office.desk.known(REPO)
    speed = office.desk.answer(found, Wishes(prefer="speed"))
    longer = office.desk.answer(found, Wishes(context_tokens=2048))
    assert len(hub.requests) == asked
    assert speed.branch == "main" != first.branch
    assert longer.answer.context_tokens == 2048 and first.answer.context_tokens == 4096


def test_what_the_loaded_model_would_give_back_counts_as_free_where_that_is_wished(
    office: Office, loading: Loading
) -> None:
    loading.name, loading.gives_back = "another", {0: GIB}
    counted, not_counted = looked(office), looked(office, wishes=Wishes(count_loaded=False))
    assert counted.answer.machine.gpus[0].free_bytes == 7 * GIB
    assert not_counted.answer.machine.gpus[0].free_bytes == 6 * GIB
    assert office.loaded_line(counted) == (
        "Unloading another would give back 1.0 GiB on GPU 0, which counts as free below."
    )
    assert "does not count" in office.loaded_line(not_counted)
    assert counted.machine.gpus[0].free_bytes == 6 * GIB  # what is shown of the machine is what is so


def test_no_card_is_ever_freer_than_it_is_large(office: Office, loading: Loading) -> None:
    loading.name, loading.gives_back = "another", {0: 40 * GIB}
    assert looked(office).answer.machine.gpus[0].free_bytes == 8 * GIB


def test_download_and_load_ends_with_what_was_measured_and_the_lock(office: Office, loading: Loading) -> None:
    assert office.get(looked(office), BEST, Wishes(), load=True, anyway=False) == ""
    ended = done(office, f"{REPO}:{BEST}")
    assert ended.state == "done", ended
    assert "predicted 5.0 GiB, measured 4.9 GiB" in ended.result and "Prompt lock active" in ended.result
    assert loading.name == folder_name(REPO, BEST) == office.models()[0].name
    assert loading.asked[0]["runtime"] == "exllamav2" and loading.asked[0]["context"] == 4096
    assert len(loading.asked[0]["split"]) == 1 and loading.kept == [loading.name]
    model = office.models()[0]
    assert (model.loader, model.runtime) == ("ExLlama", "exllamav2")
    assert model.template and model.template["name"] == "Alpaca-CoT"


def test_download_only_loads_nothing(office: Office, loading: Loading) -> None:
    office.get(looked(office), "main", Wishes(), load=False, anyway=False)
    assert done(office, f"{REPO}:main").state == "done"
    assert loading.name is None and [model.branch for model in office.models()] == ["main"]


def test_what_does_not_fit_is_refused_before_the_first_byte_unless_one_insists(
    office: Office, hub: LoopbackHub, loading: Loading
) -> None:
    wishes = Wishes(context_tokens=20_000_000)
    advice = looked(office, wishes=wishes)
    asked = len(hub.requests)
    with pytest.raises(LoadError, match=r"short by .*GiB.*6.0 GiB free"):
        office.get(advice, BEST, wishes, load=True, anyway=False)
    assert len(hub.requests) == asked and not office.jobs.seen()
    office.get(advice, BEST, wishes, load=True, anyway=True)
    assert done(office, f"{REPO}:{BEST}").state == "done" and loading.name is not None


def test_a_load_that_failed_is_told_and_the_download_stays(office: Office, loading: Loading) -> None:
    loading.fails = LoadError("it needs 41.9 GiB; 23.1 GiB are free: short by 18.8 GiB.")
    office.get(looked(office), BEST, Wishes(), load=True, anyway=False)
    ended = done(office, f"{REPO}:{BEST}")
    assert ended.state == "failed" and "short by 18.8 GiB" in ended.result
    assert len(office.models()) == 1 and loading.kept == []


def test_the_model_that_went_for_a_load_that_failed_is_offered_back(office: Office, loading: Loading) -> None:
    loading.before = SimpleNamespace(name="the one before")
    loading.fails = LoadError("it needs 41.9 GiB; 23.1 GiB are free: short by 18.8 GiB.")
    office.get(looked(office), BEST, Wishes(), load=True, anyway=False)
    ended = done(office, f"{REPO}:{BEST}")
    assert ended.state == "failed" and "`Load the one before again` brings it back" in ended.result
    office.give_back()
    assert done(office, "load the one before").state == "done" and loading.name == "the one before"


def test_a_load_after_its_download_asks_the_hub_for_no_listing_again(office: Office, hub: LoopbackHub) -> None:
    advice = looked(office)
    asked = len([request for request in hub.requests if "/refs" in request.path])
    office.get(advice, BEST, Wishes(), load=True, anyway=False)
    assert done(office, f"{REPO}:{BEST}").state == "done"
    assert len([request for request in hub.requests if "/refs" in request.path]) == asked


def test_a_download_that_is_stopped_goes_on_where_it_was(office: Office, hub: LoopbackHub) -> None:
    key = f"{REPO}:{BEST}"
    advice = looked(office)
    hub.slow_down(200_000, "cdn GET")
    office.get(advice, BEST, Wishes(), load=False, anyway=False)
    while not any(job.done_bytes > 250_000 for job in office.jobs.seen()):
        assert office.jobs.alive()
    assert office.cancel(None) == ""
    assert done(office, key).state == "cancelled"
    assert not office.models() and [one.name for one in office.unfinished()] == [folder_name(REPO, BEST)]
    assert (office.models_dir.parent / STAGING_NAME).is_dir()
    before = len(hub.requests)
    hub.clear_faults()
    assert office.resume(office.unfinished()[0].name, Wishes()) == ""
    assert done(office, key).state == "done" and len(office.models()) == 1 and not office.unfinished()
    ranges = [request.headers.get("range", "") for request in hub.requests[before:] if request.origin == "cdn"]
    assert any(wanted.startswith("bytes=") and wanted != "bytes=0-" for wanted in ranges), ranges


def test_what_is_there_of_a_stopped_download_can_be_deleted(office: Office, hub: LoopbackHub) -> None:
    hub.slow_down(200_000, "cdn GET")
    office.get(looked(office), BEST, Wishes(), load=False, anyway=False)
    while not any(job.done_bytes > 250_000 for job in office.jobs.seen()):
        assert office.jobs.alive()
    office.cancel(f"{REPO}:{BEST}")
    done(office, f"{REPO}:{BEST}")
    assert "freed" in office.discard(office.unfinished()[0].name)
    assert not office.unfinished()


def test_two_pages_that_want_the_same_branch_share_one_download(office: Office, hub: LoopbackHub) -> None:
    advice = looked(office)
    hub.slow_down(1_000_000, "cdn GET")
    assert office.get(advice, BEST, Wishes(), load=False, anyway=False) == ""
    assert "already under way" in office.get(advice, BEST, Wishes(), load=False, anyway=False)
    assert office.get(advice, "main", Wishes(), load=False, anyway=False) == ""
    assert done(office, f"{REPO}:{BEST}").state == done(office, f"{REPO}:main").state == "done"
    assert len(office.models()) == 2


# ---- in the queue that the command shares ------------------------------------------------------


def wait_for(office: Office, key: str, words: str) -> Seen:
    end = time.monotonic() + SOON_S
    while True:
        seen = next(job for job in office.jobs.seen() if job.key == key)
        if words in seen.phase:
            return seen
        assert time.monotonic() < end and seen.alive, seen


def states() -> dict[str, str]:
    return {one.entry.wanted.branch: one.state for one in Queue().listed()}


def stands(wanted: dict[str, str]) -> None:
    """Wait until the queue stands so: the one ahead may be named before it has the line."""
    end = time.monotonic() + SOON_S
    while states() != wanted:
        assert time.monotonic() < end, states()


def test_downloads_wait_for_each_other_and_for_the_commands_and_any_can_be_put_first(
    office: Office, hub: LoopbackHub
) -> None:
    advice = looked(office)
    hub.slow_down(200_000, "cdn GET")
    others = [branch for branch in BRANCHES if branch not in (BEST, "main")][:1]
    office.get(advice, BEST, Wishes(), load=False, anyway=False)
    stands({BEST: "running"})
    for branch in ("main", *others):
        office.get(advice, branch, Wishes(), load=False, anyway=False)
    wait_for(office, f"{REPO}:main", f"waiting for {REPO}:{BEST} (pid {os.getpid()}")
    wait_for(office, f"{REPO}:{others[0]}", "and 1 more")
    stands({BEST: "running", "main": "waiting", others[0]: "waiting"})
    assert office.can() == (True, False, True)
    assert office.queued(Downloads.put_first) == ""
    wait_for(office, f"{REPO}:{BEST}", f"waiting for {REPO}:{others[0]}")
    assert list(states()) == [others[0], BEST, "main"]
    office.queued(Downloads.pause)
    for branch in (BEST, "main", *others):
        wait_for(office, f"{REPO}:{branch}", "paused")
    office.queued(Downloads.unpause)
    wait_for(office, f"{REPO}:main", "waiting for")
    hub.clear_faults()
    for branch in (BEST, "main", *others):
        assert done(office, f"{REPO}:{branch}").state == "done"
    assert Queue().listed() == [] and office.can() == (False, False, False)


def test_a_download_is_paused_and_goes_on_and_is_stopped_while_it_is_paused(office: Office, hub: LoopbackHub) -> None:
    key = f"{REPO}:{BEST}"
    hub.slow_down(200_000, "cdn GET")
    office.get(looked(office), BEST, Wishes(), load=False, anyway=False)
    while not any(job.done_bytes > 0 for job in office.jobs.seen()):
        assert office.jobs.alive()
    assert office.queued(Downloads.pause) == ""
    wait_for(office, key, "paused")
    assert office.can() == (False, True, False)
    Queue().pause()  # by the command: all of it
    assert office.queued(Downloads.unpause) == ""
    wait_for(office, key, "downloading")
    assert office.can() == (True, False, False)
    office.queued(Downloads.pause)
    wait_for(office, key, "paused")
    office.cancel(key)
    assert done(office, key).state == "cancelled"
    assert "No download" in office.queued(Downloads.pause) and "No download" in office.queued(Downloads.put_first)


def test_what_a_webui_that_is_gone_left_in_the_queue_is_offered_and_can_be_got_or_forgotten(
    office: Office, hub: LoopbackHub, loading: Loading
) -> None:
    models = office.models_dir
    for branch in (BEST, "main"):
        Queue().add(Wanted(REPO, branch, models))
    Queue().add(Wanted(REPO, "main", models.parent / "another webui's"))
    assert [(one.name, one.size_bytes) for one in office.unfinished()] == [
        (folder_name(REPO, BEST), 0), (folder_name(REPO, "main"), 0)
    ]  # fmt: skip
    office.discard(folder_name(REPO, "main"))
    assert [one.branch for one in office.unfinished()] == [BEST]
    assert office.resume(folder_name(REPO, BEST), Wishes()) == ""
    assert done(office, f"{REPO}:{BEST}").state == "done" and not office.unfinished()
    assert len(Queue().listed()) == 1


def test_without_a_queue_a_download_goes_on_alone_and_says_so(
    office: Office, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = looked(office)
    folder = QueueFile().folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(b"")
    office.get(advice, "main", Wishes(), load=False, anyway=False)
    assert done(office, f"{REPO}:main").state == "done" and [one.branch for one in office.models()] == ["main"]


def installed(office: Office, branch: str = "main") -> str:
    office.get(looked(office), branch, Wishes(), load=False, anyway=False)
    assert done(office, f"{REPO}:{branch}").state == "done"
    return folder_name(REPO, branch)


def test_a_rotten_file_is_found_and_fetched_again(office: Office, hub: LoopbackHub) -> None:
    name = installed(office)
    office.verify(name)
    assert done(office, f"check {name}").state == "done"
    weights = office.models_dir / name / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[5000] ^= 1
    weights.write_bytes(content)
    office.verify(name)
    bad = done(office, f"check {name}")
    assert bad.state == "failed" and "model.safetensors" in bad.result and "Repair" in bad.result
    office.repair(name)
    assert done(office, f"check {name}").state == "done"
    office.verify(name)
    assert done(office, f"check {name}").state == "done"
    content[5000] ^= 1
    assert weights.read_bytes() == bytes(content)


def test_a_model_on_disk_loads_without_the_hub(office: Office, hub: LoopbackHub, loading: Loading) -> None:
    name = installed(office)
    hub.stop()
    office.load(name, Wishes(), anyway=False)
    assert done(office, f"load {name}").state == "done" and loading.name == name


def test_a_loaded_model_and_one_at_work_are_not_removed(office: Office, loading: Loading) -> None:
    name = installed(office)
    loading.name = name
    for refused in (office.remove, office.repair):
        with pytest.raises(UsageError, match="loaded: unload it first"):
            refused(name)
    office.unload()
    done(office, f"load {name}")
    assert loading.name is None
    assert "freed" in office.remove(name) and loading.forgotten == [name]
    assert not office.models()
    with pytest.raises(NotInstalled):
        office.remove(name)


def test_a_page_that_visitors_share_changes_nothing(office: Office, tmp_path: Path) -> None:
    name = installed(office)
    office.host.args.multi_user = True
    advice = looked(office)
    acts = (
        lambda: office.get(advice, BEST, Wishes(), load=False, anyway=False), lambda: office.load(name, Wishes(), True),
        lambda: office.remove(name), lambda: office.repair(name), lambda: office.discard(name), office.unload,
        lambda: office.queued(Downloads.pause),
        office.give_back, lambda: office.resume(name, Wishes()),
    )  # fmt: skip
    for act in acts:
        with pytest.raises(UsageError, match="--multi-user"):
            act()
    assert len(office.models()) == 1


def test_nothing_to_give_back_is_a_sentence(office: Office) -> None:
    with pytest.raises(UsageError, match="no model was loaded before"):
        office.give_back()


def test_a_full_disk_is_told_with_both_numbers(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    office.get(looked(office), BEST, Wishes(), load=False, anyway=False)
    ended = done(office, f"{REPO}:{BEST}")
    assert ended.state == "failed" and "1,000 free" in ended.result, ended.result


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("automatic", None), ("", None), (None, None), ("4096", 4096), ("8k", 8192), ("32,768", 32768), (2048, 2048)],
)
def test_the_context_is_read_as_people_write_it(text: object, tokens: int | None) -> None:
    assert context_tokens(text) == tokens


@pytest.mark.parametrize("text", ["-1", "0", "many", "4096.5", "1e9", "9" * 40])
def test_a_context_that_is_no_number_of_tokens_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write 4096"):
        context_tokens(text)
