"""Models that answer what they are told to and write down exactly what they were given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from standin.tensor import Tensor
from standin.tokenizer import ByteTokenizer, LlamaServerTokenizer, LoaderTokenizer


@dataclass(frozen=True)
class Seen:
    """One generation as it entered the model: `text` without leading BOS tokens, `bos` of which there were."""

    text: str
    ids: tuple[int, ...]
    bos: int
    max_new_tokens: int
    thread: int


class Recorder:
    """What a model has seen, and what it says. `answer` gets the prompt's text."""

    def __init__(self) -> None:
        self.answer: Callable[[str], str] = lambda prompt: " 4. The answer is: 4"
        self.calls: list[Seen] = []
        self.forwards: list[str] = []
        self.meeting: threading.Barrier | None = None
        self._mutex = threading.Lock()
        self._tokenizer = ByteTokenizer()

    def enter(self, ids: list[int], max_new_tokens: int) -> list[int]:
        """Write a generation down; the reply's token ids, end of sequence included where it is reached."""
        bos = next((place for place, token in enumerate(ids) if token != 1), len(ids))
        text = self._tokenizer.decode(ids[bos:])
        with self._mutex:
            self.calls.append(Seen(text, tuple(ids), bos, max_new_tokens, threading.get_ident()))
        if self.meeting is not None:
            self.meeting.wait(timeout=10)
        reply = [*self._tokenizer.ids_of(self.answer(text)), self._tokenizer.eos_token_id]
        return reply[: max(max_new_tokens, 0)]

    def score(self, ids: list[int]) -> dict[str, Tensor]:
        """A forward pass without generation: the logits of the next token."""
        self.forwards.append(self._tokenizer.decode(ids))
        return {"logits": Tensor([[0.0, 1.0, 2.0]])}


class LlamaForCausalLM:
    """A model of the transformers library: token ids in, token ids out."""

    device = "cpu"

    def __init__(self, recorder: Recorder, context: int) -> None:
        self._recorder = recorder
        self.config = SimpleNamespace(max_position_embeddings=context, rope_scaling=None)

    def generate(self, inputs: Any = None, **kwargs: Any) -> Tensor:
        sequence = inputs[0].tolist()
        for token in self._recorder.enter(list(sequence), kwargs["max_new_tokens"]):
            sequence.append(token)
            if any([criterion(Tensor([list(sequence)]), None) for criterion in kwargs.get("stopping_criteria", [])]):
                break
        return Tensor([sequence])

    def __call__(self, input_ids: Any = None, **kwargs: Any) -> dict[str, Tensor]:
        return self._recorder.score(input_ids[0].tolist())


class OwnSampling:
    """A model of a loader that samples on its own: text and the state in, text out."""

    def __init__(self, recorder: Recorder, tokenizer: Any, counts_tokens: bool) -> None:
        self._recorder = recorder
        self.tokenizer = tokenizer
        if counts_tokens:
            self.last_prompt_token_count = 0

    def generate(self, prompt: str, state: dict[str, Any]) -> str:
        return "".join([*self.generate_with_streaming(prompt, state)][-1:])

    def generate_with_streaming(self, prompt: str, state: dict[str, Any]) -> Iterator[str]:
        ids = self._cut(self.tokenizer.encode(prompt, add_bos=state["add_bos_token"]), state)
        auto = state["auto_max_new_tokens"]
        reply: list[int] = []
        for token in self._recorder.enter(
            ids, state["truncation_length"] - len(ids) if auto else state["max_new_tokens"]
        ):
            if token == self.tokenizer.eos_token_id:
                break
            reply.append(token)
            yield self.tokenizer.decode(reply)

    def _cut(self, rows: Tensor, state: dict[str, Any]) -> list[int]:
        """As ExLlama, ExLlamaV2 and ExLlamaV3 do: the last tokens stay."""
        room = state["truncation_length"] - state["max_new_tokens"]
        ids: list[int] = rows[:, -room:][0].tolist()
        if hasattr(self, "last_prompt_token_count"):
            self.last_prompt_token_count = len(ids)
        return ids

    def get_logits(self, token_ids: Any, **kwargs: Any) -> Tensor:
        self._recorder.score(token_ids[0].tolist())
        return Tensor([[0.0, 1.0, 2.0]])


class LlamaServer(OwnSampling):
    """The llama.cpp child process: nothing is cut before it, and it counts what it was sent."""

    def encode(self, text: str, add_bos_token: bool = False, **kwargs: Any) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_bos_token=add_bos_token)
        return ids

    def generate_with_streaming(self, prompt: str, state: dict[str, Any]) -> Iterator[str]:
        ids = self.encode(prompt, add_bos_token=state["add_bos_token"])
        self.last_prompt_token_count = len(ids)
        reply: list[int] = []
        for token in self._recorder.enter(ids, state["max_new_tokens"]):
            if token == self.tokenizer.eos_token_id:
                break
            reply.append(token)
            yield self.tokenizer.decode(reply)


def build(class_name: str, recorder: Recorder, context: int, adds_bos: bool) -> tuple[Any, Any]:
    """The model of that class and its tokenizer. The host tells its loaders apart by the class's name."""
    if class_name == LlamaForCausalLM.__name__:
        return LlamaForCausalLM(recorder, context), ByteTokenizer(adds_bos)
    if class_name == LlamaServer.__name__:
        tokenizer: Any = LlamaServerTokenizer()
        return LlamaServer(recorder, tokenizer, True), tokenizer
    tokenizer = LoaderTokenizer()
    return type(class_name, (OwnSampling,), {})(recorder, tokenizer, class_name == "Exllamav3Model"), tokenizer
