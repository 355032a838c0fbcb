"""What follows in a page when a job has ended: ours at once, the host's own parts only then."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from branchfit_webui.panel.wiring import FRESH, Board
from tab_host import Loading, stand_in


class Part:
    """A component: gradio keeps it and what it was given."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.given, self.named = given, named
        self.wired: tuple[Any, ...] = ()

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *ended: Any) -> None:
        """As gradio's rows have it."""

    def click(self, *wired: Any, **named: Any) -> None:
        self.wired = wired


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    gradio = SimpleNamespace(HTML=Part, Button=Part, State=Part, Row=Part, update=dict, __version__="4.37.2")
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    office = stand_in(tmp_path, Loading(), monkeypatch.setattr)
    parts = {"truncation_length": Part()}
    office.host.component = parts.get  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(office.host, "settings", {"truncation_length": 4096}, raising=False)
    return Board(office)


def test_a_fresh_page_gets_our_tables_and_keeps_what_the_host_has_filled_in(board: Board) -> None:
    ours, cut = Part(), board.office.host.component("truncation_length")
    board.follow([], [ours], lambda: {ours: "a table"})
    board.wire()
    polled, inputs, outputs = board._poll.wired
    assert cut in outputs and ours in outputs and inputs == [board._ended]

    fresh = polled(FRESH)
    assert fresh[ours] == "a table" and cut not in fresh
    assert polled(fresh[board._ended]).keys() == {board._said, board.view, board._ended}

    board.office.jobs.start("a", "a", lambda job: "done")
    board.office.jobs.wait("a", 10)
    ended = polled(fresh[board._ended])
    assert ended[cut] == 4096 and ended[ours] == "a table"
