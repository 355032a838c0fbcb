"""Front matter: what is read, what is refused, and that nothing in it can hurt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchfit.card import ModelCard, read_card

TABLE = "| Branch | Bits | GS |\n|---|---|---|\n| main | 4 | 128 |\n"


def read(yaml: str) -> ModelCard:
    return read_card(f"---\n{yaml}\n---\n{TABLE}")


def test_the_fields_are_read_with_their_types() -> None:
    card = read("inference: false\nmodel_type: llama\nmodel_name: X 7B\ntags: [a, b]\ndate: 2023-08-11\n1: one")
    assert (card.model_type, card.model_name) == ("llama", "X 7B")
    assert card.front_matter["inference"] is False
    assert card.front_matter["tags"] == ["a", "b"]
    assert set(card.front_matter) == {"inference", "model_type", "model_name", "tags", "date"}


@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n", "\ufeff\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_blank_lines_and_any_line_ends_are_fine(start: str, end: str) -> None:
    text = f"{start}--- \nmodel_type: llama\n---\t\n{TABLE}".replace("\n", end)
    for card in (text, text.encode()):
        assert read_card(card).model_type == "llama"
        assert [row.branch for row in read_card(card).rows] == ["main"]


def test_lines_are_counted_from_the_cards_first() -> None:
    assert read("a: b").rows[0].line == 6


@pytest.mark.parametrize(
    "yaml",
    [
        "license: {{LICENSE}}",
        "model_name: Foo: Bar",
        "a: [1, 2",
        "a: 'open",
        "a:\n\t- tab",
        "a: !!python/object/apply:os.system ['true']",
        "a: !!timestamp x",
        "a: 2023-99-99",
        "a: !!int ''",
        "a: !!float ''",
        "a: !!bool x",
        "a: !unknown x",
        "? [a, b]\n: c",
        "{a: b}: c",
        "a: \x07",
        "- just\n- a list",
        "just words",
        "%YAML 9.9",
        "a: 1\n---extra: 2",
        "a: " + "9" * 5000,
    ],
)
def test_what_cannot_be_read_is_a_note_and_never_a_failure(yaml: str) -> None:
    card = read(yaml)
    assert [row.branch for row in card.rows] == ["main"]
    if not card.front_matter:
        assert card.notes


def test_a_missing_end_means_there_is_no_front_matter() -> None:
    card = read_card(f"---\nmodel_type: llama\n\n{TABLE}")
    assert card.front_matter == {}
    assert [row.branch for row in card.rows] == ["main"]
    assert "closing `---` is missing" in card.notes[0]


def test_a_card_that_begins_with_a_rule_loses_nothing() -> None:
    card = read_card(f"---\n\n# X\n\n{TABLE}\n---\n\nprose.\n")
    assert [row.branch for row in card.rows] == ["main"]


def test_aliases_are_refused_so_that_no_bomb_goes_off() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    card = read(bomb)
    assert card.front_matter == {}
    assert "alias" in card.notes[0]
    assert [row.branch for row in card.rows] == ["main"]


@pytest.mark.parametrize("yaml", ["a: " + "[" * 60_000, "a: " + "{a: " * 10_000, "- " * 30_000, "? " * 30_000])
def test_deep_nesting_is_refused(yaml: str) -> None:
    assert read(yaml).front_matter == {}


def test_front_matter_of_more_than_64_ki_characters_is_not_parsed() -> None:
    card = read("a: b\n" * 20_000)
    assert card.front_matter == {}
    assert "100,001 characters" in card.notes[0]
    assert [row.branch for row in card.rows] == ["main"]


@pytest.mark.parametrize(
    "yaml", ["model_type: 7", "model_type: [a, b]", "model_type: ''", "model_type:", "model_type: {a: b}"]
)
def test_a_model_type_is_text_or_the_first_text_of_a_list(yaml: str) -> None:
    assert read(yaml).model_type == ("a" if "[a, b]" in yaml else None)


@given(st.text(alphabet=st.sampled_from("abc: -[]{}&*!|>'\"#%@`\\\n\t,?0123456789.~é\u2028\x07\ud800"), max_size=200))
def test_any_front_matter_is_read_or_noted(yaml: str) -> None:
    read(yaml)
