"""A loaded model, and what it says: under its author's template, one BOS in front, greedy unless asked otherwise."""

from __future__ import annotations

import contextlib
import gc
import importlib
import queue
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LoadError, PromptError
from ..prompts import Template
from .measured import Measured, Meter
from .recording import Recorder

MAX_NEW_TOKENS = 2048
"""max_tokens of WizardMath's own inference scripts (gsm8k_inference.py, MATH_inference.py); a reply ends earlier."""

_UNFINISHED = "�"
"""What decoding puts for the first bytes of a character whose others are not there yet."""


@dataclass(frozen=True)
class Reply:
    """One answer: the exact prompt, the text, how many tokens each took, and why it ended.

    `ended` is "eos", "stop string", "length" or "closed" (whoever read it stopped reading).
    """

    prompt: str
    text: str
    prompt_tokens: int
    tokens: int
    seconds: float
    ended: str


@dataclass
class Loaded:
    """A model in memory whose tensors are those of its files. Made by `load`."""

    model: Any
    tokenizer: Any
    template: Template | None
    folder_or_repo: Path | str
    commit: str | None
    runtime: str
    notes: tuple[str, ...]
    context_tokens: int
    branch: str | None = None
    meter: Meter = field(default_factory=Meter, repr=False)
    last: Reply | None = None
    recorder: Recorder | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.recorder is not None:
            self.recorder.loaded()

    @property
    def measured(self) -> Measured:
        """What it takes now, and took at the most since the load began."""
        return self.meter.read()

    def ask(self, instruction: str, *, max_new_tokens: int = MAX_NEW_TOKENS, system: str | None = None) -> str:
        """The reply to one instruction, under the template. `last` has its prompt and counts.

        Greedy, as the authors of WizardMath decode (temperature 0). Raises as `stream`.
        """
        return "".join(self.stream(instruction, max_new_tokens=max_new_tokens, system=system))

    def stream(
        self, instruction: str, *, max_new_tokens: int = MAX_NEW_TOKENS, system: str | None = None
    ) -> Generator[str, None, None]:
        """The reply piece by piece, as it is made; together the pieces are what `ask` gives.

        Closing it stops the model. Raises PromptError where there is no template, or the prompt leaves no
        room for a reply within `context_tokens`; OutOfMemory and LoadError for what generating raises.
        """
        return self.complete(self.prompt(instruction, system), max_new_tokens=max_new_tokens)

    def prompt(self, instruction: str, system: str | None = None) -> str:
        """The exact text that is sent. Raises PromptError where no template is known."""
        if self.template is None:
            raise PromptError(
                f"no prompt template is known for {self.folder_or_repo}: give one, for example "
                f"loaded.template = branchfit.prompts.by_name('Alpaca')."
            )
        return self.template.render(instruction, system)

    def complete(self, prompt: str, *, max_new_tokens: int = MAX_NEW_TOKENS) -> Generator[str, None, None]:
        """What the model writes behind `prompt` itself, which is put into no template. Raises as `stream`."""
        if self.model is None:
            raise LoadError("this model was unloaded.")
        ids = encode(self.tokenizer, prompt)
        room = self.context_tokens - len(ids)
        if room < 1:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, and the context is planned for {self.context_tokens}: shorten the "
                f"instruction, or load with a longer context (context_tokens)."
            )
        stops = self.template.stop_strings if self.template else ()
        return _Generation(self, prompt, ids, min(max_new_tokens, room), stops).pieces()

    def unload(self) -> None:
        """Give the memory back. The object answers nothing afterwards."""
        if self.recorder is not None:
            self.recorder.close()
        self.model = self.tokenizer = None
        free_memory()


def encode(tokenizer: Any, prompt: str) -> list[int]:
    """The token ids of a prompt, with exactly one BOS in front where the tokenizer puts one in front of texts.

    A template that spells BOS itself gets none twice; no EOS is put behind, whatever the tokenizer does.
    """
    ids = [int(token) for token in tokenizer.encode(prompt, add_special_tokens=False)]
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        return ids
    spelled = ids[:1] == [bos]
    while ids[:1] == [bos]:
        ids = ids[1:]
    return [bos, *ids] if spelled or list(tokenizer.encode(""))[:1] == [bos] else ids


def free_memory() -> None:
    """Collect what nothing refers to any more, and give torch's cached blocks back to the driver."""
    gc.collect()
    with contextlib.suppress(ImportError):
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Generation:
    """One call of the model's generate, in a thread of its own, read token by token."""

    def __init__(
        self, loaded: Loaded, prompt: str, ids: list[int], max_new_tokens: int, stops: tuple[str, ...]
    ) -> None:
        self._loaded = loaded
        self._prompt = prompt
        self._ids = ids
        self._max_new_tokens = max_new_tokens
        self._stops = tuple(stop for stop in stops if stop)
        self._queue: queue.Queue[int | BaseException | None] = queue.Queue()
        self._stop = False
        self._skip_prompt = True

    def put(self, value: Any) -> None:
        """transformers' streamer: first the prompt's tokens, then each new one."""
        if self._skip_prompt:
            self._skip_prompt = False
            return
        for token in value.reshape(-1).tolist():
            self._queue.put(int(token))

    def end(self) -> None:
        """transformers' streamer: nothing more comes. The thread says so itself."""

    def pieces(self) -> Generator[str, None, None]:
        began = time.perf_counter()
        worker = threading.Thread(target=self._run, name="branchfit-generate", daemon=True)
        tokens: list[int] = []
        told, text, ended = 0, "", "closed"
        recorder = self._loaded.recorder
        if recorder is not None:
            recorder.begin()
        worker.start()
        try:
            while True:
                item = self._queue.get()
                if isinstance(item, BaseException):
                    from .failures import explain

                    raise explain(item, what="the model's reply") from item
                if item is None:
                    ended = "eos" if self._is_eos(tokens) else "length"
                    break
                tokens.append(item)
                text = self._decode(tokens)
                found = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=-1)
                if found >= 0:
                    text, ended = text[:found], "stop string"
                    break
                sure = self._sure(text)
                if sure > told:
                    yield text[told:sure]
                    told = sure
            if len(text) > told:
                yield text[told:]
                told = len(text)
        finally:
            self._stop = True
            worker.join()
            took = time.perf_counter() - began
            shown = text if ended != "closed" else text[:told]
            self._loaded.last = Reply(self._prompt, shown, len(self._ids), len(tokens), took, ended)
            if recorder is not None:
                recorder.read(len(self._ids), len(self._ids) + len(tokens))

    def _sure(self, text: str) -> int:
        """How much of the text cannot change any more: no half character, no beginning of a stop string."""
        end = len(text.rstrip(_UNFINISHED))
        held = max(
            (size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
        )
        return min(end, len(text) - held)

    def _decode(self, tokens: list[int]) -> str:
        decoded = self._loaded.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(decoded)

    def _is_eos(self, tokens: list[int]) -> bool:
        known = getattr(self._loaded.model.generation_config, "eos_token_id", None)
        known = known if isinstance(known, (list, tuple)) else [known]
        return bool(tokens) and tokens[-1] in (*known, getattr(self._loaded.tokenizer, "eos_token_id", None))

    def _run(self) -> None:
        try:
            self._generate()
        except BaseException as error:  # noqa: BLE001 - handed to the reader's thread, which raises it
            self._queue.put(error)
        else:
            self._queue.put(None)

    def _generate(self) -> None:
        torch = importlib.import_module("torch")
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        device = next(iter(model.parameters())).device
        ids = torch.tensor([self._ids], dtype=torch.long, device=device)
        config = model.generation_config
        padding = getattr(config, "pad_token_id", None)
        eos = getattr(config, "eos_token_id", None)
        eos = eos if eos is not None else tokenizer.eos_token_id
        if padding is None or padding < 0:
            padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self._max_new_tokens,
            # The author's sampling settings would be reported as unused beside greedy decoding: these are neutral.
            do_sample=False,
            num_beams=1,
            temperature=1.0,
            top_p=1.0,
            eos_token_id=eos,
            pad_token_id=padding[0] if isinstance(padding, list) else padding,
            streamer=self,
            stopping_criteria=importlib.import_module("transformers").StoppingCriteriaList([self._wants_stop]),
        )

    def _wants_stop(self, ids: Any, scores: Any, **_: Any) -> Any:
        """transformers' stopping criterion: a bool before 4.39, one for each row since."""
        return importlib.import_module("torch").full((ids.shape[0],), self._stop, device=ids.device)
