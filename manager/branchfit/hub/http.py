"""Asking the Hub: redirects, retries, and answers of a bounded size in a bounded time."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from ..errors import AccessDenied, HubError, HubUnreachable
from .address import check_endpoint
from .body import Address, Body, BrokenStream, Known
from .patience import Deadline, Patience, usual
from .refusals import Answerer, Asked, RevisionUnknown, TryAgain, number, origin, redirected, refusal, retry_after_s
from .wire import WireAnswer, reason, streamed_get, wire_errors

__all__ = ["TRIES", "Asked", "RevisionUnknown", "TooLarge", "Transport", "retry_after_s"]

TRIES = 3
"""A request is tried so often where trying again can help."""

FIRST_WAIT_S = 0.25
"""Before the second try; doubled before the third, each within half and one and a half of it."""

LONGEST_WAIT_S = 10.0
"""A longer Retry-After is the user's to wait for."""

MAX_REDIRECTS = 5
"""The Hub needs two at most: a renamed repo, then the CDN or its resolve cache."""

DRAIN_BYTES = 64 * 1024
"""A redirect's or refusal's body up to this size is read, so that the connection can be used again."""

DRAIN_S = 0.5
"""Such a body mostly came with its headers; what still drips after this costs more than a new connection."""

LARGE_BYTES = 16 * 1024 * 1024
LARGE_BUFFER_BYTES, SMALL_BUFFER_BYTES = 1024 * 1024, 128 * 1024
"""Streams of so much are read a mebibyte at a time, which took a fifth less processor time over loopback; smaller ones
are asked for by many connections at once, and their buffers must not add up."""

Result = TypeVar("Result")


class TooLarge(HubError):
    """A file above the size that was allowed for."""

    def __init__(self, url: str, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        super().__init__(f"{url} is larger than the {max_bytes:,} bytes that such a file may have.", url)


class Transport:
    """GETs for one endpoint with one token. Safe to use from several threads."""

    def __init__(self, endpoint: str, token: str | None, timeout_s: float) -> None:
        self.endpoint, user = check_endpoint(endpoint)
        self.patience = usual(timeout_s)
        self._headers = own_headers(token)
        if user is not None:
            # As the HTTP libraries have it: there is one such header, and the address is the nearer word.
            self._headers["authorization"] = user
        self.has_token = "authorization" in self._headers

    def get_json(self, asked: Asked, max_bytes: int, patience: Patience | None = None) -> Any:
        """The JSON at a URL. What is no JSON does not come from a Hub: HubUnreachable."""
        data, _ = self.get(asked, max_bytes, patience)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise HubUnreachable(
                asked.url, "what came back is not the Hub's JSON (a proxy or a login page?)"
            ) from error

    def get(self, asked: Asked, max_bytes: int, patience: Patience | None = None) -> tuple[bytes, str | None]:
        """A small file and the commit it belongs to. Raises TooLarge above `max_bytes`."""
        patience = patience or self.patience

        def once(deadline: Deadline) -> tuple[bytes, str | None]:
            with self._answer(asked, {}, 0, patience.read_s, deadline) as body:
                return _collect(body, max_bytes + 1, deadline, TooLarge(asked.url, max_bytes)), body.commit

        return self._retried(asked, once, patience)

    def get_range(self, asked: Asked, start: int, stop: int) -> tuple[bytes, int | None]:
        """The bytes from `start` up to `stop` or the file's end, and the file's size if it was said."""

        def once(deadline: Deadline) -> tuple[bytes, int | None]:
            extra = {"Range": f"bytes={start}-{stop - 1}"}
            with self._answer(asked, extra, start, self.patience.read_s, deadline) as body:
                data = _collect(body, stop - body.start, deadline)
                return data[start - body.start : stop - body.start], body.total_bytes

        return self._retried(asked, once, self.patience)

    @contextmanager
    def stream(
        self,
        asked: Asked,
        start: int,
        stop: int | None = None,
        etag: str | None = None,
        address: Address | None = None,
    ) -> Iterator[Body]:
        """A file from `start` on, up to `stop`. Tries again until the first byte may be read, not after.

        With `etag` (a strong one) a range is asked for of that very content (If-Range). `address` is asked first,
        and keeps where the Hub sent us.
        """
        extra: dict[str, str] = {}
        if start or stop is not None:
            extra["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            if etag is not None and etag.startswith('"'):
                extra["If-Range"] = etag

        address = address or Address()
        buffer_bytes = SMALL_BUFFER_BYTES if stop is not None and stop - start < LARGE_BYTES else LARGE_BUFFER_BYTES

        def once(deadline: Deadline) -> tuple[ExitStack, Body]:
            with ExitStack() as stack:
                answer = self._answer(asked, extra, start, self.patience.read_s, deadline, address, buffer_bytes)
                try:
                    body = stack.enter_context(answer)
                except BaseException:
                    address.known = None  # wherever it was, the Hub may know a better place by now
                    raise
                return stack.pop_all(), body
            raise AssertionError("an ExitStack swallowed an exception")

        stack, body = self._retried(asked, once, self.patience)
        with stack:
            yield body

    def _retried(self, asked: Asked, once: Callable[[Deadline], Result], patience: Patience) -> Result:
        began = time.monotonic()
        for attempt in range(1, TRIES + 1):
            try:
                return once(Deadline(patience.answer_s))
            except TryAgain as failed:
                final, wait_s = failed.final, failed.wait_s
            except BrokenStream as broken:
                final, wait_s = broken, None
            except wire_errors() as error:
                final, wait_s = HubUnreachable(asked.url, reason(error, patience.read_s)), None
            late = time.monotonic() - began >= patience.again_s
            if attempt == TRIES or late or (wait_s is not None and wait_s > LONGEST_WAIT_S):
                break
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5) if wait_s is None else wait_s)
        raise final

    @contextmanager
    def _answer(
        self,
        asked: Asked,
        extra: Mapping[str, str],
        start: int,
        read_s: float,
        deadline: Deadline,
        address: Address | None = None,
        buffer_bytes: int = 0,
    ) -> Iterator[Body]:
        """One try: follows redirects, and gives the body or raises."""
        known = (address.known if address is not None else None) or Known(asked.url, None, None, None)
        home, url, linked_etag = origin(self.endpoint), known.url, known.linked_etag
        commit, linked_size = known.commit, known.linked_size
        for _ in range(MAX_REDIRECTS + 1):
            headers = {**self._headers, "accept-encoding": "identity", **extra}
            at_home = origin(url) == home
            if not at_home:
                # The token is for the Hub; a signed address needs none, and another host must not see it.
                headers.pop("authorization", None)
            with streamed_get(url, headers, read_s, deadline, buffer_bytes) as answer:
                commit = commit or answer.headers.get("X-Repo-Commit")
                linked_size = linked_size or number(answer.headers.get("X-Linked-Size"))
                linked_etag = linked_etag or answer.headers.get("X-Linked-Etag")
                if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                    url = redirected(asked, url, answer.headers["Location"])
                    _drain(answer)
                    continue
                if address is not None:
                    good = answer.status in (200, 206) and url != asked.url
                    address.known = Known(url, commit, linked_size, linked_etag) if good else None
                if answer.status not in (200, 206):
                    _drain(answer)
                    who = Answerer(at_home, linked_size is not None or commit is not None, self.has_token)
                    raise refusal(asked, answer.status, answer.headers, who)
                body = self._body(asked, answer, start, commit, linked_size, read_s)
                body.linked_etag = linked_etag
                yield body
                return
        raise HubUnreachable(asked.url, f"it redirects more than {MAX_REDIRECTS} times")

    def _body(
        self,
        asked: Asked,
        answer: WireAnswer,
        start: int,
        commit: str | None,
        linked_size: int | None,
        read_s: float,
    ) -> Body:
        if answer.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            raise BrokenStream(asked.url, "the answer is compressed although it was asked not to be")
        length, etag = number(answer.headers.get("Content-Length")), answer.headers.get("ETag")
        if answer.status == 200:
            total = length if length is not None else linked_size
            return Body(asked.url, 0, total, commit, length, read_s, answer.chunks, etag, whole=True)
        said = answer.headers.get("Content-Range", "")
        found = re.fullmatch(r"\s*bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)\s*", said)
        if found is None or int(found[1]) != start or int(found[2]) < start:
            raise BrokenStream(asked.url, f"asked for the bytes from {start:,} on, it sent {said[:80]!r}")
        total = number(found[3]) or linked_size
        length = int(found[2]) - start + 1
        return Body(asked.url, start, total, commit, length, read_s, answer.chunks, etag)


def own_headers(token: str | None) -> dict[str, str]:
    """huggingface_hub's headers: who asks, and the token it finds (given, environment, or login)."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    headers = dict(build_hf_headers(token=token or None, library_name="branchfit"))
    if not headers.get("authorization") and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        # huggingface_hub before 0.19 does not read HF_TOKEN.
        headers["authorization"] = f"Bearer {os.environ.get('HF_TOKEN', '')}"
    found = headers.pop("authorization", "").removeprefix("Bearer").strip()
    if found and re.fullmatch(r"[\x21-\x7e]+", found) is None:
        raise AccessDenied("the Hub", "token")
    return {**headers, "authorization": f"Bearer {found}"} if found else headers


def _collect(body: Body, enough: int, deadline: Deadline, too_large: TooLarge | None = None) -> bytes:
    """Up to `enough` bytes of the body. With `too_large`, a body that has so many is refused with it."""
    if too_large is not None and body.length is not None and body.length >= enough:
        raise too_large
    found = bytearray()
    for chunk in body.iter_bytes():
        found += chunk
        if len(found) >= enough and (body.length is None or len(found) < body.length):
            break
        if body.length is None or len(found) < body.length:
            deadline.came(len(chunk))
    if too_large is not None and len(found) >= enough:
        raise too_large
    return bytes(found[:enough])


def _drain(answer: WireAnswer) -> None:
    length = number(answer.headers.get("Content-Length"))
    if length is None or length > DRAIN_BYTES:
        return
    began = time.monotonic()
    try:
        for _ in answer.chunks():
            if time.monotonic() - began > DRAIN_S:
                return
    except wire_errors():
        return  # the status and the headers said it all
