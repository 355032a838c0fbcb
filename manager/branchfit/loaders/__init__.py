"""What each runtime can load, and whether it is here.

A loader is what the user chooses between, ExLlama or AutoGPTQ; a runtime is the package and kernel
that plays it on this host. `can_load` asks whether a runtime takes a branch on a GPU, from the
runtime's own source; `available_runtimes` asks which runtimes there are.
"""

from __future__ import annotations

from .availability import Availability, available_runtimes, host_facts, of_loader
from .fit import can_load
from .host import Host, as_installed, check_host, this_host
from .runtimes import ASSUMED, LOADERS, RUNTIMES, Runtime, Verdict, by_name
from .segments import ask_late, expandable_now, expandable_segments

__all__ = [
    "ASSUMED",
    "LOADERS",
    "RUNTIMES",
    "Availability",
    "Host",
    "Runtime",
    "Verdict",
    "as_installed",
    "ask_late",
    "available_runtimes",
    "by_name",
    "can_load",
    "check_host",
    "expandable_now",
    "expandable_segments",
    "host_facts",
    "of_loader",
    "this_host",
]
