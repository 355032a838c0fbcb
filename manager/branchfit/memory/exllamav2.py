"""ExLlamaV2 (and its _HF wrapper). Read in exllamav2 0.3.2: mlp.py, attn.py, linear.py, model.py, cache.py; measured on
an H100 with torch 2.11 (docs/memory-measured.md)."""

from __future__ import annotations

from functools import lru_cache

from ..shape import ModelShape, groups
from .allocator import Held, of_layers, with_cache
from .parts import MIB, Terms
from .residuals import error_of
from .weights import Weights

INPUT_TOKENS = 2048
"""ExLlamaV2Config.max_input_len; max_attention_size is its square."""

MAX_DQ_ELEMENTS = 512 * MIB
"""ExLlamaV2Config.max_dq_size."""

CACHE_BYTES: dict[str, tuple[float, ...]] = {
    "fp16": (2, 2),
    "q8": (1, 1, 1 / 16, 1 / 16),
    "q6": (1, 1 / 2, 1 / 16, 1 / 16),
    "q4": (1 / 2, 1 / 2, 1 / 16, 1 / 16),
}
"""Bytes an element of each of a layer's tensors: K and V, and of the quantised ones an fp16 scale for 32 elements of
each (cache.py: weights_per_byte_k and _v of ExLlamaV2Cache_Q8, _Q6 and _Q4, and shape_s)."""

CONTEXT_BYTES = 776 * MIB
"""CUDA context and kernels, its own 40 MB among them: 770 to 794 MiB measured, more with longer contexts."""

CUBLAS_BYTES = 32 * MIB
"""cuBLAS' workspace on capability 9.0, allocated at the first product (measured; torch's
getChosenWorkspaceSize: 8 MiB on older cards)."""


def exllamav2_terms(weights: Weights, context_tokens: int, cache: str = "fp16", plain: bool = False) -> Terms:
    """Memory of ExLlamaV2, its cache allocated whole. The embedding stays on the CPU.

    A quantised cache is read through one layer's K and V in fp16 (`touch_device`), which each card has. Tensors are
    loaded one by one, and the gaps that torch's allocator leaves between them are counted to the weights. `plain` is
    attention by products (`no_sdpa`, where neither flash-attn nor xformers is there): scores and probabilities of
    each head, 2048^2 of each at most. That was measured once, and a quarter of it is in the error.
    """
    shape = weights.shape
    queries = shape.heads * shape.head_dim
    padded_vocab = -(-shape.vocab // 32) * 32
    held = _held(weights)
    head_bytes = 2 * shape.hidden * padded_vocab
    elements = shape.kv_heads * shape.head_dim * context_tokens
    blocks = [int(elements * each) for each in CACHE_BYTES[cache]]
    kv_layer = sum(blocks)
    reserved, cache_reserved = with_cache(held, shape.layers, blocks)
    # Rounded up to whole bytes a layer, so that the sum rises with the context as its parts do.
    gaps = max(0, -(-(reserved + cache_reserved) // shape.layers) - int(held.allocated) - kv_layer)
    fixed = (
        _scratch(weights, queries, padded_vocab)
        + 4 * shape.head_dim * context_tokens  # sin, cos
        + (0 if cache == "fp16" else weights.kv_layer_bytes(context_tokens))
        + CUBLAS_BYTES
    )
    scores = 2 * 2 * shape.heads * min(context_tokens, INPUT_TOKENS) ** 2 if plain else 0
    exact = weights.bits == int(weights.bits)  # EXL2's tensors are others: where gaps lie is not known
    return Terms(
        runtime="exllamav2",
        context_tokens=context_tokens,
        layers=shape.layers,
        layer_bytes=int(held.allocated) + (gaps if exact else 0) + weights.unaccounted_bytes,
        first_bytes=0,
        last_bytes=weights.final_norm + head_bytes,
        kv_layer_bytes=kv_layer,
        cache=cache,
        fixed_bytes=fixed,
        load_bytes=0,
        prefill_bytes=_transient(shape, queries, context_tokens) + scores,
        logits_bytes=padded_vocab * 2 + shape.vocab * 4,
        context_bytes=CONTEXT_BYTES,
        error_bytes=error_of("exllamav2").bytes + scores // 4,
        layer_error_bytes=weights.error_bytes // shape.layers + (0 if exact else gaps),
    )


def _scratch(weights: Weights, queries: int, padded_vocab: int) -> int:
    """One buffer for whichever module needs most: `scratch_space_fixed` of MLP, attention and head."""
    shape = weights.shape
    dq = 2 * min(weights.largest_linear, MAX_DQ_ELEMENTS)
    return max(
        INPUT_TOKENS * (shape.hidden + 2 * max(shape.hidden, shape.intermediate)) * 2 + dq,
        INPUT_TOKENS * max(queries, shape.hidden) * 2 + dq,
        2 * min(shape.hidden * padded_vocab, MAX_DQ_ELEMENTS),
    )


def _transient(shape: ModelShape, queries: int, context_tokens: int) -> int:
    """What comes and goes while a prompt is read, at the worst chunk.

    A chunk has at most 2048 tokens, and (past + chunk) x chunk is at most 2048^2 (model.py, `_forward`): the state, q
    and the result for each of its tokens; where heads share K and V, both repeated over all heads (`repeat_kv`) for
    each token so far. That is largest either in the first chunk or in the last. A mixture's experts take its tokens
    at once (moe_mlp.py, forward_torch): four intermediates, measured on Mixtral.
    """
    first = min(context_tokens, INPUT_TOKENS)
    last = min(first, max(1, INPUT_TOKENS**2 // max(1, context_tokens)))
    shared = shape.heads != shape.kv_heads

    def chunk(tokens: int, so_far: int) -> int:
        of_chunk = 3 * 2 * max(shape.hidden, queries) * tokens
        if shape.experts:
            of_chunk = max(of_chunk, (8 * shape.intermediate + 6 * shape.hidden) * tokens)
        return of_chunk + (2 * 2 * queries * so_far if shared else 0)

    return max(chunk(first, first), chunk(last, context_tokens))


@lru_cache(maxsize=512)
def _held(weights: Weights) -> Held:
    """One layer's tensors as they lie in torch's memory, in the order of `ExLlamaV2.load`."""
    sizes: list[int] = []
    for linear in weights.shape.linears:
        rows = groups(linear.in_features, weights.group_size)
        sizes.append(int(linear.in_features * linear.out_features * weights.bits) // 8)
        sizes.append(rows * linear.out_features * int(weights.bits) // 8)
        sizes.append(rows * linear.out_features * 2)
        sizes.append(4 * linear.in_features)
        if weights.grouped:
            sizes += [2 * linear.in_features] * 2  # q_perm, q_invperm: int16 a feature
        if linear.bias:
            sizes.append(2 * linear.out_features)
    sizes.append(weights.norms)
    return of_layers(sizes)
