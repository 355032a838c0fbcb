"""Which template a model is held to, and that a choice is kept."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from branchfit import prompts
from branchfit.download.lockfile import Installed, LockedFile, write_lock
from branchfit_webui.choices import ALL_MODELS, Choices, offered

CARD = """\
---
model_name: Something Else
---
## Prompt template: Own

```
### Q:
{prompt}
### A:
```
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models" / "some-model"
    made.mkdir(parents=True)
    return made


def record(folder: Path, template: dict[str, str]) -> None:
    weights = LockedFile("model.safetensors", 8, "0" * 64, None)
    pulled_at = datetime.now(timezone.utc)
    write_lock(Installed(folder, "o/n", "main", "0" * 40, 8, (weights,), pulled_at, template), folder)


def test_what_was_recorded_when_the_model_was_pulled_comes_first(folder: Path) -> None:
    chatml = prompts.by_name("ChatML")
    assert chatml is not None
    recorded = {"name": chatml.name, "text": chatml.text, "source": "card"}
    record(folder, recorded)
    (folder / "README.md").write_text(CARD)
    decision = Choices(None).decide("WizardMath-tiny", folder)
    assert (decision.held.text, decision.held.stop_strings) == (chatml.text, chatml.stop_strings)
    assert decision.source == "recorded when BranchFit pulled the model"


def test_recorded_bytes_hold_even_under_a_known_name(folder: Path) -> None:
    recorded = {"name": "ChatML", "text": "Q: {instruction} A:", "source": "card"}
    record(folder, recorded)
    assert Choices(None).decide("some-model", folder).held.render("2+2?") == "Q: 2+2? A:"


def test_else_the_card_in_the_folder(folder: Path) -> None:
    (folder / "README.md").write_text(CARD)
    decision = Choices(None).decide("WizardMath-tiny", folder)
    assert decision.held.render("2+2?") == "### Q:\n2+2?\n### A:"
    assert decision.source == "the card in the model's folder"


@pytest.mark.parametrize("name", ["WizardMath-70B-V1.0-GPTQ", "TheBloke_wizardmath-7b-v1.1-GPTQ_gptq-4bit-32g"])
def test_else_the_name(name: str, folder: Path) -> None:
    decision = Choices(None).decide(name, folder)
    assert (decision.template, decision.source) == (prompts.ALPACA_COT, "the model's name")


def test_else_none(folder: Path) -> None:
    assert Choices(None).decide("Mistral-7B", folder).template is None


def test_a_card_that_changes_is_read_again(folder: Path) -> None:
    choices = Choices(None)
    assert choices.decide("Mistral-7B", folder).template is None
    (folder / "README.md").write_text(CARD)
    assert choices.decide("Mistral-7B", folder).template is not None


def test_a_broken_lock_and_a_binary_card_fall_through_to_the_name(folder: Path) -> None:
    (folder / "branchfit.lock.json").write_text("{")
    (folder / "README.md").write_bytes(bytes(range(256)) * 50)
    assert Choices(None).decide("WizardMath-7B", folder).template is prompts.ALPACA_COT


def test_a_choice_is_kept_over_a_restart(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    Choices(file).keep("WizardMath-7B", "WizardMath-plain", True)
    decision = Choices(file).decide("WizardMath-7B", folder)
    assert (decision.template, decision.keep_turns) == (prompts.WIZARDMATH_PLAIN, True)
    assert decision.own is prompts.ALPACA_COT


def test_off_is_off_for_that_model_alone(folder: Path, tmp_path: Path) -> None:
    choices = Choices(tmp_path / "choices.json")
    choices.keep("WizardMath-7B", "off", False)
    assert choices.decide("WizardMath-7B", folder).template is None
    assert choices.decide("WizardMath-13B", folder).template is prompts.ALPACA_COT
    assert choices.kept(ALL_MODELS) is None


def test_taking_a_choice_back_leaves_no_trace(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    choices = Choices(file)
    choices.keep("WizardMath-7B", "off", False)
    choices.keep("WizardMath-7B", None, False)
    assert json.loads(file.read_text()) == {}
    assert choices.decide("WizardMath-7B", folder).template is prompts.ALPACA_COT


def test_choices_that_cannot_be_read_are_set_aside_and_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "choices.json"
    file.write_text("{broken")
    choices = Choices(file)
    assert "cannot be read" in choices.problem
    choices.keep("m", "off", False)
    assert (tmp_path / "choices.json.unreadable").read_text() == "{broken"
    assert json.loads(file.read_text()) == {"m": {"template": "off"}}


def test_a_choice_that_cannot_be_kept_holds_all_the_same(folder: Path, tmp_path: Path) -> None:
    choices = Choices(tmp_path / "missing" / "choices.json")
    with pytest.raises(OSError):
        choices.keep("WizardMath-7B", "off", False)
    assert choices.decide("WizardMath-7B", folder).template is None


def test_the_models_own_template_and_its_plain_form_are_offered_first(folder: Path) -> None:
    names = offered(Choices(None).decide("WizardMath-7B", folder))
    assert names[:2] == ["Alpaca-CoT", "WizardMath-plain"]
    assert sorted(names) == sorted(template.name for template in prompts.TEMPLATES)
