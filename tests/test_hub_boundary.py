"""What comes from outside is checked where it comes in: JSON, headers, addresses, the environment."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from branchfit.demo.server import LoopbackHub
from branchfit.errors import AccessDenied, BranchFitError, BranchNotFound, HubUnreachable, RepoNotFound, UsageError
from branchfit.hub import BrokenStream, Hub, parse_repo
from branchfit.hub.branches import MAX_BRANCHES
from branchfit.hub.safetensors import MAX_SHARDS
from branchfit.hub.state import plain
from hub_samples import REPO, quantised

COMMIT = "a" * 40
DIGITS = "9" * 5000


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchfit.hub.http.FIRST_WAIT_S", 0.01)


@pytest.mark.parametrize(
    "sibling",
    [
        "x",
        None,
        {"rfilename": "a", "size": 1, "lfs": "x"},
        {"rfilename": "a", "size": 1, "lfs": {"size": 1, "sha256": 5}},
        {"rfilename": "a", "size": 1, "lfs": {"size": 1, "sha256": "short"}},
        {"rfilename": "a", "size": 1, "lfs": {"size": "1", "sha256": "b" * 64}},
        {"rfilename": "a", "size": "1"},
        {"rfilename": "a", "size": True},
        {"rfilename": "a", "size": 1, "blobId": 7},
        {"rfilename": "", "size": 1},
        {"rfilename": 3, "size": 1},
        {"rfilename": "a\ud800", "size": 1},
    ],
)
def test_a_file_that_is_none_makes_the_list_no_answer(loopback_hub: LoopbackHub, sibling: object) -> None:
    body = json.dumps({"sha": COMMIT, "siblings": [sibling]}).encode()
    loopback_hub.fail_next(200, matching="revision", body=body)
    with pytest.raises(HubUnreachable, match="not a list of files"):
        Hub(loopback_hub.endpoint).branch_files(REPO, "main")


@pytest.mark.parametrize("location", ["http://[::1/x", "http://h:99999/", "//h:x/", "http://h%zz:1e9/"])
def test_a_redirect_to_what_is_no_address_is_said(loopback_hub: LoopbackHub, location: str) -> None:
    loopback_hub.fail_next(302, {"Location": location}, matching="refs", times=None)
    with pytest.raises(HubUnreachable, match="cannot be one"):
        Hub(loopback_hub.endpoint).repo_state(REPO)


def test_sizes_of_five_thousand_digits_are_none(loopback_hub: LoopbackHub) -> None:
    commit = loopback_hub.add_repo(REPO, {"main": {"w.safetensors": b"abc"}})["main"]
    hub = Hub(loopback_hub.endpoint)
    loopback_hub.fail_next(200, {"X-Linked-Size": DIGITS}, matching="resolve", body=b"abc")
    with hub.open(REPO, commit, "w.safetensors") as body:
        assert body.total_bytes == 3
    ranged = {"Content-Range": f"bytes 1-{DIGITS}/{DIGITS}"}
    loopback_hub.fail_next(206, ranged, matching="cdn", times=None, body=b"bc")
    with pytest.raises(BrokenStream) as caught, hub.open(REPO, commit, "w.safetensors", 1):
        pass
    assert len(str(caught.value)) < 500
    loopback_hub.fail_next(429, {"Retry-After": DIGITS}, matching="refs", times=None)
    with pytest.raises(BranchFitError, match="limits"):
        hub.repo_state(REPO)


@pytest.mark.parametrize(
    "endpoint", ["http://h:99999", "http://[x", "huggingface.co", "ftp://h", "http://", "http://h:x", "http://a b/"]
)
def test_an_endpoint_that_is_no_address_is_a_usage_error(endpoint: str) -> None:
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        Hub(endpoint)


@pytest.mark.parametrize("text", ["https://[x/a/b", "https://huggingface.co:xx/a/b", "http://\u2100/a/b", "o/r:\ud800"])
@pytest.mark.parametrize("endpoint", ["http://[x", "https://hub.example"])
def test_what_cannot_be_split_is_a_usage_error(text: str, endpoint: str) -> None:
    with pytest.raises(UsageError):
        parse_repo(text, endpoint)
    assert parse_repo("huggingface.co/o/r", endpoint).repo == "o/r"


def run(code: str, **environment: str) -> str:
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    "environment",
    [
        {"SSL_CERT_FILE": "/nowhere.pem", "REQUESTS_CA_BUNDLE": "/nowhere.pem"},
        {"ALL_PROXY": "socks5://127.0.0.1:1"},
        {"ALL_PROXY": "foo://user:s3cret@127.0.0.1:1"},
        {"ALL_PROXY": "http://[x"},
    ],
)
def test_an_environment_that_allows_no_connection_is_told_in_a_sentence(environment: dict[str, str]) -> None:
    code = (
        "from branchfit.hub import Hub\n"
        "from branchfit.errors import HubUnreachable\n"
        "try: Hub('https://127.0.0.1:9', timeout_s=2).repo_state('o/r')\n"
        "except HubUnreachable as error: print(error)\n"
    )
    said = run(code, **environment)
    assert said.startswith("the Hub gave no usable answer") and "s3cret" not in said


def test_the_user_in_an_endpoint_is_sent_and_never_shown(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    hub = Hub(loopback_hub.endpoint.replace("//", "//user:s3%40cret@"), cache_dir=tmp_path)
    assert hub.endpoint == loopback_hub.endpoint
    assert hub.repo_state(REPO).branches[0].tensors is not None
    basic = "Basic " + base64.b64encode(b"user:s3@cret").decode()
    given = {(request.origin, request.headers.get("authorization")) for request in loopback_hub.requests}
    assert given == {("hub", basic), ("cdn", None)}
    loopback_hub.fail_next(500, matching="refs", times=None)
    with pytest.raises(HubUnreachable) as caught:
        hub.repo_state("o/other")
    assert "cret" not in str(caught.value) + caught.value.url
    with pytest.raises(UsageError) as refused:
        Hub("http://user:s3cret@h:99999")
    assert "cret" not in str(refused.value)


def test_a_token_in_a_pasted_address_is_ignored_and_not_repeated() -> None:
    assert parse_repo("https://user:hf_s3cret@huggingface.co/o/r").repo == "o/r"
    assert parse_repo("http://hub.example/o/r", "http://user:pw@hub.example").repo == "o/r"
    for text in ("https://user:hf_s3cret@elsewhere.example/o/r", "ssh://user:hf_s3cret@huggingface.co/o/r"):
        with pytest.raises(UsageError) as caught:
            parse_repo(text)
        assert "s3cret" not in str(caught.value)


def test_netrc_does_not_take_the_token_s_place(
    loopback_hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login x password netrcsecret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    Hub(loopback_hub.endpoint, token="hf_good").repo_state(REPO)
    given = {(request.origin, request.headers.get("authorization")) for request in loopback_hub.requests}
    assert given == {("hub", "Bearer hf_good"), ("cdn", None)}


@pytest.mark.parametrize(("status", "kind"), [(404, RepoNotFound), (401, AccessDenied), (403, AccessDenied)])
def test_a_mirror_s_source_is_believed_and_gets_no_token(
    loopback_hub: LoopbackHub, status: int, kind: type[Exception]
) -> None:
    with LoopbackHub() as source:
        source.fail_next(status, matching="refs", times=None)
        loopback_hub.fail_next(308, {"Location": f"{source.endpoint}/api/models/{REPO}/refs"}, matching="refs")
        with pytest.raises(kind) as caught:
            Hub(loopback_hub.endpoint, token="hf_good").repo_state(REPO)
        assert [request.headers.get("authorization") for request in source.requests] == [None]
    assert getattr(caught.value, "kind", "private") == "private"


def test_a_mirror_s_source_may_lack_a_file(loopback_hub: LoopbackHub) -> None:
    with LoopbackHub() as source:
        source.add_repo(REPO, {"main": {"config.json": b"{}"}})
        loopback_hub.add_repo(REPO, {"main": {"config.json": b"{}"}})
        for path in ("config.json", "quantize_config.json", "README.md"):
            target = f"{source.endpoint}/{REPO}/resolve/main/{path}"
            loopback_hub.fail_next(308, {"Location": target}, matching=f"resolve/.*/{path}", times=None)
        # And it may be one that leaves the Hub's code out.
        source.fail_next(404, matching="quantize_config", times=None)
        branch = Hub(loopback_hub.endpoint).repo_state(REPO).branches[0]
    assert (branch.config, branch.quantize_config, branch.problems) == ({}, None, ())


BAD_NAMES = ["\x1b[31mred", "a\u202eb", "a b", "../x", "x.lock", "", "a\nb", "\x9b31m", "-rf", 5, None]


def test_branch_names_that_are_none_are_left_out_with_a_problem(loopback_hub: LoopbackHub) -> None:
    commit = loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})["main"]
    refs = {"branches": [{"name": name, "targetCommit": commit} for name in [*BAD_NAMES, "main"]]}
    loopback_hub.fail_next(200, matching="refs", times=None, body=json.dumps(refs).encode())
    hub = Hub(loopback_hub.endpoint)
    state = hub.repo_state(REPO)
    assert [branch.branch for branch in state.branches] == ["main"]
    (problem,) = state.problems
    assert problem.isprintable() and "no branch can be called so" in problem
    with pytest.raises(BranchNotFound) as caught:
        hub.repo_state(REPO, "gptq")
    assert str(caught.value).isprintable() and caught.value.known == ("main",)


def test_a_file_s_name_reaches_no_problem_unescaped(loopback_hub: LoopbackHub) -> None:
    files = {"a\x1b[31m.safetensors": b"x", "b\u202e.safetensors": b"x"}
    loopback_hub.add_repo(REPO, {"main": files})
    for offline in (False, True):
        problems = Hub(loopback_hub.endpoint, offline=offline).repo_state(REPO).branches[0].problems
        assert problems and all(problem.isprintable() for problem in problems)
    assert plain("a\x1b\u202eb") == "a\\x1b\\u202eb"


def test_beyond_a_number_of_branches_the_others_are_only_listed(loopback_hub: LoopbackHub) -> None:
    many = {f"b{number}": {"config.json": b"{}"} for number in range(MAX_BRANCHES + 5)}
    loopback_hub.add_repo(REPO, {**many, "main": {"config.json": b'{"a": 1}'}})
    hub = Hub(loopback_hub.endpoint)
    state = hub.repo_state(REPO)
    assert [branch.branch for branch in state.branches] == [*many, "main"]
    assert sum(bool(branch.problems) for branch in state.branches) == 6
    assert state.branches[-1].config == {"a": 1}
    assert "read" in state.problems[0] and str(MAX_BRANCHES) in state.problems[0]
    last = hub.repo_state(REPO, f"b{MAX_BRANCHES + 4}")
    assert (last.branches[0].config, last.branches[0].problems, last.problems) == ({}, (), ())


def test_of_very_many_shards_no_header_is_read_and_of_very_many_files_few_are_named(loopback_hub: LoopbackHub) -> None:
    total = MAX_SHARDS + 1
    shards = {f"model-{number:05d}-of-{total:05d}.safetensors": b"x" for number in range(1, total + 1)}
    single = {f"f{number}.safetensors": b"x" for number in range(total)}
    loopback_hub.add_repo(REPO, {"main": shards, "other": single})
    main, other = Hub(loopback_hub.endpoint).repo_state(REPO).branches
    assert len(main.files) == total and "1,001 shards are not read" in main.problems[0]
    assert max(map(len, other.problems)) < 300
    assert sum(request.origin == "cdn" for request in loopback_hub.requests) <= 1


def test_one_branch_that_cannot_be_listed_leaves_the_others_fresh(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32), "b": quantised(8, 32)})
    hub = Hub(loopback_hub.endpoint)
    hub.repo_state(REPO)
    moved = loopback_hub.add_repo(REPO, {"main": quantised(4, 64), "b": quantised(8, 64)})
    loopback_hub.fail_next(500, matching=f"revision/{moved['b']}", times=None)
    state = hub.repo_state(REPO)
    assert (state.as_of, {branch.branch: branch.commit for branch in state.branches}) == (None, moved)
    main, other = state.branches
    assert main.tensors is not None and main.problems == ()
    assert other.files == () and other.problems == ("its files were not listed: the Hub answered 500",)
    loopback_hub.clear_faults()
    assert hub.repo_state(REPO).branches[1].problems == ()


def test_a_config_that_could_not_be_checked_is_not_remembered(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": {"config.json": b"{}"}})
    commit = loopback_hub.add_repo(REPO, {"b": {"config.json": b'{"a": 1}'}})["b"]
    loopback_hub.fail_next(500, matching=f"revision/{commit}", times=None)
    loopback_hub.corrupt(matching=f"resolve-cache.*{commit}/config.json", offset=0)
    hub = Hub(loopback_hub.endpoint)
    assert hub.repo_state(REPO).branches[1].files == ()
    loopback_hub.clear_faults()
    assert hub.repo_state(REPO).branches[1].config == {"a": 1}


def test_a_config_or_a_card_that_cannot_be_had_is_a_problem_and_not_remembered(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    hub = Hub(loopback_hub.endpoint)
    loopback_hub.fail_next(500, matching="README|/config.json", times=None)
    state = hub.repo_state(REPO)
    assert state.branches[0].problems == ("config.json was not read: the Hub answered 500",)
    assert state.readme is None and state.problems == ("the card (README.md) was not read: the Hub answered 500",)
    loopback_hub.clear_faults()
    state = hub.repo_state(REPO)
    assert state.readme == "# Tiny Llama - GPTQ\n" and state.branches[0].config is not None
    assert (state.problems, state.branches[0].problems) == ((), ())
