"""Round to nearest: one linear's weights as codes, scales, zeros and group numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...shape import groups
from .recipe import Recipe
from .reference import random_stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Rounded:
    """A quantised linear: weight[i, o] = scales[g_idx[i], o] * (codes[i, o] - zeros[g_idx[i], o]).

    `codes` is [in, out], `scales` (fp16) and `zeros` are [groups, out], `g_idx` is [in].
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    zeros: NDArray[np.uint8]
    g_idx: NDArray[np.int32]


def group_numbers(in_features: int, recipe: Recipe, seed: int, fed_by: str) -> NDArray[np.int32]:
    """The group of every input: all 0 without groups, i // group_size, or shuffled by act order.

    GPTQ's act order sorts inputs by their activations, so linears fed by the same activations
    (`fed_by`) share one order; here a seeded shuffle stands in for the sorting. Input order[k]
    belongs to group k // group_size, as in GPTQ.fasterquant of auto_gptq's gptq.py.
    """
    import numpy as np

    if recipe.group_size is None:
        return np.zeros(in_features, dtype=np.int32)
    in_order: NDArray[np.int32] = (np.arange(in_features) // recipe.group_size).astype(np.int32)
    if not recipe.act_order:
        return in_order
    numbers: NDArray[np.int32] = np.empty(in_features, dtype=np.int32)
    numbers[random_stream(seed, fed_by).permutation(in_features)] = in_order
    return numbers


def round_to_nearest(weight: NDArray[np.float16], recipe: Recipe, g_idx: NDArray[np.int32]) -> Rounded:
    """Quantise `weight` [out, in], every group of inputs with a scale and a zero for each output.

    Symmetric: scale = 2 * largest / (2^bits - 1), zero = 2^(bits - 1). Asymmetric: scale =
    (highest - lowest) / (2^bits - 1) with 0 between them, zero = -lowest / scale, rounded.
    Source: Quantizer.find_params of auto_gptq 0.7.1's quantizer.py. Codes are chosen against the
    scale as fp16 holds it, since that is the one a runtime multiplies with.
    """
    import numpy as np

    top = 2**recipe.bits - 1
    values = weight.T.astype(np.float32)
    count, out_features = groups(len(g_idx), recipe.group_size), weight.shape[0]
    order = np.argsort(g_idx, kind="stable")
    grouped = values[order].reshape(count, len(g_idx) // count, out_features)
    low = np.minimum(grouped.min(axis=1), 0)
    high = np.maximum(grouped.max(axis=1), 0)
    if recipe.symmetric:
        high = np.maximum(high, -low)
        low = -high
    scales = ((high - low) / np.float32(top)).astype(np.float16)
    # A group too small for fp16 has no scale to divide by; under any scale all its codes are the zero.
    scales[scales == 0] = 1
    if recipe.symmetric:
        zeros = np.full(scales.shape, 2 ** (recipe.bits - 1), dtype=np.uint8)
    else:
        # From 1 up, not 0: the file holds zero - 1.
        zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 1, top).astype(np.uint8)
    steps = np.rint(values / scales.astype(np.float32)[g_idx]) + zeros[g_idx]
    return Rounded(np.clip(steps, 0, top).astype(np.uint8), scales, zeros, g_idx)
