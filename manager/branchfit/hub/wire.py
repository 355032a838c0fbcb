"""One streamed GET through whatever session huggingface_hub hands out.

0.x hands out a requests.Session (one a thread), 1.x an httpx.Client, 2.x an httpx2.Client. What differs
between them, streaming and the exceptions, is held here.
"""

from __future__ import annotations

import errno
import http.client
import importlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

REQUESTS_READ_BYTES = 128 * 1024
"""urllib3 loses what it had of a piece when a connection is reset: small pieces lose little."""


@dataclass(frozen=True)
class WireAnswer:
    """An answer whose body has not been read. `chunks` may be called once; `headers` ignore case."""

    status: int
    headers: Mapping[str, str]
    chunks: Callable[[], Iterator[bytes]]


_SESSION_LOCK = threading.Lock()


def shared_session() -> Any:
    """huggingface_hub's session. 1.x makes two clients when two threads ask for the first one at once."""
    from huggingface_hub.utils import get_session

    with _SESSION_LOCK:
        return get_session()


@contextmanager
def streamed_get(url: str, headers: Mapping[str, str], timeout_s: float) -> Iterator[WireAnswer]:
    """GET without following redirects. `timeout_s` bounds the connect and every single read.

    Raises what `wire_errors()` lists, in the block too.
    """
    session = shared_session()
    # requests.Session has a `stream` as well, but it is a flag.
    if callable(getattr(session, "stream", None)):
        with session.stream("GET", url, headers=dict(headers), timeout=timeout_s, follow_redirects=False) as answer:
            yield WireAnswer(answer.status_code, answer.headers, answer.iter_raw)
        return
    answer = session.get(url, headers=dict(headers), timeout=timeout_s, stream=True, allow_redirects=False)
    try:
        yield WireAnswer(answer.status_code, answer.headers, lambda: _read_raw(answer.raw))
    finally:
        answer.close()


def wire_errors() -> tuple[type[Exception], ...]:
    """What a session raises when the line, and not the Hub, is at fault (OSError: sockets, TLS, DNS, offline mode)."""
    found: list[type[Exception]] = [OSError, http.client.HTTPException]
    roots = {kind.__module__.partition(".")[0] for kind in type(shared_session()).__mro__}
    if "requests" in roots:
        found += [
            importlib.import_module("requests").exceptions.RequestException,
            importlib.import_module("urllib3").exceptions.HTTPError,
        ]
    for root in roots & {"httpx", "httpx2"}:
        module = importlib.import_module(root)
        found += [module.HTTPError, module.StreamError, module.InvalidURL]
    return tuple(found)


def reason(error: BaseException, timeout_s: float) -> str:
    """Why the line failed, in a few words, without the library's own wrapping (which may quote signed addresses)."""
    chain = list(_chain(error))
    kinds = " ".join(type(link).__name__ for link in chain)
    for link in chain:
        if isinstance(link, socket.gaierror):
            return "the host's name cannot be resolved"
        if isinstance(link, ssl.SSLError):
            return f"TLS failed ({link.reason or type(link).__name__})"
    if "Timeout" in kinds or any(isinstance(link, TimeoutError) for link in chain):
        return f"nothing came for {timeout_s:g} s"
    if "OfflineModeIsEnabled" in kinds:
        return "offline mode is on (HF_HUB_OFFLINE)"
    for link in chain:
        if isinstance(link, ConnectionRefusedError):
            return "the connection was refused"
        if isinstance(link, OSError) and link.errno in errno.errorcode and link.strerror:
            return link.strerror.lower()
    if "IncompleteRead" in kinds or "RemoteProtocolError" in kinds or "RemoteDisconnected" in kinds:
        return "the connection was closed before the end"
    return type(error).__name__


def _read_raw(raw: Any) -> Iterator[bytes]:
    while chunk := raw.read(REQUESTS_READ_BYTES, decode_content=False):
        yield chunk


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and all it was made from: causes, contexts, and the exceptions urllib3 keeps in `args` and `reason`."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        for other in (link.__cause__, link.__context__, getattr(link, "reason", None), *link.args):
            if isinstance(other, BaseException):
                waiting.append(other)
