"""Small repos for the Hub's tests: real safetensors bytes, configs, cards."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

REPO = "TheBloke/Tiny-Llama-GPTQ"

DTYPE_BYTES = {"I32": 4, "F16": 2, "F32": 4}


def safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...]]], fill: bytes = b"\x11") -> bytes:
    """A safetensors file of these tensors, (dtype, shape) by name, written as the format's README says."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = DTYPE_BYTES[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + fill * end


def quantised(bits: int, group_size: int, rows: int = 256) -> dict[str, bytes]:
    """A branch as its author lays it out: one quantised linear of rows x 256, config, quantize_config."""
    groups = 1 if group_size == -1 else rows // group_size
    name = "model.layers.0.mlp.down_proj."
    tensors = {
        "lm_head.weight": ("F16", (32, 256)),
        name + "g_idx": ("I32", (rows,)),
        name + "qweight": ("I32", (rows * bits // 32, 256)),
        name + "qzeros": ("I32", (groups, 256 * bits // 32)),
        name + "scales": ("F16", (groups, 256)),
    }
    quantisation = {"bits": bits, "group_size": group_size, "desc_act": True}
    return {
        "README.md": b"# Tiny Llama - GPTQ\n",
        "config.json": json.dumps({"model_type": "llama", "quantization_config": quantisation}).encode(),
        "quantize_config.json": json.dumps(quantisation).encode(),
        "model.safetensors": safetensors(tensors),
        "tokenizer.json": b"{}",
    }


SIX = {
    "main": quantised(4, -1),
    "gptq-4bit-32g-actorder_True": quantised(4, 32),
    "gptq-4bit-64g-actorder_True": quantised(4, 64),
    "gptq-4bit-128g-actorder_True": quantised(4, 128),
    "gptq-8bit--1g-actorder_True": quantised(8, -1),
    "gptq-8bit-128g-actorder_True": quantised(8, 128),
}
"""Six branches, as most of TheBloke's GPTQ repos of that summer have."""
