"""Which branch, which loader, and why: the same facts for every branch, and one choice.

recommend(variants, machine, available)    -> Recommendation
context_grid(variants, machine, available) -> Grid: the longest context of each branch and cache type
"""

from .answer import DEFAULT_CONTEXT_TOKENS, Assessment, Choice, Recommendation
from .choose import recommend
from .grid import Cell, Grid, Row, context_grid
from .order import PREFERENCES, quality

__all__ = [
    "DEFAULT_CONTEXT_TOKENS",
    "PREFERENCES",
    "Assessment",
    "Cell",
    "Choice",
    "Grid",
    "Recommendation",
    "Row",
    "context_grid",
    "quality",
    "recommend",
]
