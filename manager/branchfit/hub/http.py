"""Asking the Hub: redirects, retries, and its refusals turned into this package's errors."""

from __future__ import annotations

import email.utils
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from ..errors import AccessDenied, FileNotOnHub, HubError, HubUnreachable, RateLimited, RepoNotFound
from .body import Body, BrokenStream
from .wire import WireAnswer, reason, streamed_get, wire_errors

TRIES = 3
"""A request is tried so often where trying again can help."""

FIRST_WAIT_S = 0.25
"""Before the second try; doubled before the third, each within half and one and a half of it."""

LONGEST_WAIT_S = 10.0
"""A longer Retry-After is the user's to wait for."""

RETRIED = frozenset({408, 500, 502, 503, 504})
"""Statuses that another try may not meet (429 goes its own way)."""

MAX_REDIRECTS = 5
"""The Hub needs two at most: a renamed repo, then the CDN or its resolve cache."""

READ_TIMEOUTS = 12
"""A small answer must be whole within this many timeouts: a server that drips bytes ends there."""

DRAIN_BYTES = 64 * 1024
"""A redirect's or refusal's body up to this size is read, so that the connection can be used again."""

Result = TypeVar("Result")


class RevisionUnknown(HubError):
    """The repo has no such branch or commit; the client, who knows the branches, says BranchNotFound."""


class TooLarge(HubError):
    """A file above the size that was allowed for."""

    def __init__(self, url: str, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        super().__init__(f"{url} is larger than the {max_bytes:,} bytes that such a file may have.", url)


class _TryAgain(Exception):
    """One try failed in a way that another may not; `final` is raised when no try is left."""

    def __init__(self, final: HubError, wait_s: float | None = None) -> None:
        self.final = final
        self.wait_s = wait_s
        super().__init__(str(final))


@dataclass(frozen=True)
class Asked:
    """What a URL stands for, so that a refusal can be worded."""

    url: str
    repo: str
    path: str | None = None


class Transport:
    """GETs for one endpoint with one token. Safe to use from several threads."""

    def __init__(self, endpoint: str, token: str | None, timeout_s: float) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._headers = own_headers(token)
        self.has_token = "authorization" in self._headers

    def get_json(self, asked: Asked, max_bytes: int) -> Any:
        """The JSON at a URL. What is no JSON does not come from a Hub: HubUnreachable."""
        data, _ = self.get(asked, max_bytes)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise HubUnreachable(
                asked.url, "what came back is not the Hub's JSON (a proxy or a login page?)"
            ) from error

    def get(self, asked: Asked, max_bytes: int) -> tuple[bytes, str | None]:
        """A small file and the commit it belongs to. Raises TooLarge above `max_bytes`."""

        def once() -> tuple[bytes, str | None]:
            with self._answer(asked, {}) as body:
                return self._collect(body, max_bytes + 1, TooLarge(asked.url, max_bytes)), body.commit

        return self._retried(asked, once)

    def get_range(self, asked: Asked, start: int, stop: int) -> tuple[bytes, int | None]:
        """The bytes from `start` up to `stop` or the file's end, and the file's size if it was said."""

        def once() -> tuple[bytes, int | None]:
            with self._answer(asked, {"Range": f"bytes={start}-{stop - 1}"}, start) as body:
                data = self._collect(body, stop - body.start)
                return data[start - body.start : stop - body.start], body.total_bytes

        return self._retried(asked, once)

    @contextmanager
    def stream(self, asked: Asked, start: int) -> Iterator[Body]:
        """A file from `start` on. Tries again until the first byte may be read, not after."""

        def once() -> tuple[ExitStack, Body]:
            with ExitStack() as stack:
                headers = {"Range": f"bytes={start}-"} if start else {}
                body = stack.enter_context(self._answer(asked, headers, start))
                return stack.pop_all(), body
            raise AssertionError("an ExitStack swallowed an exception")

        stack, body = self._retried(asked, once)
        with stack:
            yield body

    def _retried(self, asked: Asked, once: Callable[[], Result]) -> Result:
        began = time.monotonic()
        for attempt in range(1, TRIES + 1):
            try:
                return once()
            except _TryAgain as failed:
                final, wait_s = failed.final, failed.wait_s
            except BrokenStream as broken:
                final, wait_s = broken, None
            except wire_errors() as error:
                final, wait_s = HubUnreachable(asked.url, reason(error, self.timeout_s)), None
            late = time.monotonic() - began > TRIES * self.timeout_s
            if attempt == TRIES or late or (wait_s is not None and wait_s > LONGEST_WAIT_S):
                break
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5) if wait_s is None else wait_s)
        raise final

    @contextmanager
    def _answer(self, asked: Asked, extra: Mapping[str, str], start: int = 0) -> Iterator[Body]:
        """One try: follows redirects, and gives the body or raises."""
        home, url, commit, linked_size = origin(self.endpoint), asked.url, None, None
        for _ in range(MAX_REDIRECTS + 1):
            headers = {**self._headers, "accept-encoding": "identity", **extra}
            if origin(url) != home:
                # The token is for the Hub; a signed address needs none, and another host must not see it.
                headers.pop("authorization", None)
            with streamed_get(url, headers, self.timeout_s) as answer:
                commit = commit or answer.headers.get("X-Repo-Commit")
                linked_size = linked_size or _number(answer.headers.get("X-Linked-Size"))
                if answer.status in (301, 302, 303, 307, 308) and "Location" in answer.headers:
                    url = urljoin(url, answer.headers["Location"])
                    _drain(answer)
                    if urlsplit(url).scheme not in ("http", "https"):
                        raise HubUnreachable(asked.url, "it redirects to an address that is neither http nor https")
                    continue
                if answer.status not in (200, 206):
                    _drain(answer)
                    raise self._refusal(asked, answer, at_home=origin(url) == home)
                yield self._body(asked, answer, start, commit, linked_size)
                return
        raise HubUnreachable(asked.url, f"it redirects more than {MAX_REDIRECTS} times")

    def _body(self, asked: Asked, answer: WireAnswer, start: int, commit: str | None, linked_size: int | None) -> Body:
        if answer.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            raise BrokenStream(asked.url, "the answer is compressed although it was asked not to be")
        length = _number(answer.headers.get("Content-Length"))
        if answer.status == 200:
            total = length if length is not None else linked_size
            return Body(asked.url, 0, total, commit, length, self.timeout_s, answer.chunks)
        said = answer.headers.get("Content-Range", "")
        found = re.fullmatch(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", said)
        if found is None or int(found[1]) != start or int(found[2]) < start:
            raise BrokenStream(asked.url, f"asked for the bytes from {start:,} on, it sent {said!r}")
        total = _number(found[3]) or linked_size
        length = int(found[2]) - start + 1
        return Body(asked.url, start, total, commit, length, self.timeout_s, answer.chunks)

    def _collect(self, body: Body, enough: int, refusal: TooLarge | None = None) -> bytes:
        """Up to `enough` bytes of the body. With `refusal`, a body that has so many is refused with it."""
        if refusal is not None and body.length is not None and body.length >= enough:
            raise refusal
        deadline = time.monotonic() + READ_TIMEOUTS * self.timeout_s
        found = bytearray()
        for chunk in body.iter_bytes():
            found += chunk
            if len(found) >= enough and (body.length is None or len(found) < body.length):
                break
            if time.monotonic() > deadline:
                raise HubUnreachable(
                    body.url, f"only {len(found):,} bytes came in {READ_TIMEOUTS * self.timeout_s:g} s"
                )
        if refusal is not None and len(found) >= enough:
            raise refusal
        return bytes(found[:enough])

    def _refusal(self, asked: Asked, answer: WireAnswer, at_home: bool) -> Exception:
        """What an answer other than 200 or 206 means: _TryAgain, or the error to raise."""
        status, code = answer.status, answer.headers.get("X-Error-Code", "")
        said = answer.headers.get("X-Error-Message", "")
        if status == 429:
            wait_s = retry_after_s(answer.headers)
            return _TryAgain(RateLimited(asked.url, wait_s), wait_s)
        if status == 416:
            return HubUnreachable(asked.url, "the file is shorter than the range that was asked for")
        if status in RETRIED or not at_home:
            # A 403 from the file server is an address that expired on the way: ask the Hub for a new one.
            whose = "the Hub" if at_home else "the file server it sent us to"
            return _TryAgain(HubUnreachable(asked.url, f"{whose} answered {status}"), retry_after_s(answer.headers))
        if code == "GatedRepo":
            return AccessDenied(asked.repo, "gated", asked.url)
        if code == "RevisionNotFound":
            return RevisionUnknown(f"{asked.repo} has no such revision", asked.url)
        if code == "EntryNotFound":
            return FileNotOnHub(asked.repo, asked.path or "", asked.url)
        if code == "RepoNotFound" or (status == 401 and not self.has_token):
            # Without a token the Hub says 401 for what is private and for what is not there.
            return RepoNotFound(asked.repo, asked.url)
        if status in (401, 403):
            return AccessDenied(asked.repo, "token" if status == 401 else "private", asked.url)
        if status == 404:
            # Mirrors leave the code out: what was asked for decides.
            missing = asked.path is not None
            return (
                FileNotOnHub(asked.repo, asked.path or "", asked.url)
                if missing
                else RepoNotFound(asked.repo, asked.url)
            )
        return HubError(f"the Hub answered {status} for {asked.url}{': ' + said if said else ''}.", asked.url)


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


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the server wants us to wait: Retry-After in seconds or as a date, else the Hub's RateLimit header.

    RateLimit: draft-ietf-httpapi-ratelimit-headers-09, `"api";r=0;t=55`.
    """
    said = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", said):
        return float(said)
    if said:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    window = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("RateLimit", ""))
    return float(window[1]) if window else None


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL: who gets the token."""
    split = urlsplit(url)
    return split.scheme, (split.hostname or "").lower(), split.port or {"http": 80, "https": 443}.get(split.scheme)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _drain(answer: WireAnswer) -> None:
    length = _number(answer.headers.get("Content-Length"))
    if length is not None and length <= DRAIN_BYTES:
        for _ in answer.chunks():
            continue
