"""Runs a webui's server.py and writes down what enters its model.

    PYTHON recorder.py OUT.jsonl TOKENIZER.json server.py ARGS...

Started in the webui's folder, by the webui's own Python. The class-level `forward` of
LlamaForCausalLM is wrapped, which is below anything a webui or an extension can wrap: on a loaded
model they see instances. One line is appended for the first forward of each generate call (the
prompt; later ones carry one token) and for each forward outside of generate (scoring).
"""

from __future__ import annotations

import functools
import json
import runpy
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BOS = "<s>"


def text_of(ids: list[int], pieces: dict[int, str]) -> tuple[int, str]:
    """BOS tokens in front, and the text of the rest, special tokens spelled out, no blank lost.

    The inverse of a Llama tokenizer: `▁` is a space, `<0x0A>` a byte, and the one space that encoding
    puts in front of every text goes.
    """
    bos = next((place for place, token in enumerate(ids) if pieces[token] != BOS), len(ids))
    parts = [pieces[token] for token in ids[bos:]]
    text = b"".join(
        bytes([int(part[3:-1], 16)])
        if len(part) == 6 and part.startswith("<0x")
        else part.replace("\u2581", " ").encode()
        for part in parts
    ).decode("utf-8", "backslashreplace")
    return bos, text[1:] if text.startswith(" ") else text


class Recorder:
    def __init__(self, out: str, tokenizer: str) -> None:
        self.out = Path(out)
        vocab = json.loads(Path(tokenizer).read_text(encoding="utf-8"))["model"]["vocab"]
        self.pieces = {number: piece for piece, number in vocab.items()}
        self.here = threading.local()  # a generate call and its forwards run in one thread
        self.writing = threading.Lock()

    def write(self, kind: str, ids: list[int]) -> None:
        bos, text = text_of(ids, self.pieces)
        line = {"at": time.time(), "kind": kind, "tokens": len(ids), "bos": bos, "text": text, "ids": ids}
        with self.writing, self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            outer = getattr(self.here, "waiting", None)
            self.here.waiting = True
            try:
                return original(*args, **kwargs)
            finally:
                self.here.waiting = outer

        return generate

    def forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward(model: Any, input_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
            waiting = getattr(self.here, "waiting", None)  # None: no generate call; False: its prompt was seen
            if waiting is not False and input_ids is not None:
                for row in input_ids.tolist():
                    self.write("generate" if waiting else "forward", row)
            if waiting:
                self.here.waiting = False
            return original(model, input_ids, *args, **kwargs)

        return forward


def main() -> None:
    out, tokenizer, script = sys.argv[1:4]
    sys.argv = sys.argv[3:]
    sys.path[0] = ""
    from transformers import GenerationMixin, LlamaForCausalLM

    recorder = Recorder(out, tokenizer)
    GenerationMixin.generate = recorder.generate(GenerationMixin.generate)
    LlamaForCausalLM.forward = recorder.forward(LlamaForCausalLM.forward)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
