"""BranchFit: paste a quantised repo; get the branch that fits this GPU.

    from branchfit import Hub, detect, load, pull, read_card
    from branchfit.recommend import recommend

Public names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "BranchFitError": "errors",
    "Gpu": "gpus",
    "Hub": "hub",
    "Installed": "download",
    "Loaded": "running",
    "Machine": "gpus",
    "ModelCard": "card",
    "Recommendation": "recommend",
    "Template": "prompts",
    "Variant": "variants",
    "available_runtimes": "loaders",
    "detect": "gpus",
    "load": "running",
    "parse_repo": "hub",
    "pull": "download",
    "read_card": "card",
}
"""Public name -> the room it stands in. No name is also a room's: importing a room would hide it."""

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'branchfit' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
