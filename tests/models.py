"""Real models' configs, cut down to what decides their size. From their config.json on the Hub."""

from __future__ import annotations

LLAMA_2_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
WIZARDMATH_70B = {**LLAMA_2_70B, "vocab_size": 32002, "max_position_embeddings": 2048}
LLAMA_33B = {
    "model_type": "llama",
    "hidden_size": 6656,
    "intermediate_size": 17920,
    "num_hidden_layers": 60,
    "num_attention_heads": 52,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
LLAMA_2_13B = {
    "model_type": "llama",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
MISTRAL_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
}
QWEN2_05B = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
MIXTRAL_8X7B = {**MISTRAL_7B, "model_type": "mixtral", "num_local_experts": 8}

SEED_CARD_ROWS = (
    ("main", 4, None, True, 35_330_000_000, True),
    ("gptq-4bit-32g-actorder_True", 4, 32, True, 40_660_000_000, True),
    ("gptq-4bit-64g-actorder_True", 4, 64, True, 37_990_000_000, True),
    ("gptq-4bit-128g-actorder_True", 4, 128, True, 36_650_000_000, True),
    ("gptq-3bit--1g-actorder_True", 3, None, True, 26_780_000_000, False),
    ("gptq-3bit-128g-actorder_True", 3, 128, True, 28_030_000_000, False),
)
"""The table of TheBloke/WizardMath-70B-V1.0-GPTQ's card: branch, bits, group, act order, bytes, ExLlama."""


def seed_card() -> str:
    """A card with the seed's table, for where the card itself is not at hand."""
    repo = "TheBloke/WizardMath-70B-V1.0-GPTQ"
    rows = "\n".join(
        f"| [{branch}](https://huggingface.co/{repo}/tree/{branch}) | {bits} | {group} | {'Yes' if act else 'No'} "
        f"| 0.1 | [CamelAI Math](https://huggingface.co/datasets/andersonbcdefg/math) | 4096 | {size / 1e9:.2f} GB "
        f"| {'Yes' if exllama else 'No'} | words |"
        for branch, bits, group, act, size, exllama in SEED_CARD_ROWS
    )
    return f"""---
license: llama2
model_type: llama
---
# WizardMath 70B V1.0 - GPTQ

## Repositories available

* [GGUF](https://huggingface.co/TheBloke/WizardMath-70B-V1.0-GGUF)

## Prompt template: Alpaca-CoT

```
Below is an instruction that describes a task. Write a response that appropriately completes the request.
### Instruction:
{{prompt}}
### Response: Let's think step by step.
```

## Provided files and GPTQ parameters

| Branch | Bits | GS | Act Order | Damp % | GPTQ Dataset | Seq Len | Size | ExLlama | Desc |
| ------ | ---- | -- | --------- | ------ | ------------ | ------- | ---- | ------- | ---- |
{rows}
"""
