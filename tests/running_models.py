"""What the tests of loading share: the demo's folders, copies of them with something wrong, and stand-in models."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from branchfit.demo.repo import SHAPE
from branchfit.demo.synth import Recipe, write_model

GROUPED = Recipe(4, 128, act_order=True)
WEIGHTS = "model.safetensors"


def small_model(folder: Path, recipe: Recipe = GROUPED) -> Path:
    write_model(folder, SHAPE, recipe)
    return folder


def copied(folder: Path, place: Path) -> Path:
    shutil.copytree(folder, place)
    return place


def edit(path: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    """Change a JSON file's fields."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content = {name: value for name, value in {**content, **changes}.items() if name not in drop}
    path.write_text(json.dumps(content), encoding="utf-8")


def tensors_of(path: Path) -> tuple[dict[str, dict[str, Any]], bytes]:
    """A safetensors file's header, without its metadata, and its data."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    return header, raw[8 + length :]


def write_tensors(path: Path, tensors: Mapping[str, tuple[str, list[int], bytes]]) -> None:
    """A safetensors file of (dtype, shape, data) by name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_all(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    header, data = tensors_of(path)
    return {
        name: (one["dtype"], one["shape"], data[one["data_offsets"][0] : one["data_offsets"][1]])
        for name, one in header.items()
    }


def split(folder: Path, stem: str = "model") -> list[str]:
    """The folder's one weight file as two shards with an index; their names come back."""
    every = read_all(folder / WEIGHTS)
    names = sorted(every)
    shards = [f"{stem}-0000{part}-of-00002.safetensors" for part in (1, 2)]
    parts = (names[: len(names) // 2], names[len(names) // 2 :])
    for shard, part in zip(shards, parts, strict=True):
        write_tensors(folder / shard, {name: every[name] for name in part})
    weight_map = {name: shard for shard, part in zip(shards, parts, strict=True) for name in part}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / WEIGHTS).unlink()
    return shards


class Tensor:
    """What `check_loaded` asks of a torch tensor."""

    def __init__(self, numbers: list[float], shape: tuple[int, ...] = (), meta: bool = False) -> None:
        self.numbers = numbers
        self.shape = shape or (len(numbers),)
        self.is_meta = meta

    def detach(self) -> Tensor:
        return self

    def flatten(self) -> Tensor:
        return self

    def __getitem__(self, part: slice) -> Tensor:
        return Tensor(self.numbers[part])

    def tolist(self) -> list[float]:
        return self.numbers

    def any(self) -> bool:
        return any(self.numbers)

    def __ne__(self, other: object) -> Any:
        return Tensor([float(one != other) for one in self.numbers])


class Module:
    """A module by its class's name, with the tensors it holds."""

    def __init__(self, **tensors: Any) -> None:
        self.__dict__.update(tensors)


def kernel(name: str, package: str = "gptqmodel.nn_modules.qlinear.torch") -> type[Module]:
    return type(name, (Module,), {"__module__": package})


class Model:
    """A model made of modules by name."""

    base_model_prefix = "model"

    def __init__(self, modules: Mapping[str, Module]) -> None:
        self.modules = dict(modules)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        yield from self.modules.items()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.state_dict().items()

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        yield from ()

    def state_dict(self, keep_vars: bool = True) -> dict[str, Tensor]:
        return {
            f"{name}.{leaf}": tensor
            for name, module in self.modules.items()
            for leaf, tensor in vars(module).items()
            if isinstance(tensor, Tensor)
        }
