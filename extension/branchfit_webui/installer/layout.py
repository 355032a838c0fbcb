"""A webui's folder, read: which kind of install it is, and what this version reads where.

Found by looking into its files, never by its version. The expressions looked for are those of
oobabooga/text-generation-webui v1.5 (July 2023) to v4.7.3 (May 2026): server.py (settings),
modules/shared.py (CMD_FLAGS.txt, defaults), modules/utils.py (extensions), modules/paths.py (user_data).
"""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, TypeVar

from .errors import SetupError

__all__ = ["EXTENSION", "Kind", "Layout", "is_webui", "python_candidates", "read_layout", "start_command", "webui_in"]

Kind = Literal["one-click", "portable", "manual"]

EXTENSION = "branchfit"
"""The extension's folder and name. A plain identifier: v1.x imports it as extensions.branchfit.script."""

WINDOWS = os.name == "nt"

_MARKS = ("server.py", "modules/extensions.py", "modules/shared.py")
"""What makes a webui, in every version."""

_SETTINGS_IN_USER_DATA = re.compile(r"user_data(_dir)?\W{1,8}settings\.yaml")
_EXTENSIONS_IN_USER_DATA = re.compile(r"user_data(_dir)?\W{1,8}extensions\b")

_Path = TypeVar("_Path", bound=PurePath)


@dataclass(frozen=True)
class Layout:
    """Where this webui reads what.

    `settings` is the file that it reads, there or not, and `settings_keys` the lists in it that enable
    extensions, each with what the webui takes where the file does not say (`defaults`). `flags` is its
    CMD_FLAGS.txt, None before v1.6, and `flags_reader` who reads it: "server" or "start script".
    """

    root: Path
    kind: Kind
    user_data: Path | None
    extensions: Path
    settings: Path
    settings_keys: tuple[str, ...]
    defaults: dict[str, tuple[str, ...]]
    flags: Path | None
    flags_reader: str
    start: str

    @property
    def folder(self) -> Path:
        """The extension's own folder."""
        return self.extensions / EXTENSION

    @property
    def start_folder(self) -> Path:
        """Where `start` is: beside app/ in builds with a desktop window."""
        return self.root.parent if self.kind == "portable" and self.root.name == "app" else self.root

    @property
    def models(self) -> Path:
        """The models folder this version uses unless it is told otherwise."""
        newer = self.user_data / "models" if self.user_data is not None else None
        return newer if newer is not None and newer.is_dir() else self.root / "models"


def is_webui(folder: Path) -> bool:
    """Whether `folder` is a webui's root."""
    return all((folder / mark).is_file() for mark in _MARKS)


def webui_in(folder: Path) -> Path | None:
    """The root of the webui that `folder` is or plainly holds: its app/ (builds with a desktop window),
    its text-generation-webui/ (the one-click archive of 2023). None where there is none."""
    for candidate in (folder, folder / "app", folder / "text-generation-webui"):
        if is_webui(candidate):
            return candidate.resolve()
    return None


def read_layout(root: Path, user_data: Path | None = None, windows: bool = WINDOWS) -> Layout:
    """Read the webui at `root`. `user_data` overrides the folder, as the webui's --user-data-dir does.

    Raises SetupError where the files that say so cannot be read.
    """
    shared, server, utils = (_text(root / name) for name in ("modules/shared.py", "server.py", "modules/utils.py"))
    kind = _kind(root)
    if user_data is not None and not user_data.is_absolute():  # undone from another folder, it is still this one
        user_data = type(root)(os.path.abspath(user_data))  # noqa: PTH100 - resolve() would follow a link of the user's
    data = user_data or _user_data(root, kind)
    knows_data = bool(_SETTINGS_IN_USER_DATA.search(server)) or "user_data" in shared
    in_data = data if _EXTENSIONS_IN_USER_DATA.search(utils) else root
    settings_home = data if _SETTINGS_IN_USER_DATA.search(server) else root
    flags, reader = _flags(root, data, shared)
    return Layout(
        root=root,
        kind=kind,
        user_data=data if knows_data else None,
        extensions=in_data / "extensions",
        settings=_settings(settings_home, "settings.json" in server),
        settings_keys=tuple(key for key in ("default_extensions", "chat_default_extensions") if key in shared),
        defaults={key: _default(shared, key) for key in ("default_extensions", "chat_default_extensions")},
        flags=flags,
        flags_reader=reader,
        start=start_command(root, kind, windows),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise SetupError(f"{path} cannot be read ({error}); the setup has to look into it. Check its rights.") from None


def _kind(root: Path) -> Kind:
    if (root / "portable_env").is_dir():
        return "portable"
    if any((home / "installer_files").is_dir() for home in _installer_homes(root)):
        return "one-click"
    return "manual"


def _installer_homes(root: _Path) -> tuple[_Path, ...]:
    """Where installer_files may stand: in the webui since v1.6, beside it in the one-click archive before."""
    return (root, root.parent) if root.name == "text-generation-webui" else (root,)


def _user_data(root: Path, kind: Kind) -> Path:
    """Source: resolve_user_data_dir in modules/paths.py (v4.0 and newer); user_data in the root before."""
    paths = _text(root / "modules" / "paths.py")
    if kind == "portable" and "'--portable'" in paths.replace('"', "'"):
        above = root.parent.parent / "user_data"
        if "electron" in paths.lower() and (root.parent / "app").exists() and above.exists():
            return above
        if (root.parent / "user_data").exists():
            return root.parent / "user_data"
    return root / "user_data"


def _settings(home: Path, reads_json: bool) -> Path:
    """settings.yaml wins; settings.json is read by v1.x to v3.0 where it stands alone."""
    if reads_json and not (home / "settings.yaml").exists() and (home / "settings.json").exists():
        return home / "settings.json"
    return home / "settings.yaml"


def _flags(root: Path, data: Path, shared: str) -> tuple[Path | None, str]:
    if "CMD_FLAGS.txt" in shared:
        return data / "CMD_FLAGS.txt", "server"
    if "CMD_FLAGS.txt" in _text(root / "one_click.py"):
        return root / "CMD_FLAGS.txt", "start script"
    return None, ""


def _default(shared: str, key: str) -> tuple[str, ...]:
    """The list that modules/shared.py has for `key`: v1.6 to 2023-12 enable `gallery` there."""
    try:
        tree = ast.parse(shared)
    except (SyntaxError, ValueError):
        return ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for name, value in zip(node.keys, node.values, strict=True):
                if isinstance(name, ast.Constant) and name.value == key and isinstance(value, ast.List):
                    items = [item.value for item in value.elts if isinstance(item, ast.Constant)]
                    return tuple(item for item in items if isinstance(item, str))
    return ()


def python_candidates(root: _Path, windows: bool = WINDOWS) -> tuple[_Path, ...]:
    """Where a webui's own Python may stand, the surest first.

    Sources: start_linux.sh, start_macos.sh, start_windows.bat (portable_env, installer_files/env);
    a virtual environment made by hand in the folder. conda and portable builds on Windows have
    python.exe at the top, virtual environments in Scripts.
    """
    bare = ("python.exe",) if windows else ("bin/python3", "bin/python")
    made = ("Scripts/python.exe",) if windows else ("bin/python",)
    found = [root / "portable_env" / name for name in bare]
    found += [home / "installer_files" / "env" / name for home in _installer_homes(root) for name in reversed(bare)]
    found += [root / folder / name for folder in ("venv", ".venv", "env") for name in made]
    return tuple(found)


def start_command(root: PurePath, kind: Kind, windows: bool = WINDOWS) -> str:
    """What the user starts, in words."""
    if windows:
        script, manual = "start_windows.bat", "python server.py"
    else:
        script, manual = f"./start_{'macos' if os.uname().sysname == 'Darwin' else 'linux'}.sh", "python server.py"
    if kind == "portable" and root.name == "app":
        return "textgen.bat" if windows else "./textgen"
    return manual if kind == "manual" else script
