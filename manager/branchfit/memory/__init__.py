"""How much memory a variant takes on a runtime, part by part, card by card, in bytes.

    terms(variant, runtime, context) -> Terms     what it is made of
    place(terms, free)               -> Need      laid out over the cards
    longest_context(...)             -> tokens    the most that fits

The formulas are each runtime's own, read in its source; parts that nobody has measured carry an
error in bytes, and "fits" means that need plus error is at most what is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..variants import Variant
from .exllama import exllama_terms
from .exllamav2 import exllamav2_terms
from .parts import Need, Terms
from .placement import fits, place
from .transformers import (
    auto_gptq_terms,
    gptq_for_llama_terms,
    gptqmodel_exllama_v2_terms,
    gptqmodel_marlin_terms,
    gptqmodel_torch_terms,
    gptqmodel_triton_terms,
)
from .weights import Weights, weigh

__all__ = ["CONTEXT_STEP", "Need", "Terms", "fits", "longest_context", "place", "terms", "weigh"]

CONTEXT_STEP = 256
"""Contexts are searched in steps of 256 tokens: ExLlamaV2's cache pages are that long."""

_TERMS: dict[str, Callable[[Weights, int], Terms]] = {
    "exllama": exllama_terms,
    "exllamav2": exllamav2_terms,
    "gptqmodel:exllama_v2": gptqmodel_exllama_v2_terms,
    "gptqmodel:marlin": gptqmodel_marlin_terms,
    "gptqmodel:triton": gptqmodel_triton_terms,
    "gptq_for_llama": gptq_for_llama_terms,
}


def terms(
    variant: Variant, runtime: str, context_tokens: int, *, cpu: bool = False, triton: bool = True
) -> Terms | None:
    """What `variant` is made of on `runtime` at a context; None where its size is not known at all.

    `cpu` is True on a machine without a GPU, where `gptqmodel:torch` and `auto_gptq` run, in fp32.
    `triton` is whether `gptqmodel:torch` can dequantise through triton on the GPU.
    """
    weights = weigh(variant)
    if weights is None:
        return None
    if runtime == "gptqmodel:torch":
        return gptqmodel_torch_terms(weights, context_tokens, cpu=cpu, triton=triton)
    if runtime == "auto_gptq":
        return auto_gptq_terms(weights, context_tokens, cpu=cpu)
    return _TERMS[runtime](weights, context_tokens)


def longest_context(
    variant: Variant,
    runtime: str,
    free_bytes: Sequence[int],
    limit_tokens: int,
    *,
    cpu: bool = False,
    triton: bool = True,
) -> int:
    """The longest context in tokens that fits these cards: a multiple of 256, or the limit itself.

    `limit_tokens` is the longest that is of interest, the model's own. 0 where not even 256 tokens fit. The search
    is by bisection, which is right because every term grows with the context.
    """

    def holds(tokens: int) -> bool:
        made = terms(variant, runtime, tokens, cpu=cpu, triton=triton)
        return made is not None and fits(place(made, free_bytes), free_bytes)

    if holds(limit_tokens):
        return limit_tokens
    low, high = 0, (limit_tokens - 1) // CONTEXT_STEP
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle * CONTEXT_STEP):
            low = middle
        else:
            high = middle - 1
    return low * CONTEXT_STEP
