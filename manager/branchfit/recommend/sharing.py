"""What to tell a loader by hand, where the branch lies over several GPUs, and what one cannot be told."""

from __future__ import annotations

from collections.abc import Sequence

from ..gpus import Gpu
from ..memory.splits import accelerate_split, loader_split, modules_of, overfilled, split_text
from ..units import gib
from .answer import Assessment


def told_words(chosen: Assessment, context: int) -> str:
    """A sentence with ExLlama's `gpu_split`; '' on one GPU, for another loader, and where the layers are not known.

    It is not what the GPUs need, which is `gpu_split_bytes`: the ExLlamas count without the cache. To 0.001 GB of
    2^30 bytes: half the smallest module that is split at, Qwen2-0.5B's attention.
    """
    need, shape, runtime = chosen.need, chosen.variant.shape, chosen.runtime
    if need is None or shape is None or runtime not in ("exllama", "exllamav2"):
        return ""
    used = [f"{count} on GPU {index}" for index, count in enumerate(need.layers_per_gpu) if need.per_gpu_bytes[index]]
    modules = modules_of(chosen.variant)
    if len(used) < 2 or modules is None or len(modules.layers) != sum(need.layers_per_gpu):
        return ""
    plain, flash = (
        split_text(loader_split(runtime, modules, shape, need, context, flash_attention=there).per_gpu_bytes, 3)
        for there in (False, True)
    )
    other = f" ({flash} where flash-attn or xformers is installed)" if flash != plain else ""
    return (
        f"{runtime} puts its layers so ({', '.join(used)}) when it is told gpu_split {plain}{other}: it counts weights "
        f"and buffers there, and not the cache"
    )


def order_words(chosen: Assessment, gpus: Sequence[Gpu]) -> str:
    """That a webui's Transformers loader would overfill a GPU in this order, and in which it would not; else ''.

    Its `device_map="auto"` keeps all GPUs but the last near an equal share, by one measure up to transformers 5.17 and
    by another from there on; what is said is true of either.
    """
    need, free = chosen.need, chosen.free_bytes
    modules = modules_of(chosen.variant, zero_bias=not (chosen.runtime or "").startswith("gptqmodel:"))
    through_transformers = (chosen.runtime or "").startswith(("gptqmodel:", "auto_gptq"))
    if need is None or modules is None or not through_transformers or sum(map(bool, need.per_gpu_bytes)) < 2:
        return ""
    if len(modules.layers) != sum(need.layers_per_gpu):
        return ""
    for by_leaf in (True, False):
        laid = accelerate_split(modules, need, balanced=True, by_leaf=by_leaf).layers_per_gpu
        over = overfilled(laid, need, free) if laid is not None else None
        if laid is None or over is None:
            continue
        order = sorted(range(len(gpus)), key=lambda place: free[place])
        shares = " and ".join(str(count) for count in laid)
        return (
            f"a webui's Transformers loader keeps all GPUs but the last near an equal share: {shares} layers where "
            f"{' and '.join(str(count) for count in need.layers_per_gpu)} are planned, and GPU {gpus[over[0]].index} "
            f"would need {gib(over[1])} of {gib(free[over[0]])}. Start the webui with the GPU with most room last: "
            f"CUDA_VISIBLE_DEVICES={','.join(str(gpus[place].index) for place in order)}. `branchfit ask` and "
            f"`branchfit.load` lay the layers as planned in any order"
        )
    return ""
