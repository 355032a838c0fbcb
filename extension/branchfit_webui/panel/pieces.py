"""Pieces of the page as HTML. Every text from a card, a Hub or a disk is escaped here."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Controls, and the marks that reorder text."""

CSS = """
#branchfit-poll { display: none !important; }
.branchfit-button { align-self: flex-end; max-height: 44px; }
#branchfit-look { align-self: flex-end; max-width: 9em; height: 42px; }
.branchfit .scroll { padding-bottom: 4px; }
.branchfit table { border-collapse: collapse; width: 100%; font-size: 0.92em; border: none; }
.branchfit table th, .branchfit table td { padding: 4px 9px !important; text-align: left; vertical-align: top;
  border: none !important; border-bottom: 1px solid rgba(128,128,128,0.3) !important; line-height: 1.35; }
.branchfit th { font-weight: 600; white-space: nowrap; }
.branchfit td.fits, .branchfit td.not { white-space: nowrap; }
.branchfit summary { cursor: pointer; opacity: 0.75; font-size: 0.92em; margin-top: 4px; }
.branchfit td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.branchfit th.number { text-align: right; }
.branchfit td.name { font-family: monospace; white-space: nowrap; }
.branchfit tr.chosen td { background: rgba(46, 160, 67, 0.18); font-weight: 600; }
.branchfit .fits { color: #2ea043; }
.branchfit .not { color: #d9534f; }
.branchfit .quiet { opacity: 0.75; font-size: 0.92em; }
.branchfit .reason { font-size: 1.05em; margin: 0.5em 0; }
.branchfit .problem { border-left: 4px solid #d9534f; padding: 6px 10px; margin: 4px 0;
  background: rgba(217, 83, 79, 0.12); }
.branchfit .good { border-left: 4px solid #2ea043; padding: 6px 10px; margin: 4px 0;
  background: rgba(46, 160, 67, 0.12); }
.branchfit .bar { height: 10px; border-radius: 5px; background: rgba(128,128,128,0.25); overflow: hidden;
  margin: 4px 0; }
.branchfit .bar > div { height: 100%; background: #2ea043; }
.branchfit .scroll { overflow-x: auto; }
"""


def text(value: object) -> str:
    """Any value as HTML text, line breaks kept."""
    return html.escape(_CONTROL.sub("", str(value))).replace("\n", "<br>")


def block(*parts: str) -> str:
    return f'<div class="branchfit">{"".join(part for part in parts if part)}</div>'


def problem(sentence: str) -> str:
    return f'<div class="problem">{text(sentence)}</div>' if sentence else ""


def good(sentence: str) -> str:
    return f'<div class="good">{text(sentence)}</div>' if sentence else ""


def problem_html(sentence: str) -> str:
    return block(problem(sentence))


def good_html(sentence: str) -> str:
    return block(good(sentence))


def quiet(sentence: str) -> str:
    return f'<div class="quiet">{text(sentence)}</div>' if sentence else ""


def details(summary: str, *parts: str) -> str:
    """Lines that one opens to read."""
    inner = "".join(parts)
    return f"<details><summary>{text(summary)}</summary>{inner}</details>" if inner else ""


def cell(value: object, kind: str = "") -> tuple[str, str]:
    """A table's cell: its text, escaped, and its class (`number`, `name`, `fits`, `not` or none)."""
    return text(value), kind


def table(titles: Sequence[tuple[str, str]], rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """`titles` are (title, class), `rows` (class of the row, cells)."""
    head = "".join(f'<th class="{kind}">{text(title)}</th>' for title, kind in titles)
    body = "".join(
        f'<tr class="{kind}">{"".join(f"""<td class="{of}">{what}</td>""" for what, of in cells)}</tr>'
        for kind, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
