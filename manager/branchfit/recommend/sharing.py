"""What to tell a loader by hand, where the branch lies over several GPUs."""

from __future__ import annotations

from ..memory.splits import loader_split, modules_of, split_text
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
