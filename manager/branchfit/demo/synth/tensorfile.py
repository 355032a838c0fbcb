"""A safetensors file written piece by piece, in any order, never whole in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...checkpoint import file_header, file_order
from ...shape import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMPY_DTYPES = {"I32": "<i4", "F16": "<f2", "F32": "<f4"}
"""Little-endian, as the safetensors format says, on any machine."""


class TensorFile:
    """Context manager. The header comes first, since all sizes are known; tensors follow in any order.

    Leaving the block raises ValueError if a tensor was not written; the file is then no checkpoint.
    """

    def __init__(self, path: Path, tensors: Iterable[TensorSpec]) -> None:
        ordered = file_order(tensors)
        self._header = file_header(ordered)
        self._waiting: dict[str, tuple[TensorSpec, int]] = {}
        offset = len(self._header)
        for tensor in ordered:
            self._waiting[tensor.name] = (tensor, offset)
            offset += tensor.size_bytes
        self.path = path
        self.size_bytes = offset

    def __enter__(self) -> TensorFile:
        self._file = self.path.open("wb")
        self._file.write(self._header)
        self._file.truncate(self.size_bytes)
        return self

    def write(self, name: str, pieces: Iterable[NDArray[Any]]) -> None:
        """Write one tensor from consecutive pieces of it.

        Raises ValueError for a wrong element type or length, KeyError for a tensor unknown or done.
        """
        tensor, offset = self._waiting.pop(name)
        self._file.seek(offset)
        written = 0
        for piece in pieces:
            if piece.dtype != _NUMPY_DTYPES[tensor.dtype]:
                raise ValueError(f"{name} is {tensor.dtype}, not {piece.dtype}")
            written += piece.nbytes
            if written <= tensor.size_bytes:
                self._file.write(piece.reshape(-1).view("u1").data)
        if written != tensor.size_bytes:
            raise ValueError(f"{name} takes {tensor.size_bytes} bytes, not {written}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if kind is None and self._waiting:
            raise ValueError(f"{self.path} lacks {len(self._waiting)} tensors, first {next(iter(self._waiting))}")
