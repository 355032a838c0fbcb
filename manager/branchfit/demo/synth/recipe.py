"""How a synthetic checkpoint is quantised, and which shapes can carry it."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigError
from ...shape import ModelShape

BITS = (2, 3, 4, 8)
"""What AutoGPTQ's QuantLinear takes (qlinear_cuda.py: "Only 2,3,4,8 bits are supported")."""

PACKED_TOGETHER = 32
"""QuantLinear's buffers are `features // 32 * bits` words: whatever is left over would be dropped."""

_SOURCE = "the checkpoint to write"


@dataclass(frozen=True)
class Recipe:
    """The settings of one GPTQ branch.

    `group_size` is None for one group a column. `symmetric` puts every zero in the middle of the
    codes; without it each group has a zero of its own. `zero_bias` writes a bias for every linear,
    as AutoGPTQ does; without it only the model's own stand, as in gptqmodel's files.
    `damp_percent` is a word in the configs: rounding to nearest damps nothing.
    """

    bits: int
    group_size: int | None = None
    act_order: bool = False
    symmetric: bool = True
    zero_bias: bool = True
    damp_percent: float = 0.1


def check_fits(shape: ModelShape, recipe: Recipe) -> None:
    """Raise ConfigError naming the first number with which AutoGPTQ's layout cannot be written."""
    if recipe.bits not in BITS:
        raise ConfigError(f"{recipe.bits} bits; AutoGPTQ packs 2, 3, 4 or 8", (), _SOURCE)
    if recipe.group_size is not None and recipe.group_size < 1:
        raise ConfigError(f"group size {recipe.group_size}; None means no groups", (), _SOURCE)
    if not shape.known_layout:
        raise ConfigError(f"model_type {shape.model_type!r} has no known tensors", (), _SOURCE)
    for linear in shape.linears:
        for what, features in (("in_features", linear.in_features), ("out_features", linear.out_features)):
            if features % PACKED_TOGETHER:
                raise ConfigError(
                    f"{linear.name} has {what} {features}, not a multiple of the {PACKED_TOGETHER} packed together",
                    (),
                    _SOURCE,
                )
        if recipe.group_size is not None and linear.in_features % recipe.group_size:
            raise ConfigError(
                f"{linear.name} has in_features {linear.in_features}, not a multiple of group size {recipe.group_size}",
                (),
                _SOURCE,
            )
