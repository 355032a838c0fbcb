"""Files written so that whoever reads meanwhile, or after a crash, finds the old content or the new."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

__all__ = ["make_folders", "read", "remove_if_empty", "sha256", "write"]


def read(path: Path) -> bytes | None:
    """The content, None where there is no such file. Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(path: Path, content: bytes) -> None:
    """Put `content` in the place of the file at once; its mode stays, a link stays one. Raises OSError."""
    target = path.resolve()
    new = target.with_name(f".{target.name}.branchfit-{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, new)
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it that are missing; those made, the highest first. Raises OSError."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
    return missing[::-1]


def remove_if_empty(folder: Path) -> bool:
    """Whether the folder is gone: removed where nothing is in it, left where something is."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
