"""What a setup has done, on disk before it does it: so it can be run again, and undone, wherever it stopped.

One JSON file in the extension's folder. Each entry holds what undoing needs; it is written when the
change begins, and again when it is done.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import SetupError
from .files import make_folders, read, remove_if_empty, write

__all__ = ["RECORD_NAME", "Entry", "Record"]

RECORD_NAME = "setup.json"
_FORMAT = 1


@dataclass
class Entry:
    """One change: its kind, what it touches, whether it is done, and what undoing it needs."""

    kind: str
    target: str
    facts: dict[str, Any]
    done: bool = False


@dataclass
class Record:
    """The entries of one webui, in the order in which they were made."""

    folder: Path
    made: list[str] = field(default_factory=list)
    """Folders that were made for it, the highest first."""
    entries: list[Entry] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / RECORD_NAME

    @property
    def is_there(self) -> bool:
        return self.path.is_file()

    @classmethod
    def load(cls, folder: Path) -> Record:
        """The record in `folder`, an empty one where there is none. Raises SetupError where it is unreadable."""
        try:
            content = read(folder / RECORD_NAME)
            if content is None:
                return cls(folder)
            document = json.loads(content)
            if document["format"] != _FORMAT:
                raise ValueError(f"format {document['format']}, and this BranchFit reads {_FORMAT}")
            document = _moved(document, Path(document["folder"]), folder)
            return cls(folder, list(document["made"]), [Entry(**entry) for entry in document["entries"]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SetupError(
                f"{folder / RECORD_NAME}, which says what a former setup did, cannot be read ({error}). "
                f"Move it away to set up anew; what it did stays as it is then."
            ) from None

    def find(self, kind: str, target: str) -> Entry | None:
        return next((entry for entry in self.entries if (entry.kind, entry.target) == (kind, target)), None)

    def begin(self, kind: str, target: str, facts: dict[str, Any]) -> Entry:
        """Write down that a change is about to be made. An entry for the same thing is taken over."""
        entry = self.find(kind, target)
        if entry is None:
            entry = Entry(kind, target, facts)
            self.entries.append(entry)
        entry.facts, entry.done = facts, False
        self.save()
        return entry

    def end(self, entry: Entry) -> None:
        entry.done = True
        self.save()

    def drop(self, entry: Entry) -> None:
        self.entries.remove(entry)
        self.save()

    def save(self) -> None:
        """Raises OSError."""
        made = [str(folder) for folder in make_folders(self.folder)]
        self.made += [folder for folder in made if folder not in self.made]
        document = {
            "format": _FORMAT,
            "folder": str(self.folder),
            "made": self.made,
            "entries": [vars(entry) for entry in self.entries],
        }
        write(self.path, json.dumps(document, indent=1).encode() + b"\n")

    def remove(self) -> list[Path]:
        """Delete the record, and the folders made for it that are empty. Returns those that are not."""
        self.path.unlink(missing_ok=True)
        folders = list(dict.fromkeys([self.folder, *(Path(folder) for folder in reversed(self.made))]))
        return [folder for folder in folders if not remove_if_empty(folder)]


def _moved(document: dict[str, Any], was: Path, now: Path) -> dict[str, Any]:
    """The document with its paths where they are now: a webui's folder may have been renamed or moved since."""
    while was != now and was.name == now.name and was.name:
        was, now = was.parent, now.parent
    if was == now:
        return document

    def here(value: Any) -> Any:
        if isinstance(value, str) and (value == str(was) or value.startswith((f"{was}/", f"{was}\\"))):
            return f"{now}{value[len(str(was)) :]}"
        return value

    entries = [
        {**entry, "target": here(entry["target"]), "facts": {key: here(fact) for key, fact in entry["facts"].items()}}
        for entry in document["entries"]
    ]
    return {**document, "made": [here(folder) for folder in document["made"]], "entries": entries}
