"""Makes the tiny model, with the webui's own Python:  PYTHON model.py FOLDER

Its tokenizer has one token a character (ASCII) or a byte (all else), so that token counts can be
checked by hand: BOS, one blank in front, then the text. Its weights say ` ok` after everything, so that
a reply of n tokens is known before it is made. 2048 positions, as WizardMath's Llama 2 had 4096.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path
from typing import Any

NAME = "WizardMath-tiny"
CONTEXT_TOKENS = 2048
REPLY_PIECE = "\u2581ok"
SAMPLE = "  Héllo, 中 😀!\n\n### Response: x "


def tokenizer_json() -> dict[str, Any]:
    """A Llama tokenizer without merges: `▁ok` can be said, and is never read."""
    special = ["<unk>", "<s>", "</s>"]
    byte = [f"<0x{value:02X}>" for value in range(256)]
    letters = ["\u2581", *(letter for letter in string.printable if letter.isprintable() and letter != " ")]
    vocab = {piece: number for number, piece in enumerate([*special, *byte, *letters, REPLY_PIECE])}
    added = [
        {"id": vocab[piece], "content": piece, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for piece in special
    ]  # fmt: skip
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [vocab["<s>"]], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "vocab": vocab, "merges": [],
        },
    }  # fmt: skip


def write_tokenizer(folder: Path, class_name: str) -> None:
    config = {
        "tokenizer_class": class_name, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "add_bos_token": True, "add_eos_token": False, "legacy": True, "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT_TOKENS,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_weights(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocab = tokenizer_json()["model"]["vocab"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=CONTEXT_TOKENS, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        # The first hidden number is 1 for every token and nothing adds to it, so it serves as a constant.
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.lm_head.weight.zero_()
        model.lm_head.weight[vocab[REPLY_PIECE], 0] = 8.0
    model.save_pretrained(folder, safe_serialization=True)


def reads_back(folder: Path) -> bool:
    """Whether the tokenizer, loaded as a webui does, gives one BOS, one blank, and the text."""
    from transformers import AutoTokenizer

    vocab = tokenizer_json()["model"]["vocab"]
    expected = [vocab["<s>"], vocab["\u2581"]]
    for letter in SAMPLE.replace(" ", "\u2581"):
        known = letter in vocab
        expected += [vocab[letter]] if known else [vocab[f"<0x{byte:02X}>"] for byte in letter.encode()]
    return list(AutoTokenizer.from_pretrained(folder, use_fast=False).encode(SAMPLE)) == expected


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder)
    # The webuis of 2023 treat Llama's own class specially; transformers 5 rebuilds it its own way.
    for class_name in ("LlamaTokenizerFast", "PreTrainedTokenizerFast"):
        write_tokenizer(folder, class_name)
        if reads_back(folder):
            print(class_name)
            return
    raise SystemExit("no tokenizer class of this transformers reads the tiny tokenizer back byte for byte")


if __name__ == "__main__":
    main()
