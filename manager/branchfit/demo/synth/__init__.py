"""Real GPTQ models of any shape, made here: for the demo, for tests, for measuring memory on GPUs.

`write_model(folder, shape, Recipe(bits=4, group_size=128, act_order=True))` leaves a folder that
AutoGPTQ's readers load. A 70B is written with `fill="random"`, one linear in memory at a time.
"""

from __future__ import annotations

import json
from pathlib import Path

from ...shape import ModelShape
from .checkpoint import Fill, write_checkpoint
from .configs import DEFAULT_CONTEXT_TOKENS, generation_config, model_config, quantize_config
from .recipe import Recipe, check_fits
from .reference import reference_tensors, reference_weight
from .tokenizer import tokenizer_files

__all__ = [
    "Fill",
    "Recipe",
    "check_fits",
    "model_config",
    "quantize_config",
    "reference_tensors",
    "reference_weight",
    "tokenizer_files",
    "write_checkpoint",
    "write_model",
]

CHECKPOINT_NAME = "model.safetensors"
"""The only name transformers looks for; TheBloke's branches carry it since September 2023."""


def write_model(folder: Path, shape: ModelShape, recipe: Recipe, seed: int = 0, fill: Fill = "rtn") -> dict[str, Path]:
    """Write a whole model into `folder` (made if need be); name -> path of every file.

    The tokenizer is the small one of `tokenizer_files` whatever the vocabulary. Raises ConfigError
    for a shape that AutoGPTQ's layout cannot carry, before anything is written.
    """
    check_fits(shape, recipe)
    texts = {
        "config.json": model_config(shape, recipe),
        "quantize_config.json": quantize_config(recipe),
        "generation_config.json": generation_config(),
        **tokenizer_files(shape.vocab, shape.max_context_tokens or DEFAULT_CONTEXT_TOKENS),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        # Bytes, not text: a Hub's checksums are of "\n" line ends on every machine.
        (folder / name).write_bytes((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    write_checkpoint(folder / CHECKPOINT_NAME, shape, recipe, seed, fill)
    return {name: folder / name for name in [*texts, CHECKPOINT_NAME]}
