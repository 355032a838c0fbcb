"""Every load of a GPTQ folder through the host's Transformers loader: the kernel named, the traps closed, looked at.

The host's own function is wrapped where `load_model` looks it up, so that it holds for the page's Model
tab, the API, and a reload after idling, as for ours. Nothing on disk is touched.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from branchfit.errors import LoadError
from branchfit.gpus import detect

from ..host import Host
from ..patches import Patch
from .keep import kept_runtime
from .plan import LoadPlan, transformers_runtime

if TYPE_CHECKING:
    from branchfit.running.folder import ModelFolder

_patches: list[Patch] = []
_problem: list[str] = []


class Seen:
    """What a load through the overlay found out: remarks, in sentences."""

    def __init__(self) -> None:
        self.notes: tuple[str, ...] = ()


class _Mine(threading.local):
    """What this thread's next load follows."""

    plan: LoadPlan | None = None
    runtime: str | None = None
    seen: Seen | None = None


_mine = _Mine()
_checked: list[tuple[weakref.ref[Any], str | None]] = []
"""The models that came through here, with their runtimes."""


@contextmanager
def planned(plan: LoadPlan | None, runtime: str | None = None) -> Iterator[Seen]:
    """Loads of this thread follow `plan`, or take `runtime`, instead of choosing for themselves."""
    before = (_mine.plan, _mine.runtime, _mine.seen)
    seen = Seen()
    _mine.plan, _mine.runtime, _mine.seen = plan, plan.runtime if plan else runtime, seen
    try:
        yield seen
    finally:
        _mine.plan, _mine.runtime, _mine.seen = before


def install_overlay(host: Host) -> None:
    """Put it in place; a second time changes nothing. Raises LoadError where the host has no such loader."""
    if _patches and _patches[0].stands():
        return
    name = host.load_function("Transformers")
    patch = Patch("transformers_loader", host.models, name or "", lambda inner: _around(host, inner))
    if name is None or not patch.put():
        _problem[:] = ["This webui's Transformers loader was not found: GPTQ models it loads are not looked at."]
        raise LoadError(_problem[0])
    _patches[:] = [patch]
    _problem.clear()


def problem() -> str:
    """Why the last install_overlay failed, '' where it did not."""
    return _problem[0] if _problem else ""


def remove_overlay(host: Host) -> None:
    """Take it out again; where another extension has wrapped it since, it stays and passes everything through."""
    for patch in _patches:
        patch.undo()
    _patches.clear()


def was_checked(model: Any) -> bool:
    """Whether `model` came through here, kernel named and tensors looked at."""
    return any(ref() is model for ref, _ in _checked)


def runtime_of(model: Any) -> str | None:
    return next((runtime for ref, runtime in _checked if ref() is model), None)


def _around(host: Host, inner: Callable[..., Any]) -> Callable[..., Any]:
    def load(model_name: str, *args: Any, **kwargs: Any) -> Any:
        if not _patches:
            return inner(model_name, *args, **kwargs)
        folder = host.loaded_folder(model_name)
        try:
            read = _read(folder, model_name)
            if read is None:
                return inner(model_name, *args, **kwargs)
            return _load(host, read, lambda: inner(model_name, *args, **kwargs))
        except BaseException:
            # From v1.8 load_model sets the name first, and leaves it standing where no model came up.
            host.shared.model_name = "None"
            raise

    return load


def _read(folder: Path, model_name: str) -> ModelFolder | None:
    """The folder, where it is one to see to: GPTQ, or whatever a plan of ours is about. Raises LoadError."""
    from branchfit.running.folder import read_folder

    ours = _mine.plan is not None and _mine.plan.model == model_name
    try:
        read = read_folder(folder)
    except LoadError:
        if ours or _says_gptq(folder):
            raise
        return None  # pickles, GGUF, what else the host can do
    return read if ours or read.quantization is not None else None


def _load(host: Host, read: ModelFolder, inner: Callable[[], Any]) -> Any:
    from branchfit.running.checks import check_loaded
    from branchfit.running.early import import_gptqmodel
    from branchfit.running.kernels import quantization_config
    from branchfit.running.loading import uncompiled
    from branchfit.running.overlay import overlaid

    changes, runtime = dict(read.changes), None
    if read.quantization is not None:
        runtime = _runtime(host, read)
        changes["quantization_config"] = quantization_config(read, runtime)
        import_gptqmodel(runtime)
    with overlaid(read.folder, changes):
        output = inner()
    model = output[0] if type(output) is tuple else output
    notes = check_loaded(model, read, runtime=runtime)
    if runtime == "gptqmodel:torch" and getattr(getattr(model, "device", None), "type", "") == "cpu":
        uncompiled(model, read)
    _checked[:] = [*(one for one in _checked if one[0]() is not None), (weakref.ref(model), runtime)]
    if _mine.seen is not None:
        _mine.seen.notes = notes
    return output


def _runtime(host: Host, read: ModelFolder) -> str:
    """The kernel: as planned, else as this model was kept with, else the first that takes it; never the library's."""
    if _mine.plan is not None and _mine.plan.model == read.folder.name:
        return _mine.plan.runtime
    wished = _mine.runtime or kept_runtime(host, read.folder.name)
    on_cpu = bool(getattr(host.args, "cpu", False))
    return transformers_runtime(host, read, detect(), wished, on_cpu=on_cpu)


def _says_gptq(folder: Path) -> bool:
    """Whether a folder that cannot be read says itself that it is GPTQ."""
    if (folder / "quantize_config.json").is_file():
        return True
    try:
        said = json.loads((folder / "config.json").read_bytes()).get("quantization_config")
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
    return isinstance(said, dict) and str(said.get("quant_method") or "").lower() == "gptq"
