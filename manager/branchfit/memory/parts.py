"""What memory is made of, before it is laid out over cards. All figures are bytes."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20

CUDA_CONTEXT_BYTES = 725 * MIB
"""CUDA context, loaded kernels (cuBLAS, SDPA) and the 32 MiB cuBLAS workspace of one process.
Measured with torch 2.11+cu130, driver 580.159, on an H200: NVML's used minus torch's reserved was
693 MiB after a matmul and an attention call, plus the workspace. Cards with fewer SMs take less."""

CPU_PROCESS_BYTES = 485 * MIB
CPU_PROCESS_ERROR_BYTES = 300 * MIB
"""Resident size of a Python with torch 2.13, transformers 5.23, optimum 2.3 and gptqmodel 7.6 imported:
484.5 MiB measured on Linux; the wide error stands for other versions and threads."""


@dataclass(frozen=True)
class Terms:
    """What one runtime takes for one variant at one context, per layer and per card.

    `layer_bytes` are one decoder layer's resident weights; `first_bytes` stand on the first card
    only (embedding), `last_bytes` on the last (final norm, head). `fixed_bytes` are buffers each
    card has, `load_bytes` and `prefill_bytes` what comes and goes there while loading and while the
    full context is read (the larger counts), `logits_bytes` the last card's output.
    `embedded_bytes` of `prefill_bytes` are on the first card alone: the embedded prompt, which stays there.
    `error_bytes` is for each card, `layer_error_bytes` for each layer on it.
    `unseen_bytes` of `prefill_bytes` lie between tensors where no count of what is allocated has them, and
    `unseen_error_bytes` of `error_bytes` are for them.
    `cache` is what K and V are kept as.
    """

    runtime: str
    context_tokens: int
    layers: int
    layer_bytes: int
    first_bytes: int
    last_bytes: int
    kv_layer_bytes: int
    fixed_bytes: int
    load_bytes: int
    prefill_bytes: int
    logits_bytes: int
    context_bytes: int
    error_bytes: int
    layer_error_bytes: int = 0
    cache: str = "fp16"
    unseen_bytes: int = 0
    unseen_error_bytes: int = 0
    embedded_bytes: int = 0

    def transient_bytes(self, first: bool = True) -> int:
        """What comes and goes on the first card, or on another."""
        return max(self.load_bytes, self.prefill_bytes - (0 if first else self.embedded_bytes))


@dataclass(frozen=True)
class Need:
    """Memory needed, part by part and card by card; the four parts and `per_gpu_bytes` both add up to total.

    `layers_per_gpu` is the placement it was worked out for. `split_bytes` is everything on that card but the CUDA
    context; loaders count otherwise, and `splits.loader_split` says what to tell each.
    """

    weights_bytes: int
    kv_cache_bytes: int
    scratch_bytes: int
    context_bytes: int
    per_gpu_bytes: tuple[int, ...]
    error_per_gpu_bytes: tuple[int, ...]
    layers_per_gpu: tuple[int, ...]
    split_bytes: tuple[int, ...]

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.scratch_bytes + self.context_bytes

    @property
    def error_bytes(self) -> int:
        return sum(self.error_per_gpu_bytes)

    def headroom_bytes(self, free_bytes: tuple[int, ...]) -> int:
        """What stays free on the tightest card that is used, the error counted as taken; negative: short by."""
        used = [
            free - need - error
            for free, need, error in zip(free_bytes, self.per_gpu_bytes, self.error_per_gpu_bytes, strict=True)
            if need
        ]
        return min(used, default=0)
