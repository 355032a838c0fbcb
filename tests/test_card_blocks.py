"""Fences, headings, comments. markdown-it-py, a full CommonMark parser, is the judge where a card is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from branchfit.card.blocks import Document, plain, scan
from branchfit.card.frontmatter import read_front_matter
from branchfit.card.source import card_lines
from shared_cards import OWN_CARDS, needs_shared, shared_cards

markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is what the block scan is compared with")


def scanned(text: str) -> Document:
    return scan(text.split("\n"))


def assert_like_commonmark(path: Path) -> None:
    """Fences are the same. Headings are, but for those that CommonMark swallows with the HTML before
    them where a card has no blank line between; the scan finds these."""
    lines, _ = card_lines(path.read_bytes())
    _, first, _ = read_front_matter(lines)
    document = scan(lines, first)
    tokens = markdown_it.MarkdownIt("commonmark").parse("\n".join([""] * first + lines[first:]))

    theirs = {(t.map[0], int(t.tag[1])) for t in tokens if t.type == "heading_open"}
    swallowed = {line for t in tokens if t.type == "html_block" for line in range(*t.map)}
    ours = {(h.line, h.level) for h in document.headings}
    assert theirs <= ours
    assert {line for line, _ in ours - theirs} <= swallowed

    # markdown-it ends every line of a fence with a newline, ours joins them; the empty last "line"
    # of a file that ends in a newline is ours alone, and matters in a fence that never closes only.
    bodies = [f.body if f.last < len(lines) else f.body.removesuffix("\n") for f in document.fences]
    fences = [t for t in tokens if t.type == "fence"]
    assert [(f.first, body) for f, body in zip(document.fences, bodies, strict=True)] == [
        (t.map[0], t.content.removesuffix("\n")) for t in fences
    ]


WHOLE = [path for path in sorted(OWN_CARDS.glob("*.md")) if path.stem != "lost_blank_lines"]


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_fences_and_headings_of_our_cards_are_those_of_commonmark(path: Path) -> None:
    assert_like_commonmark(path)


@needs_shared
@pytest.mark.parametrize("path", shared_cards("gptq", "awq", "gguf", "exl2", "other"), ids=lambda path: path.stem)
def test_fences_and_headings_of_real_cards_are_those_of_commonmark(path: Path) -> None:
    assert_like_commonmark(path)


def test_headings_in_fences_and_comments_are_none() -> None:
    text = "# A\n```\n# B\n```\n<!-- # C\n# D -->\n    # E\n~~~\n# F\n```\n~~~\n## G ##\n"
    assert [(h.line, h.level, h.text) for h in scanned(text).headings] == [(0, 1, "A"), (11, 2, "G")]


def test_a_longer_fence_holds_shorter_ones_and_other_kinds() -> None:
    fences = scanned("````\n```\n~~~\n```\n````\n```x y\na\n```").fences
    assert [(f.first, f.last, f.info, f.body) for f in fences] == [(0, 4, "", "```\n~~~\n```"), (5, 7, "x y", "a")]


def test_backticks_in_mid_line_or_with_backticks_behind_open_nothing() -> None:
    assert scanned("using ```:\n```a`b\ntext\n").fences == ()


def test_a_fence_that_never_closes_is_code_to_the_end_and_noted() -> None:
    document = scanned("text\n```\n# A\n| a |")
    assert document.lines == ("text", "", "", "")
    assert document.headings == ()
    assert "line 2 is never closed" in document.notes[0]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a <!-- b --> c", ["a  c"]),
        ("<!-- a -->", [""]),
        ("<!-- a\nb\n-->\nc", ["", "", "", "c"]),
        ("<!-- a --> b", [" b"]),
        ("a <!-- b\nc --> d", ["a ", " d"]),
        ("a <!-- b\n\nc --> d", ["a <!-- b", "", "c --> d"]),
        ("<!-- a\n\nb", ["", "", ""]),
        ("<pre>\n# a\n</pre>\nb", ["", "", "", "b"]),
    ],
)
def test_comments_and_raw_html_are_no_text(text: str, seen: list[str]) -> None:
    document = scanned(text)
    assert list(document.lines) == seen
    assert document.headings == ()


def test_every_line_of_the_card_has_its_line_in_the_document() -> None:
    for path in sorted(OWN_CARDS.glob("*.md")):
        lines, _ = card_lines(path.read_bytes())
        assert len(scan(lines).lines) == len(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [("**Bits**", "Bits"), ("[`a`](b)", "a"), ("_x_", "x"), ("a_b", "a_b"), ("<b>c</b>", "c"), ("![i](j) k", "i k")],
)
def test_plain_words(text: str, words: str) -> None:
    assert plain(text) == words
