"""Sister repos. Needs no shared folder."""

from __future__ import annotations

import pytest

from branchfit.card import Sister, read_card
from shared_cards import own_card

SECTION = "## Repositories available\n\n"
HUB = "https://huggingface.co"


def sisters(text: str, repo: str | None = None) -> list[tuple[str, str]]:
    return [(sister.repo, sister.kind) for sister in read_card(text, repo).sisters]


def test_the_listed_repos_are_the_sisters_and_the_cards_own_is_none() -> None:
    expected = (
        Sister("quanter/Harbour-13B-16K-AWQ", "awq"),
        Sister("quanter/Harbour-13B-16K-GGUF", "gguf"),
        Sister("dockside/Harbour-13b-16K", "fp16"),
    )
    assert read_card(own_card("dialect_b")).sisters == expected
    assert read_card(own_card("dialect_b"), "Quanter/harbour-13b-16k-gptq").sisters == expected


def test_a_card_without_links_in_its_table_is_known_by_its_title() -> None:
    expected = [("quanter/Harbour-30B-GGML", "ggml"), ("quanter/Harbour-30B-fp16", "fp16")]
    assert sisters(own_card("dialect_a")) == expected
    assert sisters(own_card("dialect_a"), "quanter/Harbour-30B-GPTQ") == expected


def test_a_card_is_known_by_its_download_example() -> None:
    text = f"{SECTION}* {HUB}/o/X-GPTQ\n* {HUB}/o/X-GGUF\n\n## Use\n\nenter `o/X-GPTQ:gptq-4bit-32g-actorder_True`\n"
    assert sisters(text) == [("o/X-GGUF", "gguf")]


def test_comments_datasets_and_spaces_are_no_sisters() -> None:
    assert sisters(own_card("prose_era")) == [("quanter/harbour-13B-GGML", "ggml"), ("quanter/harbour-13B-HF", "fp16")]
    text = (
        SECTION
        + f"<!-- {HUB}/o/a-AWQ\n{HUB}/o/b-AWQ -->\n{HUB}/spaces/o/c {HUB}/datasets/o/d {HUB}/docs/hub/e {HUB}/o\n"
    )
    assert sisters(text) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("X-GGUF", "gguf"),
        ("X-GGML", "ggml"),
        ("X-AWQ", "awq"),
        ("X-GPTQ", "gptq"),
        ("X-GPTQ-4bit", "gptq"),
        ("X-exl2", "exl2"),
        ("X-4.0bpw-h6-EXL2", "exl2"),
        ("X_exl3_3.07bpw", "exl3"),
        ("X-fp16", "fp16"),
        ("X-HF", "fp16"),
        ("X", "fp16"),
        ("Ggufish", "fp16"),
        ("X-awqward", "fp16"),
        ("awq", "awq"),
    ],
)
def test_the_kind_is_told_by_the_name(name: str, kind: str) -> None:
    assert sisters(f"{SECTION}* [words]({HUB}/o/{name})\n") == [(f"o/{name}", kind)]


@pytest.mark.parametrize(
    "link",
    [
        f"[w]({HUB}/o/X)",
        f"<{HUB}/o/X>",
        f"{HUB}/o/X.",
        f'<a href="{HUB}/o/X">w</a>',
        "http://www.huggingface.co/o/X",
        f"[w](<{HUB}/o/X>)",
        "huggingface.co/o/X",
        "https://hf.co/o/X",
        f"[w]({HUB}/o/X/tree/main)",
        f"{HUB}/o/X?x=1",
    ],
)
def test_links_of_every_form_count(link: str) -> None:
    assert sisters(f"{SECTION}* {link}\n") == [("o/X", "fp16")]


@pytest.mark.parametrize(
    "link",
    ["https://cdn.huggingface.co/o/X", "https://example.org/huggingface.co/o/X", "https://nothuggingface.co/o/X"],
)
def test_links_to_other_hosts_do_not(link: str) -> None:
    assert sisters(f"{SECTION}* {link}\n") == []


def test_each_sister_counts_once_whatever_its_case() -> None:
    assert sisters(f"{SECTION}{HUB}/o/X-GGUF {HUB}/O/x-gguf {HUB}/o/X\n") == [("o/X-GGUF", "gguf"), ("o/X", "fp16")]


@pytest.mark.parametrize(
    "field",
    [
        "base_model: a/Base",
        f"base_model: {HUB}/a/Base",
        "base_model:\n- a/Base\n- b/Other",
        f"model_link: {HUB}/a/Base",
    ],
)
def test_without_the_section_the_base_model_is_the_fp16_sister(field: str) -> None:
    card = read_card(f"---\n{field}\n---\n# X\n")
    assert (card.base_model, card.sisters) == ("a/Base", (Sister("a/Base", "fp16"),))
    assert read_card(f"---\n{field}\n---\n{SECTION}{HUB}/o/X-GGUF\n").sisters == (Sister("o/X-GGUF", "gguf"),)


@pytest.mark.parametrize("field", ["base_model: '{{BASE}}'", "base_model: a/b/c", "base_model: 7", "base_model: []"])
def test_a_base_model_that_is_no_repo_is_none(field: str) -> None:
    assert read_card(f"---\n{field}\n---\n").base_model is None


def test_without_the_section_links_to_the_same_model_in_another_format_count() -> None:
    text = f"see [GGML]({HUB}/o/harbour-65B-GGML), [it]({HUB}/a/Harbour-65b) and [more]({HUB}/o/Other-GGUF)\n"
    assert sisters(text, "o/harbour-65B-GPTQ-4bit") == [("o/harbour-65B-GGML", "ggml"), ("a/Harbour-65b", "fp16")]
    assert sisters(text) == []


def test_what_follows_the_original_model_card_is_not_looked_at() -> None:
    assert sisters(f"# Original model card\n\n{SECTION}{HUB}/o/X-GGUF\n") == []
    assert sisters(f"{SECTION}{HUB}/o/X\n# Original model card\n{HUB}/o/Y\n") == [("o/X", "fp16")]
