"""Which branch, which loader, and why: the same facts for every branch, and one choice.

recommend(variants, machine, available) -> Recommendation
"""

from .answer import DEFAULT_CONTEXT_TOKENS, Assessment, Choice, Recommendation
from .choose import recommend
from .order import PREFERENCES, quality

__all__ = [
    "DEFAULT_CONTEXT_TOKENS",
    "PREFERENCES",
    "Assessment",
    "Choice",
    "Recommendation",
    "quality",
    "recommend",
]
