"""What a user may paste for a repo, and what may go into a URL."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from ..errors import UsageError
from .state import plain

HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
"""The public Hub's names; the configured endpoint's host counts too."""

MAX_NAME_CHARACTERS = 96
"""Longest owner or repo name: `REPO_ID_REGEX` in huggingface_hub's utils/_validators.py."""

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_BAD_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|//|@\{")
_ADDRESS = re.compile(r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?P<rest>.*)", re.DOTALL)
_USER = re.compile(r"(?<=//)[^/?#]*@")
_HOW = "Write owner/name, owner/name:branch, or the repo's address on the Hub."


@dataclass(frozen=True)
class RepoRef:
    """A repo and, where one was named, a branch."""

    repo: str
    branch: str | None = None

    def __str__(self) -> str:
        return self.repo if self.branch is None else f"{self.repo}:{self.branch}"


def parse_repo(text: str, endpoint: str | None = None) -> RepoRef:
    """`owner/name`, `owner/name:branch`, a one-word legacy name, or an address on the Hub.

    Addresses are those of huggingface.co, hf.co and the endpoint (given, or HF_ENDPOINT); in
    `.../tree/feature/slash` all that follows `tree/` is the branch, unless its slash is written %2F,
    as the Hub does where a folder follows. Raises UsageError saying what is wrong with the text.
    """
    given = text.strip()
    found = _ADDRESS.fullmatch(given)
    scheme, rest = (found["scheme"], found["rest"]) if found else (None, given)
    host = rest.split("/", 1)[0].lower()
    configured = without_user(endpoint or os.environ.get("HF_ENDPOINT") or "")
    if scheme is not None:
        if scheme.lower() not in ("http", "https"):
            raise UsageError(f"{without_user(given)!r} is no address that BranchFit knows ({scheme}://). {_HOW}")
        return _from_address(given, configured)
    if "/" in rest and (host in HUB_HOSTS or host == _netloc(configured) != ""):
        return _from_address(f"https://{rest}", configured)
    name, colon, branch = given.partition(":")
    if colon and not branch.strip():
        raise UsageError(f"{given!r} ends in a colon without a branch. {_HOW}")
    return RepoRef(check_repo(_bare(name)), check_branch(branch.strip()) if colon else None)


def check_repo(repo: str) -> str:
    """`repo` itself if it can be a repo's name, else UsageError."""
    parts = repo.split("/")
    fits = 1 <= len(parts) <= 2 and all(_NAME.fullmatch(part) and len(part) <= MAX_NAME_CHARACTERS for part in parts)
    if not fits or "--" in repo or ".." in repo:
        raise UsageError(f"{repo!r} is not the name of a repo. {_HOW}")
    return repo


def check_branch(branch: str) -> str:
    """`branch` itself if git would take it for a branch (git-check-ref-format) and it can be shown, else UsageError."""
    refused = _BAD_IN_BRANCH.search(branch) or branch.endswith((".", ".lock")) or branch.strip("/") != branch
    # git would take control characters above ASCII and text direction marks; no terminal should be shown them.
    if not branch or branch == "@" or branch.startswith("-") or refused or not branch.isprintable():
        raise UsageError(f"{branch!r} cannot be the name of a branch. {_HOW}")
    return branch


def check_path(path: str) -> str:
    """`path` itself if it names a file inside a repo, else UsageError: HTTP libraries resolve `..` in a URL."""
    if not path or path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise UsageError(f"{path!r} is not the path of a file in a repo.")
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{path!r} is not the path of a file in a repo.") from error
    return path


def check_endpoint(endpoint: str) -> tuple[str, str | None]:
    """An endpoint without its user and password, and what they are as an Authorization header (None without).

    Raises UsageError, without repeating them, for what is no http address.
    """
    bare = without_user(endpoint.strip()).rstrip("/")
    try:
        split, whole = urlsplit(bare), urlsplit(endpoint.strip())
        fits = split.scheme in ("http", "https") and bool(split.hostname) and split.port != 0
    except ValueError:
        fits = False
    if not fits or not bare.isprintable() or " " in bare:
        raise UsageError(
            f"{plain(bare)!r} cannot be the Hub's address: write http:// or https://, a host and, if need be, "
            "a port (HF_ENDPOINT)."
        )
    if whole.username is None:
        return bare, None
    user = f"{unquote(whole.username)}:{unquote(whole.password or '')}"
    return bare, f"Basic {base64.b64encode(user.encode()).decode()}"


def without_user(address: str) -> str:
    """An address without `user:password@`, even where nothing else of it can be understood."""
    return _USER.sub("", address, count=1)


def quoted(text: str, keep: str = "") -> str:
    """Percent-encoded for a URL: a branch whole (`feature%2Fslash`), a path with keep="/"."""
    return quote(text, safe=keep)


def _bare(name: str) -> str:
    name = name.strip().strip("/")
    return name[: -len(".git")] if name.endswith(".git") else name


def _netloc(address: str) -> str:
    """The host and port as written, "" where there is none to be read."""
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return ""


def _from_address(address: str, configured: str) -> RepoRef:
    # git clone's addresses may hold a token, which no message may repeat.
    address = without_user(address)
    try:
        split = urlsplit(address)
    except ValueError as error:
        raise UsageError(f"{address!r} is not an address ({error}). {_HOW}") from error
    path, own = split.path, _netloc(configured)
    if own and split.netloc.lower() == own:
        path = path.removeprefix(urlsplit(configured).path.rstrip("/"))
    elif split.netloc.lower() not in HUB_HOSTS:
        raise UsageError(f"{address!r} is not on the Hub (huggingface.co, hf.co or HF_ENDPOINT). {_HOW}")
    parts = [part for part in path.split("/") if part]
    if parts and parts[0] in ("datasets", "spaces", "collections", "papers", "docs", "api"):
        raise UsageError(f"{address!r} is in the Hub's {parts[0]}, not the address of a model. {_HOW}")
    verbs = ("tree", "blob", "resolve", "raw", "commits", "commit", "discussions", "settings", "edit", "upload")
    at = next((index for index, part in enumerate(parts) if index and part in verbs), len(parts))
    repo, verb, rest = "/".join(unquote(part) for part in parts[:at]), parts[at : at + 1], parts[at + 1 :]
    branch: str | None = None
    if rest and verb == ["tree"]:
        # The Hub writes a slash inside a branch as %2F here, but people type it plainly.
        branch = unquote(rest[0]) if "%2f" in rest[0].lower() else "/".join(unquote(part) for part in rest)
    elif rest and verb[0] in ("blob", "resolve", "raw", "commits"):
        branch = unquote(rest[0])
    return RepoRef(check_repo(_bare(repo)), check_branch(branch) if branch is not None else None)
