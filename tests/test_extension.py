"""What the webui imports starts anywhere, and says what it can do."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from branchfit import __version__

SCRIPT = Path(__file__).resolve().parent.parent / "extension" / "script.py"


def test_the_script_names_its_tab_and_builds_it_with_the_hosts_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(Markdown=shown.append))
    script = runpy.run_path(str(SCRIPT))
    assert script["params"] == {"display_name": "BranchFit", "is_tab": True}
    script["ui"]()
    (text,) = shown
    assert __version__ in text and "branchfit recommend" in text and "not part of this version" in text


def test_without_its_package_the_script_says_so_and_the_host_goes_on() -> None:
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r})['ui']()"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert "BranchFit is off" in done.stdout


def test_importing_it_imports_no_gradio() -> None:
    code = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); print('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
