"""The Hub, through huggingface_hub: refs, file lists, small files, safetensors headers, streams of files.

    hub = Hub()
    state = hub.repo_state("TheBloke/WizardMath-70B-V1.0-GPTQ")
    with hub.open(state.repo, state.branches[0].commit, "model.safetensors") as body:
        for chunk in body.iter_bytes(1 << 20): ...

huggingface_hub gives the session (proxies, certificates, whatever the user configured), the token and the
endpoint; it is imported when a `Hub` is made, not before. Its own `HfApi.list_repo_refs` has neither
timeout nor retry in any version from 0.16.4 to 2.4, so the addresses are asked here, with both.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .address import RepoRef, parse_repo
from .state import BranchState, RepoFile, RepoState, TensorEntry

if TYPE_CHECKING:
    from .body import Address, Body, BrokenStream
    from .client import Hub
    from .safetensors import BadHeader, parse_header, weight_headers

__all__ = [
    "Address",
    "BadHeader",
    "Body",
    "BranchState",
    "BrokenStream",
    "Hub",
    "RepoFile",
    "RepoRef",
    "RepoState",
    "TensorEntry",
    "parse_header",
    "parse_repo",
    "weight_headers",
]

# What asks the Hub is loaded when it is first used: a card on disk is read without it.
_LATER = {
    "Address": "body",
    "BadHeader": "safetensors",
    "Body": "body",
    "BrokenStream": "body",
    "Hub": "client",
    "parse_header": "safetensors",
    "weight_headers": "safetensors",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
