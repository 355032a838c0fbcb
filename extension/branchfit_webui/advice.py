"""What the tab knows of a repo: gathered from the Hub once, then answered from, for this machine as it is now."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from branchfit.errors import UsageError
from branchfit.gather import Gathered, gather
from branchfit.gpus import Gpu, Machine, detect
from branchfit.hub import parse_repo
from branchfit.memory.correcting import corrections_here
from branchfit.recommend import Assessment, Recommendation, recommend
from branchfit.units import GIB

from . import loading
from .host import Host

BALANCED = "balanced"
"""The preference that is none of `branchfit recommend --prefer`'s: the best quality that ExLlama runs."""

_MAIN = re.compile(r"(?<=.)/(tree|blob|resolve)/main(/.*)?$")
"""What a page's address ends in where nobody chose a branch, since the Hub shows `main` first."""

_KEPT_REPOS = 50
"""Repos remembered, some 100 kB each: more than a person looks at between two starts."""


@dataclass(frozen=True)
class Wishes:
    """What a page wants to know. `context_tokens` None is the model's own, at most 4096."""

    context_tokens: int | None = None
    prefer: str = BALANCED
    count_loaded: bool = True


@dataclass(frozen=True)
class Advice:
    """The answer for one repo. `gives_back` is GPU index -> bytes that unloading the present model would free;
    they count as free in `answer` where `counted`."""

    found: Gathered
    answer: Recommendation
    machine: Machine
    gives_back: Mapping[int, int]
    counted: bool
    loaded: str | None

    @property
    def repo(self) -> str:
        return self.found.listed.repo

    @property
    def branches(self) -> list[str]:
        return [assessment.variant.branch for assessment in self.answer.assessments if assessment.variant.holds_weights]

    @property
    def branch(self) -> str | None:
        """The one to take unless somebody chooses: the recommended one, else the one that was asked for."""
        return self.answer.choice.branch if self.answer.choice else self.found.branch

    def of(self, branch: str) -> Assessment | None:
        return next((each for each in self.answer.assessments if each.variant.branch == branch), None)


class Desk:
    """Answers for all pages of one webui. Safe to use from several threads."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._found: dict[str, Gathered] = {}
        self._lock = threading.Lock()

    def ask(self, text: str) -> Gathered:
        """Ask the Hub about `owner/repo`, `owner/repo:branch` or a page's address. Raises what `gather` does."""
        if not text.strip():
            raise UsageError("paste a repo: owner/name, owner/name:branch, or its page's address.")
        found = gather(_MAIN.sub("", text.strip()), None, None)
        key = found.listed.repo + (f":{found.branch}" if found.branch else "")
        with self._lock:
            self._found.pop(key, None)
            self._found[key] = found
            for old in list(self._found)[:-_KEPT_REPOS]:
                del self._found[old]
        return found

    def known(self, text: str) -> Gathered:
        """What was gathered before, without asking the Hub again; asked for where nothing was."""
        ref = parse_repo(text.strip())
        with self._lock:
            found = self._found.get(ref.repo + (f":{ref.branch}" if ref.branch else ""))
            whole = self._found.get(ref.repo)
        if found is None and whole is not None and whole.listed.get(ref.branch or "") is not None:
            found = replace(whole, branch=ref.branch)  # all branches were gathered when the repo was
        return found if found is not None else self.ask(text)

    def answer(self, found: Gathered, wishes: Wishes) -> Advice:
        """The recommendation on what is free on this machine at this moment."""
        machine = detect()
        gives_back = loading.would_free_bytes(self._host, machine)
        counted = bool(gives_back) and wishes.count_loaded
        plan_for = counting(machine, gives_back) if counted else machine
        answer = recommend(
            found.listed,
            plan_for,
            loading.host_availability(self._host, machine),
            context_tokens=wishes.context_tokens,
            prefer=None if wishes.prefer == BALANCED else wishes.prefer,
            branch=found.branch,
            sisters=found.sisters,
            corrections=corrections_here("webui"),
        )
        return Advice(found, answer, machine, gives_back, counted, self._host.model_name())


def counting(machine: Machine, gives_back: Mapping[int, int]) -> Machine:
    """The machine as it would be with the present model unloaded: at most all that a program can have of a card."""
    return replace(
        machine,
        gpus=tuple(
            replace(gpu, free_bytes=max(gpu.free_bytes, min(_most(gpu), gpu.free_bytes + gives_back.get(gpu.index, 0))))
            for gpu in machine.gpus
        ),
    )


def _most(gpu: Gpu) -> int:
    return gpu.total_bytes - gpu.held_back_bytes - (gpu.reserved_bytes or 0)


def context_tokens(text: object) -> int | None:
    """What stands in the context box, in tokens: a number, with k for 1024, or nothing. Raises UsageError."""
    words = str(text if text is not None else "").strip().lower().replace(",", "").replace(" ", "")
    if words in ("", "automatic", "none"):
        return None
    factor = 1024 if words.endswith("k") else 1
    try:
        tokens = int(words.removesuffix("k")) * factor
    except ValueError:
        tokens = 0
    if not 0 < tokens <= GIB // 8:  # 134 million tokens: a dozen times the longest that any model claims
        raise UsageError(f"the context {text!r} is no number of tokens: write 4096, or 8k, or leave it automatic.")
    return tokens
