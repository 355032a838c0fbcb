"""Whatever is fed to the reader, it answers, and soon: in time linear in the input's length."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchfit.card import ModelCard, read_card
from branchfit.card.source import MAX_CARD_BYTES
from branchfit.errors import CardError
from shared_cards import own_card

HEADER = "| Branch | Bits | GS | Act Order | Damp % | GPTQ Dataset | Seq Len | Size | ExLlama | Desc |\n|-|-|-|-|\n"

FRAGMENTS = [
    *(
        "\n",
        "\n\n",
        "\r\n",
        " ",
        "    ",
        "\t",
        "|",
        "\\|",
        "`",
        "```\n",
        "~~~\n",
        "````",
        "[",
        "](",
        ")",
        "<",
        ">",
        "> ",
    ),
    *("- ", "1. ", "# ", "## Prompt template: Alpaca-CoT\n", "## Prompt format\n", "### Repositories available\n"),
    *(
        "# Original model card: X\n",
        "---\n",
        "===\n",
        "<!--",
        "-->",
        "<pre>",
        "</pre>",
        "<details>",
        HEADER,
        "|---|---|\n",
    ),
    *("| Branch | Bits | GS |\n", "| main | 4 | 128 |\n", "| gptq-8--1g-actorder_True | 8 | None | Yes |", "35.33 GB"),
    *("[main](https://huggingface.co/o/r-GPTQ/tree/main)", "https://huggingface.co/o/r-GGUF ", "`o/r-GPTQ:main`"),
    *(
        "{prompt}",
        "{system_message}",
        '"a\\n{instruction}"',
        "**Default version**",
        "CoT Version",
        "<prompt>",
        "{{",
        "}}",
    ),
    *(
        "model_type: llama\n",
        "prompt_template: 'x {prompt}'\n",
        "base_model: a/b\n",
        "&a [*a]",
        "\ufeff",
        "\x00",
        "\ud800",
        "é",
    ),
]


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        card = read_card(data)
    except CardError:
        assert b"\0" in data
    else:
        assert isinstance(card, ModelCard)


@given(st.text(alphabet=st.characters(), max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_card(text, "o/r-GPTQ")
    except CardError:
        assert "\0" in text


@settings(max_examples=300)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))
def test_any_heap_of_markdown_is_read_or_refused(text: str) -> None:
    try:
        card = read_card(text)
    except CardError:
        assert "\0" in text
        return
    assert card == read_card(text)
    assert len({row.branch for row in card.rows}) == len(card.rows)
    if card.prompt_template is not None:
        assert card.prompt_template.text.count("{instruction}") == 1
        assert card.prompt_template.text.count("{system_message}") <= 1
    for row in card.rows:
        assert row.branch and not any(letter.isspace() for letter in row.branch)
        assert (row.size_bytes is None) == (row.size_resolution_bytes is None)


@given(st.data())
def test_a_real_table_is_found_whatever_prose_stands_around_it(data: st.DataObject) -> None:
    prose = st.lists(st.sampled_from(["prose.", "", "- item", "**bold** words", "see `code`", "* a", "## Heading"]))
    before, after = ("\n".join(data.draw(prose)) for _ in range(2))
    rows = read_card(f"{before}\n{HEADER}| main | 4 | 128 |\n| b | 8 | None |\n{after}").rows
    assert [(row.branch, row.bits, row.group_size) for row in rows] == [("main", 4, 128), ("b", 8, None)]


@given(st.integers(0, 3000))
def test_a_card_cut_anywhere_is_read(length: int) -> None:
    for name in ("dialect_b", "lost_blank_lines"):
        whole = read_card(own_card(name)).rows
        cut = read_card(own_card(name).encode()[:length]).rows
        assert [row.branch for row in cut][: len(cut) - 1] == [row.branch for row in whole][: len(cut)][: len(cut) - 1]


@pytest.mark.parametrize("text", ["a\0b", "PK\x03\x04\0", b"\xff\xfea\0b\0", b"\0"])
def test_what_is_no_text_is_refused(text: str | bytes) -> None:
    with pytest.raises(CardError, match="not text"):
        read_card(text)


def test_a_nul_far_into_a_text_is_mended() -> None:
    assert read_card("a" * 2000 + "\0").rows == ()


def test_bytes_that_are_no_utf_8_are_read_with_a_note() -> None:
    card = read_card(HEADER.encode() + b"| main | 4 | 128 | Yes | | | | | | caf\xe9 |\n")
    assert card.rows[0].description == "caf\ufffd"
    assert "not UTF-8" in card.notes[0]
    assert "surrogates" in read_card("\ud800").notes[0]


def test_more_than_sixteen_mebibytes_are_refused() -> None:
    with pytest.raises(CardError, match="16,777,217 bytes"):
        read_card(b"a" * (MAX_CARD_BYTES + 1))
    with pytest.raises(CardError):
        read_card("é" * (MAX_CARD_BYTES // 2 + 1))


UNITS = {
    "pipes": "|",
    "lines of pipes": "|\n",
    "escaped pipes": "\\|",
    "backticks": "`",
    "fences": "```\n",
    "fences that do not match": "```a\n",
    "opening brackets": "[",
    "half links": "[](",
    "links": "[a](https://huggingface.co/a/b) ",
    "half addresses": "huggingface.co/a/",
    "a name of dots": "https://huggingface.co/a/b" + "." * 500,
    "quotes": "> ",
    "nested quotes": ">",
    "nested lists": "- ",
    "comments that do not close": "a <!--\n",
    "comments": "<!--a-->",
    "definitions": "[a]: b\n",
    "half definitions": "[a\n",
    "tabs": "\t",
    "spaces": " ",
    "blank lines": "\n",
    "carriage returns": "\r",
    "rules": "---\n",
    "dashes": "-",
    "braces": "{{",
    "headings": "# Prompt template\n",
    "hashes": "#",
    "underlined headings": "a\n-\n",
    "tables": "a|b\n-|-\n",
    "branch tables": HEADER + "| main | 4 | 32 |\n",
    "rows": "| main | 4 | 32 |\n",
    "rows that are none": "| no name | x | y |\n",
    "half tags": "<a ",
    "raw HTML": "<pre>\n",
    "quotation marks": '"',
    "quoted strings": '"\\n{prompt}',
    "templates": "```\n{prompt}\n```\n",
    "digits": "9",
    "names in backticks": "`a/b-GPTQ",
    "the word prompt": "prompt ",
    "the word original": "# original ",
    "stars": "**a*",
}
STARTS = {
    "alone": "",
    "in front matter": "---\n",
    "under a prompt heading": "# X GPTQ\n## Prompt template: Alpaca-CoT\n",
    "under the repositories": "## Repositories available\n",
    "in a branch table": HEADER,
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_megabyte_of_anything_is_read_soon(unit: str, start: str) -> None:
    """Measured: at most 1.2 s, and 0.6 s for pipes, backticks and brackets, on a shared 2-core machine.

    What is quadratic takes minutes at this size, so that the generous bound tells the two apart.
    """
    text = start + unit * (1_000_000 // len(unit))
    started = time.process_time()
    read_card(text)
    assert time.process_time() - started < 5
