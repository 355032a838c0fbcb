"""A model card's text, read: front matter, GPTQ branch table, prompt template, sister repos.

    read_card(text) -> ModelCard

Reading takes time linear in the card's length, needs no network, and either gives a `ModelCard` or
raises `CardError`; what was odd on the way stands in `ModelCard.notes`. A card without a branch
table is nothing odd: its `rows` are empty.
"""

from __future__ import annotations

from .model import BranchRow, CardTemplate, ModelCard, Sister
from .read import read_card

__all__ = ["BranchRow", "CardTemplate", "ModelCard", "Sister", "read_card"]
