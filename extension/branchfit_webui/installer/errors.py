"""What a setup refuses. `str()` says what was wanted, what was found, and what to do.

BranchFitError
├── SetupError           the setup could not be made, or undone
│   ├── CannotEdit       a file of the host's that a careful edit does not fit
│   ├── HostPythonError  the host's Python does not run, is too old, or its pip refuses
│   └── WouldMove        a package of the host's would have to change
└── NotInstalled
    └── WebuiNotFound    no text-generation-webui where it was looked for
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from branchfit.errors import BranchFitError, NotInstalled

__all__ = ["CannotEdit", "HostPythonError", "SetupError", "WebuiNotFound", "WouldMove"]


class SetupError(BranchFitError):
    """The setup could not be made, or undone."""


class CannotEdit(SetupError):
    """A file that cannot be edited without touching something else. `by_hand` is the line to write into it."""

    def __init__(self, path: Path | str, reason: str, by_hand: str) -> None:
        self.path = path
        self.reason = reason
        self.by_hand = by_hand
        super().__init__(f"{path} is left as it is: {reason}. Write this into it by hand: {by_hand}")


class HostPythonError(SetupError):
    """The host's Python cannot be used."""


class WouldMove(SetupError):
    """A package of the host's would have to change. `moves` are (name, version there, version wanted)."""

    def __init__(self, what: str, moves: Sequence[tuple[str, str, str]], said: str = "") -> None:
        self.what = what
        self.moves = tuple(moves)
        self.said = said
        named = "; ".join(f"{name}: {there} is there, {wanted} is wanted" for name, there, wanted in self.moves)
        super().__init__(
            f"{what} cannot be installed without moving a package that the webui has, and none is moved. "
            f"{named or said}. Nothing was changed. The webui's own update may bring a newer one; "
            f"--own-folder puts what BranchFit needs into the extension's folder instead."
        )


class WebuiNotFound(NotInstalled):
    """No webui. `tried` are the places that were looked at, in words."""

    def __init__(self, wanted: str, tried: Sequence[str]) -> None:
        BranchFitError.__init__(self, f"{wanted} Looked at: {'; '.join(tried) or 'nothing'}. {_REMEDY}")
        self.name = "text-generation-webui"
        self.folder = Path()
        self.known = ()
        self.tried = tuple(tried)


_REMEDY = (
    "Name its folder (the one with server.py) with --webui DIR or BRANCHFIT_WEBUI, or get it first: "
    "git clone https://github.com/oobabooga/text-generation-webui"
)
