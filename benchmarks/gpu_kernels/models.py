"""Models that all answer alike, whatever runs them: whole, read, step, generate, close."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from branchfit.demo.synth import Recipe, model_config
from branchfit.shape import ModelShape

from .cases import SHAPES, Variant

CONTEXT_TOKENS = 1024
"""What exllamav2's cache is allocated for."""


class Plain:
    """A transformers model: logits, a step at a time or all at once."""

    kernels: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __init__(self, model: Any, device: str) -> None:
        self.model, self.device = model.eval(), device
        # Nothing here shall stop early, whatever random weights say.
        self.model.generation_config.eos_token_id = None

    def whole(self, ids: Any) -> Any:
        return self.model(ids.to(self.device)).logits[0]

    def read(self, ids: Any) -> Any:
        out = self.model(ids.to(self.device), use_cache=True, logits_to_keep=1)
        self.past = out.past_key_values
        return out.logits[0, -1]

    def step(self, token: Any) -> Any:
        out = self.model(token.to(self.device), past_key_values=self.past, use_cache=True)
        return out.logits[0, -1]

    def generate(self, ids: Any, count: int) -> list[int]:
        ids = ids.to(self.device)
        out = self.model.generate(
            ids, attention_mask=ids.new_ones(ids.shape), max_new_tokens=count, do_sample=False, pad_token_id=0
        )
        return out[0, ids.shape[1] :].tolist()

    def close(self) -> None:
        del self.model


class Gptqmodel(Plain):
    """A GPTQ folder in transformers, through optimum, with one of gptqmodel's kernels."""

    def __init__(self, folder: Path, bits: int, backend: str, device: str) -> None:
        import torch
        import transformers

        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float16,
            device_map={"": device},
            quantization_config=transformers.GPTQConfig(bits=bits, backend=backend),
            output_loading_info=True,
        )
        super().__init__(model, device)
        self.kernels = tuple(
            sorted({type(module).__name__ for module in model.modules() if hasattr(module, "qweight")})
        )
        self.missing = tuple(sorted(info["missing_keys"]))


class ExLlamaV2:
    """A GPTQ folder in exllamav2, loaded as text-generation-webui did: a lazy cache and load_autosplit."""

    kernels = ("exllamav2",)
    missing: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        import exllamav2

        config = exllamav2.ExLlamaV2Config(str(folder))
        config.max_seq_len = CONTEXT_TOKENS
        self.vocab = config.vocab_size
        self.model = exllamav2.ExLlamaV2(config)
        self.cache = exllamav2.ExLlamaV2Cache(self.model, max_seq_len=CONTEXT_TOKENS, lazy=True)
        self.model.load_autosplit(self.cache)

    def _logits(self, ids: Any, last_id_only: bool) -> Any:
        # The head is padded to a multiple of 32 columns.
        return self.model.forward(ids.cpu(), self.cache, last_id_only=last_id_only)[0, :, : self.vocab]

    def whole(self, ids: Any) -> Any:
        self.cache.current_seq_len = 0
        return self._logits(ids, last_id_only=False)

    def read(self, ids: Any) -> Any:
        self.cache.current_seq_len = 0
        return self._logits(ids, last_id_only=True)[-1]

    def step(self, token: Any) -> Any:
        return self._logits(token, last_id_only=True)[-1]

    def generate(self, ids: Any, count: int) -> list[int]:
        """As exllamav2's own speed test does it (`test_inference.py -s`): argmax, one token after another."""
        tokens = [int(self.read(ids).argmax())]
        while len(tokens) < count:
            tokens.append(int(self.step(ids.new_tensor([[tokens[-1]]])).argmax()))
        return tokens

    def close(self) -> None:
        self.model.unload()
        del self.model, self.cache


def open_model(variant: Variant, folder: Path, shape: str, recipe: Recipe, device: str) -> Any:
    if variant.name == "dense":
        return Plain(dense_model(SHAPES[shape], device), device)
    if variant.runtime == "exllamav2":
        return ExLlamaV2(folder)
    return Gptqmodel(folder, recipe.bits, variant.backend, device)


def dense_model(shape: ModelShape, device: str) -> Any:
    """An unquantised fp16 Llama of this shape, random, for its speed."""
    import torch
    import transformers

    config = model_config(shape, Recipe(4))
    del config["quantization_config"]
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device(device):
            return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    finally:
        torch.set_default_dtype(torch.float32)


def close_model(model: Any) -> None:
    import torch

    model.close()
    del model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
