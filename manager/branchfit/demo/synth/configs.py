"""The JSON files beside a checkpoint, as TheBloke's branches carry them since September 2023."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from ...shape import ModelShape
from .recipe import Recipe

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""transformers' class for each model_type the synthesiser writes."""

BOS_ID, EOS_ID, UNK_ID = 1, 2, 0
"""Llama's own numbers of <s>, </s> and <unk>."""

DEFAULT_CONTEXT_TOKENS = 4096
"""For a shape that does not say; Llama 2's."""


def quantize_config(recipe: Recipe) -> dict[str, Any]:
    """quantize_config.json as AutoGPTQ's BaseQuantizeConfig.to_dict writes it (0.4)."""
    return {
        "bits": recipe.bits,
        "group_size": -1 if recipe.group_size is None else recipe.group_size,
        "damp_percent": recipe.damp_percent,
        "desc_act": recipe.act_order,
        "sym": recipe.symmetric,
        "true_sequential": True,
        "model_name_or_path": None,
        "model_file_base_name": "model",
    }


def model_config(shape: ModelShape, recipe: Recipe) -> dict[str, Any]:
    """config.json with `quantization_config` in it.

    Without that key transformers loads such a file with random linears and no error.
    Raises ConfigError for a model_type that the synthesiser does not write.
    """
    if shape.model_type not in ARCHITECTURES:
        raise ConfigError(f"model_type {shape.model_type!r} is not one the synthesiser writes", (), "config.json")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[shape.model_type]],
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.max_context_tokens or DEFAULT_CONTEXT_TOKENS,
        "model_type": shape.model_type,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": shape.vocab,
    }
    if shape.head_dim * shape.heads != shape.hidden or shape.model_type == "qwen3":
        config["head_dim"] = shape.head_dim
    config.update(_own_fields(shape))
    config["quantization_config"] = {**quantize_config(recipe), "quant_method": "gptq"}
    return config


def generation_config() -> dict[str, Any]:
    """generation_config.json: greedy, so that a demo says the same nonsense each time."""
    return {"_from_model_config": True, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "do_sample": False}


def _own_fields(shape: ModelShape) -> dict[str, Any]:
    """What one architecture's config says and the others' do not."""
    if shape.model_type == "llama":
        return {"attention_bias": shape.attention_bias, "mlp_bias": shape.mlp_bias, "pretraining_tp": 1}
    if shape.model_type == "mixtral":
        return {"num_local_experts": shape.experts, "num_experts_per_tok": min(2, shape.experts)}
    if shape.model_type in ("qwen2", "qwen3"):
        own: dict[str, Any] = {"use_sliding_window": False}
        return own if shape.model_type == "qwen2" else {**own, "attention_bias": shape.attention_bias}
    return {"sliding_window": None}
