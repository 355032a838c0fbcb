"""The GPTQ branch table of a card, and no other table.

What makes one: a Branch column, a bits column and one of group size or act order. AWQ's table has all three and
is told by its "AWQ Dataset", EXL2's by "lm_head bits" or "bpw". Columns are known by their names,
so their order and strange ones among them do not matter. The headers seen are in the tests:

    A  Branch, Bits, Group Size, Act Order (desc_act), File Size, ExLlama Compatible?, Made With, Description
    B  Branch, Bits, GS, Act Order, Damp %, GPTQ Dataset, Seq Len, Size, ExLlama, Desc
    C  Branch, Bits, Group Size, Act Order (desc_act), GPTQ Dataset, Size, ExLlama Compat?, Made With, Desc
    D  as B without Desc, rows without a closing pipe
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from . import cells
from .blocks import Document, plain
from .links import RepoLink, markdown_link, repo_kind, repo_link
from .model import BranchRow

__all__ = ["read_rows"]

_T = TypeVar("_T")

MAX_ROWS = 1000
"""Rows read from one table; the longest table seen has 9."""

MAX_NAME_CHARS = 255
"""The longest name of a file, as which git keeps a branch."""

_COLUMNS = {
    "branch": ("branch", "branchname", "gitbranch"),
    "bits": ("bits", "bit", "wbits", "bitwidth", "quantbits"),
    "group_size": ("gs", "groupsize", "group"),
    "act_order": ("actorder", "actorderdescact", "descact"),
    "damp_percent": ("damp", "damppercent", "dampening"),
    "dataset": ("gptqdataset", "dataset", "calibrationdataset", "quantdataset", "quantisationdataset"),
    "sequence_length": ("seqlen", "sequencelength", "seqlength", "sequencelen"),
    "size_bytes": ("size", "filesize", "modelsize", "sizegb", "filesizegb", "modelsizegb", "sizegib", "filesizegib"),
    "exllama": ("exllama", "exllamacompat", "exllamacompatible", "exllamacompatibility", "exllamav2"),
    "made_with": ("madewith", "quantisedwith", "quantizedwith"),
    "description": ("desc", "description", "notes", "comment", "comments"),
}
_FIELDS = {name: field for field, names in _COLUMNS.items() for name in names}
_MAY_BE_HEADER = re.compile("branch", re.IGNORECASE)
_OTHER_FORMATS = re.compile(r"awq|lmhead|headbits|bpw|bitsperweight|exl[23]")

_NOT_GPTQ = frozenset({"awq", "gguf", "ggml", "exl2", "exl3"})

_BRANCH_NAME = re.compile(
    r"(?:gptq-)?([0-9]{1,2})(?:-?bit)?-(-1|[0-9]{1,5})g(?:-(?:actorder|act-order)[_-](true|false))?", re.IGNORECASE
)
# What git allows in a branch name (git help check-ref-format), less what no Hub branch has: quotes, brackets.
_BAD_IN_BRANCH = re.compile(r"[\s\x00-\x20\x7f~^:?*\[\]\\'\"`<>|{}()]|\.\.|//|@\{|\.lock$|^[-/.]|[/.]$")
_ROW_ENDS = re.compile(r"[ \t]{0,3}(?:#{1,6}[ \t]|>|<|[-*+][ \t]|[0-9]{1,9}[.)][ \t])")


@dataclass(frozen=True)
class _Name:
    bits: int
    group_size: int | None
    act_order: bool | None


def read_rows(document: Document, repo: str | None = None) -> tuple[list[BranchRow], list[str]]:
    """The rows of the first GPTQ branch table that has any, and notes on what was odd in them.

    `repo` is the card's own, where it is known: rows that link into another repo are left out. A
    table is none of branches after all where no row has a number of bits, a link or the name main
    (a list of command line options, say).
    """
    if repo is not None and repo_kind(repo) in _NOT_GPTQ:
        return [], []
    lines = document.lines
    skipped: list[str] = []
    i = 0
    while i + 1 < document.original_from:
        header = lines[i]
        i += 1
        if "|" not in header or not _MAY_BE_HEADER.search(header) or not cells.is_delimiter_row(lines[i]):
            continue
        columns, size_unit = _columns(cells.split_row(header))
        if not columns:
            continue
        notes: list[str] = []
        i, body = _body(document, i + 1, len(cells.split_row(header)), notes)
        read = [_Row(columns, size_unit, cells.split_row(lines[at]), at + 1, notes).read(repo) for at in body]
        rows = _distinct((row for row in read if row is not None), notes)
        if any(row.bits is not None or row.repo is not None or row.branch == "main" for row in rows):
            return rows, notes
        if not rows:
            skipped.extend(notes)
    return [], skipped


def _distinct(rows: Iterable[BranchRow], notes: list[str]) -> list[BranchRow]:
    """The first row of each branch."""
    distinct: dict[str, BranchRow] = {}
    for row in rows:
        if row.branch in distinct:
            notes.append(f"Line {row.line}: branch {row.branch} stands in the table twice; its first row is read.")
        distinct.setdefault(row.branch, row)
    return list(distinct.values())


def _columns(header: Sequence[str]) -> tuple[dict[str, int], str]:
    """Field -> column of a GPTQ branch table, and the unit that its size column is headed with.

    Empty for any other table.
    """
    names = [re.sub(r"[^a-z0-9]+", "", plain(cell).lower()) for cell in header]
    columns: dict[str, int] = {}
    for index, name in enumerate(names):
        if _OTHER_FORMATS.search(name) and not name.startswith("exllama"):
            return {}, ""
        if (field := _FIELDS.get(name)) is not None:
            columns.setdefault(field, index)
    # A group size is in the branch's name too, where an act order column says that names are GPTQ's.
    if not {"branch", "bits"} <= columns.keys() or not {"group_size", "act_order"} & columns.keys():
        return {}, ""
    size = names[columns["size_bytes"]] if "size_bytes" in columns else ""
    return columns, "gib" if size.endswith("gib") else "gb" if size.endswith("gb") else ""


def _body(document: Document, start: int, width: int, notes: list[str]) -> tuple[int, list[int]]:
    """The line after the table, and the lines of its rows.

    A blank line ends a table in GFM; where a card has one between two rows, the rows after it are
    meant all the same, and are told by having as many cells.
    """
    lines, end = document.lines, document.original_from
    body: list[int] = []
    i = start
    while i < end:
        line = lines[i]
        if "|" in line and not _ROW_ENDS.match(line):
            if len(body) < MAX_ROWS:
                body.append(i)
            elif len(body) == MAX_ROWS:
                notes.append(f"The branch table has more than {MAX_ROWS} rows; the rest are not read.")
                return end, body
            i += 1
            continue
        if line.strip():
            break
        after = i
        while after < end and not lines[after].strip():
            after += 1
        orphan = after < end and "|" in lines[after] and abs(len(cells.split_row(lines[after])) - width) <= 1
        if not orphan or (after + 1 < end and cells.is_delimiter_row(lines[after + 1])):
            break
        notes.append(f"Line {after + 1}: a blank line splits the branch table; the rows after it are read too.")
        i = after
    return i, body


@dataclass(frozen=True)
class _Row:
    columns: dict[str, int]
    size_unit: str
    texts: Sequence[str]
    line: int
    notes: list[str]

    def read(self, repo: str | None) -> BranchRow | None:
        """The row, or None and a note where it names no branch of this repo."""
        cell = self._cell("branch")
        branch, link = self._branch(cell)
        if branch is None:
            return None
        if link is not None and link.repo and repo and link.repo.lower() != repo.lower():
            self._note(f"the row for {branch} links to {link.repo}, not {repo}, and is left out")
            return None
        if link is not None and link.repo and repo_kind(link.repo) in _NOT_GPTQ:
            self._note(f"the row for {branch} links to {link.repo}, which by its name is no GPTQ repo, and is left out")
            return None
        name = _read_name(branch)
        size = cells.read_size(self._cell("size_bytes"), self.size_unit)
        if size is None:
            self._note_unread("size_bytes", "size")
        dataset = self._cell("dataset")
        dataset_link = markdown_link(dataset)
        return BranchRow(
            branch=branch,
            bits=self._bits(name),
            group_size=self._group_size(name),
            act_order=self._act_order(name),
            damp_percent=self._checked(cells.read_damp(self._cell("damp_percent")), "damp_percent", "damp"),
            dataset=(dataset_link[0] if dataset_link else plain(dataset)) or None,
            dataset_url=(dataset_link[1] or None) if dataset_link else None,
            sequence_length=self._checked(
                cells.read_sequence_length(self._cell("sequence_length")), "sequence_length", "sequence length"
            ),
            size_bytes=size[0] if size else None,
            size_resolution_bytes=size[1] if size else None,
            exllama=cells.read_yes_no(self._cell("exllama")),
            made_with=plain(self._cell("made_with")) or None,
            description=self._cell("description"),
            repo=link.repo if link is not None else None,
            line=self.line,
        )

    def _branch(self, cell: str) -> tuple[str | None, RepoLink | None]:
        """The branch a cell names and its link. A link's `/tree/` part has the last word."""
        words, link = plain(cell), None
        if (found := markdown_link(cell)) is not None:
            words, link = plain(found[0]), repo_link(found[1])
        elif "`" in cell:
            words = cell.split("`")[1].strip()
        if words and not link and _BAD_IN_BRANCH.search(words):
            first = words.split()[0]  # "main (recommended)"
            words = first if first in ("main", "latest") or _read_name(first) else words
        branch = link.tail if link is not None and link.tail else words
        if not branch:
            self._note("a row without a branch name is left out")
        elif branch.startswith("main/"):
            self._note(f"{branch} is a folder of main, not a branch; its row is left out")
        elif _BAD_IN_BRANCH.search(branch) or len(branch) > MAX_NAME_CHARS:
            self._note(f"{branch[:60]!r} cannot be a branch name; its row is left out")
        else:
            if words != branch:
                self._note(f"the link text says {words[:60]!r}, the link itself {branch}; the link counts")
            return branch, link
        return None, None

    def _bits(self, name: _Name | None) -> int | None:
        bits = cells.read_bits(self._cell("bits"))
        if bits is not None:
            return bits
        self._note_unread("bits", "bits")
        if name is None:
            self._note("neither a cell nor the branch's name gives the number of bits")
        return name.bits if name else None

    def _group_size(self, name: _Name | None) -> int | None:
        known, group_size = cells.read_group_size(self._cell("group_size"))
        if known:
            return group_size
        self._note_unread("group_size", "group size")
        if name is None:
            self._note("neither a cell nor the branch's name gives the group size")
        return name.group_size if name else None

    def _act_order(self, name: _Name | None) -> bool | None:
        act_order = cells.read_yes_no(self._cell("act_order"))
        if act_order is not None:
            return act_order
        self._note_unread("act_order", "act order")
        return name.act_order if name else None

    def _cell(self, field: str) -> str:
        index = self.columns.get(field, len(self.texts))
        return self.texts[index] if index < len(self.texts) else ""

    def _checked(self, value: _T, field: str, word: str) -> _T:
        if value is None:
            self._note_unread(field, word)
        return value

    def _note_unread(self, field: str, word: str) -> None:
        if text := self._cell(field):
            self._note(f"{text[:60]!r} is no {word} that can be read")

    def _note(self, text: str) -> None:
        self.notes.append(f"Line {self.line}: {text}.")


def _read_name(branch: str) -> _Name | None:
    """What a branch name of the usual form says: `gptq-4bit-32g-actorder_True`, `gptq-8--1g-actorder_True`."""
    found = _BRANCH_NAME.fullmatch(branch)
    if found is None:
        return None
    act_order = found[3].lower() == "true" if found[3] else None
    return _Name(int(found[1]), None if found[2] == "-1" else int(found[2]), act_order)
