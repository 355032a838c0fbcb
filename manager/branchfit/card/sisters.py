"""The same model in other repos, as the card lists them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .blocks import Document
from .links import repo_id, repo_kind, repos_in
from .model import BranchRow, Sister

__all__ = ["own_repo", "read_sisters"]

_HEADING = re.compile(r"\brepositor(?:y|ies) available\b|\bavailable repositor(?:y|ies)\b", re.IGNORECASE)
_STEM_TAIL = re.compile(
    r"(?:[-_.][0-9.]+bpw)?(?:[-_.]h[0-9])?[-_.](?:gguf|ggml|awq|gptq|exl2|exl3|fp16|hf)(?![a-z]).*", re.IGNORECASE
)


def own_repo(document: Document, rows: Sequence[BranchRow]) -> str | None:
    """The repo that the card speaks of as its own, None where it does not tell.

    In this order: its branch table links into it; another of its tables does; the download example
    names it (`owner/name-GPTQ:branch`); the card's title says GPTQ and one GPTQ repo is listed.
    """
    for row in rows:
        if row.repo is not None:
            return row.repo
    lines = document.lines[: document.original_from]
    for line in lines:
        if "|" in line and ("/tree/" in line or "/blob/" in line) and (repo := next(repos_in(line), None)) is not None:
            return repo
    for line in lines:
        for code in line.split("`")[1::2] if "`" in line else ():
            example = repo_id(code.partition(":")[0])
            if example is not None and repo_kind(example) == "gptq":
                return example
    title = next((h.text for h in document.headings if h.level == 1), "")
    listed = {repo.lower(): repo for repo in _listed(document) or () if repo_kind(repo) == "gptq"}
    return next(iter(listed.values())) if len(listed) == 1 and re.search(r"\bGPTQ\b", title) else None


def read_sisters(document: Document, own: str | None, base_model: str | None) -> list[Sister]:
    """The repos under "Repositories available", without `own`, each once, in the card's order.

    Without that heading: `base_model` as the fp16 sister, and every repo linked anywhere in the card
    whose name is that of `own` or of `base_model` but for the format at its end.
    """
    found = _listed(document)
    if found is None:
        found = []
        stems = {_stem(repo) for repo in (own, base_model) if repo is not None}
        if stems:
            lines = document.lines[: document.original_from]
            found = [repo for line in lines if "/" in line for repo in repos_in(line) if _stem(repo) in stems]
        if base_model is not None:
            found.append(base_model)
    sisters: dict[str, Sister] = {}
    for repo in found:
        if own is None or repo.lower() != own.lower():
            sisters.setdefault(repo.lower(), Sister(repo, repo_kind(repo)))
    return list(sisters.values())


def _listed(document: Document) -> list[str] | None:
    """The repos linked under the heading "Repositories available"; None where there is none."""
    for at, heading in enumerate(document.headings):
        if heading.line >= document.original_from:
            return None
        if _HEADING.search(heading.text):
            following = document.headings[at + 1 :]
            end = following[0].line if following else len(document.lines)
            lines = document.lines[heading.line + 1 : end]
            return [repo for line in lines if "/" in line for repo in repos_in(line)]
    return None


def _stem(repo: str) -> str:
    return _STEM_TAIL.sub("", repo.partition("/")[2]).lower()
