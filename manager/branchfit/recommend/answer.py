"""What a recommendation is, as data."""

from __future__ import annotations

from dataclasses import dataclass

from ..card import Sister
from ..gpus import Machine
from ..memory import Need
from ..memory.correcting import Correction
from ..memory.told import USUAL, Told
from ..variants import Disagreement, Variant

DEFAULT_CONTEXT_TOKENS = 4096
"""What is planned for unless the user says otherwise or the model's own context is shorter."""


@dataclass(frozen=True)
class Assessment:
    """One branch on this machine. `loader` and `runtime` None: nothing here can load it.

    `detail` is a clause with the numbers, `verdict` one that sets it beside the branch that was taken.
    `need` is worked out for `runtime`; None where nothing can load the branch or its size is unknown.
    `free_bytes` are the cards it was judged on, 0 for one that `runtime` cannot use. `headroom_bytes`
    is what the tightest card has left with the error counted as taken, negative by how much it is short.
    `correction` is what this machine's own loads added to `need`, None where they add nothing; `told` what `need` knows
    of the host.
    """

    variant: Variant
    loader: str | None
    runtime: str | None
    fits: bool
    need: Need | None
    headroom_bytes: int | None
    max_context_tokens: int
    detail: str
    verdict: str = ""
    free_bytes: tuple[int, ...] = ()
    correction: Correction | None = None
    told: Told = USUAL

    @property
    def why(self) -> str:
        """Why it was or was not taken: the verdict, and the numbers behind it."""
        return "; ".join(filter(None, (self.verdict, self.detail)))

    @property
    def room_bytes(self) -> int:
        """`headroom_bytes` for sorting: what was never measured comes last."""
        return self.headroom_bytes if self.headroom_bytes is not None else -(2**62)


@dataclass(frozen=True)
class Choice:
    """The branch to take, the loader to take it with, and the sentence that says why."""

    branch: str
    loader: str
    runtime: str
    reason: str
    gpu_split_bytes: tuple[int, ...]
    max_context_tokens: int


@dataclass(frozen=True)
class Recommendation:
    """The answer: `choice` None where nothing fits, and then `reason` says what would help."""

    repo: str
    commit: str | None
    context_tokens: int
    machine: Machine
    choice: Choice | None
    reason: str
    assessments: tuple[Assessment, ...]
    disagreements: tuple[Disagreement, ...]
    sisters: tuple[Sister, ...]
    notes: tuple[str, ...]
