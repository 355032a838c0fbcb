"""The prompt template of a card, byte for byte. Needs no shared folder."""

from __future__ import annotations

import hashlib

import pytest

from branchfit.card import CardTemplate, read_card
from branchfit.prompts import ALPACA_COT
from shared_cards import own_card

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PLAIN = f"{ALPACA}\n\n### Instruction:\n{{instruction}}\n\n### Response:"


def template(text: str) -> CardTemplate | None:
    return read_card(text).prompt_template


def text_of(text: str) -> str | None:
    found = template(text)
    return found.text if found else None


def fenced(body: str, heading: str = "## Prompt template: X") -> str:
    return f"{heading}\n\n```\n{body}\n```\n\nprose.\n"


def test_a_damaged_fence_under_alpaca_cot_is_the_exact_known_template() -> None:
    found = template(own_card("lost_blank_lines"))
    assert found == CardTemplate("Alpaca-CoT", ALPACA_COT.text, "registry")
    digest = hashlib.sha256(found.text.encode()).hexdigest()
    assert digest == "e15b2496495eee707e94e3c0b21e5c877a7d924b107d492f706dcbcc4bb3f2d8"  # facts: 178 bytes


def test_under_alpaca_cot_the_string_labelled_cot_is_the_one() -> None:
    assert template(own_card("cot_by_label")) == CardTemplate("Alpaca-CoT", ALPACA_COT.text, "registry")


def test_elsewhere_the_default_version_is_the_one() -> None:
    assert template(own_card("base_card_two_strings")) == CardTemplate(None, PLAIN, "card")
    other = own_card("cot_by_label").replace("Prompt template: Alpaca-CoT", "Prompt template: Alpaca")
    assert template(other) == CardTemplate("Alpaca", PLAIN, "card")


def test_alpaca_cot_without_a_body_is_known_by_its_name() -> None:
    for heading in ("## Prompt template: Alpaca-CoT", "# PROMPT TEMPLATE: alpaca-cot"):
        found = template(f"{heading}\n\nprose.\n")
        assert found is not None and (found.text, found.source) == (ALPACA_COT.text, "registry")


def test_another_template_under_the_heading_alpaca_cot_stays_the_cards_own() -> None:
    card = read_card(fenced("Q: {prompt}\nA: Let's think step by step.", "## Prompt template: Alpaca-CoT"))
    assert card.prompt_template == CardTemplate("Alpaca-CoT", "Q: {instruction}\nA: Let's think step by step.", "card")
    assert any("the template is another one" in note for note in card.notes)


def test_whitespace_is_mended_under_no_other_heading() -> None:
    damaged = f"{ALPACA}\n### Instruction:\n{{prompt}}\n### Response: Let's think step by step."
    assert template(fenced(damaged, "## Prompt template: Alpaca")) == CardTemplate(
        "Alpaca", damaged.replace("{prompt}", "{instruction}"), "card"
    )


def test_a_blank_last_line_in_the_fence_is_a_final_newline_as_in_the_front_matter() -> None:
    card = own_card("dialect_b")
    assert text_of(card) == "USER: {instruction}\nASSISTANT:\n"
    without_fence = card.replace("```\nUSER: {prompt}\nASSISTANT:\n\n```\n", "")
    assert text_of(without_fence) == "USER: {instruction}\nASSISTANT:\n"
    assert text_of(own_card("dialect_c")) == "USER: {instruction} ASSISTANT:"


@pytest.mark.parametrize(
    "body",
    [
        "### Instruction: \n{instruction}\n\n\n### Response: ",
        "  indented {instruction}\t",
        "[INST] Wrap your code answer using ```:\n{instruction}\n[/INST]",
        "<|im_start|>system\n{system_message}<|im_end|>\n{instruction}",
        "{instruction} {x} {{y}} %{a|b} <CHAR NAME>",
        "Vous êtes un assistant. {instruction}",
        "# not a heading\n## nor this\n{instruction}",
        "form\x0cfeed \u2028 {instruction}",
        "<!-- no comment --> {instruction}",
        "| no | table |\n|---|---|\n{instruction}",
        "{instruction}",
    ],
)
def test_the_cards_own_bytes_stay_as_they_are(body: str) -> None:
    assert template(fenced(body)) == CardTemplate("X", body, "card")
    assert text_of(fenced(body).replace("\n", "\r\n")) == body


@pytest.mark.parametrize("slot", ["{prompt}", "{instruction}", "{query}"])
@pytest.mark.parametrize("system", ["{system_message}", "{system_prompt}"])
def test_every_spelling_of_a_slot_becomes_ours(slot: str, system: str) -> None:
    assert text_of(fenced(f"{system} USER: {slot}")) == "{system_message} USER: {instruction}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("### Human: prompt\n### Assistant:", "### Human: {instruction}\n### Assistant:"),
        ("### Human: your prompt here\n### Assistant:", "### Human: {instruction}\n### Assistant:"),
        ("USER: <prompt>\nASSISTANT:", "USER: {instruction}\nASSISTANT:"),
        ("### Human: prompts\n### Assistant:", None),
        ("USER: <PROMPT>\nASSISTANT:", None),
        ("### Instruction:\n\n### Response:", None),
        ("{prompt} and {prompt}", None),
        ("{prompt} and {instruction}", None),
        ("{{prompt}}", None),
        ("{system_message}{system_prompt}{prompt}", None),
        ("<prompt> or <prompt>", None),
    ],
)
def test_slots_in_plain_words_are_known_in_these_spellings_alone(body: str, expected: str | None) -> None:
    card = read_card(fenced(body))
    assert (card.prompt_template.text if card.prompt_template else None) == expected
    assert len(card.notes) == 1  # either way the card is odd, and says so


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("## Prompt template: Vicuna", "Vicuna"),
        ("### Prompt template: Mistral", "Mistral"),
        ("## Prompt template: Custom format, or Alpaca", "Custom format, or Alpaca"),
        ("## Prompt template: None", "None"),
        ("## Prompt template", None),
        ("## Prompt Template:", None),
        ("## PROMPT TEMPLATE", None),
        ("# Prompt Format:", None),
        ("### Prompt format (Alpaca-chat):", "Alpaca-chat"),
        ("## Prompt template: **Vicuna** ##", "Vicuna"),
        ("## Prompt template: [Vicuna](https://example.org)", "Vicuna"),
        ("Prompt template: Vicuna\n-----", "Vicuna"),
    ],
)
def test_the_name_is_what_the_heading_says(heading: str, name: str | None) -> None:
    assert template(fenced("{prompt}", heading)) == CardTemplate(name, "{instruction}", "card")


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("'USER: {prompt}\n\n  ASSISTANT:\n\n  '", "USER: {instruction}\nASSISTANT:\n"),
        (r'"### Instruction: \n{prompt}\n### Response:\n"', "### Instruction: \n{instruction}\n### Response:\n"),
        ('"Vous \\xEAtes cr\\xE9\\xE9\\\n  \\ par {prompt} \\n"', "Vous êtes créé par {instruction} \n"),
        ("<s>[INST] {prompt} [/INST]", "<s>[INST] {instruction} [/INST]"),
        ("|\n  <|user|>\n  {prompt}", "<|user|>\n{instruction}\n"),
        (">-\n  {% for m in messages %}{{ m['content'] }}{% endfor %}", None),
    ],
)
def test_the_front_matter_has_it_in_every_yaml_spelling(field: str, text: str | None) -> None:
    front = f"---\nmodel_type: llama\nprompt_template: {field}\n---\n# X\n"
    assert text_of(front) == text
    assert template(front + "\n## Prompt template: Named\n\nprose.\n") == (
        CardTemplate("Named", text, "card") if text else None
    )


def test_a_fence_goes_before_the_front_matter_and_gives_way_where_it_has_no_slot() -> None:
    front = "---\nprompt_template: 'B {prompt}'\n---\n"
    assert text_of(front + fenced("A {prompt}")) == "A {instruction}"
    assert text_of(front + fenced("no slot")) == "B {instruction}"
    assert text_of(front + "## Prompt template: X\n\n```\n\n```\n") == "B {instruction}"


def test_of_two_fences_the_first_counts() -> None:
    assert text_of(fenced("A {prompt}") + "or\n\n```\nB {prompt}\n```\n") == "A {instruction}"


def test_a_program_under_the_heading_is_no_template() -> None:
    code = '## Prompt template: X\n\n```python\nprompt = f"{prompt}"\n```\n'
    assert template(code) is None
    assert text_of(code + "\n```text\nA {prompt}\n```\n") == "A {instruction}"


def test_a_fence_in_the_next_section_is_not_looked_at() -> None:
    after = "## Provided files\n\n```\n{prompt}\n```\n"
    assert template("## Prompt template: X\n\nprose.\n\n" + after) is None
    assert template("# Prompt template: X\n\nprose.\n\n" + after) is None
    assert text_of("## Prompt template: X\n\n### Alpaca:\n\n```\n{prompt}\n```\n") == "{instruction}"


def test_the_first_heading_with_a_template_under_it_is_taken() -> None:
    assert text_of("## Prompt template\n\nprose.\n\n" + fenced("A {prompt}", "## Prompt format")) == "A {instruction}"


def test_what_follows_the_original_model_card_is_not_looked_at() -> None:
    assert template("# Original model card: X\n\n" + fenced("{prompt}")) is None


def test_a_fence_in_a_list_item_loses_the_items_indent() -> None:
    text = "## Prompt template: X\n\n1. use\n\n   ```\n   <|user|>\n     {prompt}\n   ```\n"
    assert text_of(text) == "<|user|>\n  {instruction}"


@pytest.mark.parametrize(
    ("opening", "closing"), [("````", "````"), ("~~~", "~~~"), ("```text", "```"), ("~~~~", "~~~~~")]
)
def test_fences_of_every_form(opening: str, closing: str) -> None:
    inner = "```" if opening != "```text" else "~~~"
    assert text_of(f"## Prompt template: X\n{opening}\n{inner}\n{{prompt}}\n{closing}\n") == f"{inner}\n{{instruction}}"


def test_a_quoted_string_is_unescaped_and_one_without_escapes_is_not() -> None:
    string = r'"A \"b\" \\ \t \x {prompt}\n"'
    assert text_of(f"## Prompt template: X\n\n{string}\n") == 'A "b" \\ \t \\x {instruction}\n'
    assert text_of(fenced(string)) == 'A "b" \\ \t \\x {instruction}\n'
    assert text_of(fenced('"USER: {prompt}"')) == '"USER: {instruction}"'
    assert text_of('## Prompt template: X\n\nsay "USER: {prompt}" to it\n') is None


def test_a_card_that_gives_no_template_says_so() -> None:
    assert read_card("# X GPTQ").notes == ("The card gives no prompt template.",)
