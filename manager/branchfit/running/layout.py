"""GPTQ's settings as the tensors themselves tell them: bits, groups, act order, symmetry.

The layout is AutoGPTQ's (facts in `shape.py` and `checkpoint.py`): qweight [in * bits / pack, out],
qzeros [groups, out * bits / pack], scales [groups, out], g_idx [in]; `pack` is the bits of a packed
word, 32 unless the dtype says otherwise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import LoadError
from .headers import Stored

QUANTISED = ".qweight"
"""How the packed tensor of a quantised linear is called, behind the linear's own name."""


@dataclass(frozen=True)
class Linear:
    """One quantised linear: its extents, its groups, its bits."""

    name: str
    in_features: int
    out_features: int
    groups: int
    bits: int

    def has_group_size(self, size: int) -> bool:
        """Whether its scales are those of groups of `size` inputs (-1: one group)."""
        return self.groups == (1 if size == -1 else -(-self.in_features // size))


@dataclass(frozen=True)
class Layout:
    """All quantised linears of a checkpoint, by name; never empty."""

    linears: Mapping[str, Linear]

    @property
    def bits(self) -> int:
        """Raises LoadError where linears differ: transformers takes one number for all."""
        found = sorted({linear.bits for linear in self.linears.values()})
        if len(found) > 1:
            raise LoadError(
                f"linears of {' and '.join(map(str, found))} bits in one checkpoint: transformers' GPTQ loading takes "
                f"one number for all of them. gptqmodel loads it by itself."
            )
        return found[0]

    @property
    def group_size(self) -> int:
        """Inputs a group, -1 for one group a linear. Raises LoadError where no size explains all scales."""
        if all(linear.groups == 1 for linear in self.linears.values()):
            return -1
        # The widest linear says it: in a narrower one a group may be the whole of it.
        widest = max(self.linears.values(), key=lambda linear: linear.groups)
        exact = -(-widest.in_features // widest.groups)
        near = 1 << (exact - 1).bit_length()
        for size in (exact, near):
            if self.explained_by(size):
                return size
        raise LoadError(
            f"the group size cannot be told: {widest.name} has {widest.groups} groups for {widest.in_features} inputs, "
            f"and no one size explains all linears. Its quantize_config.json is missing; take it from the repo."
        )

    def explained_by(self, group_size: int) -> bool:
        return all(linear.has_group_size(group_size) for linear in self.linears.values())


def gptq_layout(tensors: Mapping[str, Stored]) -> Layout | None:
    """The quantised linears of a checkpoint; None where it has none in GPTQ's layout.

    Raises LoadError where a linear's tensors are not all there, or contradict each other.
    """
    linears = {}
    for name in tensors:
        if name.endswith(QUANTISED):
            linear = _linear(name.removesuffix(QUANTISED), tensors)
            if linear is None:
                return None
            linears[linear.name] = linear
    return Layout(linears) if linears else None


def is_marlin_packed(tensors: Iterable[str]) -> bool:
    """Whether linears are packed for Marlin: auto_gptq 0.7's qlinear_marlin.py calls its tensors B and s."""
    names = set(tensors)
    return any(name.endswith(".B") and name[:-1] + "s" in names for name in names)


def _linear(name: str, tensors: Mapping[str, Stored]) -> Linear | None:
    """None for AWQ's layout, which has the same names: it packs along the outputs."""
    weight, zeros, scales = (tensors.get(f"{name}.{leaf}") for leaf in ("qweight", "qzeros", "scales"))
    if weight is None or zeros is None or scales is None:
        lacking = " and ".join(leaf for leaf, one in (("qzeros", zeros), ("scales", scales)) if one is None)
        raise LoadError(f"{name} has a qweight and no {lacking}: the checkpoint is not whole; pull the branch again.")
    if not len(weight.shape) == len(zeros.shape) == len(scales.shape) == 2:
        raise LoadError(f"{name}: qweight, qzeros and scales of GPTQ have two extents each, these have not.")
    groups, out_features = scales.shape
    if weight.shape[1] != out_features:
        return None
    pack = zeros.element_bits
    bits, rest = divmod(zeros.shape[1] * pack, out_features) if out_features else (0, 1)
    if rest or not 1 <= bits <= 8:
        raise LoadError(f"{name}: qzeros of {list(zeros.shape)} do not belong to {out_features} outputs.")
    in_features = weight.shape[0] * weight.element_bits // bits
    order = tensors.get(f"{name}.g_idx")
    if order is not None and order.shape != (in_features,):
        raise LoadError(f"{name}: g_idx has {list(order.shape)} entries, qweight {in_features} inputs at {bits} bits.")
    return Linear(name, in_features, out_features, groups, bits)


def reads_act_order(layout: Layout, tensors: Mapping[str, Stored], group_size: int) -> bool | None:
    """Whether inputs are grouped in another order than they stand in. None: grouped, and no g_idx says how.

    Reads g_idx of one linear after another until one answers yes. Without groups there is nothing to order.
    """
    if group_size == -1:
        return False
    seen = False
    for linear in layout.linears.values():
        order = tensors.get(f"{linear.name}.g_idx")
        if order is None or linear.groups == 1:
            continue
        seen = True
        letter = "q" if order.element_bits == 64 else "i"
        plain = (i // group_size for i in range(linear.in_features))
        if order.read() != struct.pack(f"<{linear.in_features}{letter}", *plain):
            return True
    return False if seen else None


def reads_symmetric(layout: Layout, tensors: Mapping[str, Stored]) -> tuple[bool, str | None]:
    """Whether the first linear's zeros are all the middle code, and which checkpoint_format that tells.

    AutoGPTQ ("gptq") stores zeros less one, gptqmodel's "gptq_v2" as they are; None where neither shows.
    """
    linear = next(iter(layout.linears.values()))
    zeros = tensors[f"{linear.name}.qzeros"]
    found = zeros.read()
    for stored, form in ((2 ** (linear.bits - 1) - 1, "gptq"), (2 ** (linear.bits - 1), "gptq_v2")):
        if found == _repeated(stored, linear.bits, zeros.size_bytes):
            return True, form
    return False, None


def _repeated(code: int, bits: int, size_bytes: int) -> bytes:
    """`code` over and over as a little-endian stream of bits; whole after `bits` bytes, which hold eight."""
    word = sum(code << (bits * at) for at in range(8)).to_bytes(bits, "little")
    return (word * (size_bytes // bits + 1))[:size_bytes]
