"""The floating-point model that the checkpoints are quantised from: random, seeded, tensor by tensor.

Every tensor has a random stream of its own, so any one of them can be made again without the others.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...shape import ModelShape, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOGIT_STD = 2.0
"""The spread of the logits. Seen on the demo model: a wrong zero or a wrong scale moves some of them
by more than 1, while dequantising in fp16 instead of fp32 moves none by 5e-3."""

NORM_STD = 0.1
BIAS_STD = 0.1


def random_stream(seed: int, name: str) -> np.random.Generator:
    """The stream of random numbers that belongs to `name` under `seed`."""
    import numpy as np

    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def reference_tensors(shape: ModelShape) -> Iterator[TensorSpec]:
    """The tensors of the unquantised checkpoint, all fp16."""
    yield from shape.plain_tensors()
    for layer in range(shape.layers):
        for linear in shape.linears:
            name = f"model.layers.{layer}.{linear.name}"
            yield TensorSpec(name + ".weight", "F16", (linear.out_features, linear.in_features))
            if linear.bias:
                yield TensorSpec(name + ".bias", "F16", (linear.out_features,))


def reference_weight(shape: ModelShape, tensor: TensorSpec, seed: int) -> NDArray[np.float16]:
    """One tensor of the reference, in the fp16 a published model would have.

    Linears keep the spread of what goes through them (1 / sqrt(in_features)), so that no layer of
    a deep model drowns the others; the head spreads the logits by LOGIT_STD.
    """
    import numpy as np

    mean, std = _distribution(shape, tensor)
    drawn = random_stream(seed, tensor.name).standard_normal(tensor.shape, dtype=np.float32)
    return (drawn * np.float32(std) + np.float32(mean)).astype(np.float16)


def _distribution(shape: ModelShape, tensor: TensorSpec) -> tuple[float, float]:
    """Mean and standard deviation of a tensor, by what it does in the model."""
    if tensor.name.endswith(".bias"):
        return 0.0, BIAS_STD
    if len(tensor.shape) == 1:
        return 1.0, NORM_STD
    if tensor.name == "lm_head.weight" or (tensor.name == "model.embed_tokens.weight" and shape.tied):
        return 0.0, LOGIT_STD / math.sqrt(shape.hidden)
    if tensor.name == "model.embed_tokens.weight":
        return 0.0, 1.0
    return 0.0, 1.0 / math.sqrt(tensor.shape[1])
