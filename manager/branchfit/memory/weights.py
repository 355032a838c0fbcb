"""What a variant's weights are made of, layer by layer. All figures are bytes unless said."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ..shape import Linear, ModelShape, groups
from ..variants import Variant


@dataclass(frozen=True)
class Weights:
    """The tensors of one decoder layer summed by kind, and what stands outside the layers.

    `in_features` is the sum over the layer's linears (g_idx and permutations are as long);
    `linears` the (in, out) extents. `unaccounted_bytes` is what the real files hold per layer
    beyond the formula (or below it: negative), `error_bytes` how far the whole may be off.
    """

    shape: ModelShape
    bits: float
    group_size: int | None
    grouped: bool
    act_order: bool
    qweight: int
    qzeros: int
    scales: int
    own_bias: int
    zero_bias: int
    norms: int
    in_features: int
    linears: tuple[Linear, ...]
    embedding: int
    head: int
    final_norm: int
    unaccounted_bytes: int
    error_bytes: int

    @property
    def g_idx(self) -> int:
        """int32 for each input feature."""
        return 4 * self.in_features

    @property
    def largest_linear(self) -> int:
        """Elements (in x out) of the largest linear: what one dequantisation holds."""
        return max(linear.in_features * linear.out_features for linear in self.linears)

    @property
    def largest_qweight(self) -> int:
        return int(self.largest_linear * self.bits) // 8

    def kv_layer_bytes(self, context_tokens: int, pair_bytes: float = 4.0) -> int:
        """K and V of one layer: [kv_heads, context, head_dim] each, `pair_bytes` for an element of both. Source:
        ExLlamaCache.__init__."""
        return int(self.shape.kv_heads * self.shape.head_dim * pair_bytes) * context_tokens


@lru_cache(maxsize=512)
def weigh(variant: Variant) -> Weights | None:
    """The weights of a GPTQ variant, None where neither shape nor size are known.

    The tensors are those of `shape.py`, corrected to the real files' size by what is over or short,
    spread over the layers. With a known layout the error is that correction, at most 5 % of the
    size; files that are shorter than that are not all there, and the formula stands. With another architecture or
    format the error is 5 %, and a quarter with a mixture of experts of one: thousands of small tensors leave gaps that
    nobody has measured. With no config at all the shape is guessed from the size, which `guess_shape` explains.
    """
    bits = variant.bits or 4
    whole = int(bits)  # EXL2's are fractional: the checkpoint's layout is another, its size is known
    guessed = variant.shape is None
    shape = variant.shape or guess_shape(variant.size_bytes, bits)
    if shape is None:
        return None
    group = variant.group_size
    qweight = qzeros = scales = own_bias = zero_bias = in_features = 0
    for linear in shape.linears:
        rows = groups(linear.in_features, group)
        qweight += int(linear.in_features * linear.out_features * bits) // 8
        qzeros += rows * linear.out_features * whole // 8
        scales += rows * linear.out_features * 2
        in_features += linear.in_features
        if linear.bias:
            own_bias += 2 * linear.out_features
        elif variant.zero_bias:
            zero_bias += 2 * linear.out_features
    embedding = 2 * shape.vocab * shape.hidden
    norms = 4 * shape.hidden + (4 * shape.head_dim if shape.qk_norm else 0) + 2 * shape.experts * shape.hidden
    unaccounted = error = 0
    if variant.size_bytes:
        plain = sum(tensor.size_bytes for tensor in shape.plain_tensors())
        linears = qweight + qzeros + scales + own_bias + zero_bias + 4 * in_features
        difference = variant.size_bytes - plain - shape.layers * linears
        unaccounted = difference // shape.layers
        # The total is the files' own; what is unknown is where the difference lies and whether it is loaded.
        surely_known = shape.known_layout and not guessed and variant.format == "gptq"
        if surely_known and -difference > variant.size_bytes // 20:
            unaccounted, error = 0, (variant.size_bytes - difference) // 20
        elif surely_known:
            error = min(abs(difference), variant.size_bytes // 20)
        else:
            error = variant.size_bytes // (4 if "moe" in shape.model_type else 20)
    return Weights(
        shape,
        bits,
        group,
        group is not None,
        bool(variant.act_order),
        qweight,
        qzeros,
        scales,
        own_bias,
        zero_bias,
        norms,
        in_features,
        shape.linears,
        embedding,
        0 if shape.tied else embedding,
        2 * shape.hidden,
        unaccounted,
        error,
    )


def guess_shape(size_bytes: int | None, bits: float) -> ModelShape | None:
    """A Llama shape of about `size_bytes` at `bits`, for a card without a config.json.

    Llama-1 and -2 have hidden = 128 x layers (7B: 32/4096, 13B: 40/5120) and about 12 x hidden^2
    weights a layer. Grouped-query attention cannot be seen from outside, so none is assumed: the
    KV cache comes out up to 8 times too large, never too small.
    """
    if not size_bytes:
        return None
    parameters = size_bytes * 8 / (bits + 0.3)  # 0.3 bit: scales and zeros at 64g, (16 + 4) / 64
    layers = max(1, round((parameters / (12 * 128**2)) ** (1 / 3)))
    hidden = 128 * layers
    return ModelShape("llama", hidden, int(2.6875 * hidden), layers, layers, layers, 128, 32000)
