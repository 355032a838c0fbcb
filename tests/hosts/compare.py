"""What had to enter the model against what did, and the table of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EXCERPT = 60
"""Bytes shown around a difference."""


@dataclass(frozen=True)
class Answer:
    """What the client or the person at the page got: an HTTP status (200 for a page) and the text in it."""

    status: int
    text: str


@dataclass(frozen=True)
class Wanted:
    """What a path has to send.

    `prompts` must enter the model, each once, in any order, and nothing else. Where it is empty nothing
    may enter and the answer must say each of `says`; each entry lists spellings, one of which will do.
    With `or_refused` a refusal is as good as the prompt, with `or_fails` even the webui's own error 500 is:
    it fails before anything is asked to generate. `either` lists spellings of the one prompt, any of
    which will do. `holds` takes one rendering, whatever its
    instruction, that holds these texts.
    """

    prompts: tuple[str, ...] = ()
    says: tuple[tuple[str, ...], ...] = ()
    or_refused: bool = False
    or_fails: bool = False
    either: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()

    @property
    def sends(self) -> bool:
        return bool(self.prompts or self.either or self.holds)

    def prompts_for(self, seen: Sequence[str]) -> tuple[str, ...]:
        return tuple(seen) if len(seen) == 1 and seen[0] in self.either else self.prompts or self.either[:1]


@dataclass(frozen=True)
class Verdict:
    """`word` stands in the table, `detail` below it."""

    exact: bool
    word: str
    detail: str = ""
    seen: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)
    answer: str = field(default="", compare=False)


def difference(expected: str, seen: str) -> str:
    """The first byte in which the two differ, and both around it. '' where they do not."""
    left, right = expected.encode(), seen.encode()
    if left == right:
        return ""
    shorter = min(len(left), len(right))
    at = next((place for place in range(shorter) if left[place] != right[place]), shorter)
    start = max(0, at - EXCERPT // 2)
    shown = [part[start : at + EXCERPT] for part in (left, right)]
    return f"byte {at:,} of {len(left):,}: expected …{shown[0]!r}, seen …{shown[1]!r} ({len(right):,} bytes)"


def _says(wanted: Wanted, answer: Answer) -> str:
    missing = [spellings for spellings in wanted.says if not any(text in answer.text for text in spellings)]
    if not missing:
        return ""
    names = ", ".join(" or ".join(repr(text) for text in spellings) for spellings in missing)
    return f"refused without saying {names}{_said(answer)}"


def judge(wanted: Wanted, seen: Sequence[Mapping[str, Any]], answer: Answer, head: str = "", tail: str = "") -> Verdict:
    """One path's verdict. `head` and `tail` are the template's own text around the instruction."""

    def verdict(exact: bool, word: str, detail: str = "") -> Verdict:
        return Verdict(exact, word, detail, tuple(seen), answer.text)

    texts = [str(record["text"]) for record in seen]
    prompts = wanted.prompts_for(texts)
    if not seen and (not (prompts or wanted.holds) or wanted.or_refused):
        if wanted.or_fails and answer.status >= 500:
            return verdict(True, f"webui's {answer.status}")
        unsaid = _says(wanted, answer)
        return verdict(not unsaid, "NO" if unsaid else "refused", unsaid)
    if wanted.holds:
        fits = [
            text for text in texts
            if text.startswith(head) and text.endswith(tail) and all(part in text for part in wanted.holds)
        ]  # fmt: skip
        if len(texts) != 1 or not fits:
            return verdict(False, "NO", f"expected one rendering with {wanted.holds!r}, seen {texts!r}"[:600])
    elif not prompts:
        return verdict(False, "NO", f"nothing may enter the model, {texts[0][:200]!r} did")
    elif sorted(texts) != sorted(prompts):
        return verdict(False, "NO", _unequal(prompts, texts) + _said(answer) * (not texts))
    odd = [record["bos"] for record in seen if record["bos"] != 1]
    if odd:
        return verdict(False, "NO", f"the text is exact, but {odd[0]} BOS tokens stand in front instead of 1")
    if answer.status >= 400:
        return verdict(False, "NO", "exact" + _said(answer))
    return verdict(True, "yes")


def _said(answer: Answer) -> str:
    return f"; answered {answer.status}: {answer.text[:300]!r}"


def _unequal(expected: Iterable[str], seen: Sequence[str]) -> str:
    wanted, rest = list(expected), list(seen)
    for text in seen:
        if text in wanted:
            wanted.remove(text)
            rest.remove(text)
    if not rest:
        return f"{len(wanted)} prompt(s) never entered the model; missing {wanted[0][-EXCERPT:]!r}"
    if not wanted:
        return f"{len(rest)} more prompt(s) entered than were sent: {rest[0][:200]!r}"
    return difference(wanted[0], rest[0])


def table(columns: Sequence[str], results: Mapping[str, Mapping[str, Verdict]]) -> str:
    """Markdown: a row a path, in the order first met, a column a run. `results` is run -> path -> verdict."""
    paths = list(dict.fromkeys(path for column in columns for path in results[column]))
    lines = ["| path | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for path in paths:
        found = [results[column].get(path) for column in columns]
        lines.append(f"| {path} | " + " | ".join(verdict.word if verdict else "" for verdict in found) + " |")
    return "\n".join(lines)


def details(columns: Sequence[str], results: Mapping[str, Mapping[str, Verdict]]) -> str:
    """A line for each path that is not exact."""
    return "\n".join(
        f"- {column}, {path}: {verdict.detail}"
        for column in columns
        for path, verdict in results[column].items()
        if not verdict.exact
    )
