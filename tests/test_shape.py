"""config.json -> the extents and tensors of a model."""

from __future__ import annotations

import pytest

from branchfit.errors import ConfigError
from branchfit.shape import checkpoint_tensors, groups, read_shape
from models import LLAMA_2_70B, MIXTRAL_8X7B, QWEN2_05B


def test_a_grouped_query_llama_is_read() -> None:
    shape = read_shape(LLAMA_2_70B)
    assert (shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head_dim) == (8192, 80, 64, 8, 128)
    assert [(linear.name, linear.in_features, linear.out_features) for linear in shape.linears] == [
        ("self_attn.q_proj", 8192, 8192),
        ("self_attn.k_proj", 8192, 1024),
        ("self_attn.v_proj", 8192, 1024),
        ("self_attn.o_proj", 8192, 8192),
        ("mlp.gate_proj", 8192, 28672),
        ("mlp.up_proj", 8192, 28672),
        ("mlp.down_proj", 28672, 8192),
    ]


def test_every_missing_field_is_named_in_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        read_shape({"hidden_size": 8})
    assert caught.value.missing == ("intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@pytest.mark.parametrize("value", [0, -1, "8192", 1.5, True, [], 2**63, 10**400])
def test_a_field_that_is_no_positive_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="hidden_size"):
        read_shape({**LLAMA_2_70B, "hidden_size": value})


def test_a_stated_head_dim_wins_over_hidden_by_heads() -> None:
    assert read_shape({**LLAMA_2_70B, "head_dim": 64}).head_dim == 64


def test_qwen2_has_biases_on_q_k_and_v_alone_and_shares_its_embedding() -> None:
    shape = read_shape(QWEN2_05B)
    assert [linear.bias for linear in shape.linears] == [True, True, True, False, False, False, False]
    names = {tensor.name for tensor in shape.plain_tensors()}
    assert "lm_head.weight" not in names


def test_a_mixture_has_every_expert_and_an_unquantised_router() -> None:
    shape = read_shape(MIXTRAL_8X7B)
    assert len(shape.linears) == 4 + 3 * 8
    assert any(tensor.name.endswith("block_sparse_moe.gate.weight") for tensor in shape.plain_tensors())


def test_a_vision_models_text_part_is_what_is_read() -> None:
    assert read_shape({"model_type": "llava", "text_config": LLAMA_2_70B}).hidden == 8192


def test_the_tensors_of_a_quantised_linear_have_autogptqs_shapes() -> None:
    shape = read_shape({**LLAMA_2_70B, "num_hidden_layers": 1})
    found = {t.name: t.shape for t in checkpoint_tensors(shape, 3, 128) if "down_proj" in t.name}
    stem = "model.layers.0.mlp.down_proj."
    # 28672 inputs: 28672 * 3 / 32 = 2688 words, 28672 / 128 = 224 groups; 8192 outputs: 8192 * 3 / 32 = 768 words.
    assert found == {
        stem + "bias": (8192,),
        stem + "g_idx": (28672,),
        stem + "qweight": (2688, 8192),
        stem + "qzeros": (224, 768),
        stem + "scales": (224, 8192),
    }


def test_a_last_group_that_is_not_full_counts() -> None:
    assert (groups(100, None), groups(100, 32), groups(96, 32)) == (1, 4, 3)
