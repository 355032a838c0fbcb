"""One true list of variants: the card, the Hub's refs and each branch's own files, held together.

Where they disagree the branch's own files win, and the disagreement is kept: a card is written
once and its branches are replaced later.
"""

from .listing import from_card, from_hub
from .model import Disagreement, Variant, VariantList
from .own_files import weight_files

__all__ = ["Disagreement", "Variant", "VariantList", "from_card", "from_hub", "weight_files"]
