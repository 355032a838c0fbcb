"""One webui as a person has it: a folder and a Python of its own, set up by the installer, started by its flags."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from .host import CHECKOUT, Running, Source

FOLDER = "Büro 2/text generation webui"
"""A blank and a letter that is not ASCII, as home folders have them."""

SETTINGS = """# my own settings
max_new_tokens: 8
auto_max_new_tokens: false
mode: instruct
"""
"""What stood in settings.yaml before BranchFit came."""

SETUP_S = 600
LARGE_BYTES = 200_000
"""Above it stand four fifths of an environment's bytes, and only compiled libraries and data."""


def copied(source: Source, work: Path) -> Source:
    """The webui's folder and its Python."""
    folder, venv = work / FOLDER, work / "venv"
    folder.parent.mkdir(parents=True)
    left_out = shutil.ignore_patterns(".git", "__pycache__", "logs")
    shutil.copytree(source.folder, folder, symlinks=True, ignore=left_out)
    shutil.copytree(source.python.parents[1], venv, symlinks=True, copy_function=_link)
    python = venv / source.python.relative_to(source.python.parents[1])
    mine = replace(source, folder=folder, python=python)
    (folder / mine.user_data / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    return mine


def _link(old: str, new: str) -> str:
    """Large files as hard links: libraries, which pip replaces and nobody edits. gradio edits a small one."""
    try:
        if Path(old).stat().st_size < LARGE_BYTES:
            raise OSError
        os.link(old, new, follow_symlinks=False)
    except OSError:  # small, or on another disk
        shutil.copy2(old, new, follow_symlinks=False)
    return new


class Webui(Running):
    """The copy. Unlike the harness' other runs it is started again and again, and has what a person put there."""

    def __init__(self, source: Source, tokenizer: Path, work: Path, out: Path, endpoint: str) -> None:
        super().__init__(source, tokenizer, work, out, lock=True)
        self.copy, self.endpoint = source.folder, endpoint
        self.recorded = True
        self.home.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)

    @property
    def data(self) -> Path:
        return self.copy / self.source.user_data

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def extension(self) -> Path:
        return self.copy / self.source.extensions / "branchfit"

    def _prepare(self) -> None:
        pass

    def _command(self) -> list[str]:
        return super()._command() if self.recorded else ["server.py", *self._flags()]

    def _flags(self) -> list[str]:
        """A person's flags: nothing of BranchFit's, which setup has enabled; ports that are free here."""
        wanted = {
            "--cpu": [],
            "--api": [],
            "--listen-port": [str(self.page_port)],
            "--api-port": [str(self.api_port)],
            "--api-blocking-port": [str(self.api_port)],
            "--api-streaming-port": [str(self.ws_port)],
        }
        return [part for flag, values in wanted.items() if self.source.has_flag(flag) for part in (flag, *values)]

    def wait_until_up(self) -> None:
        super().wait_until_up(self.api if self.source.is_legacy else None)

    def _environment(self) -> dict[str, str]:
        made = super()._environment()
        del made["PYTHONPATH"], made["HF_HUB_OFFLINE"]
        return made | {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home / "hf"), "no_proxy": "127.0.0.1"}

    def own_names(self) -> list[str]:
        """What stands in the models folder."""
        return sorted(path.name for path in self.models.iterdir())

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def setup(webui: Webui, *options: str) -> subprocess.CompletedProcess[str]:
    """`./install.sh --webui ...` where the checkout's install.sh knows that, else the command of this Python."""
    script = CHECKOUT / "install.sh"
    if "--webui" in script.read_text(encoding="utf-8"):
        command = [str(script)]
    else:
        command = [sys.executable, "-m", "branchfit", "setup"]
    command += ["--webui", str(webui.copy), "--python", str(webui.source.python), *options]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = kept | {"BRANCHFIT_PYTHON": sys.executable, "COLUMNS": "1000", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=SETUP_S, env=environment, check=False)
