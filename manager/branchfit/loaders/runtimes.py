"""The runtimes that load GPTQ, each fact with where it was read.

Order is preference within a loader. ExLlama: `exllamav2` before `gptqmodel:exllama_v2`, the same
kernels, since its buffers are smaller and its cache can be quantised; `exllama`, the oldest and for
Llama alone, last. AutoGPTQ: gptqmodel's kernels in gptqmodel's own order of priority (marlin 90,
triton 40, torch 20), before `auto_gptq`, which transformers drops wherever gptqmodel is installed.

The order agrees with an H100's own time for a token (benchmarks/gpu_kernels: 7B, 4-bit, 128g, act order, batch 1;
gptqmodel's torch kernel is 1): exllamav2 0.21, exllama_v2 0.30, marlin 0.35, triton 1.00, torch 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError

__all__ = ["ASSUMED", "LOADERS", "RUNTIMES", "Runtime", "Verdict", "by_name"]

LOADERS = ("ExLlama", "AutoGPTQ")

ASSUMED = ("exllamav2", "gptqmodel:triton", "gptqmodel:torch")
"""What is assumed where nothing is known: the last ExLlama that reads GPTQ, and the two kernels of
gptqmodel that need no compiler; torch's is the only one of them that takes 3 bits."""

# fmt: off
EXLLAMAV2_ARCHITECTURES = frozenset((
    "llama", "mistral", "mixtral", "yi", "orion", "qwen2", "qwen3", "qwen3_moe", "qwen2_vl", "qwen2_5_vl",
    "gemma", "gemma2", "gemma3", "starcoder2", "gemmoe", "cohere", "cohere2", "minicpm", "index", "granite",
    "mistral3",
))
# fmt: on
"""model_type of the architectures in exllamav2 0.3.2's architecture.py that it reads from GPTQ files.
Another name there falls back to Llama with a warning, and fails or answers nonsense."""

EXLLAMAV2_FUSED = frozenset(["dbrx", "phi3", "gpt_bigcode", "gpt2", "internlm2", "glm4"])
"""Architectures whose fused weights exllamav2 splits: `load_weight_fused` (module.py) looks for fp16
`.weight` only, so their GPTQ files do not load; EXL2 files are split when they are made, and do."""

# fmt: off
AUTO_GPTQ_ARCHITECTURES = frozenset((
    "bloom", "gptj", "gpt2", "gpt_neox", "opt", "moss", "gpt_bigcode", "codegen", "refinedwebmodel",
    "refinedweb", "baichuan", "internlm", "qwen", "xverse", "deci", "stablelm_epoch", "llama", "longllama",
    "falcon", "mistral", "yi", "mixtral", "qwen2", "gemma",
))
# fmt: on
"""SUPPORTED_MODELS of auto_gptq 0.7.1 (modeling/_const.py), in small letters."""

POWERS_OF_TWO = frozenset(2**power for power in range(5, 15))
"""Group sizes exllamav2's kernels read right: `gptq_groupsize` is found by doubling (q_matrix.cu), and
groups change every 32 rows at the most often (q_gemm_kernel_gptq.cuh); 16384 is past any linear."""

_TORCH_GROUPS = frozenset({16, 32, 64, 128, 256, 512, 1024})
_KERNEL_GROUPS = frozenset({32, 64, 128})

_GPTQMODEL = ("gptqmodel", "optimum", "transformers", "torch")

_FUSED_EXPERTS = tuple(
    (model_type, "transformers 5 fuses the experts, and GPTQ files with one tensor an expert come up without them")
    for model_type in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "deepseek_v2", "deepseek_v3")
)
"""Seen with transformers 5.23 and 5.6 and gptqmodel 7.6, deepseek_v3 apart, which is built as deepseek_v2 is: the model
loads, its experts missing, no exception."""


@dataclass(frozen=True)
class Runtime:
    """A package and kernel that loads GPTQ.

    `bits` and `group_sizes` are those of its GPTQ files (None: any group size; none at all is always
    taken); `packages` the import names that have to be there; `min_capability` NVIDIA's least, None
    for any; `needs_nvcc` whether it compiles on first use; `kinds` the devices it runs on
    ("cuda", "rocm", "mps", "cpu"); `refused` (model_type, why) what it would load wrongly;
    `architectures` the model_types it loads, in small letters, None
    for any that transformers knows; `source` where each of these was read; `version` that of its package where a host
    has it (`as_installed`), None in the table.
    """

    name: str
    loader: str
    bits: frozenset[int]
    packages: tuple[str, ...]
    kinds: frozenset[str]
    source: str
    min_capability: str | None = None
    needs_nvcc: bool = False
    needs_symmetric: bool = False
    linux_only: bool = False
    architectures: frozenset[str] | None = None
    group_sizes: frozenset[int] | None = None
    groups_divide_rows: bool = False
    formats: frozenset[str] = frozenset({"gptq"})
    exl2_architectures: frozenset[str] | None = None
    refused: tuple[tuple[str, str], ...] = ()
    version: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a runtime can, and why, in one sentence either way."""

    runtime: str
    loader: str
    can: bool
    why: str


RUNTIMES: tuple[Runtime, ...] = (
    Runtime(
        name="exllamav2",
        loader="ExLlama",
        bits=frozenset({4}),
        packages=("exllamav2", "torch"),
        kinds=frozenset({"cuda", "rocm"}),
        needs_nvcc=True,
        architectures=EXLLAMAV2_ARCHITECTURES,
        group_sizes=POWERS_OF_TWO,
        formats=frozenset({"gptq", "exl2"}),
        exl2_architectures=EXLLAMAV2_ARCHITECTURES | EXLLAMAV2_FUSED,
        source="exllamav2 0.3.2: ext_qmatrix.cpp checks qweight against qzeros as 4 bits; architecture.py; ext.py "
        "compiles unless exllamav2_ext is there; act order with and without groups in ext.py make_q_matrix",
    ),
    Runtime(
        name="gptqmodel:exllama_v2",
        loader="ExLlama",
        bits=frozenset({4}),
        packages=_GPTQMODEL,
        refused=_FUSED_EXPERTS,
        kinds=frozenset({"cuda"}),
        min_capability="7.5",
        needs_nvcc=True,
        group_sizes=_KERNEL_GROUPS,
        source="gptqmodel 7.6: nn_modules/qlinear/exllamav2.py (bits, group sizes, CUDA only since ROCm 'has broken "
        "accuracies'); README: Turing and up",
    ),
    Runtime(
        name="exllama",
        loader="ExLlama",
        bits=frozenset({4}),
        packages=("exllama", "torch"),
        kinds=frozenset({"cuda", "rocm"}),
        needs_nvcc=True,
        architectures=frozenset({"llama"}),
        groups_divide_rows=True,
        source="exllama 0.1.0: model.py (Llama's names and constants; all-zero g_idx is no act order), exllama_ext.cpp "
        "get_groupsize (groups divide rows); ROCm by its README, theoretical",
    ),
    Runtime(
        name="gptqmodel:marlin",
        loader="AutoGPTQ",
        bits=frozenset({4, 8}),
        packages=_GPTQMODEL,
        refused=_FUSED_EXPERTS,
        kinds=frozenset({"cuda"}),
        min_capability="7.5",
        needs_nvcc=True,
        needs_symmetric=True,
        linux_only=True,
        group_sizes=_KERNEL_GROUPS,
        groups_divide_rows=True,
        source="gptqmodel 7.6: nn_modules/qlinear/marlin.py (SUPPORTS_*, _MARLIN_MIN_CAPABILITY, validate_device)",
    ),
    Runtime(
        name="gptqmodel:triton",
        loader="AutoGPTQ",
        bits=frozenset({2, 4, 8}),
        packages=(*_GPTQMODEL, "triton"),
        refused=_FUSED_EXPERTS,
        kinds=frozenset({"cuda"}),
        min_capability="7.0",
        group_sizes=_TORCH_GROUPS,
        source="gptqmodel 7.6: nn_modules/qlinear/tritonv2.py; torch 2.13 utils/_triton.py: triton needs 7.0",
    ),
    Runtime(
        name="gptqmodel:torch",
        loader="AutoGPTQ",
        bits=frozenset({2, 3, 4, 8}),
        packages=_GPTQMODEL,
        refused=_FUSED_EXPERTS,
        kinds=frozenset({"cuda", "rocm", "mps", "cpu"}),
        group_sizes=_TORCH_GROUPS,
        source="gptqmodel 7.6: nn_modules/qlinear/torch.py (DEVICE.ALL); 3, 4 and 8 bits run on a CPU by this project",
    ),
    Runtime(
        name="auto_gptq",
        loader="AutoGPTQ",
        bits=frozenset({2, 3, 4, 8}),
        packages=("auto_gptq", "transformers", "torch"),
        kinds=frozenset({"cuda", "rocm", "cpu"}),
        architectures=AUTO_GPTQ_ARCHITECTURES,
        source="auto_gptq 0.7.1: qlinear_cuda.py (2, 3, 4, 8 bits), modeling/_const.py; 3, 4 and 8 bits run on a CPU",
    ),
    Runtime(
        name="gptq_for_llama",
        loader="AutoGPTQ",
        bits=frozenset({2, 3, 4, 8}),
        packages=("gptq_for_llama", "transformers", "torch"),
        kinds=frozenset({"cuda"}),
        architectures=frozenset({"llama", "opt", "gptj"}),
        source="the quantiser's cards: `main` files from before August 2023 were made with it; the webui's "
        "modules/GPTQ_loader.py, v1.5 (model types); act order with a group size is its known gap",
    ),
)


def by_name(name: str) -> Runtime:
    """The runtime of that name (capitals do not matter). Raises UsageError listing those there are."""
    for runtime in RUNTIMES:
        if runtime.name == name.strip().lower():
            return runtime
    raise UsageError(
        f"--runtime {name}: no such runtime. There are: {', '.join(runtime.name for runtime in RUNTIMES)}."
    )
