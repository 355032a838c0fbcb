"""`branchfit ask`: the reply alone on stdout, one document with --json, and what is missing said before anything."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from branchfit.cli import ask as command
from branchfit.cli.app import app
from branchfit.errors import LoadError, PromptError, UsageError
from branchfit.prompts import ALPACA_COT, WIZARDMATH_PLAIN, Template, by_name
from branchfit.running.loaded import Loaded, Reply
from running_models import small_model

REAL = importlib.util.find_spec("gptqmodel") is not None


class Echo(Loaded):
    """A model that says the prompt it got, in two pieces."""

    def complete(self, prompt: str, *, max_new_tokens: int = 7) -> Any:
        def pieces() -> Any:
            yield prompt[:5]
            yield prompt[5:]
            self.last = Reply(prompt, prompt, 3, max_new_tokens, 0.5, "length")

        return pieces()


# Before click 8.2 the two streams are one unless it is told otherwise; since then they are always two.
APART = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
RUNNER = CliRunner(**APART)  # type: ignore[arg-type]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Loads the echo instead of a model; holds what it was asked to load."""
    given: dict[str, Any] = {}

    def load(name: str, **options: Any) -> Loaded:
        given.update(options, name=name)
        print("a loader's own word on stdout")
        return Echo(None, None, ALPACA_COT, "o/n:main", "c" * 40, "gptqmodel:torch", ("a note",), 4096, "main")

    monkeypatch.setattr(command, "load", load)
    return given


def ask(*arguments: str, stdin: bytes | None = None) -> Result:
    return RUNNER.invoke(app, ["ask", *arguments], input=stdin)


def test_the_reply_stands_alone_on_stdout(asked: dict[str, Any], tmp_path: Path) -> None:
    found = ask("o/n:main", "2+2?", "--runtime", "gptqmodel:torch", "--to", str(tmp_path), "--device", "cpu")
    assert found.exit_code == 0
    assert found.stdout == ALPACA_COT.render("2+2?") + "\n"
    assert "note: a note" in found.stderr
    assert "the reply was cut at" in found.stderr
    assert "memory of this process: " in found.stderr
    assert {key: asked[key] for key in ("name", "runtime", "models_dir", "device", "context_tokens")} == {
        "name": "o/n:main",
        "runtime": "gptqmodel:torch",
        "models_dir": tmp_path,
        "device": "cpu",
        "context_tokens": None,
    }


def test_standard_input_is_taken_byte_for_byte(asked: dict[str, Any]) -> None:
    assert ask("m", stdin=b"2+2?\n").stdout == ALPACA_COT.render("2+2?\n") + "\n"
    assert isinstance(ask("m", stdin=b"").exception, UsageError)
    assert isinstance(ask("m", stdin=b"\xff").exception, PromptError)


def test_the_template_can_be_another_or_the_plain_one(asked: dict[str, Any]) -> None:
    assert ask("m", "x", "--plain").stdout == WIZARDMATH_PLAIN.render("x") + "\n"
    phind = by_name("phind")
    assert isinstance(phind, Template)
    assert ask("m", "x", "--template", "phind", "--system", "s").stdout == phind.render("x", "s") + "\n"
    assert "has no system message" in str(ask("m", "x", "--system", "s").exception)
    assert "no plain form" in str(ask("m", "x", "--template", "phind", "--plain").exception)


def test_a_wrong_template_name_is_said_before_anything_is_loaded(asked: dict[str, Any]) -> None:
    assert "no template called nonsense" in str(ask("m", "x", "--template", "nonsense").exception)
    assert asked == {}


def test_json_is_one_document(asked: dict[str, Any]) -> None:
    found = ask("m", "2+2?", "--json", "--max-tokens", "9")
    document = json.loads(found.stdout)
    assert document["prompt"] == document["reply"] == ALPACA_COT.render("2+2?")
    assert (document["tokens"], document["ended"], document["seconds"]) == (9, "length", 0.5)
    assert (document["name"], document["branch"], document["runtime"]) == ("o/n:main", "main", "gptqmodel:torch")
    assert document["measured"]["device"] == "memory of this process"
    assert document["notes"] == ["a note"]


@pytest.mark.skipif(REAL, reason="a runtime is installed here")
def test_without_a_runtime_the_pip_command_is_said(tmp_path: Path) -> None:
    small_model(tmp_path / "m")
    found = ask(str(tmp_path / "m"), "2+2?")
    assert isinstance(found.exception, LoadError)
    assert str(found.exception).endswith("pip install '.[gptq]' in BranchFit's folder.")


@pytest.mark.skipif(not REAL, reason="needs the `[gptq]` extra")
def test_a_real_model_answers_from_the_shell(tmp_path: Path) -> None:
    small_model(tmp_path / "m")
    arguments = [str(tmp_path / "m"), "2+2?", "--template", "alpaca cot", "--max-tokens", "6", "--device", "cpu"]
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}

    def run(*more: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "branchfit", "ask", *arguments, *more], capture_output=True, env=environ
        )

    done = run("--json")
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(done.stdout)
    assert document["prompt"] == ALPACA_COT.render("2+2?")
    assert document["tokens"] == 6
    assert document["measured"]["peak_bytes"] > 100 * 2**20
    assert run().stdout == document["reply"].encode() + b"\n"
