"""A real byte-level BPE tokenizer, small enough for a tiny vocabulary: any text goes in and comes out.

Written as the plain JSON that the `tokenizers` library reads, so nothing is needed to write it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

from ...errors import ConfigError
from ...prompts import ALPACA_COT
from .configs import BOS_ID, EOS_ID, UNK_ID

SPECIALS = {"<unk>": UNK_ID, "<s>": BOS_ID, "</s>": EOS_ID}

LEAST_TOKENS = len(SPECIALS) + 256
"""The specials and every byte: with these alone any text can be spelt."""

MOST_TOKENS = 512
"""More merges than this the few lines below do not support."""

_LEARNT_FROM = ALPACA_COT.text + (
    " If Ann has three apples and buys two more, how many apples does she have in the end? She has three and"
    " two, that is five. Each box holds ten pens and there are four boxes, so there are forty pens together."
    " A train leaves at nine and the next one leaves at ten; they run for two hours each. The answer is: 5"
)
"""What the merges are counted in: the prompt this project is about, and a few sums."""


def tokenizer_files(vocab: int, context_tokens: int) -> dict[str, dict[str, Any]]:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json for a model of `vocab` tokens.

    The tokenizer has at most `vocab` tokens. The class named is PreTrainedTokenizerFast, which
    transformers 4 and 5 both know (5 would save TokenizersBackend, which 4 cannot read). Raises
    ConfigError below LEAST_TOKENS.
    """
    if vocab < LEAST_TOKENS:
        raise ConfigError(
            f"a vocabulary of {vocab} cannot hold the {len(SPECIALS)} specials and 256 bytes ({LEAST_TOKENS})",
            (),
            "tokenizer.json",
        )
    merges = _merges(min(vocab, MOST_TOKENS) - LEAST_TOKENS)
    tokens = [*SPECIALS, *_byte_letters(), *("".join(pair) for pair in merges)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    text_a, begin = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text_b, begin_b = {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "<s>", "type_id": 1}}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(text, number) for text, number in SPECIALS.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text_a],
            "pair": [begin, text_a, begin_b, text_b],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS_ID], "tokens": ["<s>"]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [" ".join(pair) for pair in merges],
        },
    }
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer_config = {
        **named,
        # Whitespace is part of a prompt: without this, decoding would tidy it.
        "clean_up_tokenization_spaces": False,
        # Llama's forward takes no token_type_ids, which the class would hand out by default.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context_tokens,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config,
        "special_tokens_map.json": dict(named),
    }


def _added_token(text: str, number: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": text, **flags}


def _byte_letters() -> list[str]:
    """The 256 characters that stand for bytes: bytes_to_unicode of OpenAI's GPT-2 encoder.py."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return [letters[byte] for byte in range(256)]


def _merges(wanted: int) -> list[tuple[str, str]]:
    """The pairs that byte-pair encoding joins first in `_LEARNT_FROM`, at most `wanted` of them."""
    letters = _byte_letters()
    # A word takes its leading space along, as the ByteLevel pre-tokenizer cuts text.
    counted = Counter(re.findall(r" ?[A-Za-z]+", _LEARNT_FROM))
    words = {tuple(letters[byte] for byte in word.encode()): count for word, count in counted.items()}
    merges: list[tuple[str, str]] = []
    while len(merges) < wanted:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        # The commonest; among equals the first in the alphabet, so that every run learns the same.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_joined(word, best): count for word, count in words.items()}
    return merges


def _joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    index = 0
    while index < len(word):
        step = 2 if word[index : index + 2] == pair else 1
        joined.append("".join(word[index : index + step]))
        index += step
    return tuple(joined)
