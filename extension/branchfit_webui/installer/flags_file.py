"""CMD_FLAGS.txt: one name put behind its --extensions, or taken out; every other byte stays.

Read as the webui reads it (modules/shared.py from v3.1, one_click.py before): lines that begin with #
are comments, a backslash at a line's end is dropped, what is left is one command line, cut by shlex.
Of several --extensions argparse takes the last, and with `=` one name alone.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import CannotEdit

__all__ = ["add_name", "names_in", "take_name"]

FLAG = "--extensions"

_SHORTEST = len("--exte")
"""argparse takes a flag's beginning; below this it could mean --extra-flags."""

_WORD = re.compile(r"""(?:[^\s'"\\]|\\.|'[^']*'|"(?:\\.|[^"\\])*")+""", re.DOTALL)


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    value: str


def _words(text: str) -> Iterator[_Word]:
    """The words of all lines that are no comment, with where they stand."""
    at = 0
    for line in text.splitlines(keepends=True):
        body = line.rstrip("\r\n").rstrip().rstrip("\\")
        # The byte order mark is no comment sign and no flag: the webui would read it as part of the first word.
        lead = 1 if at == 0 and line.startswith("\ufeff") else 0
        if not body[lead:].strip().startswith("#"):
            for match in _WORD.finditer(body, lead):
                yield _Word(at + match.start(), at + match.end(), _unquoted(match[0]))
        at += len(line)


def _as_read(text: str) -> list[str] | None:
    """The words as the webui has them, which joins the lines and cuts them by shlex; an `=` behind --extensions as a
    blank. None where it stops at them."""
    lines = [line.strip().rstrip("\\").strip() for line in text.removeprefix("\ufeff").splitlines()]
    try:
        words = shlex.split(" ".join(line for line in lines if line and not line.startswith("#")))
    except ValueError:
        return None
    return [part for word in words for part in (word.split("=", 1) if _is_flag(word) else [word])]


def _adds_alone(text: str, made: str, name: str) -> bool:
    """Whether `made` reads as `text` does but for `name`, and --extensions where there was none."""
    before, after = _as_read(text), _as_read(made)
    if before is None or after is None or name not in after:
        return False
    after.remove(name)
    return after in (before, [*before, FLAG])


def _unquoted(word: str) -> str:
    return re.sub(r"""\\(.)|['"]""", lambda match: match[1] or "", word, flags=re.DOTALL)


def _is_flag(word: str) -> bool:
    stem = word.partition("=")[0]
    return len(stem) >= _SHORTEST and FLAG.startswith(stem)


def _last_flag(text: str) -> tuple[_Word, list[_Word]] | None:
    """The --extensions that counts, and its names."""
    words = list(_words(text))
    at = next((place for place in reversed(range(len(words))) if _is_flag(words[place].value)), None)
    if at is None:
        return None
    if "=" in words[at].value:
        return words[at], []
    names = []
    for word in words[at + 1 :]:
        if word.value.startswith("-"):
            break
        names.append(word)
    return words[at], names


def names_in(text: str) -> tuple[str, ...]:
    """The extensions that the text enables."""
    found = _last_flag(text)
    if found is None:
        return ()
    flag, names = found
    inline = (flag.value.partition("=")[2],) if "=" in flag.value else ()
    return (*inline, *(name.value for name in names))


def add_name(text: str, name: str, path: Path | str) -> str:
    """`text` with `name` first behind --extensions, which is added where there is none. Raises CannotEdit."""
    if name in names_in(text):
        return text
    found = _last_flag(text)
    wanted = (name, *names_in(text))
    if found is None:
        end = "\r\n" if "\r\n" in text else "\n"
        gap = end if text and not text.endswith(("\n", "\ufeff")) else ""
        made = f"{text}{gap}{FLAG} {name}{end}"
    else:
        flag, _ = found
        stem, equals, inline = flag.value.partition("=")
        made = f"{text[: flag.start]}{stem} {name}{' ' + inline if equals else ''}{text[flag.end :]}"
    if names_in(made) != wanted or not _adds_alone(text, made, name):
        raise CannotEdit(path, "its quotes or its --extensions do not read plainly", f"{FLAG} {' '.join(wanted)}")
    return made


def take_name(text: str, name: str, path: Path | str) -> str:
    """`text` without `name` behind its last --extensions; a flag left without names goes, and so does a
    line left empty by that. Raises CannotEdit."""
    found = _last_flag(text)
    if found is None or name not in names_in(text):
        return text
    flag, names = found
    wanted = tuple(other for other in names_in(text) if other != name)
    gone = [word for word in names if word.value == name]
    if not wanted:
        gone = [flag, *names]
    made = text
    for word in reversed(gone):
        made = _cut(made, word)
    # Without the last --extensions an earlier one would count.
    if wanted and names_in(made) != wanted:
        raise CannotEdit(path, f"{name} cannot be taken out of it plainly", f"{FLAG} {' '.join(wanted)}")
    return made


def _cut(text: str, word: _Word) -> str:
    """The word away with the blanks before it; the whole line if nothing else stood on it."""
    line_start = max(text.rfind("\n", 0, word.start) + 1, 1 if text[:1] == "\ufeff" else 0)
    line_end = text.find("\n", word.end)
    line_end = len(text) if line_end < 0 else line_end + 1
    before, after = text[line_start : word.start], text[word.end : line_end]
    if not before.strip() and not after.strip().rstrip("\\").strip():
        return text[:line_start] + text[line_end:]
    if not before.strip():
        return text[: word.start] + text[word.end :].lstrip(" \t")
    return text[:line_start] + before.rstrip(" \t") + text[word.end :]
