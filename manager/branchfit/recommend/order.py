"""Which branch is better: the order of quality, and what `--prefer` makes of it.

Order of quality: bits, then finer groups, then act order. Published wikitext2 perplexities:
  LLaMA-65B  fp16 3.53, 4-bit 3.84, 3-bit 128g 4.17, 3-bit 5.04       (IST-DASLab/gptq, README)
  LLaMA-30B  fp16 4.10, 4-bit 32g 4.18, 4-bit 128g 4.22 (act order)   (Neko-Institute-of-Science/LLaMA-30B-4bit-128g)
  LLaMA-13B  fp16 5.08, 4-bit 64g 5.18, 4-bit 5.35, 3-bit 64g 5.50    (qwopqwop200/GPTQ-for-LLaMa, README)
  LLaMA-7B   4-bit 7.15, with act order and true-sequential 6.09      (IST-DASLab/gptq, README)
So every 4-bit branch stands before every 3-bit one, any group before none, and act order last.
"""

from __future__ import annotations

from ..variants import Variant
from .answer import Assessment

PREFERENCES = ("quality", "speed", "context")


def quality(variant: Variant) -> tuple[float, int, bool]:
    """Sorts by quality, the best last: bits, then finer groups, then act order (see the module)."""
    group = variant.group_size
    return (float(variant.bits or 0), -group if group else -(2**31), bool(variant.act_order))


def rank(assessment: Assessment, prefer: str | None) -> tuple[object, ...]:
    """Sorts candidates, the one to choose last. Ties fall to the smaller branch."""
    variant, exllama = assessment.variant, assessment.loader == "ExLlama"
    smaller = -(variant.size_bytes or 0)
    if prefer == "quality":
        return (quality(variant), exllama, smaller)
    if prefer == "speed":
        return (exllama, smaller, quality(variant))
    if prefer == "context":
        return (assessment.max_context_tokens, exllama, quality(variant), smaller)
    return (exllama, quality(variant), smaller)
