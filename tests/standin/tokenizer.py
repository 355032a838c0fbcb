"""A tokenizer whose tokens can be counted by hand: one for each byte of UTF-8, and two special ones."""

from __future__ import annotations

import re
from typing import Any

from standin.tensor import Tensor

FIRST_BYTE = 3
"""The id of byte 0. Llama's own vocabulary, too, has <unk>, <s>, </s> before its bytes."""


class ByteTokenizer:
    """What transformers' tokenizers are to the host. Special tokens spelled in a text are read as such."""

    bos_token, bos_token_id = "<s>", 1
    eos_token, eos_token_id = "</s>", 2

    def __init__(self, adds_bos: bool = True) -> None:
        self.adds_bos = adds_bos

    def encode(self, text: str, return_tensors: str | None = None, add_special_tokens: bool = True) -> Any:
        ids = [self.bos_token_id] if add_special_tokens and self.adds_bos else []
        ids += self.ids_of(text)
        return Tensor([ids]) if return_tensors else ids

    def ids_of(self, text: str) -> list[int]:
        special = {self.bos_token: self.bos_token_id, self.eos_token: self.eos_token_id}
        ids: list[int] = []
        for part in re.split("(<s>|</s>)", text):
            ids += [special[part]] if part in special else [byte + FIRST_BYTE for byte in part.encode("utf-8")]
        return ids

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        numbers = [ids] if isinstance(ids, int) else ids.tolist() if isinstance(ids, Tensor) else list(ids)
        if numbers and isinstance(numbers[0], list):
            numbers = numbers[0]
        spelled = {self.bos_token_id: self.bos_token, self.eos_token_id: self.eos_token}
        text = b""
        for number in numbers:
            if number in spelled:
                text += b"" if skip_special_tokens else spelled[number].encode()
            else:
                text += bytes([number - FIRST_BYTE])
        return text.decode("utf-8", errors="replace")

    def convert_ids_to_tokens(self, number: int) -> str:
        return self.decode([number])


class LoaderTokenizer:
    """What a loader with its own tokenizer (ExLlama's) gives the host: rows of ids from bare text."""

    bos_token, bos_token_id = ByteTokenizer.bos_token, ByteTokenizer.bos_token_id
    eos_token, eos_token_id = ByteTokenizer.eos_token, ByteTokenizer.eos_token_id

    def __init__(self) -> None:
        self._bytes = ByteTokenizer()

    def encode(self, text: str, **options: Any) -> Tensor:
        add_bos = options.get("add_bos", True)
        return Tensor([([self.bos_token_id] if add_bos else []) + self._bytes.ids_of(text)])

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        return self._bytes.decode(ids, skip_special_tokens)


class LlamaServerTokenizer(LoaderTokenizer):
    """The same for llama.cpp: a flat list, and BOS only where it is asked for and not spelled out."""

    def encode(self, text: str, add_bos_token: bool = False, **options: Any) -> Any:
        wanted = add_bos_token and not text.startswith(self.bos_token)
        return ([self.bos_token_id] if wanted else []) + self._bytes.ids_of(text)
