"""A safetensors header: which files of a branch have one that counts, and what it says.

The checks are those of the safetensors crate (`SafeTensors::read_metadata` and `Metadata::validate`):
a header of at most 100 MB that is one JSON object, tensors that follow each other without hole or
overlap up to the end of the file, sizes that agree with dtype and shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from .state import RepoFile, TensorEntry

LENGTH_BYTES = 8
"""A file begins with its header's length, an unsigned 64-bit little-endian number."""

MAX_HEADER_BYTES = 100_000_000
"""`MAX_HEADER_SIZE` in safetensors/src/tensor.rs."""

MAX_SHARDS = 1000
"""Headers read of one checkpoint. The largest published have under 200 (Llama 3.1 405B: 191)."""

NAMES_SHOWN = 5
"""Of many weight files so many are named: a line of a terminal's."""

DTYPE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits an element: `Dtype::bitsize` in safetensors/src/tensor.rs."""

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors")


class BadHeader(ValueError):
    """A safetensors header that cannot be right; the message says why."""


def header_length(start: bytes, file_bytes: int | None) -> int:
    """Bytes of the JSON that follows the first 8 bytes. Raises BadHeader."""
    if len(start) < LENGTH_BYTES:
        raise BadHeader(f"the file has {len(start)} bytes, fewer than a header's length takes")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise BadHeader(f"the header says it is {length:,} bytes long, at most {MAX_HEADER_BYTES:,} are allowed")
    if file_bytes is not None and LENGTH_BYTES + length > file_bytes:
        raise BadHeader(f"the header says it is {length:,} bytes long, the file has {file_bytes:,}")
    return length


def parse_header(text: bytes, data_bytes: int | None) -> tuple[TensorEntry, ...]:
    """The tensors of a header's JSON, in the order of their data.

    `data_bytes` is how many bytes follow the header, None if unknown. Raises BadHeader.
    """
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadHeader):
            raise
        raise BadHeader("the header is not JSON") from error
    if not isinstance(header, dict):
        raise BadHeader("the header is not a JSON object")
    header.pop("__metadata__", None)
    placed = sorted(
        (_entry(name, value) for name, value in header.items()), key=lambda found: (found[0], found[1].size_bytes)
    )
    end = 0
    for start, entry in placed:
        if start != end:
            raise BadHeader(f"tensor {entry.name} begins at byte {start}, the one before it ends at {end}")
        end += entry.size_bytes
    if data_bytes is not None and end != data_bytes:
        raise BadHeader(f"its tensors take {end:,} bytes, the file holds {data_bytes:,}")
    return tuple(entry for _, entry in placed)


def weight_headers(files: Iterable[RepoFile]) -> tuple[tuple[RepoFile, ...], str]:
    """The files whose headers together describe a branch's weights, and what was odd in choosing them, or "".

    In the branch's top folder: `model.safetensors`, else a complete set of shards, else the only
    safetensors file. Of several the last by name is taken, as text-generation-webui's
    AutoGPTQ loader does ("The last one will be selected. It could be wrong.").
    """
    found = {file.path: file for file in files if file.path.endswith(".safetensors") and "/" not in file.path}
    if "model.safetensors" in found:
        return (found["model.safetensors"],), ""
    sets: dict[tuple[str, int], list[RepoFile]] = {}
    for path in sorted(found):
        if shard := _SHARD.fullmatch(path):
            sets.setdefault((shard["stem"], int(shard["total"])), []).append(found[path])
    for (_, total), shards in sorted(sets.items()):
        if len(shards) == total > MAX_SHARDS:
            return (), f"the headers of {total:,} shards are not read, at most those of {MAX_SHARDS:,} are"
        if len(shards) == total:
            return tuple(shards), ""
    single = sorted(path for path in found if not _SHARD.fullmatch(path))
    if single:
        odd = f"several weight files ({_named(single)}): a loader takes the last" if len(single) > 1 else ""
        return (found[single[-1]],), odd
    for (stem, total), shards in sorted(sets.items()):
        return (), f"{len(shards)} of the {total} shards of {stem} are there"
    return (), ""


def _named(paths: list[str]) -> str:
    if len(paths) <= NAMES_SHOWN:
        return ", ".join(paths)
    return f"{', '.join(paths[: NAMES_SHOWN - 1])} ... {paths[-1]}, {len(paths):,} in all"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadHeader("the header names something twice")
    return found


def _entry(name: str, value: Any) -> tuple[int, TensorEntry]:
    try:
        dtype, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
        bits = DTYPE_BITS[dtype]
    except (TypeError, KeyError, ValueError) as error:
        raise BadHeader(f"tensor {name} lacks data_offsets, a shape or a dtype that is known") from error
    for number in (start, stop, *shape) if type(shape) is list else (None,):
        if type(number) is not int or number < 0:
            raise BadHeader(f"tensor {name} has impossible numbers: shape {shape}, offsets {start} to {stop}")
    for extent in shape:
        # No file has 2**70 bits: without this a hostile shape makes the product grow for ever.
        bits = min(bits * extent, 1 << 70)
    if bits != 8 * (stop - start):
        raise BadHeader(f"tensor {name} is {dtype} of {shape} in {stop - start:,} bytes")
    return start, TensorEntry(name, dtype, tuple(shape), stop - start)
