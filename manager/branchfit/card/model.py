"""What a model card says, as data. What the repo really holds is known only to the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BranchRow", "CardTemplate", "ModelCard", "Sister"]


@dataclass(frozen=True)
class BranchRow:
    """One row of a GPTQ branch table, as the card has it.

    None means that the card does not say (no such column, an empty cell, text that is no such value);
    the one exception is `group_size`, where None is also the card's own "None": no grouping.
    """

    branch: str
    bits: int | None
    group_size: int | None
    act_order: bool | None
    damp_percent: float | None
    """As printed: 0.1 or 0.01 on nearly every card."""
    dataset: str | None
    """The link's text, `wikitext`."""
    dataset_url: str | None
    sequence_length: int | None
    """In tokens: the length of the calibration samples, not a limit of the model."""
    size_bytes: int | None
    """The printed size, exactly: 35.33 GB is 35_330_000_000."""
    size_resolution_bytes: int | None
    """What one step of the last printed digit is worth: 10_000_000 for 35.33 GB."""
    exllama: bool | None
    made_with: str | None
    description: str
    repo: str | None
    """owner/name in the branch cell's link; None for a cell without one."""
    line: int
    """1-based line in the card."""


@dataclass(frozen=True)
class CardTemplate:
    """A prompt template with exactly one `{instruction}`, and `{system_message}` at most once.

    `name` is what the card's heading says (`Alpaca-CoT`). `source` is `card` for the card's own
    bytes, and `registry` where the heading names a template whose exact bytes `prompts` knows.
    """

    name: str | None
    text: str
    source: str


@dataclass(frozen=True)
class Sister:
    """The same model in another repo. `kind`: gguf, ggml, awq, gptq, exl2, exl3 or fp16."""

    repo: str
    kind: str


@dataclass(frozen=True)
class ModelCard:
    """Everything read from one card. `notes` tells in sentences what was odd about it."""

    front_matter: Mapping[str, Any]
    model_type: str | None
    model_name: str | None
    base_model: str | None
    """owner/name, from `base_model` or the older `model_link`, URL or not."""
    rows: tuple[BranchRow, ...]
    prompt_template: CardTemplate | None
    sisters: tuple[Sister, ...]
    notes: tuple[str, ...]
