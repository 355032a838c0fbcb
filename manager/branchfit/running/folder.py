"""A model's folder -> what a load of it reads, and what transformers must be told that its files do not say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ConfigError, LoadError
from ..shape import KNOWN_LAYOUTS, read_shape
from .headers import Stored, read_tensors
from .layout import QUANTISED
from .settings import Settings, read_settings

STANDARD_NAMES = ("model.safetensors", "model.safetensors.index.json")
"""SAFE_WEIGHTS_NAME and SAFE_WEIGHTS_INDEX_NAME of transformers' utils: what it looks for, in this order."""

_INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<total>\d{5})\.safetensors")

MAX_JSON_BYTES = 64 * 2**20
"""The index of the largest published checkpoints takes some MB."""

_ARCHITECTURES = {"llamaforcausallm": "llama", "mistralforcausallm": "mistral", "qwen2forcausallm": "qwen2"}
"""model_type for an `architectures` entry, in small letters: configs of early 2023 write LLaMAForCausalLM."""

_EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk, as a load sees it.

    `config` is config.json as on disk. `quantization` are the GPTQ settings that hold (bits, group_size
    with -1 for none, desc_act, sym, quant_method, checkpoint_format where known, ...), None where it is
    not quantised by GPTQ. `weight_files` are the safetensors files a load reads, in order. `changes` is
    what must be laid over config.json in memory (`overlaid`), and `notes` has a sentence for each.
    `tensors` are those of the weight files.
    """

    folder: Path
    config: Mapping[str, Any]
    quantization: Mapping[str, Any] | None
    weight_files: tuple[str, ...]
    changes: Mapping[str, Any]
    notes: tuple[str, ...]
    tensors: Mapping[str, Stored] = field(default_factory=dict, repr=False, compare=False)

    @property
    def effective_config(self) -> dict[str, Any]:
        """config.json with the changes laid over it."""
        return {**self.config, **self.changes}


@dataclass(frozen=True)
class _Checkpoint:
    """A set of files that holds a whole model: `name` is the file or index that stands for it."""

    name: str
    files: tuple[str, ...]


def read_folder(folder: Path) -> ModelFolder:
    """Read a model's config.json and the headers of its weights; no weight is read but what tells the settings.

    Raises LoadError where it cannot be loaded as it is: no config.json, or one that is no JSON object or
    lacks the model's extents; no safetensors; several checkpoints and nothing that says which; a shard
    that its index names missing, or a file cut short; GPTQ settings that nothing tells.
    """
    folder = Path(folder)
    config = _json(folder / "config.json", required=True) or {}
    quantize_config = _json(folder / "quantize_config.json", required=False)
    try:
        checkpoint, tensors, notes = _choose(folder, config, quantize_config)
        settings = read_settings(config, quantize_config, tensors)
    except LoadError as error:
        raise LoadError(f"{folder.name} cannot be loaded: {error}") from error
    changes: dict[str, Any] = {}
    if checkpoint.name not in STANDARD_NAMES:
        if config.get("transformers_weights") != checkpoint.name:
            changes["transformers_weights"] = checkpoint.name
            notes.append(
                f"transformers looks for {STANDARD_NAMES[0]}: it is told that the weights are {checkpoint.name}"
            )
    elif config.get("transformers_weights") is not None:
        changes["transformers_weights"] = None
        notes.append(f"config.json's transformers_weights names no file that is there: {checkpoint.name} is read")
    if settings.override:
        changes["quantization_config"] = dict(settings.cleaned or {})
    elif settings.cleaned is None and "quantization_config" in config and not _is_object(config["quantization_config"]):
        changes["quantization_config"] = None
    notes += settings.notes
    _complete(folder, config, settings, tensors, changes, notes)
    return ModelFolder(folder, config, settings.cleaned, checkpoint.files, changes, tuple(notes), tensors)


def _choose(
    folder: Path, config: Mapping[str, Any], quantize_config: Mapping[str, Any] | None
) -> tuple[_Checkpoint, Mapping[str, Stored], list[str]]:
    """The checkpoint to load, its tensors, and a note where there were several."""
    found = _checkpoints(folder)
    named = config.get("transformers_weights") or (quantize_config or {}).get("model_file_base_name")
    if len(found) == 1:
        return found[0], _tensors(folder, found[0]), []
    by_name = {one.name: one for one in found}
    read = {one.name: _tensors(folder, one) for one in found}
    packed = [one for one in found if any(name.endswith(QUANTISED) for name in read[one.name])]
    candidates = packed or found
    chosen = next(
        (one for one in candidates if named in (one.name, one.name.removesuffix(".safetensors"), _stem(one.name))), None
    ) or next((by_name[name] for name in STANDARD_NAMES if name in by_name and by_name[name] in candidates), None)
    if chosen is None and len(candidates) == 1:
        chosen = candidates[0]
    if chosen is None:
        what = "quantised checkpoints" if packed else "weight files"
        raise LoadError(
            f"there are {len(candidates)} {what}, {', '.join(one.name for one in candidates)}, and nothing says which "
            f"is the model: move all but one of them elsewhere."
        )
    others = ", ".join(one.name for one in found if one is not chosen)
    return chosen, read[chosen.name], [f"of several weight files {chosen.name} is read, and not {others}"]


def _checkpoints(folder: Path) -> list[_Checkpoint]:
    """All whole checkpoints in the top of a folder, by name."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise LoadError(f"{folder} cannot be listed: {error.strerror or error}.") from error
    files = [name for name in names if name.endswith(".safetensors")]
    found = []
    for index in (name for name in names if name.endswith(_INDEX)):
        if index == STANDARD_NAMES[1] and STANDARD_NAMES[0] in files:
            continue  # transformers takes the single file, whatever the index says
        found.append(_Checkpoint(index, _shards(folder, index, files)))
    indexed = {file for one in found for file in one.files}
    loose = [name for name in files if name not in indexed and not name.startswith("adapter_model")]
    found += [_Checkpoint(name, (name,)) for name in loose if not _SHARD.fullmatch(name)]
    shards = [name for name in loose if _SHARD.fullmatch(name)]
    if not found and shards:
        match = _SHARD.fullmatch(shards[0])
        total = int(match["total"]) if match else 0
        raise LoadError(
            f"{len(shards)} of {total} shards are there and no index ({_stem(shards[0])}{_INDEX}), which says what is "
            f"in which: pull the branch again."
        )
    if not found:
        others = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf"))]
        hint = f"; {', '.join(others[:3])} are not loaded: pickles run code, GGUF is llama.cpp's" if others else ""
        raise LoadError(f"there is no .safetensors file in it{hint}. Pull a branch that has one.")
    return found


def _shards(folder: Path, index: str, files: Sequence[str]) -> tuple[str, ...]:
    """The files of an index, in transformers' order. Raises LoadError for one that is missing, or leads elsewhere."""
    content = _json(folder / index, required=True) or {}
    weights = content.get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(isinstance(file, str) for file in weights.values()):
        raise LoadError(f"{index} has no weight_map: `branchfit verify` says whether it is as published.")
    named = sorted(set(weights.values()))
    outside = [file for file in named if len(PurePosixPath(file).parts) != 1 or file in ("..", ".") or "\\" in file]
    if outside:
        raise LoadError(f"{index} names {outside[0]!r}, which is no file of this folder.")
    missing = [file for file in named if file not in files]
    if missing:
        raise LoadError(
            f"{len(missing)} of the {len(named)} shards that {index} names are missing ({', '.join(missing[:3])}): "
            f"`branchfit repair` fetches them."
        )
    return tuple(named)


def _tensors(folder: Path, checkpoint: _Checkpoint) -> Mapping[str, Stored]:
    return read_tensors(folder / file for file in checkpoint.files)


def _stem(name: str) -> str:
    match = _SHARD.fullmatch(name)
    return match["stem"] if match else name.removesuffix(_INDEX).removesuffix(".safetensors")


def _complete(
    folder: Path,
    config: Mapping[str, Any],
    settings: Settings,
    tensors: Mapping[str, Stored],
    changes: dict[str, Any],
    notes: list[str],
) -> None:
    """What configs of 2023 leave out or say wrongly, as the tensors tell it. Adds to `changes` and `notes`."""

    def change(name: str, value: Any, why: str) -> None:
        changes[name] = value
        notes.append(why)

    if not config.get("model_type"):
        named = config.get("architectures")
        told = [str(one).lower() for one in named] if isinstance(named, list) else []
        known = next((_ARCHITECTURES[one] for one in told if one in _ARCHITECTURES), None)
        if known is None:
            raise LoadError(
                f"{folder.name} cannot be loaded: its config.json has no model_type; it is of another repo?"
            )
        change("model_type", known, f"config.json has no model_type: {known}, by its architectures")
    dtype = config.get("dtype", config.get("torch_dtype"))
    if settings.cleaned is not None and dtype in (None, "float32", "torch.float32"):
        said = "no torch_dtype" if dtype is None else f"torch_dtype {dtype}"
        name = "dtype" if "dtype" in config else "torch_dtype"
        change(name, "float16", f"config.json has {said}: float16, which GPTQ's kernels are made for")
    if str({**config, **changes}.get("model_type")) not in KNOWN_LAYOUTS:
        return
    embedding = tensors.get(_EMBEDDING)
    rows = embedding.shape[0] if embedding is not None and len(embedding.shape) == 2 else None
    if rows and config.get("vocab_size") != rows:
        change(
            "vocab_size", rows, f"config.json has vocab_size {config.get('vocab_size')}: the embedding has {rows} rows"
        )
    longest = config.get("max_sequence_length")
    if "max_position_embeddings" not in config and type(longest) is int:
        change("max_position_embeddings", longest, f"config.json says max_sequence_length: {longest} positions")
    try:
        shape = read_shape({**config, **changes})
    except ConfigError as error:
        raise LoadError(
            f"{folder.name} cannot be loaded: {error}; transformers would take its own defaults."
        ) from error
    keys = tensors.get("model.layers.0.self_attn.k_proj.scales")
    if "num_key_value_heads" not in config and keys is not None and keys.shape[1] != shape.kv_heads * shape.head_dim:
        heads = keys.shape[1] // shape.head_dim
        change("num_key_value_heads", heads, f"config.json has no num_key_value_heads: {heads}, by k_proj's outputs")


def _json(path: Path, required: bool) -> dict[str, Any] | None:
    """The JSON object in a file; None where it is not there, and need not be. Raises LoadError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise LoadError(f"{path} has {path.stat().st_size:,} bytes, far more than such a file: it is damaged.")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if not required:
            return None
        raise LoadError(f"{path.parent} has no {path.name}, without which no model can be loaded from it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read: {error}.") from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path} is not JSON ({error}): `branchfit verify` says whether it is as published.") from error
    if not isinstance(found, dict):
        raise LoadError(f"{path} is not a JSON object but a {type(found).__name__}.")
    return found


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)
