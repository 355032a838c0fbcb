"""A branch and its runtime -> what this host offers: loaded, checked, measured.

Found by looking at the host, never at its version. `plan_load` decides and refuses before anything is
unloaded; `load` does it and never leaves a name without a model behind it; the overlay sees that any
other load of a GPTQ folder in this webui gets the right kernel, too, and is looked at afterwards.
"""

from __future__ import annotations

from .acting import LoadReport, Previous, give_back, load, previous, unload
from .freed import would_free_bytes
from .inspection import inspect_loaded
from .keep import forget_settings, keep_settings
from .offers import host_availability
from .overlay import install_overlay, remove_overlay
from .plan import LoadPlan, plan_load

__all__ = [
    "LoadPlan",
    "LoadReport",
    "Previous",
    "forget_settings",
    "give_back",
    "host_availability",
    "inspect_loaded",
    "install_overlay",
    "keep_settings",
    "load",
    "plan_load",
    "previous",
    "remove_overlay",
    "unload",
    "would_free_bytes",
]
