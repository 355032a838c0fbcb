"""ExLlama's own placement without a GPU: its real code on a checkpoint that is a header and a hole.

Both packages want their compiled extension and CUDA when they are imported, and neither is needed to place layers: here
the extension is an empty module, and ExLlamaV2's device context, which opens a CUDA stream, notes what it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from branchfit.checkpoint import file_header, file_order
from branchfit.shape import checkpoint_tensors, read_shape


def installed(package: str) -> bool:
    return importlib.util.find_spec("torch") is not None and importlib.util.find_spec(package) is not None


def write_hollow(folder: Path, config: Mapping[str, Any], bits: int, group: int | None, zero_bias: bool = True) -> Path:
    """A GPTQ checkpoint whose header is right and whose data is a hole in the file: 40 GB that take no room."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = file_order(checkpoint_tensors(read_shape(config), bits, group, zero_bias))
    header = file_header(ordered)
    weights = folder / "model.safetensors"
    with weights.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(tensor.size_bytes for tensor in ordered))
    name = {"llama": "Llama", "mistral": "Mistral", "mixtral": "Mixtral", "qwen2": "Qwen2"}[str(config["model_type"])]
    whole = {
        "architectures": [f"{name}ForCausalLM"],
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "num_experts_per_tok": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "num_key_value_heads": config["num_attention_heads"],
        **config,
    }
    (folder / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    return weights


@contextmanager
def imported_without_cuda(package: str, *stubs: str) -> Iterator[ModuleType]:
    """`package`.model with `stubs` as empty modules; afterwards nothing of it is left in sys.modules."""
    before = set(sys.modules)
    for name in stubs:
        stub = ModuleType(name)
        stub.__getattr__ = lambda attribute: None  # type: ignore[method-assign]  # whatever is imported from it
        sys.modules[name] = stub
    try:
        yield importlib.import_module(f"{package}.model")
    finally:
        for name in set(sys.modules) - before:
            if name in stubs or name.split(".")[0] == package:
                del sys.modules[name]


class Contexts:
    """Stands for ExLlamaV2DeviceContext: the scratch in bytes that each card was to get."""

    def __init__(self) -> None:
        self.scratch: dict[int, int] = {}

    def __call__(self, model: Any, device_idx: int, scratch_bytes: int, *rest: Any) -> None:
        self.scratch[device_idx] = scratch_bytes


def exllamav2_places(
    model_module: ModuleType, folder: Path, split: str, context_tokens: int, cards: int, *, flash: bool = False
) -> tuple[tuple[float, ...], int, dict[int, int]]:
    """Layers a card, the head's card, and the scratch bytes a card, by `ExLlamaV2.set_device_map`.

    `split` is the webui's string, read as its modules/exllamav2.py does. AssertionError where it does not go in.
    A layer whose attention and MLP lie apart is half a layer on each, which no forecast has.
    """
    contexts = Contexts()
    before = model_module.ExLlamaV2DeviceContext
    attention = sys.modules["exllamav2.attn"]
    had = (attention.has_flash_attn, attention.has_xformers)
    model_module.ExLlamaV2DeviceContext = contexts  # type: ignore[attr-defined]
    attention.has_flash_attn, attention.has_xformers = flash, False  # type: ignore[attr-defined]
    try:
        config = model_module.ExLlamaV2Config()  # type: ignore[attr-defined]
        config.model_dir = str(folder)
        config.prepare()
        config.max_seq_len = context_tokens
        model = model_module.ExLlamaV2(config)
        model.set_device_map([float(alloc) for alloc in split.split(",")])
    finally:
        model_module.ExLlamaV2DeviceContext = before  # type: ignore[attr-defined]
        attention.has_flash_attn, attention.has_xformers = had  # type: ignore[attr-defined]
    halves = [module.device_idx for module in model.modules[1:-2]]
    return tuple(halves.count(card) / 2 for card in range(cards)), model.modules[-1].device_idx, contexts.scratch


class Placed(Exception):
    """ExLlama v1 reads its first tensor: every layer has its place."""


class Header:
    """Stands for safetensors' safe_open, which maps the whole file at once: 40 GB are more than many machines may map.

    Names and shapes are the file's own; no tensor is read.
    """

    def __init__(self, path: str, **how: Any) -> None:
        with Path(path).open("rb") as file:
            self.tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        self.tensors.pop("__metadata__", None)

    def __enter__(self) -> Header:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def keys(self) -> list[str]:
        return list(self.tensors)

    def get_slice(self, key: str) -> Any:
        return SimpleNamespace(get_shape=lambda: self.tensors[key]["shape"])

    def get_tensor(self, key: str) -> Any:
        raise Placed


def exllama_places(model_module: ModuleType, weights: Path, split: str, cards: int) -> tuple[tuple[int, ...], int]:
    """Layers a card and the head's card by ExLlama v1, whose __init__ places first and reads then.

    Raises what it raises where they do not go in: an IndexError, as it looks behind the end of the split.
    """
    before = model_module.safe_open
    model_module.safe_open = Header  # type: ignore[attr-defined]
    try:
        config = model_module.ExLlamaConfig(str(weights.parent / "config.json"))
        config.model_path = str(weights)
        config.set_auto_map(split)
        config.set_tuning_params = lambda: None  # they are for the extension
        model_module.ExLlama(config)
    except Placed:
        pass
    finally:
        model_module.safe_open = before  # type: ignore[attr-defined]
    layers = [int(device.removeprefix("cuda:")) for device in config.device_map.layers]
    return tuple(layers.count(card) for card in range(cards)), int(config.device_map.lm_head.removeprefix("cuda:"))
