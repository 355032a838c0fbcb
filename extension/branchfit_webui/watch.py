"""The last look: what enters the model is compared with the rendering, after the host has tokenised it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from branchfit.prompts import Difference, first_difference

from . import refusal
from .host import Host
from .proofs import Proof

METHODS = ("generate", "generate_with_streaming")
"""What the host calls on a model: generate with token ids on transformers' own classes and the _HF loaders,
both with the text on the others (generate_reply_HF and generate_reply_custom in modules/text_generation.py)."""


class Ticket:
    """One generation on its way: the prompt it was admitted with, and how its state asks for BOS."""

    def __init__(self, prompt: str, instruction: str, proof: Proof, add_bos_token: bool) -> None:
        self.prompt = prompt
        self.instruction = instruction
        self.proof = proof
        self.add_bos_token = add_bos_token
        self.violation: refusal.Refused | None = None


class ModelWatch:
    """Stands before the loaded model's generate. `current` gives the tickets being driven, the caller's own first;
    `locked` says whether the model is held to a template at all."""

    def __init__(self, host: Host, locked: Callable[[], bool], current: Callable[[], list[Ticket]]) -> None:
        self._host = host
        self._locked = locked
        self._current = current
        self._model: weakref.ref[Any] | None = None
        self._ours: dict[str, Callable[..., Any]] = {}

    def put(self) -> None:
        """Watch the model loaded now. Nothing here keeps a model alive: unloading frees it as without the lock."""
        model = self._host.model
        if self._model is None or self._model() is not model:
            self.undo()
            try:
                self._model = weakref.ref(model) if model is not None else None
            except TypeError:  # an object that cannot be watched from outside; the text was checked all the same
                self._model = None
        if self._model is None:
            return
        for name in METHODS:
            if getattr(model, "__dict__", {}).get(name) is None and callable(getattr(type(model), name, None)):
                self._ours[name] = self._watched(self._model, getattr(type(model), name))
                setattr(model, name, self._ours[name])

    def undo(self) -> None:
        """Take the watch off the model, if it still lives."""
        model = self._model() if self._model is not None else None
        for name, ours in self._ours.items():
            if model is not None and vars(model).get(name) is ours:
                delattr(model, name)
        self._ours, self._model = {}, None

    def _watched(self, model: weakref.ref[Any], method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def generate(*args: Any, **kwargs: Any) -> Any:
            if self._locked():
                self._check(args, kwargs)
            return method(model(), *args, **kwargs)

        return generate

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tickets = self._current()
        if not tickets:
            raise refusal.called_directly()
        given = kwargs.get("inputs", kwargs.get("input_ids", kwargs.get("prompt", args[0] if args else None)))
        found = ""
        for ticket in tickets:
            found = self._embeddings(kwargs) or self._differs(ticket, given)
            if not found:
                return
        tickets[0].violation = refusal.tokens_changed(found)
        raise tickets[0].violation

    @staticmethod
    def _embeddings(kwargs: dict[str, Any]) -> str:
        return "embeddings came in the tokens' place" if kwargs.get("inputs_embeds") is not None else ""

    def _differs(self, ticket: Ticket, given: Any) -> str:
        """How what is given to the model differs from the ticket's rendering; '' where it does not."""
        proof = ticket.proof
        if isinstance(given, str):
            difference = first_difference(ticket.prompt, given)
            if difference is None and proof.verdict == "waiting":
                proof.verdict = "text exact"
            return _in_words(difference) if difference is not None else ""
        if given is None or len(given) != 1:
            return "it is not one sequence of tokens"
        ids = [int(token) for token in (given[0].tolist() if hasattr(given[0], "tolist") else given[0])]
        decoded = self._host.decode(ids)
        bare = ticket.prompt.removeprefix(str(getattr(self._host.shared.tokenizer, "bos_token", None) or ""))
        exact = decoded.removeprefix(" ") in (ticket.prompt.removeprefix(" "), bare.removeprefix(" "))
        if ids != self._host.encode(ticket.prompt, ticket.add_bos_token):
            # The same text in other tokens, or with BOS lost, is not what the model was trained on either.
            difference = first_difference(ticket.prompt, decoded)
            return f"the tokens differ ({len(ids)} came)" + (
                f", {_in_words(difference)}" if difference is not None else ""
            )
        proof.tokens, proof.verdict = len(ids), "tokens exact"
        if not exact:
            difference = first_difference(ticket.prompt, decoded)
            changed = _in_words(difference) if difference is not None else "blanks"
            proof.notes.append(f"the model's tokenizer itself changes this text: {changed}")
        return ""


def _in_words(difference: Difference) -> str:
    return f"from byte {difference.offset_bytes:,} on it is {difference.found} instead of {difference.expected}"
