"""How much memory a variant takes on a runtime, part by part, card by card, in bytes.

    terms(variant, runtime, context) -> Terms     what it is made of
    place(terms, free)               -> Need      laid out over the cards
    longest_context(...)             -> tokens    the most that fits

The formulas are each runtime's own, read in its source and measured on a GPU where that could be had
(docs/memory-measured.md). Every prediction carries its error in bytes, from what was measured or, where nobody has
measured, wide; "fits" means that need plus error is at most what is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..variants import Variant
from .exllama import exllama_terms
from .exllamav2 import CACHE_BYTES, exllamav2_terms
from .longest import CONTEXT_STEP, longest_context
from .parts import Need, Terms
from .placement import fits, place
from .residuals import error_of
from .transformers import (
    auto_gptq_terms,
    gptq_for_llama_terms,
    gptqmodel_exllama_v2_terms,
    gptqmodel_marlin_terms,
    gptqmodel_torch_terms,
    gptqmodel_triton_terms,
)
from .weights import Weights, weigh

__all__ = ["CONTEXT_STEP", "Need", "Terms", "cache_types", "fits", "longest_context", "place", "terms", "weigh"]

_TERMS: dict[str, Callable[[Weights, int], Terms]] = {
    "exllama": exllama_terms,
    "gptq_for_llama": gptq_for_llama_terms,
}
_GPTQMODEL: dict[str, Callable[[Weights, int, bool], Terms]] = {
    "gptqmodel:exllama_v2": gptqmodel_exllama_v2_terms,
    "gptqmodel:marlin": gptqmodel_marlin_terms,
    "gptqmodel:triton": gptqmodel_triton_terms,
}


def cache_types(runtime: str) -> tuple[str, ...]:
    """What a runtime can keep K and V as, the most exact first: all of them fp16, ExLlamaV2 q8, q6 and q4 too."""
    return tuple(CACHE_BYTES) if runtime == "exllamav2" else ("fp16",)


def terms(
    variant: Variant,
    runtime: str,
    context_tokens: int,
    *,
    cache: str = "fp16",
    version: str | None = None,
    cpu: bool = False,
    triton: bool = True,
    expandable: bool = True,
    plain_attention: bool = False,
) -> Terms | None:
    """What `variant` is made of on `runtime` at a context; None where its size is not known at all.

    `cache` is one of `cache_types(runtime)`; `version` the runtime's package version, None for those measured, and for
    AutoGPTQ 0.7.1: of another the error is twice as wide, and AutoGPTQ before 0.5 has another kernel.
    `cpu` is True on a machine without a GPU, where `gptqmodel:torch` and `auto_gptq` run, in fp32.
    `triton` is whether `gptqmodel:torch` can dequantise through triton on the GPU; `expandable` whether torch's
    allocator has expandable segments, as gptqmodel asks for; `plain_attention` whether exllamav2 has neither flash-attn
    nor xformers and is not to use torch's SDPA.
    """
    weights = weigh(variant)
    if weights is None:
        return None
    if runtime == "gptqmodel:torch":
        made = gptqmodel_torch_terms(weights, context_tokens, cpu=cpu, triton=triton, expandable=expandable)
    elif runtime == "auto_gptq":
        made = auto_gptq_terms(weights, context_tokens, cpu=cpu, version=version)
    elif runtime == "exllamav2":
        made = exllamav2_terms(weights, context_tokens, cache, plain_attention)
    elif runtime in _GPTQMODEL:
        made = _GPTQMODEL[runtime](weights, context_tokens, expandable)
    else:
        made = _TERMS[runtime](weights, context_tokens)
    wider_bytes = error_of(runtime, version).bytes - error_of(runtime).bytes
    return replace(made, error_bytes=made.error_bytes + wider_bytes) if wider_bytes else made
