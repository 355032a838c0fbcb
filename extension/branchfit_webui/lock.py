"""The prompt lock: one guard that every generating path of the host goes through."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import refusal
from .asked import Asked, asked
from .chat import Built
from .choices import Choices, Decision
from .fitting import fit
from .heard import heard
from .host import Host, module
from .making import Maker
from .patches import Patch
from .proofs import Proof, Proofs
from .watch import ModelWatch, Ticket

FLOOR_TOKENS = 64
"""Room always kept for a reply, in tokens (a setting): some 45 English words. Less is no answer."""


@dataclass(frozen=True)
class Status:
    """What the lock does now. `parts` says for each part whether it stands; `sentence` says it all."""

    active: bool
    sentence: str
    model: str | None
    decision: Decision
    parts: dict[str, bool]


class Lock:
    """Holds the model that is loaded now to its template.

    The guard stands around generate_reply_HF and generate_reply_custom, one of which generates on
    every path of every version, and around whatever another extension puts in their place. Chat
    prompts are made here instead of by the host, so that the user's message is known and not guessed.
    """

    def __init__(self, host: Host, choices: Choices, proofs: Proofs, floor_tokens: int = FLOOR_TOKENS, on: bool = True):
        self.host, self.choices, self.proofs = host, choices, proofs
        self.floor_tokens, self.on = floor_tokens, on
        self._maker = Maker(host, self.decision, floor_tokens)
        self._driven: dict[int, Ticket] = {}
        self._watch = ModelWatch(host, self.is_locking, self._tickets)
        self._required = [
            Patch("generate_reply_HF", host.generation, "generate_reply_HF", self._guarded),
            Patch("generate_reply_custom", host.generation, "generate_reply_custom", self._guarded),
        ]
        table = getattr(host.extensions, "EXTENSION_MAP", {})
        self._required += [
            Patch("custom_generate_reply", table, "custom_generate_reply", self._replacement),
            Patch("custom_generate_chat_prompt", table, "custom_generate_chat_prompt", self._maker.chat_prompt),
        ]
        self._entry = Patch("_generate_reply", host.generation, "_generate_reply", self._entered)
        self._boxes: list[Patch] = []

    # In place and out again

    def install(self) -> None:
        """Put every part in place. Again is the same as once."""
        if not self.on:
            return
        self._entry.put()
        self._stand()
        if self.is_locking():
            self._watch.put()
        known = {id(patch._holder) for patch in self._boxes}
        for name in ("modules.text_generation", "modules.ui_default", "modules.ui_notebook", "__main__"):
            page = module(name)
            if hasattr(page, "generate_reply_wrapper") and id(page) not in known:
                self._boxes.append(Patch(name, page, "generate_reply_wrapper", self._maker.boxed_reply))
        for patch in self._boxes:
            patch.put()

    def uninstall(self) -> None:
        """Take every part out; the host is as it was."""
        for patch in (*self._required, self._entry, *self._boxes):
            patch.undo()
        self._watch.undo()

    def switch(self, on: bool) -> None:
        """Switch the lock on or off for all models. Off, the host is as it was."""
        self.on = on
        self.install() if on else self.uninstall()

    def _stand(self) -> list[str]:
        """Put back what others have taken out since; names of the parts that cannot stand."""
        return [patch.name for patch in self._required if not patch.put()]

    def insist(self) -> None:
        """Refuse where a part of the guard does not stand for a locked model, and its entry cannot say so either."""
        if self.is_locking():
            self._watch.put()
            missing = self._stand()
            if missing and not self._entry.put():
                refused = refusal.parts_missing(missing)
                for _ in self.host.refuse(str(refused), asked(2)):
                    raise refused

    # What holds

    def decision(self) -> Decision:
        """What holds for the model loaded now."""
        name = self.host.model_name()
        if not self.on:
            return Decision(None, "the lock is switched off")
        if name is None:
            return Decision(None, "no model is loaded")
        return self.choices.decide(name, self.host.model_folder(name))

    def is_locking(self) -> bool:
        return self.decision().template is not None

    def status(self) -> Status:
        decision = self.decision()
        parts = {patch.name: patch.stands() for patch in self._required}
        missing = [name for name, stands in parts.items() if not stands]
        model = self.host.model_name()
        if decision.broken:
            sentence = f"refusing: {decision.broken}, so {model} does not generate."
        elif decision.template is None:
            sentence = f"inactive: {decision.source}. Prompts are sent as the webui builds them."
        elif missing:
            sentence = f"refusing: {', '.join(missing)} cannot be guarded on this webui, so {model} does not generate."
        else:
            sentence = f"active: {model} gets {decision.template.name}, byte for byte ({decision.source})."
        return Status(decision.template is not None and not missing, sentence, model, decision, parts)

    # The guard

    def _entered(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """Around the host's own start of a generation: what later extensions have undone is put back first."""

        @functools.wraps(inner)
        def start(*args: Any, **kwargs: Any) -> Iterator[str]:
            if self.is_locking():
                self._watch.put()
                missing = self._stand()
                if missing:
                    yield from self._say_no(refusal.parts_missing(missing), asked(2), str(args[0] if args else ""))
                    return
            else:
                self._watch.undo()
            yield from inner(*args, **kwargs)

        return start

    def _replacement(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """Around the hook by which another extension generates in the host's place."""

        @functools.wraps(inner)
        def found() -> Callable[..., Any] | None:
            theirs = inner()
            return theirs if theirs is None else self._guarded(theirs)

        return found

    def _guarded(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        inner = heard(self.host, inner)  # what it gets is what the model reads

        @functools.wraps(inner)
        def guarded(question: Any, original_question: Any, *args: Any, **kwargs: Any) -> Iterator[str]:
            decision = self.decision()
            if decision.broken:
                yield from self._say_no(refusal.unreadable(decision.broken), asked(2), question)
                return
            if decision.template is None:
                yield from inner(question, original_question, *args, **kwargs)
                return
            origin, place = asked(2), _state_at(args, kwargs)
            state = dict(args[place] if isinstance(place, int) else kwargs.get(place, {}))
            try:
                ticket, unseen = self._admit(decision, question, state, origin)
            except refusal.Refused as refused:
                yield from self._say_no(refused, origin, question)
                return
            arguments = list(args)
            if isinstance(place, int):
                arguments[place] = state
            else:
                kwargs[place] = state
            stops = list(decision.held.stop_strings)
            generator = iter(inner(ticket.prompt, original_question, *arguments, **kwargs))
            try:
                yield from self._drive(generator, ticket, stops, origin)
            finally:  # a reply that was stopped, or whose client has gone, has reached the model too
                if unseen:
                    self.proofs.done(ticket.proof)

        return guarded

    def _admit(self, decision: Decision, question: Any, state: dict[str, Any], origin: Asked) -> tuple[Ticket, bool]:
        """The ticket of one generation, and whether it is a new one; `state` is changed so that nothing is cut.

        Raises Refused.
        """
        missing = self._stand()
        if missing:
            raise refusal.parts_missing(missing)
        self._watch.put()
        ticket, new = self._on_its_way(question), False
        if ticket is None:
            built = self._maker.build(decision, question, state, origin)
            proof = Proof(origin.path, decision.held.name, built.text, built.instruction)
            proof.notes, proof.wanted = list(built.notes), built.wanted
            ticket, new = Ticket(built.text, built.instruction, proof, True), True
        ticket.add_bos_token = state["add_bos_token"] = self.host.wants_bos(ticket.prompt)

        def count() -> int:
            return len(self.host.encode(ticket.prompt, ticket.add_bos_token))

        notes, tokens = fit(state, ticket.prompt, count, self.host.context_tokens(), self.floor_tokens)
        if new:
            ticket.proof.notes += notes
            ticket.proof.tokens = tokens
            self.proofs.add(ticket.proof)
        return ticket, new

    def _on_its_way(self, question: Any) -> Ticket | None:
        """The ticket under which another extension hands a prompt on: as it was, or changed, which is put back."""
        ticket = self._driven.get(threading.get_ident())
        if ticket is None or not isinstance(question, str):
            return None
        if question == ticket.prompt:
            return ticket
        own = ticket.instruction
        if ticket.prompt in question or (own and (question.startswith(own) or question.endswith(own))):
            ticket.proof.notes.append("another extension had changed the prompt; it is put back")
            return ticket
        return None

    def _drive(self, generator: Iterator[str], ticket: Ticket, stops: list[str], origin: Asked) -> Iterator[str]:
        with contextlib.ExitStack() as ending:
            ending.callback(getattr(generator, "close", lambda: None))
            whole, found = None, False
            while ticket.violation is None:
                me = threading.get_ident()  # the page drives one generator from changing threads
                outer = self._driven.get(me)
                self._driven[me] = ticket
                try:
                    reply = next(generator, None)
                except refusal.Refused as refused:
                    ticket.violation = refused
                    break
                finally:
                    if outer is None:
                        self._driven.pop(me, None)
                    else:
                        self._driven[me] = outer
                if reply is None or ticket.violation is not None:
                    break
                cut, found = self.host.cut_at_stop(reply, stops) if stops else (reply, False)
                yield cut
                if found:
                    break
                # A stop string that begins as a word does (USER:) may have begun as a word of the reply (US).
                whole = reply if cut != reply and reply[len(cut)].isalnum() else None
        if whole is not None and not found and ticket.violation is None:
            yield whole
        if ticket.violation is not None:
            ticket.proof.verdict, ticket.proof.reason = "refused", str(ticket.violation)
            yield from self.host.refuse(str(ticket.violation), origin)

    def _tickets(self) -> list[Ticket]:
        own = self._driven.get(threading.get_ident())
        return [own] if own is not None else list(self._driven.values())

    def _say_no(self, refused: refusal.Refused, origin: Asked, question: Any) -> Iterator[str]:
        template = self.decision().template
        built = refused.built or Built(question if isinstance(question, str) else "", "")
        proof = Proof(origin.path, template.name if template else "", built.text, built.instruction, "refused")
        proof.reason, proof.notes, proof.wanted = str(refused), list(built.notes), built.wanted
        self.proofs.add(proof)
        self.proofs.done(proof)
        yield from self.host.refuse(str(refused), origin)


def _state_at(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | str:
    """Where generate_reply_HF's `state` stands: until v3.0 a `seed` came before it."""
    return next((place for place, value in enumerate(args) if isinstance(value, dict)), "state")
