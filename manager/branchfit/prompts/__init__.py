"""Exact prompt templates: render, recognise, prove.

A template is data: its bytes, where they were read, and what is known of its turns. `template.py` is the
type, `known.py` the data, `jinja.py` writes one as a chat template, `compare.py` says where a text differs.
"""

from __future__ import annotations

from .compare import Difference, Explanation, explain, first_difference
from .known import (
    ALIASES,
    ALPACA_COT,
    PLAIN_FORM,
    TEMPLATES,
    WIZARDMATH_PLAIN,
    by_name,
    guess_by_model,
    known_as,
    named,
)
from .template import INSTRUCTION, SYSTEM_MESSAGE, Recognised, Template

__all__ = [
    "ALIASES",
    "ALPACA_COT",
    "INSTRUCTION",
    "PLAIN_FORM",
    "SYSTEM_MESSAGE",
    "TEMPLATES",
    "WIZARDMATH_PLAIN",
    "Difference",
    "Explanation",
    "Recognised",
    "Template",
    "by_name",
    "explain",
    "first_difference",
    "guess_by_model",
    "known_as",
    "named",
]
