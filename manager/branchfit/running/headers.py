"""The tensors of safetensors files on this disk: where each lies, and their bytes where a few are needed."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import LoadError
from ..hub.safetensors import DTYPE_BITS, LENGTH_BYTES, BadHeader, header_length, parse_header

_FORMATS = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U8": "B"}
"""struct's letters of the dtypes that are compared; BF16 has none and is the upper half of an F32."""


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: `dtype` in safetensors' spelling, `size_bytes` from `begin_byte` of `path` on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    begin_byte: int
    size_bytes: int

    @property
    def element_bits(self) -> int:
        return DTYPE_BITS[self.dtype]

    def read(self, size_bytes: int | None = None) -> bytes:
        """The first `size_bytes` of it, all without. Raises LoadError where the file does not give them."""
        wanted = self.size_bytes if size_bytes is None else min(size_bytes, self.size_bytes)
        try:
            with self.path.open("rb") as file:
                file.seek(self.begin_byte)
                found = file.read(wanted)
        except OSError as error:
            raise LoadError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        if len(found) != wanted:
            raise LoadError(f"{self.path} ends inside tensor {self.name}: {_REMEDY}")
        return found

    def first(self, count: int) -> tuple[float, ...] | None:
        """Its first `count` numbers (fewer, if it has fewer); None for a dtype that is not compared."""
        if self.dtype == "BF16":
            halves = self.read(2 * count)
            widened = b"".join(b"\0\0" + halves[at : at + 2] for at in range(0, len(halves), 2))
            return struct.unpack(f"<{len(halves) // 2}f", widened)
        letter = _FORMATS.get(self.dtype)
        if letter is None:
            return None
        found = self.read(count * self.element_bits // 8)
        return struct.unpack(f"<{len(found) * 8 // self.element_bits}{letter}", found)

    @property
    def is_zero(self) -> bool:
        """Whether all its numbers are zero, those with a minus sign too. Reads all of it."""
        found = self.read()
        if self.dtype in ("F16", "BF16", "F32", "F64"):
            width = self.element_bits // 8
            # Little-endian: the sign is the highest bit of an element's last byte.
            return not any(byte & (0x7F if at % width == width - 1 else 0xFF) for at, byte in enumerate(found))
        return not any(found)


_REMEDY = "`branchfit verify` says which files are damaged, `branchfit repair` fetches them again."


def read_tensors(paths: Iterable[Path]) -> Mapping[str, Stored]:
    """Name -> tensor, of all these files together; only their headers are read.

    Raises LoadError for a file that is not there, is cut short or is no safetensors file, and for a
    tensor that two of them hold.
    """
    found: dict[str, Stored] = {}
    for path in paths:
        for stored in _tensors_of(path):
            if stored.name in found:
                raise LoadError(
                    f"tensor {stored.name} is in {found[stored.name].path.name} and in {path.name}: of two "
                    f"checkpoints in {path.parent} one has to go."
                )
            found[stored.name] = stored
    return found


def _tensors_of(path: Path) -> Iterator[Stored]:
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            length = header_length(file.read(LENGTH_BYTES), size_bytes)
            text = file.read(length)
    except BadHeader as error:
        raise LoadError(f"{path} is not a whole safetensors file: {error}. {_REMEDY}") from error
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}. {_REMEDY}") from error
    begin_byte = LENGTH_BYTES + length
    try:
        entries = parse_header(text, size_bytes - begin_byte)
    except BadHeader as error:
        raise LoadError(f"{path} is not a whole safetensors file: {error}. {_REMEDY}") from error
    for entry in entries:
        yield Stored(entry.name, entry.dtype, entry.shape, path, begin_byte, entry.size_bytes)
        begin_byte += entry.size_bytes
