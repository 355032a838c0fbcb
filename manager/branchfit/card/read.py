"""The one way in: a card's text or bytes -> ModelCard."""

from __future__ import annotations

from .blocks import scan
from .frontmatter import read_front_matter, text_field
from .links import repo_id
from .model import ModelCard
from .sisters import own_repo, read_sisters
from .source import card_lines
from .table import read_rows
from .template import read_template

__all__ = ["read_card"]

MAX_NOTES = 50
"""Notes kept; beyond that only their number is told. The oddest card seen gives 3."""


def read_card(text: str | bytes, repo: str | None = None) -> ModelCard:
    """Read a model card (README.md).

    `repo` is the owner/name that it was fetched from, where that is known: rows which link into other
    repos are then left out, and the card's own repo is not counted among its sisters.
    Raises CardError for what is no text or longer than 16 MiB. Nothing else is refused.
    """
    lines, notes = card_lines(text)
    front_matter, first, fm_notes = read_front_matter(lines)
    document = scan(lines, first)
    rows, row_notes = read_rows(document, repo)
    template, template_notes = read_template(document, front_matter)
    base = text_field(front_matter, "base_model") or text_field(front_matter, "model_link")
    base_model = repo_id(base) if base is not None else None
    sisters = read_sisters(document, repo or own_repo(document, rows), base_model)
    notes = [*notes, *fm_notes, *document.notes, *row_notes, *template_notes]
    if len(notes) > MAX_NOTES:
        notes = [*notes[:MAX_NOTES], f"{len(notes) - MAX_NOTES} more notes are not shown."]
    return ModelCard(
        front_matter=front_matter,
        model_type=text_field(front_matter, "model_type"),
        model_name=text_field(front_matter, "model_name"),
        base_model=base_model,
        rows=tuple(rows),
        prompt_template=template,
        sisters=tuple(sisters),
        notes=tuple(notes),
    )
