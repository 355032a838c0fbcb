"""Where a text differs from a template, to the byte."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchfit.errors import PromptError
from branchfit.prompts import ALPACA_COT, TEMPLATES, WIZARDMATH_PLAIN, Template, by_name, explain, first_difference

TEXT = st.text(st.characters(blacklist_categories=["Cs"]))
unhurried = settings(deadline=None)  # a busy machine is no failure


def test_equal_texts_have_no_difference() -> None:
    assert first_difference("", "") is None
    assert first_difference("é\n", "é\n") is None


def test_the_webuis_alpaca_differs_in_its_152nd_byte() -> None:
    """Its template has a newline where the official prompt has a space (docs of both; a token of its own)."""
    found = first_difference(ALPACA_COT.text, WIZARDMATH_PLAIN.text + "\n")
    assert found is not None
    assert found.to_dict() == {
        "offset_bytes": 152,
        "expected": "...:\\n{instruction}\\n\\n### Response:>>> <<<Let's think step by step.",
        "found": "...:\\n{instruction}\\n\\n### Response:>>>\\n<<<",
        "line": 6,
        "column": 14,
    }


@pytest.mark.parametrize(
    ("expected", "found", "offset", "line", "column", "marked"),
    [
        ("abc", "abd", 2, 1, 3, ("ab>>>c<<<", "ab>>>d<<<")),
        ("abc", "ab", 2, 1, 3, ("ab>>>c<<<", "ab>>>end<<<")),
        ("", "a", 0, 1, 1, (">>>end<<<", ">>>a<<<")),
        ("a\nb", "a\r\nb", 1, 1, 2, ("a>>>\\n<<<b", "a>>>\\r<<<\\nb")),
        ("a\nbc", "a\nbd", 3, 2, 2, ("a\\nb>>>c<<<", "a\\nb>>>d<<<")),
        ("éa", "éb", 2, 1, 2, ("\\xc3\\xa9>>>a<<<", "\\xc3\\xa9>>>b<<<")),
        ("é", "è", 1, 1, 1, ("\\xc3>>>\\xa9<<<", "\\xc3>>>\\xa8<<<")),  # within one character
        ("\\\t\0", "\\\t\x7f", 2, 1, 3, ("\\\\\\t>>>\\x00<<<", "\\\\\\t>>>\\x7f<<<")),
        ("a", "a\ud800", 1, 1, 2, ("a>>>end<<<", "a>>>\\xed<<<\\xa0\\x80")),
    ],
)
def test_the_first_differing_byte_is_marked_in_both(
    expected: str, found: str, offset: int, line: int, column: int, marked: tuple[str, str]
) -> None:
    difference = first_difference(expected, found)
    assert difference is not None
    assert (difference.offset_bytes, difference.line, difference.column) == (offset, line, column)
    assert (difference.expected, difference.found) == marked


def test_a_long_text_is_shown_around_the_place_only() -> None:
    difference = first_difference("a" * 100 + "b" + "c" * 100, "a" * 100 + "B" + "c" * 100)
    assert difference is not None
    assert difference.expected == "..." + "a" * 30 + ">>>b<<<" + "c" * 30 + "..."


@unhurried
@given(one=TEXT, other=TEXT)
def test_the_offset_is_where_the_bytes_part(one: str, other: str) -> None:
    difference = first_difference(one, other)
    a, b = one.encode(), other.encode()
    if difference is None:
        assert a == b
    else:
        at = difference.offset_bytes
        assert a[:at] == b[:at] and a[at : at + 1] != b[at : at + 1]


def test_a_megabyte_is_compared_in_an_instant() -> None:
    start = time.perf_counter()
    difference = first_difference("x" * 10**6 + "a", "x" * 10**6 + "b")
    assert difference is not None and difference.offset_bytes == 10**6
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
@unhurried
@given(instruction=TEXT)
def test_a_rendering_is_explained_as_one(template: Template, instruction: str) -> None:
    text = template.render(instruction)
    for found in (explain(template, text), explain(template, text, instruction)):
        assert (found.verdict, found.matches, found.difference) == ("rendering", True, None)
        assert (found.size_bytes, found.sha256) == (len(text.encode()), hashlib.sha256(text.encode()).hexdigest())


def test_a_reply_behind_a_rendering_is_a_reply_being_continued() -> None:
    found = explain(ALPACA_COT, ALPACA_COT.render("2+2?") + " It is")
    assert (found.verdict, found.matches, found.others) == ("continued", True, ())
    assert found.recognised is not None and found.recognised.reply == " It is"
    assert json.loads(json.dumps(found.to_dict()))["recognised"]["instruction"] == "2+2?"


def test_white_space_alone_behind_a_rendering_is_a_difference() -> None:
    text = ALPACA_COT.render("2+2?") + "\n"
    found = explain(ALPACA_COT, text)
    assert (found.verdict, found.matches) == ("different", False)
    assert found.difference is not None and found.difference.offset_bytes == len(text) - 1
    assert found.difference.found.endswith(">>>\\n<<<")


def test_with_an_instruction_only_exactly_its_rendering_will_do() -> None:
    text = ALPACA_COT.render("2+2?")
    assert explain(ALPACA_COT, text, "2+2?").matches
    other = explain(ALPACA_COT, text, "2+3?")
    assert other.difference is not None and other.difference.expected.find("2+>>>3<<<?") > 0
    longer = explain(ALPACA_COT, text + " 4", "2+2?")
    assert longer.difference is not None and longer.difference.offset_bytes == len(text)
    assert not longer.matches and longer.others == ()
    chatml = by_name("ChatML")
    assert chatml is not None
    assert explain(chatml, chatml.render("hi", "be"), "hi", "be").matches
    assert not explain(chatml, chatml.render("hi", "be"), "hi", "so").matches


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        (("\n\n### Instruction", "\n### Instruction"), "request.\\n>>>\\n<<<", "request.\\n>>>#<<<"),
        (("Below", "below"), ">>>B<<<elow", ">>>b<<<elow"),
        ((": Let's", ":\nLet's"), "### Response:>>> <<<Let's", "### Response:>>>\\n<<<Let's"),
        ((" step.", " step"), "by step>>>.<<<", "by step>>>end<<<"),
        (("\n\n### Response: Let's think step by step.", ""), "2+2?>>>\\n<<<\\n### Response", "2+2?>>>end<<<"),
    ],
)
def test_the_place_is_where_the_template_stops_being_kept(change: tuple[str, str], expected: str, found: str) -> None:
    text = ALPACA_COT.render("2+2?").replace(*change)
    difference = explain(ALPACA_COT, text).difference
    assert difference is not None
    assert expected in difference.expected and found in difference.found


def test_an_instruction_that_begins_like_the_tail_does_not_move_the_place() -> None:
    text = ALPACA_COT.render("see\n\n### Response: there").removesuffix(" step.")
    difference = explain(ALPACA_COT, text).difference
    assert difference is not None and difference.offset_bytes == len(text)
    twice = WIZARDMATH_PLAIN.render("see\n\n### Response:\nthere") + "\n"
    difference = explain(ALPACA_COT, twice).difference
    assert difference is not None and difference.offset_bytes == len(twice) - 1


def test_what_it_is_instead_is_named() -> None:
    plain = WIZARDMATH_PLAIN.render("2+2?")
    assert explain(ALPACA_COT, plain).others == ("WizardMath-plain", "Alpaca")
    assert explain(ALPACA_COT, plain + "\n").others == ()
    assert explain(ALPACA_COT, plain + " 4").others == ("WizardMath-plain", "Alpaca")
    assert explain(WIZARDMATH_PLAIN, ALPACA_COT.render("2+2?")).others == ("Alpaca-CoT",)
    vicuna = by_name("Vicuna")
    assert vicuna is not None and explain(vicuna, ALPACA_COT.render("2+2?")).others == ("Alpaca-CoT",)
    assert explain(vicuna, "2+2?").others == ()


@unhurried
@given(text=TEXT)
def test_any_text_is_explained_for_every_template(text: str) -> None:
    for template in TEMPLATES:
        found = explain(template, text)
        assert (found.difference is None) == found.matches == (found.recognised is not None)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(PromptError, match="position 1"):
        explain(ALPACA_COT, "a\ud800")
