"""Branch tables: the dialects, the oddities, and the tables that are none. Needs no shared folder."""

from __future__ import annotations

import pytest

from branchfit.card import BranchRow, read_card
from shared_cards import own_card

HEADER = (
    "| Branch | Bits | GS | Act Order | Damp % | GPTQ Dataset | Seq Len | Size | ExLlama | Desc |\n"
    "| ------ | ---- | -- | --------- | ------ | ------------ | ------- | ---- | ------- | ---- |\n"
)
WIKITEXT = "https://huggingface.co/datasets/wikitext/viewer/wikitext-2-v1/test"


def branches(card: str, repo: str | None = None) -> list[str]:
    return [row.branch for row in read_card(card, repo).rows]


def test_dialect_a_has_plain_cells_true_and_false_and_made_with() -> None:
    rows = read_card(own_card("dialect_a")).rows
    assert [row.branch for row in rows] == [
        "main",
        "gptq-4bit-32g-actorder_True",
        "gptq-8bit-128g-actorder_False",
        "gptq-3bit--1g-actorder_True",
    ]
    assert rows[0] == BranchRow(
        branch="main",
        bits=4,
        group_size=None,
        act_order=True,
        damp_percent=None,
        dataset=None,
        dataset_url=None,
        sequence_length=None,
        size_bytes=16_940_000_000,
        size_resolution_bytes=10_000_000,
        exllama=True,
        made_with="GPTQ-for-LLaMa",
        description="Most compatible option.",
        repo=None,
        line=38,
    )
    assert [(row.group_size, row.act_order, row.exllama) for row in rows[1:]] == [
        (32, True, True),
        (128, False, False),
        (None, True, False),
    ]


def test_dialect_b_has_links_damp_dataset_and_sequence_length() -> None:
    rows = read_card(own_card("dialect_b")).rows
    assert len(rows) == 3
    assert rows[2] == BranchRow(
        branch="gptq-8--1g-actorder_True",
        bits=8,
        group_size=None,
        act_order=True,
        damp_percent=0.01,
        dataset="VMware Open Instruct",
        dataset_url="https://huggingface.co/datasets/VMware/open-instruct/viewer/",
        sequence_length=8192,
        size_bytes=13_360_000_000,
        size_resolution_bytes=10_000_000,
        exllama=False,
        made_with=None,
        description="8-bit, with Act Order.",
        repo="quanter/Harbour-13B-16K-GPTQ",
        line=57,
    )
    assert rows[1].branch == "gptq-4-32g-actorder_True"
    assert (rows[1].bits, rows[1].group_size) == (4, 32)


def test_dialect_c_prints_raw_bytes_as_gb_and_sizes_that_are_still_to_come() -> None:
    card = read_card(own_card("dialect_c"))
    assert [(row.size_bytes, row.size_resolution_bytes) for row in card.rows] == [
        (3_896_726_080, 1),
        (None, None),
        (None, None),
    ]
    assert {row.made_with for row in card.rows} == {"AutoGPTQ"}
    assert {row.dataset_url for row in card.rows} == {WIKITEXT}
    assert card.notes == ("Line 19: 'Processing, coming soon' is no size that can be read.",)


def test_dialect_d_has_no_description_no_closing_pipe_and_half_of_the_opening_ones() -> None:
    rows = read_card(own_card("dialect_d")).rows
    assert [(row.branch, row.group_size, row.size_bytes, row.exllama, row.description) for row in rows] == [
        ("main", 128, 7_260_000_000, True, ""),
        ("gptq-4bit-64g-actorder_True", 64, None, True, ""),
    ]


def test_a_table_right_after_a_list_and_a_details_tag_is_found_without_blank_lines() -> None:
    assert branches(own_card("lost_blank_lines")) == ["main", "gptq-3bit--1g-actorder_True"]


def test_line_ends_make_no_difference() -> None:
    for name in ("dialect_a", "dialect_b", "rough_table", "cot_by_label"):
        text = own_card(name)
        for end in ("\r\n", "\r"):
            assert read_card(text.replace("\n", end)) == read_card(text)
            assert read_card(text.replace("\n", end).encode()) == read_card(text)


def test_columns_in_any_order_with_strange_ones_among_them_and_links_of_every_form() -> None:
    rows = {row.branch: row for row in read_card(own_card("rough_table"), "quanter/rough-gptq").rows}
    assert list(rows) == [
        "main",
        "gptq-8bit--1g-actorder_True",
        "gptq-3bit-128g-actorder_False",
        "feature/a",
        "latest",
        "main2",
        "last",
    ]
    main = rows["main"]
    assert (main.bits, main.group_size, main.act_order, main.sequence_length) == (4, 128, True, 4096)
    assert (main.size_bytes, main.size_resolution_bytes) == (4_200_000_000, 100_000_000)
    assert main.description == "first | best"
    assert rows["gptq-8bit--1g-actorder_True"].description == "`a | b`"
    assert rows["gptq-8bit--1g-actorder_True"].group_size is None
    assert rows["gptq-8bit--1g-actorder_True"].repo == "quanter/rough-gptq"
    assert rows["feature/a"].size_bytes == 1_500_000_000_000
    assert rows["feature/a"].repo is None


def test_what_a_cell_does_not_say_is_taken_from_the_branch_name() -> None:
    rows = {row.branch: row for row in read_card(own_card("rough_table")).rows}
    row = rows["gptq-3bit-128g-actorder_False"]
    assert (row.bits, row.act_order) == (3, False)
    assert row.group_size is None  # the cell says "no groupsize", and the column goes before the name
    filled = read_card(HEADER + "| gptq-8--1g-actorder_True | | | | | | | | | |\n").rows[0]
    assert (filled.bits, filled.group_size, filled.act_order) == (8, None, True)


def test_every_row_that_is_left_out_leaves_a_note() -> None:
    notes = "\n".join(read_card(own_card("rough_table"), "quanter/Rough-GPTQ").notes)
    for words in (
        "Line 9: branch main stands in the table twice",
        "Line 10: a row without a branch name",
        "Line 11: 'see the notes below' cannot be a branch name",
        "Line 12: main/8bpw is a folder of main",
        "Line 14: the row for gptq-4bit-32g-actorder_True links to someone/Else-GPTQ, not quanter/Rough-GPTQ",
        "Line 15: '-3 GB' is no size",
        "Line 17: a blank line splits the branch table",
    ):
        assert words in notes


def test_bits_that_nothing_tells_are_unknown_and_noted() -> None:
    card = read_card(HEADER + "| main | many | 128 | Yes | 0.1 | x | 2048 | 1.00 GB | Yes | d |\n")
    assert [(row.branch, row.bits, row.group_size) for row in card.rows] == [("main", None, 128)]
    assert "Line 3: neither a cell nor the branch's name gives the number of bits." in card.notes


def test_a_links_tree_part_is_the_branch_where_its_text_says_otherwise() -> None:
    url = "https://huggingface.co/o/r-GPTQ/tree/gptq-4bit-32g-actorder_True"
    card = read_card(HEADER + f"| [32g]({url}) | 4 | 32 | Yes | | | | | | |\n")
    assert [(row.branch, row.repo) for row in card.rows] == [("gptq-4bit-32g-actorder_True", "o/r-GPTQ")]
    assert "the link text says '32g'" in card.notes[0]


@pytest.mark.parametrize(
    ("cell", "branch", "repo"),
    [
        ("[main](https://huggingface.co/o/r/tree/main)", "main", "o/r"),
        ("[main](http://www.huggingface.co/o/r/tree/main/)", "main", "o/r"),
        ("[main](huggingface.co/o/r/tree/main)", "main", "o/r"),
        ("[main](/o/r/tree/main)", "main", "o/r"),
        ("[main](../tree/main)", "main", None),
        ("[main](https://huggingface.co/o/r)", "main", "o/r"),
        ("[**main**](https://huggingface.co/o/r/tree/main)", "main", "o/r"),
        ("**[main](https://huggingface.co/o/r/tree/main)**", "main", "o/r"),
        ("👉 [main](https://huggingface.co/o/r/tree/main)", "main", "o/r"),
        ('<a href="https://huggingface.co/o/r/tree/main" target="_blank">main</a>', "main", "o/r"),
        ("[x](https://huggingface.co/o/r/tree/refs%2Fpr%2F1#top)", "refs/pr/1", "o/r"),
        ("`main`", "main", None),
        ("`main` (default)", "main", None),
        ("main (recommended)", "main", None),
        ("[main]", "[main]", None),
        ("../up", "../up", None),
        ("-n", "-n", None),
        ("a..b", "a..b", None),
        ("a\u00a0b", "a\u00a0b", None),
    ],
)
def test_branch_cells_of_every_form(cell: str, branch: str, repo: str | None) -> None:
    rows = read_card(HEADER + f"| {cell} | 4 | 32 | Yes | | | | | | |\n").rows
    bad = branch in ("[main]", "../up", "-n", "a..b", "a\u00a0b")  # what git refuses is no branch
    assert [(row.branch, row.repo) for row in rows] == ([] if bad else [(branch, repo)])


def test_repos_are_compared_without_case() -> None:
    row = "| [main](https://huggingface.co/TheBloke/Llama-2-70B-Chat-GPTQ/tree/main) | 4 | 32 | Yes | | | | | | |\n"
    assert branches(HEADER + row, "thebloke/llama-2-70b-chat-gptq") == ["main"]
    assert branches(HEADER + row, "thebloke/llama-2-70b-gptq") == []


@pytest.mark.parametrize("name", ["awq", "other_tables", "prose_era", "base_card_two_strings"])
def test_cards_without_a_gptq_branch_table_give_no_rows_and_no_error(name: str) -> None:
    assert read_card(own_card(name)).rows == ()


@pytest.mark.parametrize("text", ["", "\n\n", "# MythoMax-L2-13B-GPTQ", "{{TITLE}}", "---", "---\n---", "| |", "|-|"])
def test_hardly_any_card_is_still_a_card(text: str) -> None:
    card = read_card(text)
    assert (card.rows, card.sisters, card.prompt_template) == ((), (), None)


def test_a_table_of_options_with_the_same_columns_is_no_branch_table() -> None:
    text = "| Option | Branch | Bits | Group size |\n|---|---|---|---|\n| `--branch` | which | how many | x |\n"
    assert read_card(text).rows == ()
    assert read_card(text).notes == ("The card gives no prompt template.",)


def test_another_formats_repo_has_no_gptq_branches() -> None:
    table = "| Branch | Bits | Group Size | Size |\n|---|---|---|---|\n"
    linked = table + "| [main](https://huggingface.co/o/X-AWQ/tree/main) | 4 | 128 | 4.15 GB |\n"
    assert branches(linked) == []
    assert branches(table + "| main | 4 | 128 | 4.15 GB |\n", "o/X-AWQ") == []
    assert branches(table + "| main | 4 | 128 | 4.15 GB |\n", "o/X-GPTQ") == ["main"]


@pytest.mark.parametrize("column", ["AWQ Dataset", "lm_head bits", "Actual bpw", "Bits per weight", "EXL2 dataset"])
def test_a_column_of_another_format_makes_the_table_that_formats(column: str) -> None:
    table = "| Branch | Bits | GS | {} | Size |\n|---|---|---|---|---|\n| main | 4 | 128 | x | 4.15 GB |\n"
    assert branches(table.format(column)) == []
    assert branches(table.format("Perplexity")) == ["main"]


def test_the_first_table_that_speaks_of_this_repo_is_read() -> None:
    text = HEADER + "| [main](https://huggingface.co/a/Parent-GPTQ/tree/main) | 3 | 32 | Yes | | | | | | |\n\nmine:\n\n"
    text += HEADER + "| [main](https://huggingface.co/b/Own-GPTQ/tree/main) | 4 | 64 | Yes | | | | | | |\n"
    assert [row.bits for row in read_card(text, "b/Own-GPTQ").rows] == [4]
    assert [row.bits for row in read_card(text, "a/Parent-GPTQ").rows] == [3]


def test_no_table_after_the_original_model_card_is_read() -> None:
    table = HEADER + "| main | 4 | 32 | Yes | | | | | | |\n"
    for heading in (
        "# Original model card: Somebody's",
        "### ORIGINAL MODEL CARD",
        "# Original Wizard Mega 13B model card",
        "# Original model card not provided",
        "Original model card\n===",
    ):
        assert branches(f"{heading}\n\n{table}") == []
        assert branches(f"{table}\n{heading}\n\n{table}") == ["main"]
    assert branches(f"```\n# Original model card\n```\n\n{table}") == ["main"]


def test_one_cell_too_many_or_too_few_in_the_row_of_dashes_does_no_harm() -> None:
    row = "| main | 4 | 32 | Yes |"
    for dashes in ("|---|---|---|---|---|", "|---|---|---|", "| :--- | :-: | ---: | - |", "---|---|---|---"):
        assert branches(f"| Branch | Bits | GS | Act Order |\n{dashes}\n{row}\n") == ["main"]


def test_what_follows_a_table_without_a_blank_line_ends_it() -> None:
    for after in ("## Heading | one", "> quote | here", "- item | two", "prose.", "<!-- end -->", "<div>|</div>"):
        assert branches(HEADER + f"| main | 4 | 32 | Yes | | | | | | |\n{after}\n") == ["main"]


def test_a_table_inside_a_list_item_is_a_table_and_one_indented_as_code_is_not() -> None:
    table = "    | Branch | Bits | GS |\n    |---|---|---|\n    | main | 4 | 32 |\n"
    assert branches("1. Choose a branch:\n\n" + table) == ["main"]
    assert branches("prose.\n\n" + table) == []


def test_a_table_of_more_than_a_thousand_rows_is_cut_with_a_note() -> None:
    card = read_card(HEADER + "".join(f"| b{n} | 4 | 32 | Yes |\n" for n in range(1500)))
    assert len(card.rows) == 1000
    assert "more than 1000 rows" in "\n".join(card.notes)


def test_notes_are_counted_beyond_the_fiftieth() -> None:
    card = read_card(HEADER + "".join(f"| b{n} | 4 | 32 | Yes | | | | soon |\n" for n in range(70)))
    assert len(card.notes) == 51
    assert card.notes[-1] == "21 more notes are not shown."
