"""Rows of token ids that can be cut and read as the host does with torch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Tensor:
    """One list of ints, or several of equal length. A slice of columns is `rows[:, start:stop]`."""

    device = "cpu"

    def __init__(self, data: list[Any]) -> None:
        self._data = data

    @property
    def _is_flat(self) -> bool:
        return not (self._data and isinstance(self._data[0], list))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._data),) if self._is_flat else (len(self._data), len(self._data[0]))

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data) if self._is_flat else (Tensor(row) for row in self._data)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, tuple):
            rows, columns = at
            picked = [row[columns] for row in self._data[rows]]
            return Tensor(picked)
        if isinstance(at, slice):
            return Tensor(self._data[at])
        item = self._data[at]
        return Tensor(item) if isinstance(item, list) else item

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tensor) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]  # like a list's: it can be changed

    def __repr__(self) -> str:
        return f"Tensor({self._data!r})"

    def tolist(self) -> list[Any]:
        return [list(row) if isinstance(row, list) else row for row in self._data]

    def to(self, device: object) -> Tensor:
        return self
