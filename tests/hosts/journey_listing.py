"""What stands in a folder and in a Python, before and after, and what lies between."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

PACKAGES = """
import json
from importlib import metadata
print(json.dumps(sorted({(one.metadata["Name"], one.version) for one in metadata.distributions()})))
"""

BYTECODE = "__pycache__"
"""Left out: any Python that runs from the folder writes these, the host's own before anyone else's."""


@dataclass(frozen=True)
class Difference:
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.gone)

    def __str__(self) -> str:
        parts = (("new", self.added), ("changed", self.changed), ("gone", self.gone))
        return "; ".join(f"{word}: {', '.join(names)}" for word, names in parts if names) or "nothing"

    @property
    def names(self) -> set[str]:
        return {*self.added, *self.changed, *self.gone}


def difference(before: Mapping[str, object], after: Mapping[str, object]) -> Difference:
    return Difference(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
        tuple(sorted(before.keys() - after.keys())),
    )


def without(found: Difference, *starts: str) -> Difference:
    """The difference without what stands under one of `starts`."""
    return Difference(
        *(
            tuple(name for name in names if not name.startswith(starts))
            for names in (found.added, found.changed, found.gone)
        )
    )


def hashed(folder: Path) -> dict[str, str]:
    """Every file -> its SHA-256, every link -> where it points; an empty folder counts, its name ending in `/`."""
    return _listed(folder, lambda path: hashlib.sha256(path.read_bytes()).hexdigest())


def stamped(folder: Path) -> dict[str, str]:
    """Every file -> its size and the time of its last change: for a Python, whose bytes are too many to hash."""

    def stamp(path: Path) -> str:
        seen = path.stat()
        return f"{seen.st_size} {seen.st_mtime_ns}"

    return _listed(folder, stamp)


def _listed(folder: Path, value: Callable[[Path], str]) -> dict[str, str]:
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if BYTECODE in path.parts:
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = value(path)
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{name}/"] = ""
    return found


def packages(python: Path) -> dict[str, str]:
    """Package -> version, as that Python sees them."""
    done = subprocess.run([python, "-B", "-c", PACKAGES], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def as_text(listed: Mapping[str, str]) -> str:
    return "".join(f"{name} {value}\n" for name, value in sorted(listed.items()))
