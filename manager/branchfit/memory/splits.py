"""What each loader is told, so that it lays the layers onto the cards as `place` did.

No loader counts as we do. A split is a threshold in the loader's own arithmetic: it walks over the model's modules
and moves on to the next card where the next module would go beyond. So the threshold is set half way between the
last module that must go in and the first that must not, in that loader's own count:

    exllama      weights alone                       ExLlama.__init__, `auto_map` (PyPI exllama 0.1.0, model.py)
    exllamav2    weights, scratch, attention; no     ExLlamaV2.set_device_map (model.py; the same arithmetic from
                 KV cache, no logits                 0.0.5 to 0.3.2)
    accelerate   weights; on GPU 0 also the largest  infer_auto_device_map, and before it get_balanced_memory, which
                 module that is still to come        keeps every card but the last near an equal share

All three read GB as 2^30 bytes. The cards behind the last that is used are left out; one in between gets 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..shape import ModelShape, checkpoint_tensors
from ..variants import Variant
from .parts import MIB, Need

INPUT_TOKENS = 2048
"""ExLlamaV2Config.max_input_len, and the root of max_attention_size; the webui leaves both."""

MAX_DQ_ELEMENTS = 512 * MIB
"""ExLlamaV2Config.max_dq_size."""

FLASH_DIVISOR = INPUT_TOKENS / 190
"""By how much flash-attn or xformers lower what set_device_map counts for attention: attn.py, temp_attn_size (220
instead of 190 up to 0.0.5)."""

ROOMY = 1.25
"""get_balanced_memory's buffer, in largest modules, on top of an equal share (accelerate 0.23 to 1.15)."""

_LAYER = re.compile(r"(?:.*\.)?layers\.(\d{1,6})\.(.+)")
_ATTENTION = ("self_attn.", "input_layernorm.")
_SKIPPED = "rotary_emb.inv_freq"  # in files of early 2023; every loader passes over it


@dataclass(frozen=True)
class Modules:
    """The bytes of a checkpoint's tensors, module by module. `head` is 0 where it is tied to the embedding.

    `attention` and `mlp` have an entry a layer, each with the norm in front of it. `biases` and `g_idx` are what of
    the first layer's bytes are `_proj.bias` and `g_idx`, which ExLlama v1 does not count.
    """

    embedding: int
    attention: tuple[int, ...]
    mlp: tuple[int, ...]
    norm: int
    head: int
    biases: int = 0
    g_idx: int = 0

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(a + b for a, b in zip(self.attention, self.mlp, strict=True))


@dataclass(frozen=True)
class LoaderSplit:
    """`per_gpu_bytes` is what the loader is told, in its own count; `layers_per_gpu` what it makes of that, card by
    card, None where it would put some into system memory. It differs from the forecast's only where accelerate
    balances and the cards are unequal."""

    per_gpu_bytes: tuple[int, ...]
    layers_per_gpu: tuple[int, ...] | None


def read_modules(tensors: Iterable[tuple[str, int]]) -> Modules | None:
    """The modules of a checkpoint by its tensors' names and bytes; None where they are not named as Llama's are."""
    attention: dict[int, int] = {}
    mlp: dict[int, int] = {}
    embedding = norm = head = biases = g_idx = 0
    for name, size in tensors:
        found = _LAYER.fullmatch(name)
        if name.endswith(_SKIPPED):
            continue
        if found:
            index, inner = int(found[1]), found[2]
            part = attention if inner.startswith(_ATTENTION) else mlp
            part[index] = part.get(index, 0) + size
            biases += size if index == 0 and inner.endswith("_proj.bias") else 0
            g_idx += size if index == 0 and inner.endswith(".g_idx") else 0
        elif "embed_tokens." in name:
            embedding += size
        elif name.startswith("lm_head."):
            head += size
        elif name.endswith("norm.weight"):
            norm += size
    count = len(attention)
    if not count or set(attention) != set(range(count)) or set(mlp) != set(attention) or not embedding:
        return None
    ordered = [tuple(part[index] for index in range(count)) for part in (attention, mlp)]
    return Modules(embedding, ordered[0], ordered[1], norm, head, biases, g_idx)


def modules_of(variant: Variant, *, zero_bias: bool | None = None) -> Modules | None:
    """The modules of a GPTQ variant from its shape; None for another format, or where the shape is not known.

    `zero_bias` is whether AutoGPTQ's zero biases are counted, None for what the variant's files hold.
    """
    shape, bits = variant.shape, variant.bits
    if shape is None or not shape.known_layout or variant.format != "gptq" or not bits or bits != int(bits):
        return None
    zero = variant.zero_bias if zero_bias is None else zero_bias
    specs = checkpoint_tensors(replace(shape, layers=1), int(bits), variant.group_size, zero)
    one = read_modules((spec.name, spec.size_bytes) for spec in specs)
    return one and replace(one, attention=one.attention * shape.layers, mlp=one.mlp * shape.layers)


def exllama_split(modules: Modules, need: Need) -> LoaderSplit:
    """ExLlama v1's `auto_map`: the packed weights of the first layer for every layer, then norm and head.

    No cache, no buffer, no g_idx, no bias. Source: `_layer_dtype_size`, `_skip_key`, ExLlama.__init__.
    """
    layer = modules.layers[0] - modules.biases - modules.g_idx
    walk = [_Module(layer) for _ in modules.layers] + [_Module(modules.norm), _Module(modules.head)]
    return _threshold_split(walk, need, 1, 0)


def exllamav2_split(
    modules: Modules, shape: ModelShape, need: Need, context_tokens: int, *, flash_attention: bool
) -> LoaderSplit:
    """ExLlamaV2's `gpu_split`: attention and MLP one by one, on each card the widest scratch of those that lie there.

    `flash_attention` is whether flash-attn or xformers is there for exllamav2 to use: without them it counts
    2 x heads x 2048^2 x 2 bytes for attention, half a GiB at 7B. A bias of zeros counts, though it is dropped.
    Source: set_device_map, and scratch_space, temp_*_size in attn.py, mlp.py, moe_mlp.py and linear.py.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    row = INPUT_TOKENS * 2
    repeated = 0 if shape.heads == shape.kv_heads else 2 * context_tokens * queries * 2
    dequantised = {linear.name: 2 * _dq(linear.in_features, linear.out_features) for linear in shape.linears}
    in_attention = max(size for name, size in dequantised.items() if name.startswith("self_attn."))
    in_mlp = max(size for name, size in dequantised.items() if not name.startswith("self_attn."))
    attention = row * (max(queries, shape.hidden) + queries + 2 * keys) + in_attention + repeated
    if shape.experts:
        mlp = row * (2 * shape.hidden + 2 * shape.intermediate + shape.experts) + in_mlp
    else:
        mlp = row * (shape.hidden + 2 * max(shape.hidden, shape.intermediate)) + in_mlp
    scores = float(min(INPUT_TOKENS, context_tokens) ** 2)
    if flash_attention:
        scores //= FLASH_DIVISOR
    scored = int(2 * scores * shape.heads * 2)
    base = 4 * shape.head_dim * context_tokens + row * shape.hidden + row * INPUT_TOKENS  # sin, cos; state; mask
    walk: list[_Module] = []
    for own_attention, own_mlp in zip(modules.attention, modules.mlp, strict=True):
        walk += [_Module(own_attention, attention, scored), _Module(own_mlp, mlp)]
    head = modules.head or modules.embedding
    walk += [_Module(modules.norm), _Module(head, 2 * _dq(shape.hidden, shape.vocab))]
    return _threshold_split(walk, need, 2, base)


def accelerate_split(modules: Modules, need: Need, *, balanced: bool, by_leaf: bool = True) -> LoaderSplit:
    """`max_memory` for accelerate, by weights: the embedding first, and with it a tied head, then layers, norm, head.

    GPU 0 keeps room for the largest module still to come (infer_auto_device_map, main_devices). `balanced` is
    device_map="auto" and AutoGPTQ: get_balanced_memory then keeps all but the last card near an equal share of the
    weights, whatever they are told, and where that leaves fewer layers there than forecast, `layers_per_gpu` says so.
    `by_leaf` is transformers from 5.18, whose buffer is as large as the embedding; before, and in accelerate, it is
    only as large as a layer.
    """
    walk = [modules.embedding, *modules.layers, modules.norm, *([modules.head] if modules.head else [])]
    largest_after = [max(walk[index + 1 :], default=0) for index in range(len(walk))]
    cards = _used(need)
    told = [0] * (cards[-1] + 1)
    end = 0
    for position, card in enumerate(cards):
        begin, end = end, end + need.layers_per_gpu[card] + (1 if position == 0 else 0)
        if position == len(cards) - 1:
            told[card] = sum(walk) + max(walk)  # all that is left goes there
            continue
        reserves = largest_after if card == 0 else [0] * len(walk)
        inside = sum(walk[begin:end])
        low = inside + (reserves[end - 1] if end > begin else 0)
        told[card] = (low + inside + walk[end] + reserves[end]) // 2
    limits = list(told)
    if balanced and len(cards) > 1:
        widest = max(modules.embedding, modules.head, *modules.layers) if by_leaf else max(modules.layers)
        share = sum(walk) // len(cards) + int(ROOMY * widest)
        for card in cards[:-1]:
            limits[card] = min(limits[card], share)
    return LoaderSplit(tuple(told), _accelerates(walk, largest_after, limits, len(modules.layers), need))


def loader_split(
    runtime: str,
    modules: Modules,
    shape: ModelShape,
    need: Need,
    context_tokens: int,
    *,
    flash_attention: bool = False,
    by_leaf: bool = True,
) -> LoaderSplit:
    """What `runtime`'s loader is told for the placement of `need`; for those of transformers, device_map="auto"'s.

    `flash_attention` matters to exllamav2 only, `by_leaf` (transformers 5.18 or newer) to accelerate only.
    """
    if runtime == "exllama":
        return exllama_split(modules, need)
    if runtime == "exllamav2":
        return exllamav2_split(modules, shape, need, context_tokens, flash_attention=flash_attention)
    return accelerate_split(modules, need, balanced=runtime != "gptq_for_llama", by_leaf=by_leaf)


def overfilled(laid: Sequence[int], need: Need, free_bytes: Sequence[int]) -> tuple[int, int] | None:
    """The first card that a loader gives more layers than `need` does and more than is free there, with what it would
    hold; None where there is none."""
    each = (need.weights_bytes + need.kv_cache_bytes) // sum(need.layers_per_gpu)
    for card, (here, planned) in enumerate(zip(laid, need.layers_per_gpu, strict=True)):
        wanted = need.per_gpu_bytes[card] + (here - planned) * each
        if here > planned and wanted > free_bytes[card]:
            return card, wanted
    return None


def split_text(per_gpu_bytes: Sequence[int], digits: int = 6) -> str:
    """`gpu_split` as the loaders read it: GB of 2^30 a card; to a KiB with 6 digits, which is finer than any module."""
    return ",".join(f"{share / 2**30:.{digits}f}".rstrip("0").rstrip(".") for share in per_gpu_bytes)


def stored_modules(tensors: Mapping[str, int], *, zero_bias: bool = True) -> Modules | None:
    """The modules of files on disk, by name and bytes. Without `zero_bias`, `_proj.bias` is not counted."""
    return read_modules((name, size) for name, size in tensors.items() if zero_bias or not name.endswith("_proj.bias"))


@dataclass(frozen=True)
class _Module:
    """What a module takes of a card's threshold: for good, and the widest of both scratches while it is there."""

    footprint: int
    scratch: int = 0
    scored: int = 0


def _used(need: Need) -> list[int]:
    """The cards that hold anything; the first where none does."""
    return [card for card, size in enumerate(need.per_gpu_bytes) if size] or [0]


def _dq(in_features: int, out_features: int) -> int:
    return min(in_features * (out_features + -out_features % 32), MAX_DQ_ELEMENTS)


def _threshold_split(walk: Sequence[_Module], need: Need, per_layer: int, base: int) -> LoaderSplit:
    """Thresholds half way between what must go in and what must not. `walk` ends with norm and head; the norm stays
    with the last layer, the head goes to the last card."""
    cards = _used(need)
    told = [0] * (cards[-1] + 1)
    end = 0
    for card in cards:
        begin, end = end, end + need.layers_per_gpu[card] * per_layer
        if end == len(walk) - 2 and end > begin:
            end += 1
        if card == cards[-1]:
            end = len(walk)
        if end > begin:
            here = walk[begin:end]
            low = base + _counted(here)
            # Behind the last there is nothing to keep out: one more of its widest module leaves room for rounding.
            high = base + _counted([*here, walk[end]]) if end < len(walk) else low + 2 * max(m.footprint for m in here)
            told[card] = (low + high) // 2
    return LoaderSplit(tuple(told), need.layers_per_gpu)


def _counted(modules: Sequence[_Module]) -> int:
    footprints = sum(module.footprint for module in modules)
    return footprints + max(module.scratch for module in modules) + max(module.scored for module in modules)


def _accelerates(
    walk: Sequence[int], largest_after: Sequence[int], limits: Sequence[int], layers: int, need: Need
) -> tuple[int, ...] | None:
    """infer_auto_device_map's walk: layers for each card, None where something is left over."""
    placed = [0] * len(need.per_gpu_bytes)
    card = used = 0
    for index, size in enumerate(walk):
        while used + size > limits[card] - (largest_after[index] if card == 0 else 0):
            card, used = card + 1, 0
            if card == len(limits):
                return None
        used += size
        placed[card] += 1 if 1 <= index <= layers else 0
    return tuple(placed)
