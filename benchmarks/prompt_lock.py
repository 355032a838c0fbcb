"""What the prompt lock costs a prompt, against the webui's own prompt building in the same run.

    BRANCHFIT_WEBUI=DIR BRANCHFIT_WEBUI_PYTHON=PYTHON python benchmarks/prompt_lock.py

Inside the host's interpreter, with the host's real modules: `webui` is its generate_chat_prompt for
one message in instruct mode, `lock` is everything the lock does for the same message (the prompt
made, the guard passed, the proof kept) around a generation that does nothing. The token check is
left out, since no model is loaded; so is the host's own counting of tokens, which has no tokenizer.
Prints microseconds a prompt, median of rounds, and the ratio; the ratio is what compares.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, PROMPTS = 15, 400
MESSAGE = "James decides to run 3 sprints 3 times a week. He runs 60 meters each sprint. How many meters a week?"


def main() -> int:
    host, python = os.environ.get("BRANCHFIT_WEBUI"), os.environ.get("BRANCHFIT_WEBUI_PYTHON")
    if not host or not python:
        print("skipped: set BRANCHFIT_WEBUI to a webui's folder and BRANCHFIT_WEBUI_PYTHON to its interpreter.")
        return 0
    paths = os.pathsep.join((host, str(ROOT / "manager"), str(ROOT / "extension")))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([python, __file__, "--inside"], cwd=host, env=environment, check=False).returncode


def inside() -> None:
    sys.argv = sys.argv[:1]
    import modules.models  # noqa: F401 - first: v3.23 has an import circle elsewhere
    import modules.shared as shared
    from modules import chat, extensions, text_generation

    from branchfit_webui.choices import Choices
    from branchfit_webui.host import Host
    from branchfit_webui.lock import Lock
    from branchfit_webui.proofs import Proofs

    shared.model, shared.model_name = SimpleNamespace(), "WizardMath-70B-V1.0-GPTQ"
    shared.tokenizer = None
    if hasattr(chat, "get_encoded_length"):
        chat.get_encoded_length = len  # nothing is counted on either side
    text_generation.generate_reply_HF = nothing
    state = {**shared.settings, **getattr(shared, "default_settings", {})}
    state.update(_state(shared))
    history = {"internal": [], "visible": [], "metadata": {}}
    state["history"] = history
    lock = Lock(Host(), Choices(None), Proofs())
    lock.install()
    assert lock.status().active, lock.status().sentence

    def webui() -> None:
        chat.generate_chat_prompt(MESSAGE, state, _continue=False, history=history)

    def locked() -> None:
        prompt = extensions.apply_extensions(
            "custom_generate_chat_prompt", MESSAGE, state, _continue=False, history=history
        )
        for _ in text_generation.generate_reply_HF(prompt, prompt, state, [], is_chat=True):
            pass

    measured: dict[str, list[float]] = {"webui": [], "lock": []}
    for _ in range(ROUNDS):
        for name, function in (("webui", webui), ("lock", locked)):
            measured[name].append(_microseconds(function))
    assert lock.proofs.last()[0].text.endswith("step by step."), "the lock did not make the prompt"
    own, ours = statistics.median(measured["webui"]), statistics.median(measured["lock"])
    worst = max(measured["lock"])
    print(f"webui {own:.1f} us a prompt; lock {ours:.1f} us (worst round {worst:.1f}); ratio {ours / own:.2f}")


def nothing(question: str, original_question: str, *arguments: Any, **named: Any) -> Any:
    yield ""


def _state(shared: Any) -> dict[str, Any]:
    """What the page's state has besides the settings, in instruct mode, in every version."""
    turn = "<|user|>\n<|user-message|>\n\n<|bot|>\n<|bot-message|>\n\n"
    defaults: dict[str, Any] = {
        "mode": "instruct",
        "max_new_tokens": 512,
        "truncation_length": 4096,
        "custom_system_message": "",
        "context": "",
        "context_instruct": "Below is an instruction that describes a task.\n\n",
        "turn_template": turn,
        "name1": "You",
        "name2": "AI",
        "name1_instruct": "### Instruction:",
        "name2_instruct": "### Response:",
        "user_bio": "",
        "tools": None,
        "stream": True,
    }
    for key in ("enable_thinking", "reasoning_effort", "preserve_thinking"):
        defaults[key] = shared.settings.get(key, False)
    return defaults


def _microseconds(function: Any) -> float:
    started = time.perf_counter()
    for _ in range(PROMPTS):
        function()
    return (time.perf_counter() - started) / PROMPTS * 1e6


if __name__ == "__main__":
    sys.exit(inside() if "--inside" in sys.argv else main())
