"""gptqmodel, imported before anything uses CUDA, so that it gets the expandable segments that it asks for; where CUDA
was in use before, torch is told of them."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator

from ..loaders import ask_late, this_host

_LEAST_WORKERS = 2
"""gptqmodel 7.6 takes half the cores as workers, and its pools ask for two (utils/threadx.py: "Virtual pool
'model_loader:cpu' requests 2 workers"): with one or two cores that is an error."""

_NOT_ITS_OWN = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "CUDA_", "ROCR_")
"""What variables begin with that its import sets for the whole process, or deletes: CUDA_DEVICE_ORDER and
ROCR_VISIBLE_DEVICES (models/auto.py), and through tokenicer HF_HOME, HF_HUB_CACHE, HF_MODULES_CACHE and
TRANSFORMERS_CACHE, in /tmp."""


def import_gptqmodel(runtime: str) -> None:
    """Import it for a `gptqmodel:...` runtime, where nobody has yet; the environment stays as it was.

    But for PYTORCH_ALLOC_CONF, which it is done for. torch reads that when CUDA is first used; where somebody was
    faster, its allocator is told now. What fails here is not raised: transformers imports it again, and says what is
    wrong.
    """
    if not runtime.startswith("gptqmodel:"):
        return
    if "gptqmodel" not in sys.modules:
        with enough_workers(), _as_it_was(), contextlib.suppress(Exception):
            # transformers first, as without us: it reads its folders from the environment when it is imported.
            importlib.import_module("transformers")
            importlib.import_module("gptqmodel")
    ask_late(this_host())


@contextlib.contextmanager
def enough_workers() -> Iterator[None]:
    """gptqmodel reads GPTQMODEL_CPU_WORKERS when it is imported: set for that moment on small machines, then unset."""
    variable = "GPTQMODEL_CPU_WORKERS"
    if variable in os.environ or (os.cpu_count() or 1) > 2 * _LEAST_WORKERS - 2:
        yield
        return
    os.environ[variable] = str(_LEAST_WORKERS)
    try:
        yield
    finally:
        os.environ.pop(variable, None)


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    before = _theirs()
    try:
        yield
    finally:
        for name in _theirs().keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _theirs() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_NOT_ITS_OWN)}
