"""Whether torch's allocator has expandable segments, which gptqmodel asks for when it is imported.

Without them K and V lie among what earlier layers left, and the gaps between are lost: 1.8 GB more for a 13B model at
4096 tokens, measured on an H100.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .host import Host, at_least

__all__ = ["expandable_segments"]

_HEARD_SINCE = (2, 11)
"""The oldest torch in which gptqmodel's PYTORCH_ALLOC_CONF was seen to count on CUDA (measured). Older ones hear
PYTORCH_CUDA_ALLOC_CONF alone; 2.9.1, too, was reported to pytorch/pytorch to do so, though it calls that deprecated."""


def expandable_segments(host: Host, environ: Mapping[str, str] | None = None, torch: Any = None) -> bool:
    """Whether a gptqmodel load in this process has them. Imports nothing, and never raises.

    Once CUDA is in use torch itself is asked: its allocator is then what it is, whoever is imported later. Before, it
    is what the environment says, or what gptqmodel will say. `torch` is the one in sys.modules, if not given.
    """
    if host.platform.startswith("win"):  # torch warns there that it has none, and goes on without
        return False
    torch = sys.modules.get("torch") if torch is None else torch
    with suppress(Exception):  # a torch without CUDA, or one whose snapshot does not say
        if torch is not None and torch.cuda.is_initialized():
            return bool(torch.cuda.memory._snapshot()["allocator_settings"]["expandable_segments"])
    environ = os.environ if environ is None else environ
    older, newer = environ.get("PYTORCH_CUDA_ALLOC_CONF"), environ.get("PYTORCH_ALLOC_CONF")
    if older:
        # Which of the two counts where both are set has changed from version to version.
        return _asks(older) and (not newer or _asks(newer))
    return (not newer or _asks(newer)) and at_least(host.version("torch"), *_HEARD_SINCE)


def _asks(settings: str) -> bool:
    return "expandable_segments:True" in settings.replace(" ", "")
