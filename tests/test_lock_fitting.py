"""What is lowered so that the host cuts nothing, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from branchfit_webui.fitting import fit
from branchfit_webui.refusal import Refused

PROMPT = "é" * 500
"""Not ASCII, so that it is counted."""


def fitted(state: dict[str, Any], tokens: int = 500, context: int | None = 2048, floor: int = 64) -> list[str]:
    notes, _ = fit(state, PROMPT, lambda: tokens, context, floor)
    return notes


def test_a_prompt_with_room_to_spare_changes_nothing_and_is_not_even_counted() -> None:
    state = {"truncation_length": 2048, "max_new_tokens": 512}
    notes, tokens = fit(state, "x" * 500, lambda: pytest.fail("counted"), 2048, 64)
    assert state == {"truncation_length": 2048, "max_new_tokens": 512}
    assert (notes, tokens) == ([], None)


def test_text_that_is_not_ascii_is_counted_since_a_letter_may_take_several_tokens() -> None:
    state = {"truncation_length": 2048, "max_new_tokens": 1024}
    notes, tokens = fit(state, "é" * 500, lambda: 1500, 2048, 64)
    assert tokens == 1500
    assert state["max_new_tokens"] == 548
    assert notes == ["max_new_tokens lowered from 1,024 to 548, which is what the context leaves"]


def test_the_reply_gets_exactly_what_the_prompt_leaves() -> None:
    state = {"truncation_length": 2048, "max_new_tokens": 2000}
    fitted(state)
    assert state == {"truncation_length": 2048, "max_new_tokens": 1548}  # 2048 - 500


def test_max_new_tokens_beyond_the_context_would_leave_the_host_with_no_prompt_and_is_lowered() -> None:
    state = {"truncation_length": 2048, "max_new_tokens": 100_000}
    fitted(state)
    assert state["max_new_tokens"] == 1548


def test_a_truncation_length_beyond_the_context_is_brought_down() -> None:
    state = {"truncation_length": 10_000_000, "max_new_tokens": 8}
    assert fitted(state) == ["truncation_length 10,000,000 is beyond the context; 2,048 used"]
    assert state["truncation_length"] == 2048


@pytest.mark.parametrize("sent", [0, -5, None, "2048", float("nan")])
def test_a_truncation_length_that_is_none_gives_way_to_the_context(sent: Any) -> None:
    state = {"truncation_length": sent, "max_new_tokens": 8}
    fitted(state)
    assert state["truncation_length"] == 2048


def test_a_shorter_limit_that_was_asked_for_is_kept_and_refuses_in_its_own_words() -> None:
    state = {"truncation_length": 300, "max_new_tokens": 8}
    with pytest.raises(
        Refused, match=r"takes 500 tokens; the truncation length asked for, of a context of 2,048, is 300"
    ):
        fitted(state)


def test_the_floor_is_kept_for_the_reply() -> None:
    state = {"truncation_length": 2048, "max_new_tokens": 512}
    assert fitted(dict(state), tokens=2048 - 64)
    with pytest.raises(Refused, match=r"takes 1,985 tokens; .* is 2,048, of which at least 64 .* by 1 tokens"):
        fitted(dict(state), tokens=2048 - 63)


def test_who_asks_for_less_than_the_floor_gets_it() -> None:
    state = {"truncation_length": 2048, "max_new_tokens": 5}
    fitted(state, tokens=2043)
    assert state["max_new_tokens"] == 5
    with pytest.raises(Refused, match="at least 5"):
        fitted(state, tokens=2044)


def test_without_any_limit_nothing_is_changed() -> None:
    state = {"max_new_tokens": 512}
    assert fitted(state, context=None) == []
    assert state == {"max_new_tokens": 512}


def test_the_hosts_own_slice_keeps_the_whole_prompt_whatever_was_asked() -> None:
    for asked in (1, 64, 512, 1548, 1549, 2048, 99_999):
        state = {"truncation_length": 2048, "max_new_tokens": asked}
        fitted(state)
        ids = list(range(500))
        assert ids[-(state["truncation_length"] - state["max_new_tokens"]) :] == ids
