"""Folders that look like webuis of each era to a setup, and a Python for them with packages of its own."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

SETTINGS_IN_ROOT = """\
    elif Path('settings.yaml').exists():
        settings_file = Path('settings.yaml')
    elif Path('settings.json').exists():
        settings_file = Path('settings.json')
"""
SETTINGS_IN_DATA = "    elif Path('user_data/settings.yaml').exists():\n"
SETTINGS_BY_ARGUMENT = "    elif (shared.user_data_dir / 'settings.yaml').exists():\n"
EXTENSIONS_IN_ROOT = "Path('extensions').glob('*/script.py')\n"
EXTENSIONS_IN_DATA = f"user_ext_path = Path('user_data/extensions')\n{EXTENSIONS_IN_ROOT}"
EXTENSIONS_BY_ARGUMENT = f"user_ext_path = shared.user_data_dir / 'extensions'\n{EXTENSIONS_IN_ROOT}"
FLAGS_OF_SCRIPT = 'cmd_flags_path = os.path.join(script_dir, "CMD_FLAGS.txt")\n'
FLAGS_OF_SERVER = 'cmd_flags_path = Path(__file__).parent.parent / "user_data" / "CMD_FLAGS.txt"\n'
NO_DEFAULTS = "settings = {\n    'default_extensions': [],\n}\n"
GALLERY = "settings = {\n    'default_extensions': ['gallery'],\n}\n"
PATHS = """\
    is_portable = '--portable' in sys.argv
        parent_path = script_dir.parent / 'user_data'
"""
PATHS_ELECTRON = f"# Electron build\n        if (script_dir.parent / 'app').exists():\n{PATHS}"


@dataclass(frozen=True)
class Era:
    """What a version's files say, in the lines that a setup looks for; each copied from that version."""

    server: str
    utils: str
    shared: str
    one_click: str | None
    paths: str | None
    extension: str
    settings: str
    flags: str | None


ERAS = {
    "v1.5": Era(
        SETTINGS_IN_ROOT,
        EXTENSIONS_IN_ROOT,
        "settings = {\n    'default_extensions': [],\n    'chat_default_extensions': ['gallery'],\n}\n",
        None,
        None,
        "extensions/branchfit",
        "settings.yaml",
        None,
    ),
    "v1.7": Era(
        SETTINGS_IN_ROOT,
        EXTENSIONS_IN_ROOT,
        GALLERY,
        FLAGS_OF_SCRIPT,
        None,
        "extensions/branchfit",
        "settings.yaml",
        "CMD_FLAGS.txt",
    ),
    "v2.8": Era(
        SETTINGS_IN_ROOT,
        EXTENSIONS_IN_ROOT,
        NO_DEFAULTS,
        FLAGS_OF_SCRIPT,
        None,
        "extensions/branchfit",
        "settings.yaml",
        "CMD_FLAGS.txt",
    ),
    "v3.1": Era(
        SETTINGS_IN_DATA,
        EXTENSIONS_IN_ROOT,
        FLAGS_OF_SERVER + NO_DEFAULTS,
        'os.path.join(script_dir, "user_data", "CMD_FLAGS.txt")\n',
        None,
        "extensions/branchfit",
        "user_data/settings.yaml",
        "user_data/CMD_FLAGS.txt",
    ),
    "v3.7": Era(
        SETTINGS_IN_DATA,
        EXTENSIONS_IN_DATA,
        FLAGS_OF_SERVER + NO_DEFAULTS,
        'os.path.join(script_dir, "user_data", "CMD_FLAGS.txt")\n',
        None,
        "user_data/extensions/branchfit",
        "user_data/settings.yaml",
        "user_data/CMD_FLAGS.txt",
    ),
    "v4.0": Era(
        SETTINGS_BY_ARGUMENT,
        EXTENSIONS_BY_ARGUMENT,
        'cmd_flags_path = user_data_dir / "CMD_FLAGS.txt"\n' + NO_DEFAULTS,
        'os.path.join(script_dir, "user_data", "CMD_FLAGS.txt")\n',
        PATHS,
        "user_data/extensions/branchfit",
        "user_data/settings.yaml",
        "user_data/CMD_FLAGS.txt",
    ),
    "v4.7": Era(
        SETTINGS_BY_ARGUMENT,
        EXTENSIONS_BY_ARGUMENT,
        'cmd_flags_path = user_data_dir / "CMD_FLAGS.txt"\n' + NO_DEFAULTS,
        'os.path.join(script_dir, "user_data", "CMD_FLAGS.txt")\n',
        PATHS_ELECTRON,
        "user_data/extensions/branchfit",
        "user_data/settings.yaml",
        "user_data/CMD_FLAGS.txt",
    ),
}
"""v3.0 looks like v2.8: settings, flags and extensions moved with v3.1 and v3.7."""


def tree(root: Path, era: str) -> Path:
    """A webui of that era, with models, an extension of somebody's, and CMD_FLAGS.txt where it ships one."""
    made = ERAS[era]
    write(root / "server.py", made.server)
    write(root / "modules" / "shared.py", made.shared)
    write(root / "modules" / "utils.py", made.utils)
    write(root / "modules" / "extensions.py", "")
    write(root / "extensions" / "gallery" / "script.py", "")
    if made.one_click is not None:
        write(root / "one_click.py", made.one_click)
    if made.paths is not None:
        write(root / "modules" / "paths.py", made.paths)
    if made.flags is not None:
        write(
            root / made.flags,
            "# Add persistent flags here to use every time you launch the web UI.\n# --listen --api\n",
        )
    models = root / ("user_data/models" if made.settings.startswith("user_data") else "models")
    write(models / "owner_model" / "model.safetensors", "weights")
    return root


def portable(above: Path, era: str = "v4.7", electron: bool = True) -> Path:
    """The tree as its archive has it: app/ and user_data/ side by side, or both in one, without one_click.py."""
    root = tree(above / "app" if electron else above, era)
    (root / "one_click.py").unlink(missing_ok=True)
    if electron:
        (root / "user_data").rename(above / "user_data")
    return root


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with its content; the Pythons apart, whose lists of packages tell more."""
    found: dict[str, bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not {"venv", "installer_files", "portable_env", "__pycache__"} & set(path.relative_to(folder).parts):
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def tiny_wheel(into: Path, name: str, version: str, requires: tuple[str, ...] = (), module: str = "") -> Path:
    """A wheel of one empty module, as pip takes it."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in requires)
    files = {
        f"{module or name}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    target = into / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return target


HOST_PACKAGES = (
    ("click", "8.1.7", ""),
    ("huggingface_hub", "1.5.0", ""),
    ("numpy", "2.2.6", ""),
    ("pyyaml", "6.0.1", "yaml"),
    ("rich", "13.9.4", ""),
    ("transformers", "5.6.2", ""),
    ("gradio", "4.37.2", ""),
)
"""A webui's Python, by name: what BranchFit needs too, and two that it must never touch."""


def host_python(folder: Path, *without: str, **other: str) -> Path:
    """A virtual environment with pip and the packages above, by real pip; `other` are versions that differ."""
    if importlib.util.find_spec("ensurepip") is None:
        pytest.skip("this Python makes no virtual environment with pip (Debian: apt install python3-venv)")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    python = python_in(folder)
    wheels = folder / "wheels"
    wheels.mkdir()
    for name, version, module in HOST_PACKAGES:
        if name not in without:
            tiny_wheel(wheels, name, other.get(name, version), (), module)
    pip(python, "install", "--no-index", "--no-deps", *map(str, wheels.iterdir()))
    shutil.rmtree(wheels)
    return python


def python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pip(python: Path, *arguments: str) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=variables).stdout


def packages(python: Path) -> dict[str, str]:
    """What pip lists there."""
    return {entry["name"]: entry["version"] for entry in json.loads(pip(python, "list", "--format", "json"))}


def place_python(template: Path, folder: Path) -> Path:
    """A copy of a virtual environment; its Python."""
    shutil.copytree(template, folder, symlinks=True)
    return python_in(folder)
