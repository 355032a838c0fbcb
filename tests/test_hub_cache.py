"""Answers remembered: a commit is read once, and without network the last answer is given with its date."""

from __future__ import annotations

import gzip
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from branchfit.demo.server import LoopbackHub
from branchfit.errors import AccessDenied, BranchNotFound, HubUnreachable, RepoNotFound
from branchfit.hub import Hub
from hub_samples import REPO, SIX, quantised


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchfit.hub.http.FIRST_WAIT_S", 0.01)


def paths(server: LoopbackHub) -> list[str]:
    return [request.path for request in server.requests]


def test_with_everything_remembered_only_the_refs_are_asked_for(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, SIX)
    first = Hub(loopback_hub.endpoint).repo_state(REPO)
    loopback_hub.requests.clear()
    assert Hub(loopback_hub.endpoint).repo_state(REPO) == first
    assert paths(loopback_hub) == [f"/api/models/{REPO}/refs"]


def test_a_branch_that_moved_is_read_again_and_the_others_are_not(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, SIX)
    Hub(loopback_hub.endpoint).repo_state(REPO)
    moved = "gptq-4bit-64g-actorder_True"
    commit = loopback_hub.add_repo(REPO, {moved: quantised(4, 64, rows=512)})[moved]
    loopback_hub.requests.clear()
    state = Hub(loopback_hub.endpoint).repo_state(REPO)
    assert next(branch.commit for branch in state.branches if branch.branch == moved) == commit
    asked = [path for path in paths(loopback_hub) if "refs" not in path and not path.startswith("/repos/")]
    assert asked and all(commit in path for path in asked)


def test_the_card_is_that_of_where_main_stands_now(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    old = loopback_hub.add_repo(REPO, {"main": {"README.md": b"old"}})["main"]
    assert Hub(loopback_hub.endpoint).repo_state(REPO).readme == "old"
    new = loopback_hub.add_repo(REPO, {"main": {"README.md": b"new"}})["main"]
    state = Hub(loopback_hub.endpoint).repo_state(REPO)
    assert (state.readme, state.readme_branch_commit) == ("new", new)
    # Asked for early, the card may still be that of before a push that the refs already know.
    before = {"Location": f"/{REPO}/resolve/{old}/README.md"}
    loopback_hub.fail_next(307, before, matching="resolve/main/README.md")
    state = Hub(loopback_hub.endpoint, cache_dir=tmp_path).repo_state(REPO)
    assert (state.readme, state.readme_branch_commit) == ("new", new)


def test_headers_are_fetched_later_where_they_were_not_wanted_at_first(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    Hub(loopback_hub.endpoint).repo_state(REPO, headers=False)
    loopback_hub.requests.clear()
    assert Hub(loopback_hub.endpoint).repo_state(REPO).branches[0].tensors is not None
    # Refs, the signed address, the header.
    assert len(loopback_hub.requests) == 3


@pytest.mark.parametrize("failure", ["down", "offline", "HF_HUB_OFFLINE", "503"])
def test_without_network_the_last_answer_is_given_with_its_date(
    loopback_hub: LoopbackHub, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loopback_hub.add_repo(REPO, SIX)
    fresh = Hub(loopback_hub.endpoint).repo_state(REPO)
    if failure == "down":
        loopback_hub.stop()
    elif failure == "503":
        loopback_hub.fail_next(503, times=None)
    elif failure == "HF_HUB_OFFLINE":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loopback_hub.requests.clear()
    state = Hub(loopback_hub.endpoint, offline=failure == "offline").repo_state(REPO)
    assert state.as_of is not None
    assert timedelta() <= datetime.now(timezone.utc) - state.as_of < timedelta(minutes=5)
    assert (state.branches, state.readme) == (fresh.branches, fresh.readme)
    said = {"down": "the connection was refused", "503": "the Hub answered 503"}
    assert state.as_of_reason == said.get(failure, "offline mode is on (HF_HUB_OFFLINE)")
    if "offline" in failure.lower():
        assert paths(loopback_hub) == []


def test_without_network_one_branch_is_answered_and_an_unknown_one_is_still_unknown(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, SIX)
    Hub(loopback_hub.endpoint).repo_state(REPO)
    hub = Hub(loopback_hub.endpoint, offline=True)
    assert [branch.branch for branch in hub.repo_state(REPO, "main").branches] == ["main"]
    with pytest.raises(BranchNotFound):
        hub.repo_state(REPO, "gptq-2bit")


def test_without_network_a_branch_never_read_says_so(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, SIX)
    Hub(loopback_hub.endpoint).repo_state(REPO, "main")
    states = Hub(loopback_hub.endpoint, offline=True).repo_state(REPO).branches
    assert [branch.branch for branch in states if not branch.problems] == ["main"]
    assert len(states) == 6


def test_without_network_a_header_never_read_is_said_and_an_odd_choice_said_again(loopback_hub: LoopbackHub) -> None:
    files = {**quantised(4, 32), "another.safetensors": b"x"}
    files["zz.safetensors"] = files.pop("model.safetensors")
    loopback_hub.add_repo(REPO, {"main": files})
    fresh = Hub(loopback_hub.endpoint).repo_state(REPO, headers=False).branches[0]
    assert len(fresh.problems) == 1 and "several weight files" in fresh.problems[0]
    offline = Hub(loopback_hub.endpoint, offline=True)
    assert offline.repo_state(REPO, headers=False).branches[0] == fresh
    said = offline.repo_state(REPO).branches[0].problems
    assert said == (*fresh.problems, "not all of it was read while the Hub answered")


def test_without_network_and_without_memory_the_hub_is_unreachable(loopback_hub: LoopbackHub) -> None:
    loopback_hub.stop()
    with pytest.raises(HubUnreachable, match="refused"):
        Hub(loopback_hub.endpoint).repo_state(REPO)
    with pytest.raises(HubUnreachable, match="offline"):
        Hub(loopback_hub.endpoint, offline=True).repo_state(REPO)


def test_a_refusal_is_an_answer_and_memory_does_not_cover_it(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    hub = Hub(loopback_hub.endpoint)
    hub.repo_state(REPO)
    loopback_hub.fail_next(403, matching="refs")
    with pytest.raises(AccessDenied):
        hub.repo_state(REPO)
    loopback_hub.fail_next(404, {"X-Error-Code": "RepoNotFound"}, matching="refs")
    with pytest.raises(RepoNotFound):
        hub.repo_state(REPO)


@pytest.mark.parametrize("damage", [b"", b"{", b"\x1f\x8b\x08junk", b'{"format": 1}', b'{"format": 2}', b"[" * 100_000])
def test_a_damaged_memory_is_ignored_and_written_anew(loopback_hub: LoopbackHub, tmp_path: Path, damage: bytes) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    fresh = Hub(loopback_hub.endpoint, cache_dir=tmp_path).repo_state(REPO)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 4
    for path in written:
        path.write_bytes(damage)
    assert Hub(loopback_hub.endpoint, cache_dir=tmp_path).repo_state(REPO) == fresh
    loopback_hub.requests.clear()
    Hub(loopback_hub.endpoint, cache_dir=tmp_path).repo_state(REPO)
    assert len(loopback_hub.requests) == 1


def test_a_memory_that_cannot_be_written_only_costs_time(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    hub = Hub(loopback_hub.endpoint, cache_dir=in_the_way / "cache")
    assert hub.repo_state(REPO) == hub.repo_state(REPO)


def test_another_endpoint_s_repo_of_the_same_name_is_another_repo(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    Hub(loopback_hub.endpoint).repo_state(REPO)
    with pytest.raises(HubUnreachable):
        Hub("http://127.0.0.1:9", offline=True).repo_state(REPO)


def test_nothing_half_written_stays_behind(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    loopback_hub.add_repo(REPO, SIX)
    Hub(loopback_hub.endpoint, cache_dir=tmp_path).repo_state(REPO)
    # last.json, and files, configs and tensors of each branch.
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1 + 6 * 3
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("which", "content"),
    [
        ("files", {"files": [[1, 2, None, None]]}),
        ("files", {"files": [["a.safetensors", "x", None, None]]}),
        ("files", {"files": [["a.safetensors", 1, 5, None]]}),
        ("files", {"files": [["a.safetensors", 1, None, "x"]]}),
        ("files", {"files": 3}),
        ("tensors", {"names": [1], "dtypes": ["F16"], "shapes": [[3]], "sizes": [6]}),
        ("tensors", {"names": ["a"], "dtypes": ["F16"], "shapes": [["3"]], "sizes": [6]}),
        ("tensors", {"names": ["a"], "dtypes": ["F16"], "shapes": [[3]], "sizes": ["q"]}),
        ("configs", {"config": {}, "quantize_config": None, "problems": [3]}),
        ("configs", {"config": 1, "quantize_config": None, "problems": []}),
    ],
)
def test_a_memory_of_wrong_types_is_read_anew(
    loopback_hub: LoopbackHub, tmp_path: Path, which: str, content: object
) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    fresh = Hub(loopback_hub.endpoint, cache_dir=tmp_path).repo_state(REPO)
    (path,) = tmp_path.rglob(f"*.{which}.json.gz")
    path.write_bytes(gzip.compress(json.dumps({"format": 1, **content}).encode()))  # type: ignore[dict-item]
    assert Hub(loopback_hub.endpoint, cache_dir=tmp_path).repo_state(REPO) == fresh


@pytest.mark.parametrize(
    "change",
    [
        {"branches": {"main": "../../x"}},
        {"branches": {"\x1b[31m": "a" * 40}},
        {"branches": []},
        {"readme": 5},
        {"readme_commit": [1]},
        {"as_of": "yesterday"},
    ],
)
def test_a_last_answer_of_wrong_types_is_none(
    loopback_hub: LoopbackHub, tmp_path: Path, change: dict[str, object]
) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    Hub(loopback_hub.endpoint, cache_dir=tmp_path).repo_state(REPO)
    (path,) = tmp_path.rglob("last.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(HubUnreachable, match="offline"):
        Hub(loopback_hub.endpoint, cache_dir=tmp_path, offline=True).repo_state(REPO)


def test_a_config_as_deep_as_can_be_read_is_not_too_deep_to_be_kept(loopback_hub: LoopbackHub) -> None:
    for depth in (400, 900, 950, 990, 30_000):
        config = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        loopback_hub.add_repo(REPO, {"main": {"config.json": config}})
        assert Hub(loopback_hub.endpoint).repo_state(REPO).branches[0].files


def test_half_written_files_of_killed_processes_are_cleared_away(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    hub = Hub(loopback_hub.endpoint, cache_dir=tmp_path)
    hub.repo_state(REPO)
    folder = next(tmp_path.rglob("last.json")).parent
    old, young = folder / "old.tmp", folder / "young.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    hub.repo_state(REPO)
    assert (old.exists(), young.exists()) == (False, True)
