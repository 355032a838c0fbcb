"""ExLlamaV2 (and its _HF wrapper). Read in exllamav2 0.3.2: mlp.py, attn.py, linear.py, model.py."""

from __future__ import annotations

from .parts import CUDA_CONTEXT_BYTES, CUDA_CONTEXT_ERROR_BYTES, MIB, Terms
from .weights import Weights

INPUT_TOKENS = 2048
"""ExLlamaV2Config.max_input_len; max_attention_size is its square."""

MAX_DQ_ELEMENTS = 512 * MIB
"""ExLlamaV2Config.max_dq_size."""

AUTOSPLIT_RESERVE_BYTES = (192 + 256) * MIB
"""What load_autosplit_gen keeps free on the first card while it loads: reserve_vram and minimum_reserve_vram."""


def exllamav2_terms(weights: Weights, context_tokens: int) -> Terms:
    """Memory of ExLlamaV2 with an fp16 cache, allocated whole. The embedding stays on the CPU.

    Without flash-attn its own set_device_map counts 2 x 2048^2 x heads x 2 bytes for attention;
    with it, a fraction. Half is taken and the error covers both ends.
    """
    shape = weights.shape
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    dq = 2 * min(weights.largest_linear, MAX_DQ_ELEMENTS)
    padded_vocab = -(-shape.vocab // 32) * 32
    fixed = (
        max(
            INPUT_TOKENS * (shape.hidden + 2 * max(shape.hidden, shape.intermediate)) * 2 + dq,  # MLP
            INPUT_TOKENS * max(queries, shape.hidden) * 2 + dq,  # attention
            2 * min(shape.hidden * padded_vocab, MAX_DQ_ELEMENTS),  # head
        )
        + 4 * shape.head_dim * context_tokens  # sin, cos
        + INPUT_TOKENS * shape.hidden * 2  # the hidden state between layers
        + INPUT_TOKENS**2 * 2  # mask
    )
    tokens = min(context_tokens, INPUT_TOKENS)
    attention = tokens * tokens * shape.heads * 2
    repeated = 0 if shape.heads == shape.kv_heads else 2 * context_tokens * queries * 2
    permutations = weights.g_idx if weights.grouped else 0  # q_perm, q_invperm: two int16 a feature
    return Terms(
        runtime="exllamav2",
        context_tokens=context_tokens,
        layers=shape.layers,
        layer_bytes=weights.qweight
        + weights.qzeros
        + weights.scales
        + weights.own_bias
        + weights.norms
        + weights.g_idx
        + permutations
        + weights.unaccounted_bytes,
        first_bytes=0,
        last_bytes=weights.final_norm + 2 * shape.hidden * padded_vocab,
        kv_layer_bytes=weights.kv_layer_bytes(context_tokens),
        fixed_bytes=fixed,
        load_bytes=weights.largest_qweight + AUTOSPLIT_RESERVE_BYTES,
        prefill_bytes=tokens * (queries + 2 * keys) * 2 + repeated + attention,
        logits_bytes=padded_vocab * 2 + shape.vocab * 4,
        context_bytes=CUDA_CONTEXT_BYTES,
        error_bytes=CUDA_CONTEXT_ERROR_BYTES + attention,
        layer_error_bytes=weights.error_bytes // shape.layers,
    )
