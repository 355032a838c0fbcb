"""A file's bytes: resumed at the right place or from zero, and never silently short."""

from __future__ import annotations

import os

import pytest

from branchfit.demo.server import LoopbackHub
from branchfit.errors import AccessDenied, FileNotOnHub, HubError, HubUnreachable, UsageError
from branchfit.hub import Body, BrokenStream, Hub
from hub_samples import REPO

CONTENT = os.urandom(3_000_000)


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchfit.hub.http.FIRST_WAIT_S", 0.01)


@pytest.fixture
def commit(loopback_hub: LoopbackHub) -> str:
    return loopback_hub.add_repo(REPO, {"main": {"model.safetensors": CONTENT, "a b/ü#?.txt": b"odd name"}})["main"]


def taken(hub: Hub, commit: str, start: int = 0, chunk_bytes: int = 1 << 20) -> tuple[int, bytes, str]:
    """Where the body began, its bytes up to the end or the break, and why it broke ("" if it did not)."""
    got = bytearray()
    with hub.open(REPO, commit, "model.safetensors", start) as body:
        assert body.total_bytes == len(CONTENT)
        assert body.commit == commit
        try:
            for chunk in body.iter_bytes(chunk_bytes):
                assert 0 < len(chunk) <= chunk_bytes
                got += chunk
        except BrokenStream as error:
            return body.start, bytes(got), error.reason
    return body.start, bytes(got), ""


@pytest.mark.parametrize("start", [0, 1, 1_234_567, len(CONTENT) - 1])
@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
def test_a_file_comes_from_where_it_was_asked(
    loopback_hub: LoopbackHub, commit: str, start: int, chunk_bytes: int
) -> None:
    assert taken(Hub(loopback_hub.endpoint), commit, start, chunk_bytes) == (start, CONTENT[start:], "")


def test_a_server_that_ignores_the_range_is_believed_that_it_starts_at_zero(
    loopback_hub: LoopbackHub, commit: str
) -> None:
    loopback_hub.ignore_range(matching="cdn")
    assert taken(Hub(loopback_hub.endpoint), commit, 1_000_000) == (0, CONTENT, "")


def test_another_range_than_asked_for_is_not_taken(loopback_hub: LoopbackHub, commit: str) -> None:
    loopback_hub.shift_range(-10, matching="cdn", times=1)
    # A second try gets the right one.
    assert taken(Hub(loopback_hub.endpoint), commit, 1000)[:2] == (1000, CONTENT[1000:])
    loopback_hub.shift_range(-10, matching="cdn", times=None)
    with pytest.raises(BrokenStream, match="from 1,000 on"):
        taken(Hub(loopback_hub.endpoint), commit, 1000)


@pytest.mark.parametrize("reset", [False, True])
def test_a_line_that_breaks_says_so_and_what_came_is_good(loopback_hub: LoopbackHub, commit: str, reset: bool) -> None:
    loopback_hub.cut_after(1_000_000, matching="cdn", reset=reset)
    start, got, why = taken(Hub(loopback_hub.endpoint), commit, 500_000)
    assert start == 500_000 and why
    assert got == CONTENT[500_000 : 500_000 + len(got)]
    # A reset may swallow what was under way, a clean close may not.
    assert len(got) <= 1_000_000 and (reset or len(got) == 1_000_000)


def test_a_body_that_ends_early_without_a_fault_of_the_line_is_still_broken() -> None:
    # urllib3 before 2 ends such a body as if it were whole.
    body = Body("http://hub/f", 2, 7, None, length=5, timeout_s=1.0, chunks=lambda: iter([b"abc"]))
    with pytest.raises(BrokenStream, match="after 3 of 5 bytes"):
        list(body.iter_bytes())


def test_a_silent_server_is_given_up_on(loopback_hub: LoopbackHub, commit: str) -> None:
    loopback_hub.hang(3.0, matching="cdn", times=None)
    with pytest.raises(HubUnreachable, match=r"nothing came for 0\.2 s"):
        taken(Hub(loopback_hub.endpoint, timeout_s=0.2), commit)


def test_an_address_that_expired_on_the_way_is_renewed(loopback_hub: LoopbackHub, commit: str) -> None:
    loopback_hub.fail_next(403, matching="cdn", times=2)
    assert taken(Hub(loopback_hub.endpoint), commit)[1] == CONTENT
    assert sum(request.origin == "hub" for request in loopback_hub.requests) == 3


def test_addresses_that_are_expired_when_they_come_are_said(loopback_hub: LoopbackHub, commit: str) -> None:
    loopback_hub.protocol.address_lifetime_s = -1.0
    with pytest.raises(HubUnreachable, match="file server it sent us to answered 403"):
        taken(Hub(loopback_hub.endpoint), commit)


def test_an_error_of_the_reader_is_not_taken_for_one_of_the_line(loopback_hub: LoopbackHub, commit: str) -> None:
    hub = Hub(loopback_hub.endpoint)
    with pytest.raises(OSError, match="disk full") as caught, hub.open(REPO, commit, "model.safetensors") as body:
        for _ in body.iter_bytes():
            raise OSError("disk full")
    assert not isinstance(caught.value, HubError)


def test_beyond_the_end_there_is_nothing_and_it_is_said(loopback_hub: LoopbackHub, commit: str) -> None:
    with pytest.raises(HubUnreachable, match="shorter than the range"):
        taken(Hub(loopback_hub.endpoint), commit, len(CONTENT))


def test_odd_names_reach_the_hub_encoded_and_dangerous_ones_do_not(loopback_hub: LoopbackHub, commit: str) -> None:
    hub = Hub(loopback_hub.endpoint)
    assert hub.read(REPO, commit, "a b/ü#?.txt") == b"odd name"
    loopback_hub.requests.clear()
    with pytest.raises(UsageError):
        hub.read(REPO, commit, "../../secret")
    assert loopback_hub.requests == []


def test_a_small_file_has_a_cap(loopback_hub: LoopbackHub, commit: str) -> None:
    hub = Hub(loopback_hub.endpoint)
    assert hub.read(REPO, commit, "a b/ü#?.txt", max_bytes=8) == b"odd name"
    with pytest.raises(HubError, match="larger than the 7 bytes"):
        hub.read(REPO, commit, "a b/ü#?.txt", max_bytes=7)


def test_a_missing_file_and_a_closed_repo_are_told_before_the_body(loopback_hub: LoopbackHub, commit: str) -> None:
    hub = Hub(loopback_hub.endpoint)
    with pytest.raises(FileNotOnHub), hub.open(REPO, commit, "nope"):
        pass
    shut = loopback_hub.add_repo("o/gated", {"main": {"w.safetensors": b"x"}}, gated=True)["main"]
    with pytest.raises(AccessDenied), hub.open("o/gated", shut, "w.safetensors"):
        pass
