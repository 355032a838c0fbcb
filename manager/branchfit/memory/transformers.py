"""transformers with gptqmodel's kernels, and AutoGPTQ, which loads through the same model classes.

Read in gptqmodel 7.6.0 (nn_modules/qlinear), auto-gptq 0.7.1 (nn_modules/qlinear) and transformers
5.23 (modeling_llama.py, cache_utils.py).
"""

from __future__ import annotations

from .parts import (
    CPU_PROCESS_BYTES,
    CPU_PROCESS_ERROR_BYTES,
    CUDA_CONTEXT_BYTES,
    CUDA_CONTEXT_ERROR_BYTES,
    Terms,
)
from .weights import Weights

EAGER_DEQUANT_BYTES: dict[float, float] = {2: 6.0, 3: 14.0, 4: 6.0, 8: 8.0}
"""Transient bytes for each weight of one linear when it is dequantised without a kernel: measured
on CPU in fp16 for 4 (6.0), 3 (14.0) and 8 bits (8.0); 2 bits unpack as 4 do."""

MARLIN_SMS = 132
"""Streaming multiprocessors of an H100/H200; marlin's workspace is 4 * max(SMs, 128) a linear."""


def _activations(weights: Weights, tokens: int) -> int:
    """The widest moment of one layer's forward pass over `tokens`, in fp16: residual, normed (and
    its fp32 copy), gate, up and their product; or q, k and v repeated over the heads. Worked out
    from modeling_llama.py, not measured."""
    shape = weights.shape
    mlp = 10 * shape.hidden + 6 * shape.intermediate
    attention = 4 * shape.hidden + 12 * shape.heads * shape.head_dim
    return tokens * max(mlp, attention)


def _terms(
    runtime: str,
    weights: Weights,
    context_tokens: int,
    *,
    layer_bytes: int,
    fixed_bytes: int = 0,
    dequant_bytes: float = 0.0,
    extra_error_bytes: int = 0,
    cpu: bool = False,
) -> Terms:
    """What every model of transformers has in common: cache grown by torch.cat, [1, V] logits with
    an fp32 copy (`generate` sets logits_to_keep=1), the whole prompt read in one pass."""
    shape = weights.shape
    wide = 2 if cpu else 1  # fp32 on the CPU: facts, "transformers: also fp32"
    kv_layer = weights.kv_layer_bytes(context_tokens, 2.0 * wide)
    activations = wide * _activations(weights, context_tokens)
    return Terms(
        runtime=runtime,
        context_tokens=context_tokens,
        layers=shape.layers,
        layer_bytes=layer_bytes + wide * (weights.norms + weights.own_bias) + weights.unaccounted_bytes,
        first_bytes=wide * weights.embedding,
        last_bytes=wide * (weights.final_norm + weights.head),
        kv_layer_bytes=kv_layer,
        fixed_bytes=fixed_bytes,
        load_bytes=weights.largest_qweight,
        # torch.cat's second copy of K or V (2 bytes a key) is always less than the activations (10 a channel).
        prefill_bytes=activations + int(dequant_bytes * weights.largest_linear),
        logits_bytes=shape.vocab * 6,
        context_bytes=CPU_PROCESS_BYTES if cpu else CUDA_CONTEXT_BYTES,
        error_bytes=(CPU_PROCESS_ERROR_BYTES if cpu else CUDA_CONTEXT_ERROR_BYTES)
        + activations * 3 // 10  # the estimate above is from source: 30 % either way
        + extra_error_bytes,
        layer_error_bytes=weights.error_bytes // shape.layers,
    )


def _packed(weights: Weights) -> int:
    """The packed tensors of a layer, as every gptqmodel kernel but marlin keeps them."""
    return weights.qweight + weights.qzeros + weights.scales + weights.g_idx


def _exllama_v2_fixed(weights: Weights) -> int:
    """The kernel's temp_dq and temp_fwd for its widest linear: 2240 MiB at 70B, 774 MiB at 7B.
    Source: ExllamaV2QuantLinear.scratch_space_fixed, max_input_len 2048 and batch 8."""
    return max(
        2 * linear.in_features * linear.out_features + linear.out_features * 2048 * 8 * 4 for linear in weights.linears
    )


def gptqmodel_exllama_v2_terms(weights: Weights, context_tokens: int) -> Terms:
    permutations = weights.g_idx if weights.grouped else 0
    return _terms(
        "gptqmodel:exllama_v2",
        weights,
        context_tokens,
        layer_bytes=_packed(weights) + permutations,
        fixed_bytes=_exllama_v2_fixed(weights),
    )


def gptqmodel_marlin_terms(weights: Weights, context_tokens: int) -> Terms:
    """qzeros are dropped; act order within groups keeps g_idx and its sort, and copies the input."""
    reordered = weights.grouped and weights.act_order
    workspace = 4 * max(MARLIN_SMS, 128) * len(weights.linears)
    widest_input = max(linear.in_features for linear in weights.linears)
    copies = MARLIN_SMS * min(context_tokens, 64) * 256 * 4 + (context_tokens * widest_input * 2 if reordered else 0)
    return _terms(
        "gptqmodel:marlin",
        weights,
        context_tokens,
        layer_bytes=weights.qweight + weights.scales + workspace + (2 * weights.g_idx if reordered else 0),
        fixed_bytes=copies,
    )


def gptqmodel_triton_terms(weights: Weights, context_tokens: int) -> Terms:
    return _terms("gptqmodel:triton", weights, context_tokens, layer_bytes=_packed(weights), dequant_bytes=2.0)


def gptqmodel_torch_terms(weights: Weights, context_tokens: int, *, cpu: bool = False, triton: bool = True) -> Terms:
    """Dequantises one linear at a time: through triton on the GPU at 2 bytes a weight, else eagerly.

    The eager path also keeps g_idx as int64 and unpacked zeros once it has run; how much the
    zeros take was not measured, so up to the scales' size is in the error.
    """
    if triton and not cpu:
        return _terms("gptqmodel:torch", weights, context_tokens, layer_bytes=_packed(weights), dequant_bytes=2.0)
    return _terms(
        "gptqmodel:torch",
        weights,
        context_tokens,
        layer_bytes=_packed(weights) + 2 * weights.g_idx,
        dequant_bytes=_eager_dequant_bytes(weights, cpu),
        extra_error_bytes=weights.scales * weights.shape.layers,
        cpu=cpu,
    )


def auto_gptq_terms(weights: Weights, context_tokens: int, *, cpu: bool = False) -> Terms:
    """AutoGPTQ 0.7.1: everything resident, zero biases too; on the GPU its exllamav2 kernel at 4 bits,
    else eager dequantisation of one linear at a time."""
    layer = _packed(weights) + weights.zero_bias
    if weights.bits == 4 and not cpu:
        layer += weights.g_idx if weights.grouped else 0  # the kernel's permutations
        fixed = _exllama_v2_fixed(weights)
        return _terms("auto_gptq", weights, context_tokens, layer_bytes=layer, fixed_bytes=fixed)
    dequant = _eager_dequant_bytes(weights, cpu)
    return _terms("auto_gptq", weights, context_tokens, layer_bytes=layer, dequant_bytes=dequant, cpu=cpu)


def gptq_for_llama_terms(weights: Weights, context_tokens: int) -> Terms:
    """GPTQ-for-LLaMa's CUDA kernel, of which AutoGPTQ's old one is a copy: eager for a whole prompt."""
    layer = _packed(weights) + weights.zero_bias
    dequant = _eager_dequant_bytes(weights)
    return _terms("gptq_for_llama", weights, context_tokens, layer_bytes=layer, dequant_bytes=dequant)


def _eager_dequant_bytes(weights: Weights, cpu: bool = False) -> float:
    """Transient bytes a weight; on the CPU the result is fp32, two bytes more."""
    return EAGER_DEQUANT_BYTES.get(weights.bits, max(EAGER_DEQUANT_BYTES.values())) + (2.0 if cpu else 0.0)
