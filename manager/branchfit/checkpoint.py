"""The exact size of a GPTQ checkpoint's safetensors file, and the header such a file opens with.

A safetensors file is an 8-byte little-endian length, a JSON header of that length and the tensors'
bytes. The reference serialiser (`safetensors/src/tensor.rs`, `prepare` and `serialize`) writes the
widest dtype first, orders by name within a dtype, and pads the header with spaces to 8 bytes.
`checkpoint_bytes` counts that header by arithmetic; `file_header` builds it; both rest on `_entry`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

from .shape import ModelShape, TensorSpec, checkpoint_tensors

METADATA = {"format": "pt"}
"""What transformers wants to find in a header's `__metadata__`, and what `checkpoint_bytes` counts.
Files of mid 2023 have none (32 bytes less); AutoGPTQ 0.7 adds its version and settings (under 200 more)."""

_DTYPE_ORDER = {"F32": 0, "I32": 1, "BF16": 2, "F16": 3}
"""Widest first; among equals, the reverse of safetensors' `enum Dtype`, as its sort puts them."""

_LAYER = "model.layers.0."

_ALIGNMENT_BYTES = 8
"""safetensors' N_LEN: header and data both begin at a multiple of it."""


def file_order(tensors: Iterable[TensorSpec]) -> list[TensorSpec]:
    """The tensors in the order in which safetensors' own serialiser lays them out."""
    return sorted(tensors, key=lambda tensor: (_DTYPE_ORDER[tensor.dtype], tensor.name))


def file_header(ordered: Iterable[TensorSpec], metadata: Mapping[str, str] = METADATA) -> bytes:
    """Everything before the data: the length, the header and its padding.

    `ordered` is what `file_order` gives, and the order in which the data must follow.
    """
    entries = [_metadata_entry(metadata)] if metadata else []
    offset = 0
    for tensor in ordered:
        entries.append(_entry(tensor, offset, offset + tensor.size_bytes))
        offset += tensor.size_bytes
    header = ("{" + ",".join(entries) + "}").encode()
    header += b" " * (_padded(len(header)) - len(header))
    return len(header).to_bytes(_ALIGNMENT_BYTES, "little") + header


@lru_cache(maxsize=1024)
def checkpoint_bytes(shape: ModelShape, bits: int, group_size: int | None, zero_bias: bool = True) -> int:
    """Bytes of the one-file GPTQ checkpoint of `shape`: length field, header and data, exactly.

    `group_size` is None for no grouping. `zero_bias` is True for AutoGPTQ's files, which hold a
    bias for every linear. The time taken does not depend on the number of layers. Not counted: a
    header for each further shard, and the `rotary_emb.inv_freq` buffers that Llama checkpoints held
    until transformers stopped saving them in 2023 (29 kB at 70B).
    """
    one_layer = file_order(checkpoint_tensors(replace(shape, layers=1), bits, group_size, zero_bias))
    layers = shape.layers
    # "{" and "}", the metadata, and a comma before every tensor.
    header = 2 + len(_metadata_entry(METADATA))
    begin = 0
    for dtype in sorted({tensor.dtype for tensor in one_layer}, key=_DTYPE_ORDER.__getitem__):
        of_dtype = [tensor for tensor in one_layer if tensor.dtype == dtype]
        repeated = [tensor for tensor in of_dtype if tensor.name.startswith(_LAYER)]
        layer_bytes = sum(tensor.size_bytes for tensor in repeated)
        seen_layer = False
        for tensor in of_dtype:
            # Without its two offsets, written as 0, an entry is as long as in any other layer but
            # for the digits of the layer's number.
            fixed = 1 + len(_entry(tensor, 0, 0)) - 2
            end = begin + tensor.size_bytes
            if tensor.name.startswith(_LAYER):
                # Layers stand in the order of their number's text ("10" before "2"), but whichever
                # comes k-th begins k layers' bytes later, so the order changes no sum.
                seen_layer = True
                header += layers * (fixed - 1) + _digits(0, 1, layers)
                header += _digits(begin, layer_bytes, layers) + _digits(end, layer_bytes, layers)
            else:
                if seen_layer:
                    begin += (layers - 1) * layer_bytes
                    end += (layers - 1) * layer_bytes
                    seen_layer = False
                header += fixed + _digits(begin, 0, 1) + _digits(end, 0, 1)
            begin = end
        if seen_layer:
            begin += (layers - 1) * layer_bytes
    return _ALIGNMENT_BYTES + _padded(header) + begin


def _entry(tensor: TensorSpec, begin: int, end: int) -> str:
    extents = ",".join(map(str, tensor.shape))
    return f'"{tensor.name}":{{"dtype":"{tensor.dtype}","shape":[{extents}],"data_offsets":[{begin},{end}]}}'


def _metadata_entry(metadata: Mapping[str, str]) -> str:
    return '"__metadata__":' + json.dumps(dict(metadata), separators=(",", ":"))


def _padded(length_bytes: int) -> int:
    return -(-length_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _digits(first: int, step: int, count: int) -> int:
    """How many decimal digits `first`, `first + step`, ... (`count` of them) have together."""
    last = first + step * (count - 1)
    total = count
    power = 10
    while power <= last:
        below = 0 if first >= power else -((first - power) // step)
        total += count - below
        power *= 10
    return total
