"""Table rows -> cells, and a cell's text -> a value. Every reader gives None for what it cannot read."""

from __future__ import annotations

import html
import re
from decimal import Decimal

from .blocks import plain

__all__ = [
    "SIZE_UNITS",
    "is_delimiter_row",
    "read_bits",
    "read_damp",
    "read_group_size",
    "read_sequence_length",
    "read_size",
    "read_yes_no",
    "split_row",
]

MAX_VALUE_CHARS = 64
"""The longest cell that is taken for a value; "35332232264.00 GB" has 17. Keeps a megabyte of digits
away from big-number arithmetic, which is not linear."""

MAX_BITS = 16
"""The width of the weights before quantisation."""

MAX_GROUP_SIZE = 65_536
"""No linear layer of a published model has more input features (Falcon-180B's largest has 59,392)."""

MAX_TOKENS = 100_000_000
"""Ten times the longest context any published model claims."""

MAX_SIZE_BYTES = 10**15
"""A petabyte; the largest branch seen is 94.25 GB."""

RAW_BYTES_FROM = 10**6
"""A number this large with GB behind it is a number of bytes: cards of August 2023 print
"35332232264.00 GB", and no model has a million gigabytes."""

SIZE_UNITS = {
    "b": 1,
    "byte": 1,
    "bytes": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}

_DELIMITER_ROW = re.compile(r"[ \t|:-]*")
_DELIMITER_CELL = re.compile(r"[ \t]*:?-+:?[ \t]*")
_BITS = re.compile(r"(?:int|w)?([0-9]{1,2})(?:\.0+)?(?: ?-?bits?)?")
_GROUP = re.compile(r"([0-9]{1,5}) ?g?")
_WHOLE = re.compile(r"[0-9]{1,9}|[0-9]{1,3}(?:[,_][0-9]{3})+")
_THOUSANDS = re.compile(r"([0-9]{1,4}) ?k")
_YES_NO = {"yes": True, "true": True, "✅": True, "✓": True, "no": False, "false": False, "❌": False, "✗": False}
_DAMP = re.compile(r"([0-9]{0,3}(?:\.[0-9]{1,12})?) ?%?")
_SIZE = re.compile(r"(?:~|≈|about |ca\. ?)? ?([0-9][0-9.,_ ]*?) ?([A-Za-z]*)")
_GROUPED = re.compile(r"[0-9]{1,3}(?:([,_ ])[0-9]{3})(?:\1[0-9]{3})*(?:\.[0-9]*)?")
_DECIMAL_COMMA = re.compile(r"[0-9]+,[0-9]{1,2}")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")


def split_row(line: str) -> list[str]:
    r"""The cells of a pipe row, trimmed; the outer pipes may be there or not.

    As in GFM a pipe is escaped by a backslash and by nothing else: inside a code span it still divides.

    >>> split_row(r"| a | `b \| c` | d")
    ['a', '`b | c`', 'd']
    """
    cells: list[str] = []
    held: list[str] = []
    for piece in line.strip().split("|"):
        if (len(piece) - len(piece.rstrip("\\"))) % 2:
            held.append(piece[:-1])
            continue
        held.append(piece)
        cells.append("|".join(held).strip())
        held = []
    if held:
        cells.append("|".join(held).strip() + "|")
    first = 1 if len(cells) > 1 and not cells[0] else 0
    last = len(cells) - 1 if len(cells) > first + 1 and not cells[-1] else len(cells)
    return cells[first:last]


def is_delimiter_row(line: str) -> bool:
    """Whether this is the row of dashes under a table's header. It needs a pipe, outer ones or inner."""
    if "|" not in line or "-" not in line or not _DELIMITER_ROW.fullmatch(line):
        return False
    return all(_DELIMITER_CELL.fullmatch(cell) for cell in split_row(line))


def read_bits(cell: str) -> int | None:
    """`4`, `4-bit`, `4bit`, `int4`."""
    found = _BITS.fullmatch(_value(cell))
    return int(found[1]) if found is not None and 1 <= int(found[1]) <= MAX_BITS else None


def read_group_size(cell: str) -> tuple[bool, int | None]:
    """Whether the cell could be read, and the group size: None for no grouping."""
    text = _value(cell)
    if text in ("none", "-1", "-1g", "no", "no groupsize", "no group size", "per-channel"):
        return True, None
    found = _GROUP.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= MAX_GROUP_SIZE:
        return False, None
    return True, int(found[1])


def read_yes_no(cell: str) -> bool | None:
    """`Yes`, `No`, `True`, `False`, in any case; a tick or a cross."""
    return _YES_NO.get(_value(cell))


def read_damp(cell: str) -> float | None:
    """Damp % as printed. (The column is so called; 0.1 is GPTQ's fraction of the mean diagonal.)"""
    found = _DAMP.fullmatch(_value(cell))
    return float(found[1]) if found is not None and found[1] else None


def read_sequence_length(cell: str) -> int | None:
    """Tokens: `4096`, `4,096`, `16K` (1024 each)."""
    text = _value(cell)
    if thousands := _THOUSANDS.fullmatch(text):
        text = str(int(thousands[1]) * 1024)
    if not _WHOLE.fullmatch(text):
        return None
    tokens = int(text.replace(",", "").replace("_", ""))
    return tokens if 1 <= tokens <= MAX_TOKENS else None


def read_size(cell: str, default_unit: str = "") -> tuple[int, int] | None:
    """Bytes, and the bytes one step of the last printed digit is worth.

    GB is 10^9 and GiB 2^30. `default_unit` is for cells without one (a column headed "Size (GB)").

    >>> read_size("35.33 GB")
    (35330000000, 10000000)
    >>> read_size("35332232264.00 GB")
    (35332232264, 1)
    """
    found = _SIZE.fullmatch(_value(cell))
    if found is None:
        return None
    digits = found[1].strip()
    if _GROUPED.fullmatch(digits):
        digits = re.sub("[,_ ]", "", digits)
    elif _DECIMAL_COMMA.fullmatch(digits):
        digits = digits.replace(",", ".")
    if not _NUMBER.fullmatch(digits):
        return None
    number = Decimal(digits)
    unit = found[2] or default_unit
    if number >= RAW_BYTES_FROM and unit in ("", "gb", "gib", "tb", "tib"):
        unit = "b"
    if unit not in SIZE_UNITS:
        return None
    scale = SIZE_UNITS[unit]
    size_bytes = round(number * scale)
    if not 0 < size_bytes <= MAX_SIZE_BYTES:
        return None
    decimals = len(digits.partition(".")[2])
    return size_bytes, max(1, round(Decimal(scale).scaleb(-decimals)))


def _value(cell: str) -> str:
    """The cell's words in lower case, "" for what is too long to be a value."""
    if len(cell) > MAX_VALUE_CHARS:
        return ""
    if "&" in cell:
        cell = html.unescape(cell)  # "&nbsp;"
    return plain(cell).replace("\u00a0", " ").lower()
