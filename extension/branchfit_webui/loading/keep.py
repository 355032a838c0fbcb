"""A plan's settings kept in the webui's config-user.yaml, and in what it has read of that file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from branchfit.errors import LoadError

from ..host import Host
from . import config_user
from .plan import LoadPlan

NAME = "config-user.yaml"


def keep_settings(host: Host, plan: LoadPlan) -> None:
    """Keep `plan` for its model, on disk and at once: the next load from anywhere in the webui uses it.

    Only names that this host offers are written. Raises LoadError, with the file left as it was, where
    it is malformed or cannot be written.
    """
    offered = host.offered_loaders()
    if plan.loader not in offered:  # the host looks the name up without asking, and stops
        raise LoadError(f"{plan.loader} is not a loader of this webui: nothing was written to {NAME}.")
    settings: dict[str, Any] = {"loader": plan.loader, **plan.settings, config_user.RUNTIME: plan.runtime}
    _change(host, lambda data: config_user.with_settings(data, plan.model, settings))
    key = config_user.key_for(plan.model)
    read = _read_by_host(host)
    if read is not None:
        read.pop(key, None)  # the host lets the last one win
        read[key] = settings


def forget_settings(host: Host, name: str) -> None:
    """Take our settings for the model `name` out again. Raises LoadError where the file cannot be changed."""
    _change(host, lambda data: config_user.without(data, name))
    read = _read_by_host(host)
    if read is not None:
        read.pop(config_user.key_for(name), None)


def kept_runtime(host: Host, name: str) -> str | None:
    """The runtime that the model `name` was kept with, None where nothing was."""
    entry = (_read_by_host(host) or {}).get(config_user.key_for(name))
    runtime = entry.get(config_user.RUNTIME) if isinstance(entry, dict) else None
    return runtime if isinstance(runtime, str) else None


def _read_by_host(host: Host) -> MutableMapping[str, Any] | None:
    """What the host has read: user_config, and before v1.6 model_config with both files in it."""
    for attribute in ("user_config", "model_config"):
        read = getattr(host.shared, attribute, None)
        if isinstance(read, MutableMapping):
            return read
    return None


def _change(host: Host, change: Callable[[bytes], bytes]) -> None:
    path = host.model_dir / NAME
    try:
        data = path.read_bytes() if path.exists() else b""
        changed = change(data)
        if changed != data:
            replace_bytes(path, changed)
    except config_user.Unreadable as error:
        raise LoadError(f"{path} {error}: it is left as it is, and the settings hold for this load only.") from error
    except OSError as error:
        raise LoadError(f"{path} cannot be changed: {error.strerror or error}.") from error


def replace_bytes(path: Path, data: bytes) -> None:
    """Write `data` in place of `path`, whole or not at all; a link keeps pointing where it does."""
    path = Path(os.path.realpath(path))
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=".branchfit-")
    fresh = Path(made)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            fresh.chmod(path.stat().st_mode & 0o7777)
        if not path.exists():
            umask = os.umask(0)
            os.umask(umask)
            fresh.chmod(0o666 & ~umask)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
