"""Addresses of repos on the Hub, as cards write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

__all__ = ["RepoLink", "markdown_link", "repo_id", "repo_kind", "repo_link", "repos_in"]

_HOSTS = r"(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)"
# Owner and repo names have up to 96 characters (huggingface_hub, utils/_validators.py).
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ID = re.compile(rf"({_NAME})/({_NAME})")
_URL = re.compile(rf"(?:https?://)?{_HOSTS}/({_NAME})/({_NAME})(/[^\s]*)?", re.IGNORECASE)
_URLS = re.compile(rf"(?<![\w./-])(?:https?://)?{_HOSTS}/({_NAME})/({_NAME})(?![\w.-])", re.IGNORECASE)
_MARKDOWN = re.compile(r"\[([^\[\]]*)\]\(\s*<?([^\s()<>]*)")
_ANCHOR = re.compile(r"<a\s[^<>]*?href\s*=\s*[\"']?([^\s\"'<>]*)[^<>]*>([^<]*)", re.IGNORECASE)

_FORMAT = re.compile(r"(?:^|[-_.])(gguf|ggml|awq|gptq|exl2|exl3)(?![a-z])", re.IGNORECASE)

NOT_OWNERS = frozenset(
    {"api", "blog", "chat", "collections", "datasets", "docs", "join", "learn", "login", "models", "new"}
    | {"organizations", "papers", "posts", "pricing", "settings", "spaces", "tasks"}
)
"""First parts of a Hub address that are no owner of a model repo: the site's own sections, as its
menu and huggingface_hub's RepoUrl (hf_api.py) have them."""


@dataclass(frozen=True)
class RepoLink:
    """A link to a repo; `tail` is what stands after `/tree/`, decoded, None where there is no such part.

    `repo` is None for a relative link (`tree/main`), which speaks of the card's own repo.
    """

    repo: str | None
    tail: str | None


def markdown_link(text: str) -> tuple[str, str] | None:
    """The first link in `text`, `[words](url)` or `<a href="url">words</a>`, as (words, url)."""
    if (found := _MARKDOWN.search(text)) is not None:
        return found[1].strip(), found[2]
    if (found := _ANCHOR.search(text)) is not None:
        return found[2].strip(), found[1]
    return None


def repo_link(url: str) -> RepoLink | None:
    """What a link in a branch cell points at; None where it is no model repo on the Hub."""
    found = _URL.fullmatch(url)
    if found is not None:
        if found[1].lower() in NOT_OWNERS:
            return None
        return RepoLink(f"{found[1]}/{found[2]}", _tail(found[3] or ""))
    relative = url.lstrip("./")
    if relative.startswith("tree/"):
        return RepoLink(None, _tail("/" + relative))
    if (found := re.match(rf"/({_NAME})/({_NAME})(/tree/.*)", url)) is not None:
        return RepoLink(f"{found[1]}/{found[2]}", _tail(found[3]))
    return None


def repo_id(text: str) -> str | None:
    """owner/name from an id or an address; None where it is neither."""
    text = text.strip()
    if _ID.fullmatch(text):
        return text
    link = repo_link(text)
    return link.repo if link is not None else None


def repo_kind(repo: str) -> str:
    """gguf, ggml, awq, gptq, exl2 or exl3, as the repo's name says at its end; else fp16, the original."""
    formats = _FORMAT.findall(repo.partition("/")[2])
    return formats[-1].lower() if formats else "fp16"


def repos_in(text: str) -> Iterator[str]:
    """Each model repo that an address in `text` names, in order."""
    for found in _URLS.finditer(text):
        if found[1].lower() not in NOT_OWNERS:
            yield f"{found[1]}/{found[2]}".rstrip(".")


def _tail(path: str) -> str | None:
    if not path.startswith("/tree/"):
        return None
    return unquote(re.split(r"[?#]", path[6:], maxsplit=1)[0]).rstrip("/") or None
