"""transformers with gptqmodel's kernels, and AutoGPTQ, which loads through the same model classes.

Read in gptqmodel 7.6.0 (nn_modules/qlinear), auto-gptq 0.7.1 (nn_modules/qlinear) and transformers
5.23 (modeling_llama.py, cache_utils.py).
"""

from __future__ import annotations

from ..loaders.host import at_least
from .parts import CPU_PROCESS_BYTES, CPU_PROCESS_ERROR_BYTES, MIB, Terms
from .residuals import error_of
from .weights import Weights

EAGER_DEQUANT_BYTES: dict[float, float] = {2: 6.0, 3: 14.0, 4: 6.0, 8: 8.0}
"""Transient bytes for each weight of one linear when it is dequantised without a kernel: measured
on CPU in fp16 for 4 (6.0), 3 (14.0) and 8 bits (8.0); 2 bits unpack as 4 do."""

GAPS = (0.38, 0.82)
"""With torch's allocator as it is by default (no expandable segments), K and V of each layer lie in what earlier
layers' activations have left, and the rests are of no use: 0.07 to 1.17 of the KV cache's bytes, measured over 70
loads. The median of the fitted shapes' 31 loads, and what it may be off either way. Windows and AMD have no others
(loaders/segments.py). How much it is falls and rises with the context: 13B took 406 MiB less with 3104 tokens than
with 3072. torch's rules, followed allocation by allocation on traces of the models' forward passes, come to just that
(docs/memory-gaps.md), but a need that is not known to grow with the context has no longest context that fits."""

PAGE_BYTES = 20 * MIB
"""Expandable segments grow by pages of this size (torch's kLargeBuffer), and the last is hardly ever full."""

MARLIN_APART = 0.3
"""Of the KV cache, with marlin and expandable segments: the most that is lost while the first token is generated. Each
layer's K and V are made anew then, longer by a token, and between marlin's buffers the old ones' places do not join to
ones that are long enough; of those that are longer than a page whole pages go back. torch's rules, followed
(benchmarks/memory_gaps.py --follow marlin), come to 0.24 to 0.29 in models with as many key as query heads, 13B to 65B
at 1024 to 2048 tokens; 13B died at 2048 tokens with 223 MiB more than what is allocated, and ran with 282. Other
kernels' join. Over several cards it is counted on each as if all layers lay there, which is the most that it can
be."""

MARLIN_SMS = 132
"""Streaming multiprocessors of an H100/H200; marlin's workspace is 4 * max(SMs, 128) a linear."""


CONTEXT_BYTES = 704 * MIB
"""CUDA context and kernels with gptqmodel and transformers: 692 to 704 MiB measured, more with longer prompts."""

CUBLAS_BYTES = 32 * MIB
"""cuBLAS' workspace on capability 9.0, allocated at the first product (measured; torch's getChosenWorkspaceSize)."""


def _activations(weights: Weights, tokens: int, dequant_bytes: float) -> int:
    """The most that one layer's forward pass over `tokens` holds at a time, in bytes, in fp16.

    Read in modeling_llama.py of transformers 5.17, and within 4 MiB of what was measured on five shapes at 2048 to
    32768 tokens. Four hidden states are held throughout: the embedded prompt, the layer's input, the residual after
    attention, the normed input of the MLP. On top of them the gate, up and their product; or the gate and up while
    the dequantised up-projection is there.
    """
    shape = weights.shape
    states = 4 * 2 * shape.hidden
    product = tokens * (states + 6 * shape.intermediate)
    dequantised = tokens * (states + 4 * shape.intermediate) + int(dequant_bytes * weights.largest_linear)
    # Queries, their rotated halves and products, keys and values: more than the MLP only where that is narrow.
    attention = tokens * (6 * shape.hidden + 2 * (4 * shape.heads + 2 * shape.kv_heads) * shape.head_dim)
    positions = tokens * (4 * shape.head_dim + 5 * 8)  # sin and cos; ids, mask and positions in int64
    if shape.model_type in EAGER:
        attention += EAGER_SCORE_BYTES * shape.heads * tokens**2
    return max(product, dequantised, attention + int(dequant_bytes * weights.largest_linear)) + positions


def allocator_gaps(
    weights: Weights, tokens: int, kv_layer: int, expandable: bool, marlin: bool = False
) -> tuple[int, int]:
    """What torch's allocator cannot use of what it holds, and what that may be off either way, in bytes.

    With expandable segments: the rest of a page, and about one hidden state of the prompt. That is what torch's rules
    come to where they are followed, allocation by allocation, under a limit that just suffices
    (`benchmarks/memory_gaps.py`, docs/memory-gaps.md: 24 to 416 MiB in 122 loads, at most 268 from this).
    Mistral-7B, for which they come to some 200 MiB at 32768 tokens, died there with 150 and took 358 where there was
    room. With marlin up to `MARLIN_APART` more is lost, less what the prompt's activations have left free by then: half
    of it counts, and half is in the error.
    """
    if expandable:
        state, half = 2 * weights.shape.hidden * tokens, 0
        if marlin:
            places = weights.shape.layers * min(kv_layer, 2 * PAGE_BYTES)  # a page each for K and V
            half = max(0, int(MARLIN_APART * places) - _activations(weights, tokens, 0.0)) // 2
        return PAGE_BYTES + state + half, state + half
    return int(GAPS[0] * kv_layer * weights.shape.layers), int(GAPS[1] * kv_layer * weights.shape.layers)


def _terms(
    runtime: str,
    weights: Weights,
    context_tokens: int,
    *,
    layer_bytes: int,
    fixed_bytes: int = 0,
    load_bytes: int = 0,
    dequant_bytes: float = 0.0,
    extra_error_bytes: int = 0,
    logits_tokens: int = 1,
    cpu: bool = False,
    expandable: bool = True,
) -> Terms:
    """What every model of transformers has in common: cache grown by torch.cat, [1, V] logits with
    an fp32 copy (`generate` sets logits_to_keep=1), the whole prompt read in one pass."""
    shape = weights.shape
    wide = 2 if cpu else 1  # fp32 on the CPU: facts, "transformers: also fp32"
    kv_layer = weights.kv_layer_bytes(context_tokens, 4.0 * wide)
    activations = _activations(weights, context_tokens * wide, 0.0)
    with_dequantised = _activations(weights, context_tokens * wide, dequant_bytes)
    marlin = runtime == "gptqmodel:marlin"
    gaps, gaps_error = (0, 0) if cpu else allocator_gaps(weights, context_tokens, kv_layer, expandable, marlin)
    unmeasured = shape.experts or shape.model_type not in MEASURED_TYPES or not error_of(runtime).versions
    return Terms(
        runtime=runtime,
        context_tokens=context_tokens,
        layers=shape.layers,
        layer_bytes=layer_bytes + wide * (weights.norms + weights.own_bias) + weights.unaccounted_bytes,
        first_bytes=wide * weights.embedding,
        last_bytes=wide * (weights.final_norm + weights.head),
        kv_layer_bytes=kv_layer,
        fixed_bytes=fixed_bytes + (0 if cpu else CUBLAS_BYTES),
        # The cache grows while the prompt is read: at the load it is not there yet.
        load_bytes=max(0, load_bytes - kv_layer * shape.layers - CUBLAS_BYTES),
        prefill_bytes=max(activations, with_dequantised) + gaps,
        logits_bytes=shape.vocab * 6 * logits_tokens,
        context_bytes=CPU_PROCESS_BYTES if cpu else CONTEXT_BYTES,
        error_bytes=(CPU_PROCESS_ERROR_BYTES if cpu else error_of(runtime).bytes)
        + (activations * 3 // 10 if unmeasured or cpu else 0)  # from source alone: 30 % either way
        + gaps_error
        + extra_error_bytes,
        layer_error_bytes=weights.error_bytes // shape.layers,
        unseen_bytes=gaps if expandable else 0,
        unseen_error_bytes=gaps_error if expandable else 0,
        embedded_bytes=2 * wide * shape.hidden * context_tokens,
    )


EAGER = frozenset({"bloom", "codegen", "gemma2", "gpt_neo", "gpt_oss", "gptj", "mpt", "xglm"})
"""Architectures for which transformers 5.23 has no SDPA (`_supports_sdpa`): attention by whole matrices of scores."""

EAGER_SCORE_BYTES = 10
"""A score, masked, in fp32 for its softmax and back in fp16: counted on Gemma 2's attention, on the CPU in fp16."""

MEASURED_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3", "yi", "Yi"})
"""Architectures whose forward pass is Llama's (Yi's is: its config.json says LlamaForCausalLM, or its own copy)."""


def _packed(weights: Weights) -> int:
    """The packed tensors of a layer, as every gptqmodel kernel but marlin keeps them."""
    return weights.qweight + weights.qzeros + weights.scales + weights.g_idx


def _exllama_v2_fixed(weights: Weights) -> int:
    """The kernel's temp_dq and temp_fwd for its widest linear: 2240 MiB at 70B, 774 MiB at 7B.
    Source: ExllamaV2QuantLinear.scratch_space_fixed, max_input_len 2048 and batch 8."""
    return max(
        2 * linear.in_features * linear.out_features + linear.out_features * 2048 * 8 * 4 for linear in weights.linears
    )


def gptqmodel_exllama_v2_terms(weights: Weights, context_tokens: int, expandable: bool = True) -> Terms:
    permutations = weights.g_idx if weights.grouped else 0
    return _terms(
        "gptqmodel:exllama_v2",
        weights,
        context_tokens,
        layer_bytes=_packed(weights) + permutations,
        fixed_bytes=_exllama_v2_fixed(weights),
        expandable=expandable,
    )


def gptqmodel_marlin_terms(weights: Weights, context_tokens: int, expandable: bool = True) -> Terms:
    """qzeros are dropped once all is loaded; act order within groups keeps g_idx and its sort. The copy that it takes
    of its input stands where the MLP's product has gone, and adds nothing (measured)."""
    reordered = weights.grouped and weights.act_order
    workspace = 4 * max(MARLIN_SMS, 128) * len(weights.linears)
    return _terms(
        "gptqmodel:marlin",
        weights,
        context_tokens,
        layer_bytes=weights.qweight + weights.scales + workspace + (2 * weights.g_idx if reordered else 0),
        load_bytes=weights.qzeros * weights.shape.layers + weights.largest_qweight,
        expandable=expandable,
    )


def gptqmodel_triton_terms(weights: Weights, context_tokens: int, expandable: bool = True) -> Terms:
    layer = _packed(weights)
    return _terms(
        "gptqmodel:triton", weights, context_tokens, layer_bytes=layer, dequant_bytes=2.0, expandable=expandable
    )


def gptqmodel_torch_terms(
    weights: Weights, context_tokens: int, *, cpu: bool = False, triton: bool = True, expandable: bool = True
) -> Terms:
    """Dequantises one linear at a time: through triton on the GPU at 2 bytes a weight, else eagerly.

    The eager path also keeps g_idx as int64 and unpacked zeros once it has run; how much the
    zeros take was not measured, so up to the scales' size is in the error.
    """
    if triton and not cpu:
        layer = _packed(weights)
        return _terms(
            "gptqmodel:torch", weights, context_tokens, layer_bytes=layer, dequant_bytes=2.0, expandable=expandable
        )
    return _terms(
        "gptqmodel:torch",
        weights,
        context_tokens,
        layer_bytes=_packed(weights) + 2 * weights.g_idx,
        dequant_bytes=_eager_dequant_bytes(weights, cpu),
        extra_error_bytes=weights.scales * weights.shape.layers,
        cpu=cpu,
        expandable=expandable,
    )


def auto_gptq_terms(weights: Weights, context_tokens: int, *, cpu: bool = False, version: str | None = None) -> Terms:
    """AutoGPTQ 0.7.1: everything resident, zero biases too; on the GPU its exllamav2 kernel at 4 bits, else the CUDA
    kernel, which dequantises one linear at a time eagerly when it reads a prompt.

    Before 0.5, which brought that kernel, exllama's at 4 bits, as the webui tab sets it: without act order, which needs
    no room to reorder its input. Its temp_dq is the widest linear in fp16 (0.4.2, modeling/_utils.py:
    autogptq_post_init).
    """
    layer = _packed(weights) + weights.zero_bias
    fixed, dequant = 0, _eager_dequant_bytes(weights, cpu)
    older = not at_least(version, *_WITH_EXLLAMAV2)
    if weights.bits == 4 and not cpu and older and not weights.act_order:
        fixed, dequant = 2 * weights.largest_linear, 0.0
    if weights.bits == 4 and not cpu and not older:
        layer += weights.g_idx if weights.grouped else 0  # the kernel's permutations
        fixed, dequant = _exllama_v2_fixed(weights), 0.0
    return _before_5("auto_gptq", weights, context_tokens, layer, dequant, fixed, cpu)


_WITH_EXLLAMAV2 = (0, 5)
"""The AutoGPTQ that has qlinear_exllamav2.py: 0.5.0; 0.4.2 has it not."""


def gptq_for_llama_terms(weights: Weights, context_tokens: int) -> Terms:
    """GPTQ-for-LLaMa's CUDA kernel, of which AutoGPTQ's old one is a copy: eager for a whole prompt."""
    layer = _packed(weights) + weights.zero_bias
    return _before_5("gptq_for_llama", weights, context_tokens, layer, _eager_dequant_bytes(weights))


def _before_5(
    runtime: str,
    weights: Weights,
    context_tokens: int,
    layer_bytes: int,
    dequant_bytes: float,
    fixed_bytes: int = 0,
    cpu: bool = False,
) -> Terms:
    """The transformers that these two take, 4.31 to 4.57: logits of every token, in fp16 and fp32 (4.44's
    modeling_llama.py; `generate` asks for the last alone since 4.45), and before 4.36 whole matrices of scores, which
    are in the error: a score, its softmax in fp32 and that in fp16."""
    return _terms(
        runtime,
        weights,
        context_tokens,
        layer_bytes=layer_bytes,
        fixed_bytes=fixed_bytes,
        dequant_bytes=dequant_bytes,
        extra_error_bytes=8 * weights.shape.heads * context_tokens**2,
        logits_tokens=context_tokens,
        cpu=cpu,
        expandable=False,  # nobody asks for expandable segments there
    )


def _eager_dequant_bytes(weights: Weights, cpu: bool = False) -> float:
    """Transient bytes a weight; on the CPU the result is fp32, two bytes more."""
    return EAGER_DEQUANT_BYTES.get(weights.bits, max(EAGER_DEQUANT_BYTES.values())) + (2.0 if cpu else 0.0)
