"""A variant, and a list of them with what their sources disagree about."""

from __future__ import annotations

from dataclasses import dataclass

from ..shape import ModelShape


@dataclass(frozen=True)
class Disagreement:
    """The card says one thing, the branch's own files (`actual`) another. `branch` None: the repo."""

    branch: str | None
    field: str
    card: object
    actual: object


@dataclass(frozen=True)
class Variant:
    """One branch of a repo: one way the model was quantised.

    `bits` may be fractional (EXL2). `group_size` None is no grouping. `size_bytes` is what its
    weights take on the Hub; `size_source` says who says so: `headers` (the safetensors headers),
    `files` (the Hub's listing), `config` (worked out from the shape) or `card`.
    `exllama` is whether the ExLlama family takes it, as far as format, bits and card tell.
    `holds_weights` False is a branch whose weights cannot be had or used; it is never recommended, and
    `problem` says why.
    """

    branch: str
    commit: str | None = None
    format: str = "gptq"
    bits: float | None = None
    group_size: int | None = None
    act_order: bool | None = None
    symmetric: bool | None = None
    damp_percent: float | None = None
    dataset: str | None = None
    sequence_length: int | None = None
    size_bytes: int | None = None
    size_source: str | None = None
    exllama: bool | None = None
    description: str = ""
    model_type: str | None = None
    shape: ModelShape | None = None
    zero_bias: bool = True
    holds_weights: bool = True
    problem: str = ""


@dataclass(frozen=True)
class VariantList:
    """Every variant of a repo, and every point on which its sources disagree."""

    repo: str
    commit: str | None
    variants: tuple[Variant, ...]
    disagreements: tuple[Disagreement, ...] = ()
    notes: tuple[str, ...] = ()

    def get(self, branch: str) -> Variant | None:
        return next((variant for variant in self.variants if variant.branch == branch), None)
