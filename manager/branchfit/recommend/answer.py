"""What a recommendation is, as data."""

from __future__ import annotations

from dataclasses import dataclass

from ..card import Sister
from ..gpus import Machine
from ..memory import Need
from ..variants import Disagreement, Variant


@dataclass(frozen=True)
class Assessment:
    """One branch on this machine. `loader` and `runtime` None: nothing here can load it.

    `need` is worked out for `runtime`, or for the first that could take the files where none can
    run here; None where the size of the branch is unknown. `headroom_bytes` is what the tightest
    card has left with the error counted as taken, negative by how much it is short.
    """

    variant: Variant
    loader: str | None
    runtime: str | None
    fits: bool
    need: Need | None
    headroom_bytes: int | None
    max_context_tokens: int
    why: str

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
