"""The proofs as JSON, at an address of the webui's own API."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import urlsplit

from .host import Host, module
from .lock import Lock

PATH = "/v1/internal/branchfit/prompts"

_OWN_PAGES = ("localhost", "127.0.0.1", "::1")
"""The webui answers pages of any origin (allow_origins="*"), so that any page open in the browser could read
what was asked. Prompts go to this machine's own pages, and to programs, which send no Origin."""


def to_dict(lock: Lock) -> dict[str, Any]:
    """The lock's state and the last prompts, newest first."""
    status = lock.status()
    template = status.decision.template
    return {
        "active": status.active,
        "status": status.sentence,
        "model": status.model,
        "template": template.name if template is not None else None,
        "parts": status.parts,
        "prompts": [proof.to_dict() for proof in lock.proofs.last()],
    }


def publish(lock: Lock, host: Host) -> str:
    """Add the address to the API of this webui, if it runs one. Says in words what came of it.

    Prompts are other people's too, so the host's admin key guards them where it knows one. v1.x
    answers from a plain http.server that takes no routes.
    """
    wanted = getattr(host.args, "api", False) or "openai" in (getattr(host.args, "extensions", None) or ())
    if not wanted:
        return "the webui's API is not on"
    for name in ("modules.api.script", "extensions.openai.script"):
        script = module(name)
        # Imported only where the host is about to do the same.
        if script is None and name.startswith("extensions") and "openai" not in (host.args.extensions or ()):
            continue
        try:
            script = script or importlib.import_module(name)
        except ImportError:
            continue
        app: Any = getattr(script, "app", None)
        if not hasattr(app, "get"):
            continue
        if not any(getattr(route, "path", None) == PATH for route in app.routes):
            from fastapi import Header, HTTPException

            keys = getattr(script, "check_admin_key", None) or getattr(script, "check_key", None)

            def prompts(origin: Any = Header(None)) -> dict[str, Any]:  # noqa: B008 - FastAPI's way
                if isinstance(origin, str) and not _is_own(origin):
                    raise HTTPException(status_code=403, detail=f"prompts are not shown to pages of {origin}")
                return to_dict(current())

            app.get(PATH, dependencies=keys)(prompts)
        _published["lock"] = lock
        return f"GET {PATH}"
    return "not on this webui, whose API takes no further addresses"


def _is_own(origin: str) -> bool:
    try:
        return urlsplit(origin).hostname in _OWN_PAGES
    except ValueError:
        return False


_published: dict[str, Lock] = {}


def current() -> Lock:
    """The lock whose proofs the address shows: the one of the last start of the page."""
    return _published["lock"]
