"""Loading and unloading in the host: as its own page does it, and true whatever happens on the way."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from branchfit.errors import LoadError
from branchfit.gpus import Machine, detect
from branchfit.memory import Need
from branchfit.recommend import Recommendation

from ..host import Host, module
from . import measuring, overlay
from .keep import kept_runtime
from .plan import LoadPlan

WAIT_SECONDS = 120.0
"""How long a load waits for a reply that is being written: about 500 tokens at the speed of a slow GPU."""

CHECK_SECONDS = 0.2
"""How soon a wait is given up after somebody asked for it: at once, to a person."""

_CONVERTED = frozenset({"wbits", "groupsize", "pre_layer", "model_type", "cpu_memory", "gpu_memory"})
"""Parameters whose default in shared.args is not what the host's page would send for it."""

_MISSING = object()


@dataclass(frozen=True)
class LoadReport:
    """A load that came up right. `predicted_bytes`, `error_bytes` and `measured_bytes` are None where unknown;
    `line` says it all in one sentence."""

    plan: LoadPlan
    seconds: float
    predicted_bytes: int | None
    error_bytes: int | None
    measured_bytes: int | None
    line: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Previous:
    """What was loaded before: name, loader, the host's arguments, and the context it said."""

    name: str
    loader: str
    args: Mapping[str, Any]
    context_tokens: int | None
    runtime: str | None


_before: list[Previous] = []


def previous(host: Host) -> Previous | None:
    """The model that the last load replaced, whether or not that load came up. None before the first, and where its
    folder is gone since."""
    back = _before[-1] if _before else None
    return back if back is not None and host.loaded_folder(back.name).exists() else None


def load(
    host: Host,
    plan: LoadPlan,
    *,
    need: Need | None = None,
    recommendation: Recommendation | None = None,
    on_step: Callable[[str], None] = print,
    check: Callable[[], None] = lambda: None,
) -> LoadReport:
    """Unload what is loaded, load `plan`, check it, and measure what it took.

    `check` is called while it waits and before anything is unloaded; what it raises ends the load there.

    Waits for a reply that is being written, in whatever thread this runs. `need` is the forecast to
    compare with (`recommendation`'s choice, if not given, where it is for this model). Raises LoadError,
    OutOfMemory or LoadedWrong; then nothing is loaded, the host says so, and `previous` is what to
    offer back.
    """
    need = need if need is not None else _forecast(plan, recommendation)
    if plan.loader == "Transformers":
        overlay.install_overlay(host)  # without it the kernel would be left to chance
    with _alone(host, on_step, check):
        check()
        _remember(host)
        _unload(host, on_step)
        machine = detect()
        on_step(f"Loading {plan.model}: {plan.reason}")
        meter = measuring.meter(plan, machine, need)
        began = time.monotonic()
        try:
            _set_parameters(host, plan)
            with overlay.planned(plan) as seen:
                _call_load_model(host, plan)
        except (Exception, SystemExit) as error:
            raise _failed(host, error, plan, machine, need, recommendation) from error
        seconds = time.monotonic() - began
        measured = measuring.read(meter)
        measuring.record(meter, host.model, plan, machine, need, recommendation)
    line = f"{plan.model} is loaded with {plan.loader} ({plan.runtime}) in {seconds:.0f} s."
    if measured is not None:
        line = f"{line} {measured.line()}."
    on_step(line)
    return LoadReport(
        plan,
        seconds,
        need.total_bytes if need is not None else None,
        need.error_bytes if need is not None else None,
        measured.peak_bytes if measured is not None else None,
        line,
        (*plan.notes, *seen.notes, *((measured.spill,) if measured is not None and measured.spill else ())),
    )


def unload(host: Host) -> None:
    """Unload the model through the host, and leave no name behind. Waits for a reply that is being written."""
    with _alone(host, lambda step: None):
        _remember(host)
        _unload(host, lambda step: None)


def give_back(host: Host, *, on_step: Callable[[str], None] = print) -> LoadReport:
    """Load what the last load replaced, with the arguments it had. Raises LoadError, and where there is nothing."""
    back = previous(host)
    if back is None:
        raise LoadError("nothing was loaded before, or its folder is no longer there.")
    plan = LoadPlan(
        model=back.name,
        loader=back.loader,
        runtime=back.runtime or "transformers",
        settings=back.args,
        kernel=None,
        reason=f"{back.name} was loaded before, with {back.loader}; it is loaded again as it was.",
        notes=(),
    )
    with _alone(host, on_step):
        _unload(host, on_step)
        on_step(f"Loading {back.name} again.")
        machine, began = detect(), time.monotonic()
        try:
            for name, value in back.args.items():
                setattr(host.args, name, value)
            with overlay.planned(None, back.runtime):
                _call_load_model(host, plan, back.context_tokens)
        except (Exception, SystemExit) as error:
            raise _failed(host, error, plan, machine, None, None) from error
        seconds = time.monotonic() - began
    _before.pop()
    line = f"{back.name} is loaded again with {back.loader}, in {seconds:.0f} s."
    on_step(line)
    return LoadReport(plan, seconds, None, None, None, line, ())


@contextmanager
def _alone(host: Host, on_step: Callable[[str], None], check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the host's generation lock, so that no reply is cut off and the host unloads nothing meanwhile.

    It is None until the server has started, before v1.5's page for example; then nobody generates.
    llama.cpp's replies in v4 do not take it, and are counted instead.
    """
    lock = getattr(host.shared, "generation_lock", None)
    if lock is not None and not lock.acquire(blocking=False):
        on_step("Waiting for the reply that is being written.")
        end = time.monotonic() + WAIT_SECONDS
        while not lock.acquire(timeout=CHECK_SECONDS):
            check()
            if time.monotonic() > end:
                raise LoadError("a reply is still being written: stop it, then load.")
    try:
        if getattr(host.models, "active_generation_count", 0):
            raise LoadError("a reply is being written: stop it, then load.")
        yield
    finally:
        if lock is not None:
            lock.release()


def _remember(host: Host) -> None:
    name = host.model_name()
    loader = getattr(host.args, "loader", None)
    if name is None or not isinstance(loader, str):
        return
    params = host.offered_loaders().get(loader) or tuple(vars(host.args))
    names = {"loader", *(each for each in params if hasattr(host.args, each))}
    names |= {"gpu_memory"} & set(vars(host.args))
    args = {each: getattr(host.args, each) for each in names}
    runtime = overlay.runtime_of(host.model) or kept_runtime(host, name)
    _before[:] = [Previous(name, loader, args, host.context_tokens(), runtime)]


def _unload(host: Host, on_step: Callable[[str], None]) -> None:
    if host.model is not None:
        on_step(f"Unloading {host.model_name() or 'the present model'}.")
    measuring.close(host)
    host.models.unload_model()
    # Up to v1.7 the name stays when a model goes, and v2.8 and newer keep it where none was there.
    host.shared.model = host.shared.tokenizer = None
    host.shared.model_name = "None"


def _set_parameters(host: Host, plan: LoadPlan) -> None:
    """The host's arguments for this model: defaults, then what it reads from the folder, then the plan.

    Defaults first, because whatever the model before was given would stay; what stands on the
    command line is left to the user. The host converts what its page's values are not yet.
    """
    settings = module("modules.models_settings")
    if settings is None:
        raise LoadError("this webui has no modules.models_settings: it cannot be told how to load.")
    read = getattr(settings, "get_model_metadata", None) or settings.get_model_settings_from_yamls
    defaults = getattr(host.shared, "args_defaults", None)
    given = getattr(host.shared, "provided_arguments", None)
    params = host.offered_loaders().get(plan.loader, ())
    state: dict[str, Any] = {}
    if given is not None:
        for name in params:
            value = getattr(defaults, name, _MISSING)
            if value is not _MISSING and name not in given and name not in _CONVERTED:
                state[name] = value
    state |= {**read(plan.model), **plan.settings, "loader": plan.loader}
    settings.update_model_parameters(state)
    host.args.loader = plan.loader


def _call_load_model(host: Host, plan: LoadPlan, context_tokens: int | None = None) -> None:
    shared = host.shared
    shared.model, shared.tokenizer = host.models.load_model(plan.model, plan.loader)
    if shared.model is None:
        raise LoadError(f"the webui's {plan.loader} loader gave no model for {plan.model}; its log says why.")
    shared.model_name = plan.model  # load_model does it since November 2023
    tokens = context_tokens or plan.settings.get("truncation_length")
    if isinstance(tokens, int) and "truncation_length" in host.settings:
        shared.settings["truncation_length"] = tokens
    if hasattr(host.models, "last_generation_time"):  # or it is unloaded for having been idle
        host.models.last_generation_time = time.time()


def _failed(
    host: Host,
    error: BaseException,
    plan: LoadPlan,
    machine: Machine,
    need: Need | None,
    recommendation: Recommendation | None,
) -> LoadError:
    """The error in a sentence, after everything the attempt left behind is gone."""
    from branchfit.running.failures import explain

    explained = explain(
        error,
        what=plan.model,
        need=need,
        machine=machine,
        recommendation=recommendation,
        context_tokens=plan.settings.get("truncation_length"),
        runtime=plan.runtime,
        cache=measuring.cache_of(plan) or "fp16",
    )
    measuring.let_go(error)
    _unload(host, lambda step: None)
    gc.collect()
    # v2.8 and newer skip this in unload_model where no model is named yet.
    clear = getattr(module("modules.torch_utils") or host.models, "clear_torch_cache", None)
    if callable(clear):
        clear()
    return explained


def _forecast(plan: LoadPlan, recommendation: Recommendation | None) -> Need | None:
    if recommendation is None or recommendation.choice is None:
        return None
    chosen = recommendation.choice
    found = [one for one in recommendation.assessments if one.variant.branch == chosen.branch]
    return found[0].need if found and found[0].runtime == plan.runtime else None
