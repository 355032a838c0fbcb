"""A model's folder, or a repo's branch -> a model that is loaded right, or a sentence why not.

    loaded = load("TheBloke/WizardMath-70B-V1.0-GPTQ", "gptq-4bit-32g-actorder_True")
    loaded.ask("What is 7 * 8?")

torch and transformers are imported when something is loaded, not before, and gptqmodel before CUDA is used (`early`).
`folder` reads what a load reads,
`overlay` gives transformers in memory what the files lack, `kernels` names the kernel, `checks` compares
what came up with the files, `failures` words what went wrong, `measured` says what it took, `spill` what of it is
not on the card.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loaded import Loaded, Reply
    from .loading import load

__all__ = ["Loaded", "Reply", "load"]

_LATER = {"Loaded": "loaded", "Reply": "loaded", "load": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
