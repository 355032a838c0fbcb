"""A whole GPTQ checkpoint of any shape, streamed to disk linear by linear."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...shape import Linear, ModelShape, TensorSpec, checkpoint_tensors, groups, linear_tensors
from .packing import pack_rows, pack_zeros
from .recipe import Recipe, check_fits
from .reference import random_stream, reference_weight
from .rounding import group_numbers, round_to_nearest
from .tensorfile import TensorFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Fill = Literal["rtn", "random"]
"""`rtn` rounds the reference to nearest. `random` draws the packed words themselves: many times
faster, right in every shape and type, for measuring memory where no text is read."""

PIECE_ELEMENTS = 1 << 22
"""Plain tensors are drawn this many elements at a time (16 MiB of fp32): a 70B embedding is 1 GB."""


def write_checkpoint(path: Path, shape: ModelShape, recipe: Recipe, seed: int = 0, fill: Fill = "rtn") -> int:
    """Write `path`, a safetensors file in AutoGPTQ's v1 layout; its size in bytes comes back.

    Holds one linear at a time. The same arguments give the same bytes. Raises ConfigError where
    the layout cannot carry the shape (`check_fits`).
    """
    check_fits(shape, recipe)
    quantised: Callable[[ModelShape, Recipe, int, int, Linear], Mapping[str, NDArray[Any]]]
    plain: Callable[[ModelShape, TensorSpec, int], Iterator[NDArray[Any]]]
    quantised, plain = (_rounded, _reference_pieces) if fill == "rtn" else (_drawn, _drawn_pieces)
    tensors = checkpoint_tensors(shape, recipe.bits, recipe.group_size, recipe.zero_bias)
    with TensorFile(path, tensors) as file:
        for tensor in shape.plain_tensors():
            file.write(tensor.name, plain(shape, tensor, seed))
        for layer in range(shape.layers):
            for linear in shape.linears:
                arrays = quantised(shape, recipe, seed, layer, linear)
                for tensor in _tensors_of(layer, linear, recipe):
                    file.write(tensor.name, [arrays[tensor.name.rpartition(".")[2]]])
    return file.size_bytes


def _tensors_of(layer: int, linear: Linear, recipe: Recipe) -> Iterator[TensorSpec]:
    return linear_tensors(linear, f"model.layers.{layer}.", recipe.bits, recipe.group_size, recipe.zero_bias)


def _rounded(shape: ModelShape, recipe: Recipe, seed: int, layer: int, linear: Linear) -> Mapping[str, NDArray[Any]]:
    name = f"model.layers.{layer}.{linear.name}"
    weight_tensor = TensorSpec(name + ".weight", "F16", (linear.out_features, linear.in_features))
    g_idx = group_numbers(linear.in_features, recipe, seed, _fed_by(layer, linear))
    rounded = round_to_nearest(reference_weight(shape, weight_tensor, seed), recipe, g_idx)
    return {
        "qweight": pack_rows(rounded.codes, recipe.bits),
        "qzeros": pack_zeros(rounded.zeros, recipe.bits),
        "scales": rounded.scales,
        "g_idx": g_idx,
        "bias": _bias(shape, name, linear, seed),
    }


def _drawn(shape: ModelShape, recipe: Recipe, seed: int, layer: int, linear: Linear) -> Mapping[str, NDArray[Any]]:
    import numpy as np

    name = f"model.layers.{layer}.{linear.name}"
    rows = groups(linear.in_features, recipe.group_size)
    packed = (linear.in_features * recipe.bits // 32, linear.out_features)
    # Two words a draw is four times as fast as one; out_features is even, so they come out even.
    pairs = random_stream(seed, name).integers(0, 1 << 64, (packed[0], packed[1] // 2), dtype=np.uint64)
    # Codes evenly over 0 .. 2^bits - 1 spread by 2^bits / sqrt(12) steps; the scale makes of that
    # the spread a linear of the reference has, so that no activation overflows fp16.
    scale = math.sqrt(12) / 2**recipe.bits / math.sqrt(linear.in_features)
    middle: NDArray[np.uint8] = np.full((rows, linear.out_features), 2 ** (recipe.bits - 1), dtype=np.uint8)
    return {
        "qweight": pairs.view(np.int32),
        "qzeros": pack_zeros(middle, recipe.bits),
        "scales": np.full((rows, linear.out_features), scale, dtype=np.float16),
        "g_idx": group_numbers(linear.in_features, recipe, seed, _fed_by(layer, linear)),
        "bias": _bias(shape, name, linear, seed),
    }


def _bias(shape: ModelShape, name: str, linear: Linear, seed: int) -> NDArray[np.float16]:
    """The model's own bias, or the zeros that AutoGPTQ writes where it has none."""
    import numpy as np

    if not linear.bias:
        return np.zeros(linear.out_features, dtype=np.float16)
    return reference_weight(shape, TensorSpec(name + ".bias", "F16", (linear.out_features,)), seed)


def _fed_by(layer: int, linear: Linear) -> str:
    """A name for the activations that go into a linear: q, k and v share theirs, gate and up too."""
    module, _, leaf = linear.name.rpartition(".")
    if leaf in ("o_proj", "down_proj", "w2"):
        return f"into model.layers.{layer}.{linear.name}"
    return f"into model.layers.{layer}.{module}"


def _reference_pieces(shape: ModelShape, tensor: TensorSpec, seed: int) -> Iterator[NDArray[Any]]:
    yield reference_weight(shape, tensor, seed)


def _drawn_pieces(shape: ModelShape, tensor: TensorSpec, seed: int) -> Iterator[NDArray[Any]]:
    import numpy as np

    if len(tensor.shape) == 1:
        yield np.ones(tensor.shape, dtype=np.float16)
        return
    stream = random_stream(seed, tensor.name)
    # Drawn evenly, not normally, which is faster: 16-bit integers spread by 2^16 / sqrt(12).
    step = np.float32(math.sqrt(12) / (1 << 16) / math.sqrt(shape.hidden))
    elements = math.prod(tensor.shape)
    for begin in range(0, elements, PIECE_ELEMENTS):
        count = min(PIECE_ELEMENTS, elements - begin)
        piece = stream.integers(-(1 << 15), 1 << 15, count, dtype=np.int16)
        yield (piece * step).astype(np.float16)
