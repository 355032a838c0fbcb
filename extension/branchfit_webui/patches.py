"""Replacing a function of the host by one of ours around it: once, whoever came before, and undone.

Newer webuis run an extension's script again at every restart of their page, and other extensions
replace the same functions. So a patch looks at what stands there now: its own is left, another's is
wrapped, and on the way out only its own is taken back. One that somebody wrapped since then stays
where it is and passes everything through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_SELF = "_branchfit_self"
_NAME = "_branchfit_name"
_ORIGINAL = "_branchfit_original"


class Patch:
    """One replaced function: an attribute of a module or object, or an entry of a dict.

    `make` gets the function that stood there and gives the one to put in its place.
    """

    def __init__(
        self, name: str, holder: Any, key: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        self.name = name
        self._holder = holder
        self._key = key
        self._make = make
        self._ours: Callable[..., Any] | None = None
        self._original: Callable[..., Any] | None = None

    def current(self) -> Callable[..., Any] | None:
        value = (
            self._holder.get(self._key) if isinstance(self._holder, dict) else getattr(self._holder, self._key, None)
        )
        return value if callable(value) else None

    def stands(self) -> bool:
        return self._ours is not None and self.current() is self._ours

    def put(self) -> bool:
        """Put ours in place if it does not stand there. False where there is nothing to replace."""
        current = self.current()
        if current is None:
            return False
        if current is self._ours:
            return True
        marks = getattr(current, "__dict__", {})
        # functools.wraps copies marks to another's wrapper, so that a mark counts only on the function it names.
        if marks.get(_SELF) is current and marks[_NAME] == self.name:
            current = marks[_ORIGINAL]  # left by an earlier copy of this package
        ours = self._make(current)
        ours.__dict__.update({_SELF: ours, _NAME: self.name, _ORIGINAL: current})
        try:
            self._set(ours)
        except (AttributeError, TypeError):  # an object that takes no attributes
            return False
        self._ours, self._original = ours, current
        return True

    def undo(self) -> None:
        """Take ours out again; what somebody put over it since stays."""
        if self.stands() and self._original is not None:
            self._set(self._original)
        self._ours = self._original = None

    def _set(self, value: Callable[..., Any]) -> None:
        if isinstance(self._holder, dict):
            self._holder[self._key] = value
        else:
            setattr(self._holder, self._key, value)
