"""install.sh: a thin shell over `branchfit setup`. Run beside stand-ins of the Python and command it would install."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="a bash script")

TOLD = """#!/bin/sh
echo "$(basename "$0"): $#" >> "$TOLD_FILE"
for word in "$@"; do echo "<$word>" >> "$TOLD_FILE"; done
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a checköut"
    folder.mkdir()
    for name in ("install.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("python", "branchfit"):
        path = folder / ".venv" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TOLD)
        path.chmod(0o755)
    monkeypatch.setenv("TOLD_FILE", str(tmp_path / "told"))
    return folder


def run(script: Path, *arguments: str, code: int = 0) -> tuple[str, list[str]]:
    """What the script printed, and the words that the command was called with."""
    told = Path(os.environ["TOLD_FILE"])
    told.unlink(missing_ok=True)
    done = subprocess.run([script, *arguments], capture_output=True, text=True, cwd=script.parent.parent)
    assert done.returncode == code, done.stderr
    lines = told.read_text().splitlines() if told.exists() else []
    start = next((place for place, line in enumerate(lines) if line.startswith("branchfit: ")), len(lines))
    return done.stdout + done.stderr, lines[start + 1 :]


def test_without_arguments_it_sets_the_webui_up(checkout: Path) -> None:
    assert run(checkout / "install.sh")[1] == ["<setup>"]


def test_options_reach_setup_as_they_are(checkout: Path) -> None:
    words = ["--webui", "/a b/wéb ui", "--dry-run", "--yes", "--python", "p*"]
    assert run(checkout / "install.sh", *words)[1] == ["<setup>", *(f"<{word}>" for word in words)]
    assert run(checkout / "install.sh", "--uninstall")[1] == ["<setup>", "<--uninstall>"]


def test_the_command_alone_looks_for_no_webui(checkout: Path) -> None:
    said, words = run(checkout / "install.sh", "command")
    assert words == [] and "branchfit --help" in said


def test_demo_goes_on_as_before(checkout: Path) -> None:
    assert run(checkout / "install.sh", "demo", "--json")[1] == ["<demo>", "<--json>"]


@pytest.mark.parametrize("word", ["help", "-h", "--help"])
def test_help_names_every_way_and_installs_nothing(checkout: Path, word: str) -> None:
    said, words = run(checkout / "install.sh", word)
    assert words == []
    for way in ("--webui DIR", "--dry-run", "--uninstall", "command", "demo", "test --all", "docs/setup.md"):
        assert way in said, way


def test_an_unknown_word_is_bad_usage(checkout: Path) -> None:
    said, words = run(checkout / "install.sh", "instal", code=2)
    assert words == [] and "./install.sh" in said


def test_by_a_link_it_finds_its_own_checkout(checkout: Path, tmp_path: Path) -> None:
    link = tmp_path / "bin" / "get-branchfit"
    link.parent.mkdir()
    link.symlink_to(checkout / "install.sh")
    assert run(link, "--dry-run")[1] == ["<setup>", "<--dry-run>"]
