"""The last look: what enters the model is compared with the rendering, after the host has tokenised it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from branchfit.prompts import first_difference

from . import refusal
from .host import Host
from .patches import Patch
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
        self._model: Any = None
        self._patches: list[Patch] = []

    def put(self) -> None:
        """Watch the model loaded now. A model that was loaded before is let go."""
        model = self._host.model
        if model is not self._model:
            self.undo()
            self._model = model
            self._patches = [
                Patch(f"model.{name}", model, name, self._watched) for name in METHODS if hasattr(model, name)
            ]
        for patch in self._patches:
            patch.put()

    def undo(self) -> None:
        for patch in self._patches:
            patch.undo()
        self._patches, self._model = [], None

    def _watched(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def generate(*args: Any, **kwargs: Any) -> Any:
            if self._locked():
                self._check(args, kwargs)
            return inner(*args, **kwargs)

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
            return str(difference) if difference is not None else ""
        if given is None or len(given) != 1:
            return "it is not one sequence of tokens"
        ids = [int(token) for token in (given[0].tolist() if hasattr(given[0], "tolist") else given[0])]
        decoded = self._host.decode(ids)
        exact = decoded == ticket.prompt or decoded == " " + ticket.prompt
        if ids != self._host.encode(ticket.prompt, ticket.add_bos_token):
            # The same text in other tokens, or with BOS lost, is not what the model was trained on either.
            difference = first_difference(ticket.prompt, decoded)
            return f"the tokens differ ({len(ids)} came)" + (f", {difference}" if difference is not None else "")
        proof.tokens, proof.verdict = len(ids), "tokens exact"
        if not exact:
            difference = first_difference(ticket.prompt, decoded)
            proof.notes.append(f"the model's tokenizer itself changes this text: {difference}")
        return ""
