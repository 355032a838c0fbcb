"""Whether torch's allocator has expandable segments, which gptqmodel asks for when it is imported.

Without them K and V lie among what earlier layers left, and the gaps between are lost: 1.3 GiB more for a 13B model at
4096 tokens, measured on an H100. That counts only where nobody has used CUDA before the import; elsewhere torch can be
told (`ask_late`). Each of 69 loads that were begun so had allocated at most what it has otherwise, to the byte.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from .host import Host, at_least

__all__ = ["ask_late", "expandable_now", "expandable_segments"]

_WISH = "expandable_segments:True"

_HEARD_SINCE = (2, 11)
"""The oldest torch in which gptqmodel's PYTORCH_ALLOC_CONF was seen to count on CUDA (measured). Older ones hear
PYTORCH_CUDA_ALLOC_CONF alone; 2.9.1, too, was reported to pytorch/pytorch to do so, though it calls that deprecated."""


def expandable_segments(host: Host, environ: Mapping[str, str] | None = None, torch: Any = None) -> bool:
    """Whether a gptqmodel load in this process will have them. Imports nothing, and never raises.

    Once CUDA is in use torch itself is asked: its allocator is what it is, unless it can be told, which every load of
    ours does (`ask_late`) and which is promised where it was measured. Before, it is what the environment says, or
    what gptqmodel will say. `torch` is the one in sys.modules, if not given.
    """
    if host.platform.startswith("win"):  # torch warns there that it has none, and goes on without
        return False
    torch = sys.modules.get("torch") if torch is None else torch
    has = _has(torch)
    if has is None:
        return _wished(environ) and _heard(host, environ)
    return has or (at_least(host.version("torch"), *_HEARD_SINCE) and _late(host, environ, torch) is not None)


def expandable_now(host: Host, torch: Any) -> bool:
    """Whether torch's allocator, in use, has them: not what it may be told, but what it is. Where it does not say,
    what the environment does."""
    has = _has(torch)
    if has is None or host.platform.startswith("win"):
        return expandable_segments(host, torch=torch)
    return has


def ask_late(host: Host, environ: Mapping[str, str] | None = None, torch: Any = None) -> bool:
    """Expandable segments from now on, where gptqmodel or the user asked for them when CUDA was already in use.

    torch reads what was asked only once, when CUDA is first used. What is allocated stays where it is. Whether it has
    them since; nothing happens where the environment or somebody in this process asked for something else, on Windows,
    on ROCm, in a torch that cannot be told, and where CUDA is not in use yet. Imports nothing, and never raises.
    """
    torch = sys.modules.get("torch") if torch is None else torch
    tell = _late(host, environ, torch) if _has(torch) is False else None
    if tell is None:
        return False
    with suppress(Exception):
        tell(_WISH)
    if _has(torch):
        return True
    _refused.append(torch)
    return False


_refused: list[Any] = []
"""What was told in vain: nothing is promised of it, and it is not told again."""


def _late(host: Host, environ: Mapping[str, str] | None, torch: Any) -> Callable[[str], None] | None:
    """What tells torch's allocator, where it may be told; None elsewhere."""
    if host.platform.startswith("win") or not _wished(environ) or any(one is torch for one in _refused):
        return None
    with suppress(Exception):  # an older torch, or one that is not all there
        if torch.version.hip or _settings(torch) != "":  # told, all that was set before would be set back
            return None
        # The latter is deprecated for the former, with a warning (seen in 2.13).
        newer = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
        tell: Callable[[str], None] = newer or torch.cuda.memory._set_allocator_settings
        return tell
    return None


def _settings(torch: Any) -> str | None:
    """What torch's allocator was told last, by the environment or at run time; None where it does not say."""
    said = torch.cuda.memory._snapshot()["allocator_settings"]
    return next((str(said[name]) for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF") if name in said), None)


def _has(torch: Any) -> bool | None:
    """What torch's allocator says itself; None where CUDA is not in use, or it does not say."""
    with suppress(Exception):  # a torch without CUDA, or one whose snapshot does not say
        if torch is not None and torch.cuda.is_initialized():
            return bool(torch.cuda.memory._snapshot()["allocator_settings"]["expandable_segments"])
    return None


def _wished(environ: Mapping[str, str] | None) -> bool:
    """Whether the environment asks for them, or leaves it to gptqmodel, which does."""
    environ = os.environ if environ is None else environ
    older, newer = environ.get("PYTORCH_CUDA_ALLOC_CONF"), environ.get("PYTORCH_ALLOC_CONF")
    # Which of the two counts where both are set has changed from version to version.
    return (not older or _asks(older)) and (not newer or _asks(newer))


def _heard(host: Host, environ: Mapping[str, str] | None) -> bool:
    """Whether that counts when CUDA is first used: every torch hears the older variable."""
    older = (os.environ if environ is None else environ).get("PYTORCH_CUDA_ALLOC_CONF")
    return bool(older) or at_least(host.version("torch"), *_HEARD_SINCE)


def _asks(settings: str) -> bool:
    return _WISH in settings.replace(" ", "")
