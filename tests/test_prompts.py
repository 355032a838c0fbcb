"""Templates render their exact bytes around whatever instruction they are given."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchfit.errors import PromptError
from branchfit.prompts import ALPACA_COT, TEMPLATES, WIZARDMATH_PLAIN, Template, by_name, guess_by_model

TEXT = st.text(st.characters(blacklist_categories=["Cs"]))


def test_alpaca_cot_is_the_official_178_bytes() -> None:
    text = ALPACA_COT.text.encode()
    assert len(text) == 178
    assert hashlib.sha256(text).hexdigest() == "e15b2496495eee707e94e3c0b21e5c877a7d924b107d492f706dcbcc4bb3f2d8"


def test_the_plain_form_is_the_cot_form_up_to_response() -> None:
    assert ALPACA_COT.text == WIZARDMATH_PLAIN.text + " Let's think step by step."
    assert WIZARDMATH_PLAIN.text.endswith("### Response:")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
@given(instruction=TEXT)
def test_rendering_keeps_the_instruction_byte_for_byte_once(template: Template, instruction: str) -> None:
    head, tail = template.text.split("{instruction}")
    assert template.render(instruction) == head + instruction + tail


@pytest.mark.parametrize(
    "instruction",
    [ALPACA_COT.text, "{instruction}", "{{ 7*7 }}", "\0", "{system_message}", "x" * 10**6],
    ids=["template", "slot", "jinja", "nul", "system", "1 MB"],
)
def test_an_instruction_that_looks_like_a_template_is_wrapped_once_like_any_other(instruction: str) -> None:
    head, tail = ALPACA_COT.text.split("{instruction}")
    assert ALPACA_COT.render(instruction) == head + instruction + tail


def test_an_instruction_that_spells_the_system_slot_is_not_filled_by_the_system_message() -> None:
    template = Template("t", "<s>{system_message}</s>{instruction}", "a test")
    assert template.render("{system_message}", "rules {instruction}") == "<s>rules {instruction}</s>{system_message}"


def test_a_lone_surrogate_is_refused_with_its_position() -> None:
    with pytest.raises(PromptError, match="position 2"):
        ALPACA_COT.render("ab\ud800")


def test_a_template_without_a_slot_or_with_two_is_refused() -> None:
    for text in ("no slot", "{instruction}{instruction}"):
        with pytest.raises(PromptError, match="stands"):
            Template("bad", text, "a test")


def test_names_are_found_whatever_their_case() -> None:
    assert by_name("alpaca-cot") is ALPACA_COT
    assert by_name("no such") is None


@pytest.mark.parametrize("name", ["TheBloke/WizardMath-70B-V1.0-GPTQ", "wizard_math-13b", "Wizard Math 7B"])
def test_wizardmath_is_recognised_in_its_spellings(name: str) -> None:
    assert guess_by_model(name) is ALPACA_COT


def test_other_models_are_not_guessed_at() -> None:
    assert guess_by_model("TheBloke/WizardLM-70B-V1.0-GPTQ") is None
