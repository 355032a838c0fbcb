"""What is wrong with the model that is loaded, in a sentence."""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

from branchfit.errors import BranchFitError, LoadedWrong, LoadError, WrongKernel
from branchfit.gpus import detect

from ..host import Host
from .overlay import problem, was_checked
from .plan import transformers_runtime

_found: list[tuple[weakref.ref[Any], str]] = []


def inspect_loaded(host: Host) -> str:
    """What is wrong with the model that is loaded, or with how models are; '' where nothing is.

    One that the webui loaded before its extensions (`--model`) has gone past the overlay: it may be
    full of random numbers, or run another kernel. Looked at once for each model.
    """
    return " ".join(filter(None, (_of_the_model(host), problem())))


def _of_the_model(host: Host) -> str:
    model = host.model
    if model is None:
        return _name_alone(host)
    if was_checked(model):
        return ""
    for ref, sentence in _found:
        if ref() is model:
            return sentence
    sentence = _inspect(host, model)
    with contextlib.suppress(TypeError):  # an object that takes no weak references is looked at each time
        _found[:] = [*(one for one in _found if one[0]() is not None), (weakref.ref(model), sentence)]
    return sentence


def _name_alone(host: Host) -> str:
    name = getattr(host.shared, "model_name", None)
    if not isinstance(name, str) or name in ("", "None") or bool(getattr(host.args, "idle_timeout", False)):
        return ""  # unloaded for being idle, the name stays for the next request
    return f"The webui names {name}, and no model is loaded: its load failed. Load it again."


def _inspect(host: Host, model: Any) -> str:
    from branchfit.running.checks import check_loaded
    from branchfit.running.folder import read_folder

    name = host.model_name()
    if name is None or getattr(host.args, "loader", None) != "Transformers" or not hasattr(model, "named_modules"):
        return ""
    try:
        read = read_folder(host.loaded_folder(name))
    except LoadError:
        return ""
    if read.quantization is None:
        return ""
    try:
        check_loaded(model, read)
    except LoadedWrong as error:
        return str(error)
    try:
        runtime = transformers_runtime(host, read, detect(), None, on_cpu=bool(getattr(host.args, "cpu", False)))
        check_loaded(model, read, runtime=runtime)
    except WrongKernel as error:
        return (
            f"{name} was loaded before BranchFit was, and its kernel was left to chance: it is {error.found}. "
            f"Load it again for {error.runtime}."
        )
    except BranchFitError:
        return ""
    return ""
