"""Replacing a function of the host by one of ours around it: once, whoever came before, and undone.

newer webuis run an extension's script again at every restart of their page, and other extensions
replace the same functions. So a patch looks at what stands there now: its own is left, another's is
wrapped, and on the way out only its own is taken back. One that somebody wrapped since then stays
where it is and passes everything through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ORIGINAL = "_branchfit_original"
_OWNER = "_branchfit_owner"


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
        self._was_own_attribute = isinstance(holder, dict) or key in getattr(holder, "__dict__", {})

    def current(self) -> Callable[..., Any] | None:
        value = (
            self._holder.get(self._key) if isinstance(self._holder, dict) else getattr(self._holder, self._key, None)
        )
        return value if callable(value) else None

    def stands(self) -> bool:
        return getattr(self.current(), _OWNER, None) is self

    def put(self) -> bool:
        """Put ours in place if it does not stand there. False where there is nothing to replace."""
        current = self.current()
        if current is None:
            return False
        if getattr(current, _OWNER, None) is self:
            return True
        if hasattr(current, _OWNER) and current.__dict__[_OWNER].name == self.name:
            current = current.__dict__[_ORIGINAL]  # left by an earlier copy of this package
        ours = self._make(current)
        setattr(ours, _ORIGINAL, current)
        setattr(ours, _OWNER, self)
        try:
            self._set(ours)
        except (AttributeError, TypeError):  # an object that takes no attributes
            return False
        return True

    def undo(self) -> None:
        current = self.current()
        if getattr(current, _OWNER, None) is not self:
            return
        if self._was_own_attribute:
            self._set(current.__dict__[_ORIGINAL])
        else:
            delattr(self._holder, self._key)  # a method of the class, shadowed on the object

    def _set(self, value: Callable[..., Any]) -> None:
        if isinstance(self._holder, dict):
            self._holder[self._key] = value
        else:
            setattr(self._holder, self._key, value)
