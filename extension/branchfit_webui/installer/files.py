"""Files written so that whoever reads meanwhile, or after a crash, finds the old content or the new."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from pathlib import Path

from .errors import SetupError

__all__ = ["make_folders", "read", "remove_if_empty", "sha256", "unfinished", "write"]


def read(path: Path) -> bytes | None:
    """The content, None where there is no such file. Raises SetupError where something else stands in its place, or it
    cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SetupError(f"{path} is no plain file: move it away, then run this again.")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}.") from None


def unfinished(path: Path) -> Path:
    """Where `write` lets the new content of `path` grow: what a kill leaves there, the next write takes over."""
    target = path.resolve()
    return target.with_name(f".{target.name}.branchfit-new")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(path: Path, content: bytes) -> None:
    """Put `content` in the place of the file at once; its mode and owner stay, a link stays one. Raises OSError."""
    target, new = path.resolve(), unfinished(path)
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, new)
            owner = target.stat()
            if hasattr(os, "chown") and (owner.st_uid, owner.st_gid) != (os.getuid(), os.getgid()):
                with contextlib.suppress(PermissionError):  # root alone may; anybody else's new file is their own
                    os.chown(new, owner.st_uid, owner.st_gid)
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
