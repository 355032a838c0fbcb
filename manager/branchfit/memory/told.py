"""What of a host a prediction has to be told, in one piece."""

from __future__ import annotations

from dataclasses import dataclass

from ..variants import Variant
from .parts import Terms


@dataclass(frozen=True)
class Told:
    """The arguments of `terms` that are the host's and not the model's."""

    cpu: bool = False
    triton: bool = True
    expandable: bool = True
    plain_attention: bool = False
    version: str | None = None

    def terms(self, variant: Variant, runtime: str, context_tokens: int, cache: str = "fp16") -> Terms | None:
        """`branchfit.memory.terms`, told that."""
        from . import terms  # this room's own front, which may come to import this module

        return terms(
            variant,
            runtime,
            context_tokens,
            cache=cache,
            version=self.version,
            cpu=self.cpu,
            triton=self.triton,
            expandable=self.expandable,
            plain_attention=self.plain_attention,
        )


USUAL = Told()
"""Where nobody says otherwise: a GPU, and all that makes it take less."""
