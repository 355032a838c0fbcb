"""BranchFit inside text-generation-webui: the tab that gets and loads models, and the prompt lock.

`script.py` calls what stands here, and nothing here raises into the webui's start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lock import Lock
    from .office import Office

PARAMS = {"lock": True, "proofs": 20, "proof_file": "", "floor_tokens": 64}
"""Settings, each `branchfit-NAME` in the webui's settings.yaml: the lock itself, how many prompts are kept in
memory, a file to append them to (none: never on disk), and the tokens always kept for a reply."""

CHOICES_NAME = "choices.json"

_running: dict[str, Any] = {"lock": None, "choices": None, "office": None, "problem": "", "address": ""}


def setup(folder: Path, params: Mapping[str, Any]) -> None:
    """Put the lock in place. Called at every start of the page; a second time changes nothing.

    `folder` is the extension's own, where choices are kept; `params` are the settings as the webui
    has filled them in.
    """
    try:
        _setup(folder, params)
    except Exception as error:  # noqa: BLE001 - whatever an unknown host brings: it must start, and say this
        _running["problem"] = f"{type(error).__name__}: {error}"
        _refuse_without_a_lock()
    _see_to_loads()
    lock = running()
    if problem() or lock is None:
        print(f"BranchFit prompt lock refusing where a template holds: {problem()}", file=sys.stderr)
    else:
        print(f"BranchFit prompt lock {lock.status().sentence}", file=sys.stderr)


def _setup(folder: Path, params: Mapping[str, Any]) -> None:
    from .choices import ALL_MODELS, OFF, Choices
    from .endpoint import publish
    from .host import Host
    from .lock import Lock
    from .proofs import Proofs

    settings = _settings(params)
    if _running["choices"] is None:
        _running["choices"] = Choices(folder / CHOICES_NAME)
    lock = running()
    if lock is None:
        file = Path(settings["proof_file"]) if settings["proof_file"] else None
        lock = Lock(
            Host(),
            _running["choices"],
            Proofs(settings["proofs"], file),
            settings["floor_tokens"],
            settings["lock"] and _running["choices"].kept(ALL_MODELS) != OFF,
        )
        _running["lock"] = lock
    lock.install()
    lock.status()
    _running["problem"] = ""
    try:
        _running["address"] = publish(lock, lock.host)
    except Exception as error:  # noqa: BLE001 - the host's own imports may fail; the proofs are shown in the tab all the same
        _running["address"] = f"no address for the proofs: {error}"


def _see_to_loads() -> None:
    """Have every load of a GPTQ model in this webui take the right kernel, and be looked at."""
    try:
        from .host import Host
        from .loading import install_overlay

        lock = running()
        install_overlay(lock.host if lock is not None else Host())
    except Exception as error:  # noqa: BLE001 - as in setup: the webui starts, and says what is off
        print(f"BranchFit does not see to loads: {error}", file=sys.stderr)


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, each of the kind of its default: one that is not is said and left at that."""
    settings = dict(PARAMS)
    for name, default in PARAMS.items():
        value = params.get(name, default)
        if type(value) is type(default) and not (isinstance(value, int) and value < 0):
            settings[name] = value
        else:
            print(f"BranchFit: branchfit-{name}: {value!r} cannot be used, {default!r} holds.", file=sys.stderr)
    return settings


def _refuse_without_a_lock() -> None:
    """Let a model with a template generate nothing where the lock could not be started."""
    from .patches import Patch

    def refusing(inner: Callable[..., Any]) -> Callable[..., Any]:
        def start(*args: Any, **kwargs: Any) -> Any:
            last_resort({})
            yield from inner(*args, **kwargs)

        return start

    generation = sys.modules.get("modules.text_generation")
    if running() is None and generation is not None:
        Patch("_generate_reply", generation, "_generate_reply", refusing).put()


def running() -> Lock | None:
    """The lock of this webui, None before setup or where that failed."""
    lock: Lock | None = _running["lock"]
    return lock


def get_office() -> Office | None:
    """What gets and loads models here, made when first asked for; None where the host's own parts are not to be had.

    It stands whether or not the lock does.
    """
    if _running["office"] is None:
        lock = running()
        try:
            from .host import Host
            from .office import Office

            _running["office"] = Office(lock.host if lock is not None else Host(), running)
        except Exception as error:  # noqa: BLE001 - an unknown host, or a package that is not there: the tab says so
            _running["problem"] = _running["problem"] or f"{type(error).__name__}: {error}"
    made: Office | None = _running["office"]
    return made


def problem() -> str:
    """Why the lock could not start, '' where it did."""
    return str(_running["problem"])


def address() -> str:
    """Where the proofs are to be had as JSON, or why they are not."""
    return str(_running["address"])


def last_resort(state: dict[str, Any]) -> dict[str, Any]:
    """Called for every prompt through a hook that all versions have: refuses where the guard does not stand.

    Raises Refused.
    """
    lock = running()
    if lock is not None:
        lock.insist()
    elif problem() and _holds_without_a_lock():
        from .asked import asked
        from .host import api_error
        from .refusal import Refused

        refused = Refused(f"the prompt lock could not start ({problem()}). Disable the extension to go on without it.")
        origin = asked(2)
        raise api_error(str(refused)) if origin.api and not origin.stream else refused
    return state


def _holds_without_a_lock() -> bool:
    """Whether a template holds for the loaded model, asked of a host that the lock could not be started on."""
    shared = sys.modules.get("modules.shared")
    name = getattr(shared, "model_name", None)
    if _running["choices"] is None or not isinstance(name, str):
        return False
    models = Path(getattr(getattr(shared, "args", None), "model_dir", None) or "models")
    return _running["choices"].decide(name, models / name).template is not None
