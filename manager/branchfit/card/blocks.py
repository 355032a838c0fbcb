"""A card's lines -> what is text, what is code, and where the headings stand.

A scan line by line, not a CommonMark parser, for two reasons. Cards that were copied about have lost
their blank lines, and there CommonMark takes a table after a list for the list item's text and one
after `</details>` for HTML; a reader of cards must still find it. And a scan is linear whatever the
input (markdown-it-py 4.3 takes 2.6 s for a megabyte of `[a]: b` lines). The tests compare fences
and headings with markdown-it-py's on every undamaged card.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Document", "Fence", "Heading", "plain", "scan"]

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]|$)")
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})([^\n]*)")
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+]|[0-9]{1,9}[.)])(?:[ \t]|$)")
_RAW_HTML = re.compile(r" {0,3}<(pre|script|style|textarea)(?:[\s>]|$)", re.IGNORECASE)
_RAW_HTML_END = re.compile(r"</(?:pre|script|style|textarea)>", re.IGNORECASE)
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)[ \t]*")
_NOT_PARAGRAPH = re.compile(r" {4}|\t| {0,3}(?:[-*+>|<]|[0-9]{1,9}[.)])")
_ORIGINAL = re.compile(r"original\b.*\b(?:model ?card|readme)\b", re.IGNORECASE)
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()]*\)")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")


@dataclass(frozen=True)
class Heading:
    """`line` is a 0-based index; `level` 1 to 6; `text` has lost its links and emphasis."""

    line: int
    level: int
    text: str


@dataclass(frozen=True)
class Fence:
    """A fenced block. `first` and `last` are the 0-based lines of its two fences.

    `body` is what stands between them, lines joined by LF and none added after the last: a blank
    last line gives a final newline, as the same template has in the front matter.
    """

    first: int
    last: int
    info: str
    body: str


@dataclass(frozen=True)
class Document:
    """`lines` has one entry per line of the card: its text, or "" in code, comments and raw HTML.

    `original_from` is the line of the "Original model card" heading, or the number of lines: what
    follows it is another repo's card.
    """

    lines: tuple[str, ...]
    headings: tuple[Heading, ...]
    fences: tuple[Fence, ...]
    original_from: int
    notes: tuple[str, ...]

    def section_end(self, heading: Heading) -> int:
        """The line at which the heading's section ends: the next heading of its level or above."""
        for other in self.headings:
            if other.line > heading.line and other.level <= heading.level:
                return min(other.line, self.original_from)
        return self.original_from


def plain(text: str) -> str:
    """Inline Markdown without links, tags, emphasis and code marks, for comparing words.

    >>> plain("**[Bits](https://example.org)** `x`")
    'Bits x'
    """
    if "[" in text:
        text = _LINK.sub(r"\1", text)
    if "<" in text:
        text = _TAG.sub("", text)
    return text.replace("*", "").replace("`", "").strip().strip("_").strip()


def scan(lines: Sequence[str], first: int = 0) -> Document:
    """Read the block structure of `lines` from index `first` on (what is before it is front matter)."""
    seen = [""] * first
    headings: list[Heading] = []
    fences: list[Fence] = []
    notes: list[str] = []
    in_list = False
    no_comment_end_before = 0
    i, count = first, len(lines)
    while i < count:
        line = lines[i]
        if line[:1].isalpha() and "<!--" not in line:  # nearly every line of prose
            if in_list and not seen[-1]:
                in_list = False
            seen.append(line)
            i += 1
            continue
        start = line.lstrip(" \t")
        if not start:
            seen.append("")
            i += 1
            continue
        indent = _indent(line, start)
        if in_list and indent < 2 and not seen[-1] and not _LIST_ITEM.match(line):
            in_list = False
        in_block = indent <= 3 or in_list  # four spaces outside a list are code
        here = start[0]
        if not in_block and not (seen and seen[-1]):
            seen.append("")
            i += 1
            continue
        if here in "`~" and in_block and (fence := _fence(lines, i, indent)) is not None:
            if fence.last == count:
                notes.append(f"The code fence in line {i + 1} is never closed; all that follows it is code.")
            fences.append(fence)
            end = min(fence.last + 1, count)
        elif here == "<" and in_block and start.startswith("<!--"):
            end = _comment_end(lines, i, line.index("<!--") + 4)
            if end > count:
                notes.append(f"The comment in line {i + 1} is never closed; all that follows it is hidden.")
                end = count
            else:
                # Text behind a comment's end is read: cards that were copied about have lost line breaks.
                tail = lines[end - 1].rpartition("-->")[2]
                seen.extend([""] * (end - 1 - i))
                seen.append(tail)
                i = end
                continue
        elif here == "<" and _RAW_HTML.match(line):
            end = next((j + 1 for j in range(i, count) if _RAW_HTML_END.search(lines[j])), count)
        else:
            if "<!--" in line:
                cut, line = _without_comments(line)
                if cut is not None and i >= no_comment_end_before:
                    # A comment in mid-line may run on to the paragraph's end, no further.
                    close = i + 1
                    while close < count and lines[close].strip() and "-->" not in lines[close]:
                        close += 1
                    if close < count and "-->" in lines[close]:
                        seen.append(line[:cut])
                        seen.extend([""] * (close - i - 1))
                        seen.append(lines[close].partition("-->")[2])
                        i = close + 1
                        continue
                    no_comment_end_before = close
            if here == "#" and (atx := _ATX.match(line)) is not None:
                headings.append(Heading(i, len(atx[1]), plain(_without_closing_hashes(line[atx.end(1) :]))))
                in_list = False
            elif here in "=-" and _UNDERLINE.fullmatch(line) and _lone_paragraph_line(seen, headings, first):
                headings.append(Heading(i - 1, 1 if here == "=" else 2, plain(seen[-1])))
                in_list = False
            elif not in_list and here not in "|>" and _LIST_ITEM.match(line):
                in_list = True
            seen.append(line)
            i += 1
            continue
        seen.extend([""] * (end - i))
        i = end
    original = next((h.line for h in headings if _ORIGINAL.match(h.text)), count)
    return Document(tuple(seen), tuple(headings), tuple(fences), original, tuple(notes))


def _indent(line: str, start: str) -> int:
    """Columns before the text; a tab reaches to the next multiple of four."""
    lead = len(line) - len(start)
    return len(line[:lead].expandtabs(4)) if lead else 0


def _fence(lines: Sequence[str], i: int, indent: int) -> Fence | None:
    """The fenced block that opens in line i; its `last` is len(lines) where it never closes."""
    opening = _FENCE.match(lines[i])
    if opening is None or (opening[1][0] == "`" and "`" in opening[2]):
        return None
    mark = opening[1]
    last = i + 1
    body = []
    while last < len(lines):
        line = lines[last]
        start = line.strip(" \t")
        if start.startswith(mark) and not start.strip(mark[0]) and _indent(line, line.lstrip(" \t")) <= indent + 3:
            break
        body.append(line[min(indent, len(line) - len(line.lstrip(" "))) :] if indent else line)
        last += 1
    return Fence(i, last, opening[2].strip(), "\n".join(body))


def _comment_end(lines: Sequence[str], i: int, column: int) -> int:
    """The line after the one in which the comment closes; len(lines) + 1 where it never does."""
    if lines[i].find("-->", column) >= 0:
        return i + 1
    return next((j + 1 for j in range(i + 1, len(lines)) if "-->" in lines[j]), len(lines) + 1)


def _without_comments(line: str) -> tuple[int | None, str]:
    """The line without the comments that close in it, and where one opens that does not."""
    kept = []
    at = 0
    while (opening := line.find("<!--", at)) >= 0:
        kept.append(line[at:opening])
        closing = line.find("-->", opening + 4)
        if closing < 0:
            head = "".join(kept)
            return len(head), head + line[opening:]
        at = closing + 3
    return None, "".join(kept) + line[at:]


def _without_closing_hashes(text: str) -> str:
    text = text.strip(" \t")
    bare = text.rstrip("#")
    return text if bare and bare[-1] not in " \t" else bare


def _lone_paragraph_line(seen: Sequence[str], headings: Sequence[Heading], first: int) -> bool:
    """Whether the last line seen is a paragraph of one line, which `---` below makes a heading."""
    at = len(seen) - 1
    last_heading = headings[-1].line if headings else first - 1
    if at <= last_heading or not _is_paragraph(seen[at]):
        return False
    # The line above it may be a heading's: the ATX line itself, or the underline below a setext one.
    return at - 1 <= last_heading or bool(_UNDERLINE.fullmatch(seen[at - 1])) or not _is_paragraph(seen[at - 1])


def _is_paragraph(line: str) -> bool:
    return line[:1].isalpha() or (bool(line.strip()) and not _NOT_PARAGRAPH.match(line))
