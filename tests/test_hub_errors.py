"""Refusals and faults of the Hub, as this package's own errors with their numbers."""

from __future__ import annotations

import email.utils
import time

import pytest

from branchfit.demo.server import LoopbackHub
from branchfit.errors import (
    AccessDenied,
    BranchNotFound,
    FileNotOnHub,
    HubError,
    HubUnreachable,
    RateLimited,
    RepoNotFound,
    UsageError,
)
from branchfit.hub import Hub
from branchfit.hub.http import TRIES, retry_after_s
from hub_samples import REPO, SIX, quantised


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchfit.hub.http.FIRST_WAIT_S", 0.01)


def refs_asked(server: LoopbackHub) -> int:
    return sum(request.path.endswith("/refs") for request in server.requests)


@pytest.mark.parametrize("token", [None, "hf_good"])
def test_a_repo_that_is_not_there(token: str | None) -> None:
    # Without a token the Hub answers 401, with one 404.
    with LoopbackHub(token="hf_good") as server, pytest.raises(RepoNotFound) as caught:
        Hub(server.endpoint, token=token).repo_state("o/nothing")
    assert caught.value.repo == "o/nothing"


def test_a_branch_that_is_not_there_names_the_nearest(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, SIX)
    with pytest.raises(BranchNotFound) as caught:
        Hub(loopback_hub.endpoint).repo_state(REPO, "gptq-4bit-32g-actorder_true")
    assert caught.value.nearest[0] == "gptq-4bit-32g-actorder_True"
    assert set(caught.value.known) == set(SIX)


@pytest.mark.parametrize(
    ("access", "token", "kind"),
    [("gated", None, "gated"), ("gated", "hf_stranger", "gated"), ("none", "hf_wrong", "token")],
)
def test_access_denied_says_which_kind(access: str, token: str | None, kind: str) -> None:
    with LoopbackHub(token="hf_good" if access == "none" else None) as server:
        server.add_repo(REPO, {"main": quantised(4, 32)}, gated=access == "gated")
        with pytest.raises(AccessDenied) as caught:
            Hub(server.endpoint, token=token).repo_state(REPO)
    assert caught.value.kind == kind
    assert token is None or token not in str(caught.value)


def test_a_good_token_opens_gated_and_private_repos_and_stays_with_the_hub() -> None:
    with LoopbackHub(token="hf_good") as server:
        server.add_repo("o/gated", {"main": quantised(4, 32)}, gated=True)
        server.add_repo("o/private", {"main": quantised(4, 32)}, private=True)
        for repo in ("o/gated", "o/private"):
            assert Hub(server.endpoint, token="hf_good").repo_state(repo).branches[0].tensors is not None
        at_cdn = [request for request in server.requests if request.origin == "cdn"]
        assert len(at_cdn) == 2 and not any("authorization" in request.headers for request in at_cdn)
        at_hub = [request for request in server.requests if request.origin == "hub"]
        assert all(request.headers["authorization"] == "Bearer hf_good" for request in at_hub)


def test_the_token_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with LoopbackHub(token="hf_good") as server:
        server.add_repo(REPO, {"main": quantised(4, 32)}, private=True)
        assert Hub(server.endpoint).repo_state(REPO).branches


def test_a_token_no_header_can_carry_is_refused_unseen() -> None:
    with pytest.raises(AccessDenied) as caught:
        Hub("http://127.0.0.1:9", token="hf_good\r\nX-Evil: 1")
    assert "Evil" not in str(caught.value)


def test_a_redirect_to_another_host_does_not_carry_the_token(loopback_hub: LoopbackHub) -> None:
    with LoopbackHub() as stranger:
        loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
        loopback_hub.fail_next(307, {"Location": f"{stranger.endpoint}/api/models/{REPO}/refs"}, matching="refs")
        stranger.add_repo(REPO, {"main": quantised(4, 32)})
        Hub(loopback_hub.endpoint, token="hf_good").repo_state(REPO)
        assert [request.headers.get("authorization") for request in stranger.requests] == [None]


def test_a_renamed_repo_is_followed(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    loopback_hub.fail_next(307, {"Location": f"/api/models/{REPO}/refs"}, matching="o/old/refs")
    for path in ("README.md", "config.json", "quantize_config.json", "model.safetensors"):
        target = {"Location": f"/{REPO}/resolve/main/{path}"}
        loopback_hub.fail_next(307, target, matching=f"o/old/resolve/.*/{path}", times=None)
    loopback_hub.fail_next(307, {"Location": f"/api/models/{REPO}/revision/main?blobs=true"}, matching="o/old/revision")
    state = Hub(loopback_hub.endpoint).repo_state("o/old")
    assert state.repo == "o/old"
    assert state.branches[0].tensors is not None and state.branches[0].problems == ()


def test_redirects_in_a_circle_or_to_a_file_end(loopback_hub: LoopbackHub) -> None:
    loopback_hub.fail_next(302, {"Location": f"/api/models/{REPO}/refs"}, matching="refs", times=None)
    with pytest.raises(HubUnreachable, match="redirects more than"):
        Hub(loopback_hub.endpoint).repo_state(REPO)
    loopback_hub.clear_faults()
    loopback_hub.fail_next(302, {"Location": "file:///etc/passwd"}, matching="refs", times=None)
    with pytest.raises(HubUnreachable, match="neither http nor https"):
        Hub(loopback_hub.endpoint).repo_state(REPO)


def test_a_long_retry_after_is_the_user_s_to_wait_for(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, SIX)
    loopback_hub.fail_next(429, {"Retry-After": "90"}, matching="refs", times=None)
    with pytest.raises(RateLimited) as caught:
        Hub(loopback_hub.endpoint).repo_state(REPO)
    assert caught.value.retry_after_s == 90.0
    assert refs_asked(loopback_hub) == 1


def test_a_short_retry_after_is_waited_for(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    loopback_hub.fail_next(429, {"Retry-After": "1"}, matching="refs", times=1)
    began = time.monotonic()
    assert Hub(loopback_hub.endpoint).repo_state(REPO).as_of is None
    assert time.monotonic() - began >= 1.0
    assert refs_asked(loopback_hub) == 2


def test_a_rate_limit_that_lasts_is_said_after_the_last_try(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    loopback_hub.fail_next(429, matching="refs", times=None)
    with pytest.raises(RateLimited) as caught:
        Hub(loopback_hub.endpoint).repo_state(REPO)
    assert caught.value.retry_after_s is None
    assert refs_asked(loopback_hub) == TRIES


def test_retry_after_reads_seconds_dates_and_the_hub_s_own_header() -> None:
    assert retry_after_s({"Retry-After": "7"}) == 7.0
    soon = retry_after_s({"Retry-After": email.utils.formatdate(time.time() + 60, usegmt=True)})
    assert soon is not None and 55 < soon <= 60
    assert retry_after_s({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after_s({"Retry-After": "whenever"}) is None
    assert retry_after_s({"RateLimit": '"api";r=0;t=55'}) == 55.0
    assert retry_after_s({"RateLimit": '"api";r=3;t=55'}) is None


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_tried_again_and_then_said(loopback_hub: LoopbackHub, status: int) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    loopback_hub.fail_next(status, matching="refs", times=TRIES - 1)
    assert Hub(loopback_hub.endpoint).repo_state(REPO).as_of is None
    loopback_hub.fail_next(status, matching="refs", times=TRIES)
    with pytest.raises(HubUnreachable, match=f"answered {status}"):
        Hub(loopback_hub.endpoint).branch_files(REPO, "nowhere")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("reset", "reset|closed"),
        ("cut", "closed"),
        ("hang", "nothing came for 0.3 s"),
        ("portal", "not the Hub's JSON"),
    ],
)
def test_a_line_that_fails_is_told_in_words(loopback_hub: LoopbackHub, fault: str, said: str) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    if fault == "hang":
        loopback_hub.hang(2.0, matching="refs", times=None)
    elif fault == "portal":
        loopback_hub.fail_next(200, {"Content-Type": "text/html"}, matching="refs", body=b"<html>Log in</html>")
    else:
        loopback_hub.cut_after(10, matching="refs", times=None, reset=fault == "reset")
    with pytest.raises(HubUnreachable, match=said) as caught:
        Hub(loopback_hub.endpoint, timeout_s=0.3).repo_state(REPO)
    assert "/refs" in caught.value.url


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(HubUnreachable, match="cannot be resolved"):
        Hub("http://no-such-host.invalid").repo_state(REPO)


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"branches": 3}', b'{"branches": [{"name": "main", "targetCommit": "../../x"}]}', b"null"],
)
def test_refs_that_are_none_are_no_answer(loopback_hub: LoopbackHub, body: bytes) -> None:
    loopback_hub.fail_next(200, matching="refs", body=body)
    with pytest.raises(HubUnreachable):
        Hub(loopback_hub.endpoint).repo_state(REPO)


@pytest.mark.parametrize("body", [b"[]", b'{"sha": "x", "siblings": []}', b'{"siblings": [{"rfilename": "a"}]}'])
def test_a_file_list_that_is_none_is_no_answer(loopback_hub: LoopbackHub, body: bytes) -> None:
    loopback_hub.fail_next(200, matching="revision", body=body)
    with pytest.raises(HubUnreachable):
        Hub(loopback_hub.endpoint).branch_files(REPO, "main")


def test_a_file_server_that_is_blocked_costs_the_headers_and_nothing_else(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    loopback_hub.fail_next(403, matching="cdn", times=None)
    branch = Hub(loopback_hub.endpoint).repo_state(REPO).branches[0]
    assert branch.tensors is None and branch.config is not None
    assert "file server" in branch.problems[0] and "403" in branch.problems[0]
    loopback_hub.clear_faults()
    assert Hub(loopback_hub.endpoint).repo_state(REPO).branches[0].problems == ()


def test_a_status_nobody_expects_is_still_this_package_s_error(loopback_hub: LoopbackHub) -> None:
    loopback_hub.fail_next(418, {"X-Error-Message": "teapot"}, matching="refs")
    with pytest.raises(HubError, match=r"418.*teapot"):
        Hub(loopback_hub.endpoint).repo_state(REPO)


@pytest.mark.parametrize("repo", ["../../etc", "o/r?x=1", "o/r#x", "o/r/..", "o r"])
def test_a_name_that_would_bend_the_address_is_not_asked_for(loopback_hub: LoopbackHub, repo: str) -> None:
    hub = Hub(loopback_hub.endpoint)
    for call in (
        lambda: hub.repo_state(repo),
        lambda: hub.branch_files(repo, "main"),
        lambda: hub.read(repo, "main", "a"),
    ):
        with pytest.raises(UsageError):
            call()
    assert loopback_hub.requests == []


def test_a_missing_file_is_named(loopback_hub: LoopbackHub) -> None:
    loopback_hub.add_repo(REPO, {"main": quantised(4, 32)})
    with pytest.raises(FileNotOnHub) as caught:
        Hub(loopback_hub.endpoint).read(REPO, "main", "nope.json")
    assert caught.value.path == "nope.json"
