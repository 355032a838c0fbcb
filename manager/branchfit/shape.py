"""A model's shape from its config.json, and the tensors and bytes of a GPTQ checkpoint of it.

The layout is AutoGPTQ's (v1), as `auto_gptq/nn_modules/qlinear/qlinear_cuda.py` packs it and
TheBloke's branches hold it: per quantised linear `qweight`, `qzeros`, `scales`, `g_idx` and, in
AutoGPTQ's files, always a `bias` (its `make_quant` passes bias=True, v0.2.0 to v0.7.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ConfigError

DTYPE_BYTES = {"I32": 4, "F16": 2, "BF16": 2, "F32": 4}
"""Bytes an element of the safetensors dtypes that GPTQ checkpoints hold."""


@dataclass(frozen=True)
class Linear:
    """One quantised linear of a layer. `bias` is the model's own, not AutoGPTQ's zero one."""

    name: str
    in_features: int
    out_features: int
    bias: bool = False


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a checkpoint: name, safetensors dtype, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        size = DTYPE_BYTES[self.dtype]
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True)
class ModelShape:
    """The extents of a decoder that decide its size. Counts, not bytes.

    `head_dim` is stated by newer configs and is hidden // heads otherwise. `experts` is 0 for a
    dense model. `max_context_tokens` is the model's own (max_position_embeddings), None if unsaid.
    """

    model_type: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_context_tokens: int | None = None
    tied: bool = False
    experts: int = 0
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    linears: tuple[Linear, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "linears", tuple(self._linears()))

    def _linears(self) -> Iterator[Linear]:
        queries = self.heads * self.head_dim
        keys = self.kv_heads * self.head_dim
        yield Linear("self_attn.q_proj", self.hidden, queries, self.attention_bias)
        yield Linear("self_attn.k_proj", self.hidden, keys, self.attention_bias)
        yield Linear("self_attn.v_proj", self.hidden, keys, self.attention_bias)
        yield Linear("self_attn.o_proj", queries, self.hidden, self.output_bias)
        if self.experts:
            for expert in range(self.experts):
                prefix = f"block_sparse_moe.experts.{expert}."
                yield Linear(prefix + "w1", self.hidden, self.intermediate)
                yield Linear(prefix + "w2", self.intermediate, self.hidden)
                yield Linear(prefix + "w3", self.hidden, self.intermediate)
        else:
            yield Linear("mlp.gate_proj", self.hidden, self.intermediate, self.mlp_bias)
            yield Linear("mlp.up_proj", self.hidden, self.intermediate, self.mlp_bias)
            yield Linear("mlp.down_proj", self.intermediate, self.hidden, self.mlp_bias)

    @property
    def known_layout(self) -> bool:
        """Whether `tensors` gives this architecture's real tensors (else sizes come from headers)."""
        return self.model_type in KNOWN_LAYOUTS

    def plain_tensors(self) -> Iterator[TensorSpec]:
        """The tensors that GPTQ leaves in fp16: embedding, head, norms, a mixture's router."""
        yield TensorSpec("model.embed_tokens.weight", "F16", (self.vocab, self.hidden))
        if not self.tied:
            yield TensorSpec("lm_head.weight", "F16", (self.vocab, self.hidden))
        yield TensorSpec("model.norm.weight", "F16", (self.hidden,))
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            yield TensorSpec(prefix + "input_layernorm.weight", "F16", (self.hidden,))
            yield TensorSpec(prefix + "post_attention_layernorm.weight", "F16", (self.hidden,))
            if self.qk_norm:
                yield TensorSpec(prefix + "self_attn.q_norm.weight", "F16", (self.head_dim,))
                yield TensorSpec(prefix + "self_attn.k_norm.weight", "F16", (self.head_dim,))
            if self.experts:
                yield TensorSpec(prefix + "block_sparse_moe.gate.weight", "F16", (self.experts, self.hidden))


KNOWN_LAYOUTS = frozenset({"llama", "mistral", "mixtral", "qwen2", "qwen3", "yi", "Yi"})
"""Architectures whose tensors `ModelShape` enumerates, read from transformers' modelling files."""

MOST = {
    "hidden_size": 2**18,
    "intermediate_size": 2**20,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**14,
    "vocab_size": 2**22,
    "max_position_embeddings": 10**8,
    "num_local_experts": 2**10,
}
"""The most of each that is believed: several times the largest published models' (hidden 53,248 and
126 layers at 405B, vocabulary 262,144, context 10 million), so that nonsense is refused, not computed."""

_CONTEXT = "max_position_embeddings"

_QKV_BIAS = frozenset({"qwen2"})
"""q, k and v have a bias without the config saying so: transformers' modeling_qwen2.py."""


_TIED = frozenset(
    {
        "bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo",
        "mistral3", "mpt", "opt", "RefinedWeb", "RefinedWebModel", "starcoder2", "xglm",
    }
)  # fmt: skip
"""The head is the embedding unless the config says otherwise: the defaults of transformers 5.23's configurations."""


def read_shape(config: Mapping[str, Any], source: str = "config.json") -> ModelShape:
    """The shape a transformers config.json describes.

    Raises ConfigError naming every missing field, or the first value that is no positive whole
    number. `source` is what the error calls the file.
    """
    if "text_config" in config and isinstance(config["text_config"], Mapping):
        config = {**config["text_config"], "model_type": config["text_config"].get("model_type", "")}
    config = _with_common_names(config)
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    missing = [name for name in needed if config.get(name) is None]
    if missing:
        raise ConfigError("the size of this model cannot be worked out from it", missing, source)

    def count(name: str, default: int | None = None) -> int:
        value = config.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST[name]:
            shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:37]}..."
            raise ConfigError(f"{name} is {shown}, not a whole number from 1 to {MOST[name]:,}", (), source)
        return value

    hidden, heads = count("hidden_size"), count("num_attention_heads")
    kv_heads = count("num_key_value_heads", heads)
    head_dim = count("head_dim", max(1, hidden // heads))
    model_type = str(config.get("model_type") or "")
    attention_bias = bool(config.get("attention_bias", model_type in _QKV_BIAS))
    return ModelShape(
        model_type=model_type,
        hidden=hidden,
        intermediate=count("intermediate_size"),
        layers=count("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=count("vocab_size"),
        max_context_tokens=None if config.get(_CONTEXT) is None else count(_CONTEXT),
        tied=bool(config.get("tie_word_embeddings", model_type in _TIED)),
        experts=count("num_local_experts") if model_type == "mixtral" else 0,
        attention_bias=attention_bias,
        # attention_bias gives o_proj one too (Llama, Qwen3); Qwen2's q, k and v alone carry it.
        output_bias=attention_bias and model_type != "qwen2",
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=model_type == "qwen3",
    )


_OTHER_NAMES = {
    "hidden_size": ("n_embd", "n_embed", "d_model"),
    "intermediate_size": ("n_inner", "ffn_hidden_size", "ffn_dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "vocab_size": ("padded_vocab_size",),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length", "max_sequence_length"),
}
"""What GPT-2's descendants call the same things: configuration_{gpt2,falcon,bloom,mpt,opt}.py of transformers."""


def _with_common_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with Llama's names for what it calls otherwise."""
    found = dict(config)
    for name, others in _OTHER_NAMES.items():
        if found.get(name) is None:
            found[name] = next((config[other] for other in others if config.get(other) is not None), None)
    if found["num_key_value_heads"] is None and config.get("multi_query") is True:
        found["num_key_value_heads"] = 1
    hidden = found["hidden_size"]
    if found["intermediate_size"] is None and isinstance(hidden, int) and config.get("model_type") in _FOUR_TIMES:
        found["intermediate_size"] = 4 * hidden
    return found


_FOUR_TIMES = frozenset({"gpt2", "gpt_bigcode", "falcon", "bloom", "mpt", "RefinedWeb", "RefinedWebModel"})
"""Their configs leave the MLP's width to the default, four times hidden (the same files)."""


def groups(in_features: int, group_size: int | None) -> int:
    """How many groups share a scale down one column: one without grouping (None)."""
    return 1 if group_size is None else -(-in_features // group_size)


def linear_tensors(
    linear: Linear, prefix: str, bits: int, group_size: int | None, zero_bias: bool = True
) -> Iterator[TensorSpec]:
    """The tensors of one quantised linear under `prefix`, in AutoGPTQ's v1 layout.

    `zero_bias` is True for AutoGPTQ's files, which hold a bias for every linear, and False for
    gptqmodel's, which hold the model's own only.
    """
    name = f"{prefix}{linear.name}."
    rows = groups(linear.in_features, group_size)
    if zero_bias or linear.bias:
        yield TensorSpec(name + "bias", "F16", (linear.out_features,))
    yield TensorSpec(name + "g_idx", "I32", (linear.in_features,))
    yield TensorSpec(name + "qweight", "I32", (linear.in_features * bits // 32, linear.out_features))
    yield TensorSpec(name + "qzeros", "I32", (rows, linear.out_features * bits // 32))
    yield TensorSpec(name + "scales", "F16", (rows, linear.out_features))


def checkpoint_tensors(
    shape: ModelShape, bits: int, group_size: int | None, zero_bias: bool = True
) -> Iterator[TensorSpec]:
    """Every tensor of a GPTQ checkpoint of this shape; act order changes none of their sizes."""
    yield from shape.plain_tensors()
    for layer in range(shape.layers):
        for linear in shape.linears:
            yield from linear_tensors(linear, f"model.layers.{layer}.", bits, group_size, zero_bias)
