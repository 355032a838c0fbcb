"""What the webui imports starts anywhere, and says what it can do."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import branchfit_webui

SCRIPT = Path(__file__).resolve().parent.parent / "extension" / "script.py"


def test_the_script_names_its_tab_and_its_settings() -> None:
    script = runpy.run_path(str(SCRIPT))
    assert script["params"] == {"display_name": "BranchFit", "is_tab": True, **branchfit_webui.PARAMS}


def test_without_its_package_the_script_says_so_and_the_host_goes_on() -> None:
    code = f"""
import runpy, sys
from types import SimpleNamespace
script = runpy.run_path({str(SCRIPT)!r})
script["setup"]()
shown = []
sys.modules["gradio"] = SimpleNamespace(Markdown=shown.append)
script["ui"]()
assert "NO model is locked" in shown[0] and sys.executable in shown[0]
assert script["state_modifier"]({{"mode": "chat"}}) == {{"mode": "chat"}}
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert "BranchFit is off" in done.stderr


def test_outside_a_webui_the_setup_says_why_and_nothing_raises() -> None:
    code = f"""
import runpy, sys
from types import SimpleNamespace
script = runpy.run_path({str(SCRIPT)!r})
script["setup"]()
assert script["state_modifier"]({{"mode": "chat"}}) == {{"mode": "chat"}}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "No module named 'modules'" in done.stderr


def test_importing_it_imports_nothing_that_an_api_only_webui_may_lack() -> None:
    heavy = ("gradio", "torch", "transformers", "huggingface_hub", "rich", "pynvml", "click", "fastapi", "jinja2")
    code = f"""
import runpy, sys
runpy.run_path({str(SCRIPT)!r})
import branchfit_webui.lock, branchfit_webui.endpoint
print(sorted(set(sys.modules) & set({heavy!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
