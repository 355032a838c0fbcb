"""What the Hub's statuses and headers mean, as this package's own errors."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from ..errors import AccessDenied, FileNotOnHub, HubError, HubUnreachable, RateLimited, RepoNotFound
from .state import plain

RETRIED = frozenset({408, 500, 502, 503, 504})
"""Statuses that another try may not meet (429 goes its own way)."""

SAID_CHARACTERS = 200
"""So much of a server's own words is repeated: the Hub's longest messages are sentences of that length."""


class RevisionUnknown(HubError):
    """The repo has no such branch or commit; the client, who knows the branches, says BranchNotFound."""


class TryAgain(Exception):
    """One try failed in a way that another may not; `final` is raised when no try is left."""

    def __init__(self, final: HubError, wait_s: float | None = None) -> None:
        self.final = final
        self.wait_s = wait_s
        super().__init__(str(final))


@dataclass(frozen=True)
class Asked:
    """What a URL stands for, so that a refusal can be worded. `path` is None for the API."""

    url: str
    repo: str
    path: str | None = None


@dataclass(frozen=True)
class Answerer:
    """Who refused: the Hub itself (`at_home`) or where it sent us, and whether the Hub vouched for the file."""

    at_home: bool
    vouched: bool
    has_token: bool


def refusal(asked: Asked, status: int, headers: Mapping[str, str], who: Answerer) -> Exception:
    """What an answer other than 200 or 206 means: TryAgain, or the error to raise."""
    code, said = headers.get("X-Error-Code", ""), plain(headers.get("X-Error-Message", ""))[:SAID_CHARACTERS]
    # A Hub that redirects its API, or files it says nothing of, sends us to another Hub: a mirror to its source.
    file_server = not who.at_home and who.vouched and asked.path is not None and not code
    if status == 429:
        wait_s = retry_after_s(headers)
        return TryAgain(RateLimited(asked.url, wait_s), wait_s)
    if status == 416:
        return HubUnreachable(asked.url, "the file is shorter than the range that was asked for")
    if status in RETRIED or file_server:
        # A 403 from the file server is an address that expired on the way: ask the Hub for a new one.
        whose = "the file server it sent us to" if file_server else "the Hub"
        return TryAgain(HubUnreachable(asked.url, f"{whose} answered {status}"), retry_after_s(headers))
    if code == "GatedRepo":
        return AccessDenied(asked.repo, "gated", asked.url)
    if code == "RevisionNotFound":
        return RevisionUnknown(f"{asked.repo} has no such revision", asked.url)
    if code == "EntryNotFound":
        return FileNotOnHub(asked.repo, asked.path or "", asked.url)
    if code == "RepoNotFound" or (status == 401 and who.at_home and not who.has_token):
        # Without a token the Hub says 401 for what is private and for what is not there.
        return RepoNotFound(asked.repo, asked.url)
    if status in (401, 403):
        # Another host never saw the token: it cannot be the token that it refused.
        kind = "token" if status == 401 and who.at_home else "private"
        return AccessDenied(asked.repo, kind, asked.url)
    if status == 404 and asked.path is not None:
        # Mirrors leave the code out: what was asked for decides.
        return FileNotOnHub(asked.repo, asked.path, asked.url)
    if status == 404:
        return RepoNotFound(asked.repo, asked.url)
    return HubError(f"the Hub answered {status} for {asked.url}{': ' + said if said else ''}.", asked.url)


def redirected(asked: Asked, url: str, location: str) -> str:
    """Where a redirect leads. Raises HubUnreachable where that is no http address."""
    try:
        target = urljoin(url, location)
        origin(target)
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise HubUnreachable(asked.url, "it redirects to an address that cannot be one") from error
    if scheme not in ("http", "https"):
        raise HubUnreachable(asked.url, "it redirects to an address that is neither http nor https")
    return target


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL: who gets the token. Raises ValueError for what is no URL."""
    split = urlsplit(url)
    return split.scheme, (split.hostname or "").lower(), split.port or {"http": 80, "https": 443}.get(split.scheme)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the server wants us to wait: Retry-After in seconds or as a date, else the Hub's RateLimit header.

    RateLimit: draft-ietf-httpapi-ratelimit-headers-09, `"api";r=0;t=55`.
    """
    said = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", said):
        return float(said)
    if said:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
        except (ValueError, OverflowError, OSError):
            return None
    window = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*([0-9]{1,9})(?![0-9])", headers.get("RateLimit", ""))
    return float(window[1]) if window else None


def number(text: str | None) -> int | None:
    """A size in a header; None where it is none, or larger than 2**63 bytes could be."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,19}", text) else None
