"""ExLlama v1 (and its _HF wrapper). Read in exllama's model.py and cuda_ext.py (PyPI 0.1.0, git 3b013cd)."""

from __future__ import annotations

from .parts import CUDA_CONTEXT_BYTES, Terms
from .residuals import error_of
from .weights import Weights

ATTENTION_TOKENS = 2048
"""Attention runs in chunks with (past + q) * q <= 2048^2: ExLlamaConfig.max_attention_size."""


def exllama_terms(weights: Weights, context_tokens: int) -> Terms:
    """Memory of ExLlama v1. The KV cache is allocated whole, in fp16; the embedding stays on the CPU.

    The activation term is open: its README's figures imply 0 to 2.9 x heads x 2048^2 x 2 bytes on
    top of the buffers (commit 0f45fbf, explicit mask), HEAD's causal path less. The middle is
    taken and the error covers both ends.
    """
    shape = weights.shape
    x_map = weights.g_idx if weights.grouped and weights.act_order else 0
    tokens = min(context_tokens, ATTENTION_TOKENS)
    attention = int(1.5 * shape.heads * tokens * tokens * 2)
    fixed = (
        2048 * shape.intermediate * 2  # temp_state
        + 4 * shape.intermediate * 2  # temp_mlp
        + 256 * 1024
        + 2 * weights.largest_linear  # temp_dq
        + 2 * shape.head_dim * context_tokens * 2  # sin, cos
    )
    return Terms(
        runtime="exllama",
        context_tokens=context_tokens,
        layers=shape.layers,
        layer_bytes=weights.qweight
        + weights.qzeros
        + weights.scales
        + weights.norms
        + x_map
        + weights.unaccounted_bytes,
        first_bytes=0,
        last_bytes=weights.final_norm + weights.embedding,
        kv_layer_bytes=weights.kv_layer_bytes(context_tokens),
        fixed_bytes=fixed,
        load_bytes=weights.largest_qweight,
        prefill_bytes=attention,
        logits_bytes=4 * shape.vocab,
        context_bytes=CUDA_CONTEXT_BYTES,
        error_bytes=error_of("exllama").bytes + attention,
        layer_error_bytes=weights.error_bytes // shape.layers,
    )
