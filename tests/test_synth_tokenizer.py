"""The small tokenizer: every byte has a token, every merge leads somewhere, any text comes back."""

from __future__ import annotations

import json

import pytest

from branchfit.demo.synth import tokenizer_files
from branchfit.errors import ConfigError
from branchfit.prompts import ALPACA_COT


def test_every_byte_has_a_token_and_the_numbers_have_no_holes() -> None:
    vocab = tokenizer_files(320, 4096)["tokenizer.json"]["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(320))
    assert [vocab[text] for text in ("<unk>", "<s>", "</s>")] == [0, 1, 2]
    # Bytes follow the specials in order: "A" is 65, a space is written as U+0120.
    assert vocab["A"] == 3 + 65
    assert vocab["Ġ"] == 3 + 32
    assert vocab["Ċ"] == 3 + 10


def test_every_merge_joins_two_tokens_into_a_third() -> None:
    model = tokenizer_files(320, 4096)["tokenizer.json"]["model"]
    assert len(model["merges"]) == 320 - 259
    for merge in model["merges"]:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= model["vocab"].keys()


def test_a_large_vocabulary_gets_the_small_tokenizer() -> None:
    assert len(tokenizer_files(32000, 4096)["tokenizer.json"]["model"]["vocab"]) <= 512


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="a vocabulary of 258"):
        tokenizer_files(258, 4096)


TEXTS = [
    ALPACA_COT.render("What is 17 × 3?\n\n  Two  spaces, a tab\t, and a line end\r\n"),
    "Ünïcödé ζητώ 数学 🧮 \u200b\u00a0 ",
    "<s> and </s> and ### Response: {instruction}",
    "\n\n\n   \x00\x7f",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the `[gptq]` extra, which brings tokenizers")
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_files(320, 4096)["tokenizer.json"]))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.encode(text).ids == [1, *ids]


def test_merges_shorten_the_prompt() -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the `[gptq]` extra, which brings tokenizers")
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_files(320, 4096)["tokenizer.json"]))
    text = ALPACA_COT.render("Add 2 and 3.")
    assert len(tokenizer.encode(text).ids) < 0.7 * len(text.encode())
