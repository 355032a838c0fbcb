"""Which template a model is held to: the user's choice, what was recorded, its card, its name."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from branchfit.card import read_card
from branchfit.download.lockfile import BadLock, has_lock, read_lock
from branchfit.download.names import LOCK_NAME
from branchfit.errors import BranchFitError
from branchfit.installed import recorded_template
from branchfit.prompts import PLAIN_FORM, TEMPLATES, Template, by_name, guess_by_model, named

CARD_NAME = "README.md"

ALL_MODELS = "*"
"""The name under which "off" is kept for all models at once. No folder is called so on Windows, and none of a repo."""

_CARD_BYTES = 4 * 2**20
"""Cards read at most; the longest of the known ones takes 60 kB."""


OFF = "off"


@dataclass(frozen=True)
class Decision:
    """What holds for one model. `template` is None where it is not locked; `source` says why, in words."""

    template: Template | None
    source: str
    keep_turns: bool = False
    own: Template | None = None
    """What would hold without the user's choice."""
    broken: str = ""
    """Why nothing may be sent: a record of the template is there and cannot be read, and nothing else tells it."""

    @property
    def held(self) -> Template:
        """The template, for code that runs only where there is one."""
        assert self.template is not None
        return self.template


class Choices:
    """Decides for each model, and keeps what the user chose in one small JSON file.

    The file maps a model's name to {"template": NAME or "off", "keep_turns": true or false}. A file
    that cannot be read is set aside under another name, never written over.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.problem = ""
        self._kept: dict[str, dict[str, Any]] = self._read()
        self._cached: tuple[Any, Decision] | None = None
        self._files: tuple[Path, Path, Path] | None = None
        self._changes = 0

    def decide(self, name: str, folder: Path) -> Decision:
        """What holds for the model `name` in `folder`. Asked at every prompt: files are read only when they change."""
        if self._files is None or self._files[0] != folder:
            self._files = (folder, folder / LOCK_NAME, folder / CARD_NAME)
        key = (name, self._changes, _stamp(self._files[1]), _stamp(self._files[2]))
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, self._decide(name, folder))
        return self._cached[1]

    def _decide(self, name: str, folder: Path) -> Decision:
        own, source = _own(name, folder)
        kept = self._kept.get(name, {})
        keep_turns, wanted = bool(kept.get("keep_turns")), kept.get("template")
        if wanted == OFF:
            return Decision(None, "switched off by your choice", keep_turns, own)
        if wanted:
            chosen = by_name(wanted)
            if chosen is not None:
                return Decision(chosen, "your choice", keep_turns, own)
            source = f"{source}; your choice, {wanted}, is no known template"
        broken = f"{folder / LOCK_NAME} cannot be read" if own is None and _is_unreadable(folder) else ""
        return Decision(own, source, keep_turns, own, broken)

    def keep(self, name: str, template: str | None, keep_turns: bool) -> None:
        """Keep a choice: a template's name, "off", or None for what the model itself says. Raises OSError."""
        choice: dict[str, Any] = {
            key: value for key, value in (("template", template), ("keep_turns", keep_turns)) if value
        }
        kept = {**self._kept, name: choice} if choice else {k: v for k, v in self._kept.items() if k != name}
        self._kept = kept
        self._changes += 1
        if self._file is None:
            if self.problem:
                raise OSError(self.problem)
            return
        new = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            new.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            new.replace(self._file)
        finally:
            new.unlink(missing_ok=True)

    def kept(self, name: str) -> str | None:
        """The choice kept for `name`: a template's name, "off", or None."""
        return self._kept.get(name, {}).get("template")

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._file is None:
            return {}
        try:
            content = json.loads(self._file.read_text(encoding="utf-8-sig"))
            if not isinstance(content, dict) or not all(map(_is_choice, content.values())):
                raise ValueError("not a table of choices")
            return content
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.problem = f"the choices kept in {self._file} cannot be read ({error})"
            try:
                self._file.replace(self._file.with_name(self._file.name + ".unreadable"))
            except OSError:
                self._file = None
            return {}


def _is_choice(choice: Any) -> bool:
    return (
        isinstance(choice, dict)
        and isinstance(choice.get("template", ""), str)
        and isinstance(choice.get("keep_turns", False), bool)
    )


def offered(decision: Decision) -> list[str]:
    """Template names to choose from, the model's own and its plain form first."""
    first = [decision.own.name] if decision.own else []
    if first and first[0] in PLAIN_FORM:
        first.append(PLAIN_FORM[first[0]].name)
    return first + [template.name for template in TEMPLATES if template.name not in first]


def _own(name: str, folder: Path) -> tuple[Template | None, str]:
    recorded = _recorded(folder)
    if recorded is not None:
        return recorded, "recorded when BranchFit pulled the model"
    carded = _from_card(folder)
    if carded is not None:
        return carded, "the card in the model's folder"
    guessed = guess_by_model(name)
    if guessed is not None:
        return guessed, "the model's name"
    return (
        None,
        "no template is recorded with this model or in its folder, and its name tells none; the tab offers some",
    )


def _recorded(folder: Path) -> Template | None:
    try:
        return recorded_template(read_lock(folder)) if has_lock(folder) else None
    except BadLock:
        return None


def _is_unreadable(folder: Path) -> bool:
    try:
        return has_lock(folder) and not read_lock(folder)
    except BadLock:
        return True


def _from_card(folder: Path) -> Template | None:
    try:
        with (folder / CARD_NAME).open("rb") as file:
            found = read_card(file.read(_CARD_BYTES)).prompt_template
    except (OSError, BranchFitError):
        return None
    return _template(found.name, found.text, found.source) if found is not None else None


def _template(name: Any, text: str, source: str) -> Template | None:
    """A template found with the model, with the stop strings and turns of a known one of the same bytes."""
    try:
        return named(name if isinstance(name, str) and name else "the card's", text, source)
    except BranchFitError:
        return None


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
