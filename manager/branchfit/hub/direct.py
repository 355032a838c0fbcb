"""Large bodies without the HTTP library that costs more than the line: urllib3, beside huggingface_hub's session.

huggingface_hub 1.x and 2.x hand out an httpx client. Reading 2 GB through it over loopback took 1.0-1.3 s of user
time, through urllib3 0.1-0.2 s (the sha256 of it takes 1.2 s). 0.x hands out a requests session, which is urllib3.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

MAX_POOLED = 64
"""Connections kept for the next request to a host: more than a download ever opens (`connections.MOST`, and those for
small files)."""

HEADER_BUFFER_BYTES = io.DEFAULT_BUFFER_SIZE
"""What http.client reads headers through (`sock.makefile("rb")`)."""

_LOCK = threading.Lock()
_POOLS: dict[str, Any] = {}


def direct_get(session: Any, url: str, headers: dict[str, str], timeout_s: float) -> Any | None:
    """GET by urllib3, not following redirects, the body unread; None where `session` is the one to ask.

    That is wherever the user's own wishes are in it: a client factory of their own, a proxy for this address, no
    urllib3. Certificates are those that the session's library would take. Raises urllib3's errors.
    """
    module = sys.modules.get(type(session).__module__.partition(".")[0])
    if not hasattr(module, "create_ssl_context") or not _is_stock() or _has_proxy(url):
        return None
    try:
        pool = _pool(module)
    except ImportError:
        return None
    return pool.request(
        "GET", url, headers=headers, timeout=timeout_s, retries=False, redirect=False, preload_content=False
    )


def into_buffer(raw: Any, size_bytes: int) -> Callable[[], Iterator[memoryview]] | None:
    """The body of urllib3's unread response, read into one buffer: each piece is good until the next is asked for.

    None where the body is chunked, or this urllib3 or Python is built otherwise than they have been so far. Bytes
    objects made and freed for each read cost as much again as the reading, and stay with the heap of every thread.
    """
    answer: Any = getattr(raw, "_original_response", None)
    buffered: Any = getattr(answer, "fp", None)
    stream = getattr(buffered, "raw", None)
    length = getattr(answer, "length", None)
    if getattr(answer, "chunked", True) or length is None or stream is None or not hasattr(buffered, "read1"):
        return None

    def pieces() -> Iterator[memoryview]:
        left_bytes = length
        if left_bytes:
            # What came with the headers; after this the stream's own buffer is empty.
            first = buffered.read1(min(left_bytes, HEADER_BUFFER_BYTES))
            left_bytes -= len(first)
            if not first:
                return
            yield memoryview(first)
        view = memoryview(bytearray(min(size_bytes, left_bytes)))
        while left_bytes:
            count = stream.readinto(view[:left_bytes])
            if not count:
                return  # whoever counts sees that it is short
            left_bytes -= count
            yield view[:count]
        answer.close()
        raw.release_conn()

    return pieces


def _pool(module: Any) -> Any:
    """One pool for all threads, with the trust that the session's library builds from the environment."""
    import urllib3

    with _LOCK:
        found = _POOLS.get(module.__name__)
        if found is None:
            found = urllib3.PoolManager(maxsize=MAX_POOLED, ssl_context=module.create_ssl_context())
            _POOLS[module.__name__] = found
        return found


def _is_stock() -> bool:
    """True where nobody gave huggingface_hub a client of their own."""
    http = sys.modules.get("huggingface_hub.utils._http")
    factory = getattr(http, "_GLOBAL_CLIENT_FACTORY", None)
    return factory is not None and factory is getattr(http, "default_client_factory", None)


def _has_proxy(url: str) -> bool:
    split = urlsplit(url)
    proxies = getproxies()
    named = proxies.get(split.scheme) or proxies.get("all")
    return bool(named) and not proxy_bypass(split.hostname or "")
