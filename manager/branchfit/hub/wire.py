"""One streamed GET through whatever session huggingface_hub hands out.

0.x hands out a requests.Session (one a thread), 1.x an httpx.Client, 2.x an httpx2.Client. What differs
between them, streaming and the exceptions, is held here.
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from .direct import direct_get, into_buffer
from .patience import ANSWER_TIMEOUTS, Deadline, WireFault, within

REQUESTS_READ_BYTES = 128 * 1024
"""At most so much of a body is taken at once from urllib3."""

BAD_ADDRESS = (
    "an address cannot be one: the Hub's, one it redirects to, or that of a proxy (ALL_PROXY, HTTP_PROXY, HTTPS_PROXY)"
)
"""The libraries look at all of these in one call, and quote them with their passwords."""

Request = TypeVar("Request")


@dataclass(frozen=True)
class WireAnswer:
    """An answer whose body has not been read. `headers` ignore case.

    `chunks` may be called once; each is good until the next is asked for.
    """

    status: int
    headers: Mapping[str, str]
    chunks: Callable[[], Iterator[bytes | memoryview]]


_SESSION_LOCK = threading.Lock()


def shared_session() -> Any:
    """huggingface_hub's session. 1.x makes two clients when two threads ask for the first one at once.

    Raises WireFault where the environment's proxy or certificates make one impossible.
    """
    from huggingface_hub.utils import get_session

    try:
        with _SESSION_LOCK:
            return get_session()
    except (OSError, ValueError, ImportError) as error:
        raise _unopenable(error) from error


@contextmanager
def streamed_get(
    url: str, headers: Mapping[str, str], timeout_s: float, deadline: Deadline, buffer_bytes: int = 0
) -> Iterator[WireAnswer]:
    """GET without following redirects. `timeout_s` bounds the connect and every single read.

    A body that is large goes past a session that is slow at it, into a buffer of `buffer_bytes` (see `direct`). The
    headers have to be there by `deadline` (a name that is looked up, and headers that drip, know no timeout). Raises
    what `wire_errors()` lists, in the block too.
    """
    session = shared_session()
    open_it = _requests_get
    if callable(getattr(session, "stream", None)):
        open_it = _large_get if buffer_bytes else _httpx_get
    answer = within(deadline, lambda: _opened(open_it, session, url, headers, timeout_s), lambda late: late.close())
    held = _Held()
    try:
        chunks = getattr(answer, "iter_raw", None) or _requests_chunks(getattr(answer, "raw", answer), buffer_bytes)
        status = getattr(answer, "status_code", None) or answer.status
        chunked = "chunked" in answer.headers.get("Transfer-Encoding", "").lower()
        if chunked or "Content-Length" not in answer.headers:
            # The lines between a chunked body's pieces may drip without a piece ever coming.
            yield WireAnswer(status, answer.headers, lambda: _each_within(chunks(), timeout_s, held))
        else:
            yield WireAnswer(status, answer.headers, chunks)
    finally:
        if held.by_thread:
            # Closing waits for the thread that reads.
            threading.Thread(target=answer.close, name="branchfit-close", daemon=True).start()
        else:
            answer.close()


def wire_errors() -> tuple[type[Exception], ...]:
    """What a session raises when the line, and not the Hub, is at fault (OSError: sockets, TLS, DNS, offline mode)."""
    found: list[type[Exception]] = [OSError, http.client.HTTPException]
    # A library that is not loaded raised nothing.
    if "requests" in sys.modules:
        found.append(sys.modules["requests"].exceptions.RequestException)
    if "urllib3" in sys.modules:
        found.append(sys.modules["urllib3"].exceptions.HTTPError)
    for name in ("httpx", "httpx2"):
        if module := sys.modules.get(name):
            found += [module.HTTPError, module.StreamError, module.InvalidURL]
    return tuple(found)


def reason(error: BaseException, timeout_s: float) -> str:
    """Why the line failed, in a few words, without the library's own wrapping (which may quote signed addresses)."""
    chain = list(_chain(error))
    kinds = " ".join(type(link).__name__ for link in chain)
    for link in chain:
        if isinstance(link, WireFault):
            return link.said
        if isinstance(link, socket.gaierror):
            return "the host's name cannot be resolved"
        if isinstance(link, ssl.SSLError):
            return f"TLS failed ({link.reason or type(link).__name__})"
    if "Timeout" in kinds or any(isinstance(link, TimeoutError) for link in chain):
        return f"nothing came for {timeout_s:g} s"
    if "InvalidURL" in kinds:
        return BAD_ADDRESS
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


@dataclass
class _Held:
    """Whether a thread that was left behind may still be reading the answer."""

    by_thread: bool = False


def _keep_headers(request: Request) -> Request:
    """As `auth`: requests would put a netrc entry, and all of them a URL's user, in the token's place."""
    return request


def _opened(open_it: Callable[..., Any], session: Any, url: str, headers: Mapping[str, str], timeout_s: float) -> Any:
    try:
        return open_it(session, url, dict(headers), timeout_s)
    except wire_errors():
        raise
    except (ValueError, ImportError) as error:
        raise _unopenable(error) from error


def _httpx_get(session: Any, url: str, headers: dict[str, str], timeout_s: float) -> Any:
    request = session.build_request("GET", url, headers=headers, timeout=timeout_s)
    return session.send(request, stream=True, auth=_keep_headers, follow_redirects=False)


def _large_get(session: Any, url: str, headers: dict[str, str], timeout_s: float) -> Any:
    answer = direct_get(session, url, headers, timeout_s)
    return answer if answer is not None else _httpx_get(session, url, headers, timeout_s)


def _requests_get(session: Any, url: str, headers: dict[str, str], timeout_s: float) -> Any:
    return session.get(url, headers=headers, timeout=timeout_s, stream=True, allow_redirects=False, auth=_keep_headers)


def _unopenable(error: Exception) -> WireFault:
    # Without the library's own words: they may quote a proxy's password.
    if isinstance(error, ImportError):
        return WireFault(
            "the proxy that the environment names (ALL_PROXY, HTTPS_PROXY) needs a package that is missing"
        )
    if isinstance(error, OSError):
        return WireFault(
            f"the certificates that the environment names (SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE) "
            f"cannot be read ({error.strerror or type(error).__name__})"
        )
    return WireFault(BAD_ADDRESS)


def _requests_chunks(raw: Any, buffer_bytes: int) -> Callable[[], Iterator[bytes | memoryview]]:
    pieces = into_buffer(raw, buffer_bytes or REQUESTS_READ_BYTES)
    if pieces is not None:
        return pieces
    # read() sits until it has all it was asked for, however long that drips; read1() gives what is there.
    # urllib3 has it from 2.1 on; before, http.client's own is the one that its read() calls.
    if hasattr(raw, "read1"):
        return lambda: iter(lambda: raw.read1(REQUESTS_READ_BYTES, decode_content=False) or b"", b"")
    return lambda: iter(lambda: raw._original_response.read1(REQUESTS_READ_BYTES), b"")


def _each_within(chunks: Iterator[bytes | memoryview], timeout_s: float, held: _Held) -> Iterator[bytes | memoryview]:
    while True:
        try:
            chunk = within(Deadline(ANSWER_TIMEOUTS * timeout_s), lambda: next(chunks, None), lambda late: None)
        except BaseException:
            held.by_thread = True
            raise
        if chunk is None:
            return
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
