"""A rendering is recognised for what it is, earlier turns are kept as the format keeps them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchfit.errors import PromptError
from branchfit.prompts import ALPACA_COT, TEMPLATES, Recognised, Template, by_name

TEXT = st.text(st.characters(blacklist_categories=["Cs"]))
unhurried = settings(deadline=None)  # a busy machine is no failure
SLOT = "{instruction}"
PIECES = st.sampled_from(["", "\n", "### ", "U: ", "\n\n", "</s>", "a", "aa"])
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions."
)

every_template = pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
keeping_turns = pytest.mark.parametrize(
    "template", [template for template in TEMPLATES if template.can_keep_turns], ids=lambda template: template.name
)


def known(name: str) -> Template:
    found = by_name(name)
    assert found is not None
    return found


@st.composite
def made_up_templates(draw: st.DrawFn) -> Template:
    """Small templates of few letters, whose heads, tails and slots overlap and repeat as much as can be."""
    head, middle, tail = draw(PIECES), draw(PIECES), draw(PIECES)
    slots = draw(st.sampled_from(["I", "SI", "IS"]))
    system = "{system_message}"
    text = {"I": head + SLOT, "SI": head + system + middle + SLOT, "IS": head + SLOT + middle + system}[slots] + tail
    return Template("made up", text, "a test", default_system_message=draw(PIECES))


@st.composite
def instructions_for(draw: st.DrawFn, template: Template) -> str:
    """Instructions made of the template's own pieces."""
    return "".join(draw(st.lists(st.sampled_from([*template.pieces, "a", " "]), max_size=4)))


@every_template
@unhurried
@given(instruction=TEXT, data=st.data())
def test_a_rendering_is_recognised_as_what_was_rendered(
    template: Template, instruction: str, data: st.DataObject
) -> None:
    own = data.draw(instructions_for(template))
    for text in (instruction, own, instruction + own):
        found = template.recognise(template.render(text))
        assert found == Recognised(text, "", template.default_system_message)


@unhurried
@given(template=made_up_templates(), data=st.data())
def test_whatever_the_template_a_rendering_is_recognised_and_renders_to_itself(
    template: Template, data: st.DataObject
) -> None:
    instruction, system = data.draw(instructions_for(template)), data.draw(instructions_for(template))
    for given_system in (None, system):
        rendering = template.render(instruction, given_system)
        found = template.recognise(rendering)
        assert found is not None
        # Where a slot's own text spells the literal behind it, there are several readings, all of the same bytes.
        assert template.render(found.instruction, found.system_message) + found.reply == rendering


@every_template
@unhurried
@given(instruction=TEXT, reply=TEXT.filter(bool))
def test_text_behind_a_rendering_is_the_reply(template: Template, instruction: str, reply: str) -> None:
    prompt = template.render(instruction) + reply
    found = template.recognise(prompt)
    assert found is not None
    if template.name == "None":
        assert found == Recognised(prompt, "")
    else:
        assert found == Recognised(instruction, reply, template.default_system_message)


def test_a_tail_at_the_end_makes_it_a_rendering_and_else_the_first_tail_ends_the_instruction() -> None:
    tail = "\n\n### Response: Let's think step by step."
    twice = ALPACA_COT.render("one" + tail + "two")
    assert ALPACA_COT.recognise(twice) == Recognised("one" + tail + "two", "")
    assert ALPACA_COT.recognise(twice + " 4") == Recognised("one", "two" + tail + " 4")


def test_a_system_message_is_recognised_too() -> None:
    chatml = known("ChatML")
    assert chatml.recognise(chatml.render("hi", "be brief")) == Recognised("hi", "", "be brief")
    assert chatml.recognise(chatml.render("hi", "be brief") + "Yes") == Recognised("hi", "Yes", "be brief")
    own_break = Template("t", "{system_message}\n{instruction}", "a test", default_system_message="be\nbrief")
    assert own_break.recognise(own_break.render("hi")) == Recognised("hi", "", "be\nbrief")
    touching = Template("t", "{system_message}{instruction}\n", "a test", default_system_message="\n")
    assert touching.recognise(touching.render("", "")) == Recognised("", "")
    behind = Template("t", "U {instruction} S {system_message} A:", "a test", default_system_message="be")
    assert behind.recognise(behind.render("hi", "so")) == Recognised("hi", "", "so")
    assert behind.recognise(behind.render("hi S so") + " 1") == Recognised("hi S so", " 1", "be")
    assert behind.recognise(behind.render("hi", "so") + " 1") == Recognised("hi", " 1", "so")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[1:],
        lambda text: text[:-1],
        lambda text: " " + text,
        lambda text: text.replace("\n\n", "\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(" Let's", "\nLet's"),
        lambda text: "",
        lambda text: text + "\ud800",
        lambda text: ALPACA_COT.text.split(SLOT)[0] + "### Response:",
    ],
)
def test_anything_else_is_no_rendering(change: Callable[[str], str]) -> None:
    assert ALPACA_COT.recognise(change(ALPACA_COT.render("What is 7 * 8?"))) is None


def test_a_head_and_a_tail_that_overlap_are_no_rendering() -> None:
    template = Template("t", "ab{instruction}ba", "a test")
    assert template.recognise("aba") is None
    assert template.recognise("abba") == Recognised("", "")


@every_template
def test_recognising_a_hostile_megabyte_takes_time_linear_in_it(template: Template) -> None:
    head, *_, tail = template.pieces
    start = time.perf_counter()
    for unit in (tail[:-1] or "x", head or "x", template.text, template.pieces[2] or "x", "\n", "#"):
        hostile = head + unit * (10**6 // len(unit))
        template.recognise(hostile)
        template.recognise(hostile + tail + "x")
    # Some milliseconds each. Backtracking over a megabyte would take hours; a slow machine, a second.
    assert time.perf_counter() - start < 20


# Turns and replies


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("Vicuna", f"{VICUNA} USER: a ASSISTANT: b</s>USER: c ASSISTANT:"),
        ("Vicuna-Multiline", f"{VICUNA}\n\nUSER: a\nASSISTANT: b</s>\nUSER: c\nASSISTANT:"),
        (
            "ChatML",
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
            "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("Mistral", "<s>[INST] a [/INST] b</s> [INST] c [/INST]"),
        ("Mixtral", "[INST] a [/INST] b</s> [INST] c [/INST]"),
        ("Zephyr", "<|system|>\n</s>\n<|user|>\na</s>\n<|assistant|>\nb</s>\n<|user|>\nc</s>\n<|assistant|>\n"),
        ("Orca-Hashes", "### System:\n\n\n### User:\na\n\n### Assistant:\nb\n\n### User:\nc\n\n### Assistant:\n"),
        ("Orca-Vicuna", "SYSTEM: \nUSER: a\nASSISTANT: b</s>\nUSER: c\nASSISTANT:"),
        (
            "OpenChat",
            "GPT4 Correct User: a<|end_of_turn|>GPT4 Correct Assistant: b<|end_of_turn|>"
            "GPT4 Correct User: c<|end_of_turn|>GPT4 Correct Assistant:",
        ),
    ],
)
def test_an_earlier_turn_is_kept_as_the_format_keeps_it(name: str, prompt: str) -> None:
    assert known(name).render_turns([("a", "b")], "c") == prompt


def test_llama_2_keeps_the_system_message_in_the_first_turn_alone() -> None:
    expected = "[INST] <<SYS>>\nbe\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST] d </s><s>[INST] e [/INST]"
    assert known("Llama-2-Chat").render_turns([("a", "b"), ("c", "d")], "e", "be") == expected


@every_template
@unhurried
@given(instruction=TEXT)
def test_without_earlier_turns_it_is_the_rendering(template: Template, instruction: str) -> None:
    assert template.render_turns([], instruction) == template.render(instruction)


@keeping_turns
@unhurried
@given(earlier=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), instruction=TEXT)
def test_every_turn_stands_in_the_prompt_in_order(
    template: Template, earlier: list[tuple[str, str]], instruction: str
) -> None:
    prompt = template.render_turns(earlier, instruction)
    assert prompt.startswith(template.with_reply(template.render(earlier[0][0]), earlier[0][1]))
    assert prompt.endswith(instruction + template.text.split(SLOT)[1])
    at = 0
    for text in (piece for turn in earlier for piece in turn):
        assert text in prompt[at:]
        at = prompt.index(text, at) + len(text)


def test_a_template_that_keeps_no_turns_says_so() -> None:
    phi = by_name("Phi")
    assert phi is not None and not phi.can_keep_turns
    with pytest.raises(PromptError, match="one instruction"):
        phi.render_turns([("a", "b")], "c")


def test_alpaca_cot_keeps_turns_as_repeated_pairs_each_with_its_chain_of_thought() -> None:
    assert ALPACA_COT.render_turns([("1+1?", "It is 2.")], "2+2?") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n1+1?\n\n### Response: Let's think step by step. It is 2."
        "\n\n### Instruction:\n2+2?\n\n### Response: Let's think step by step."
    )


@pytest.mark.parametrize(
    ("rendering", "reply", "prompt"),
    [
        ("step.", "It is", "step. It is"),
        ("step.", " It is", "step. It is"),
        ("step.", "\nIt is", "step.\nIt is"),
        ("step.", "\u3000It is", "step.\u3000It is"),
        ("step.", "", "step."),
        ("Response:\n", "It is", "Response:\nIt is"),
        ("Response: ", "It is", "Response: It is"),
        ("Response: ", " It is", "Response:  It is"),
        ("", "It is", "It is"),
    ],
)
def test_a_reply_gets_back_the_space_that_hosts_strip(rendering: str, reply: str, prompt: str) -> None:
    assert ALPACA_COT.with_reply(rendering, reply) == prompt


def test_a_reply_to_open_assistant_touches_its_token() -> None:
    assert known("OpenAssistant").with_reply("<|assistant|>", "It is") == "<|assistant|>It is"


@every_template
@unhurried
@given(instruction=TEXT, reply=TEXT)
def test_a_continued_reply_is_recognised_with_its_space(template: Template, instruction: str, reply: str) -> None:
    rendering = template.render(instruction)
    prompt = template.with_reply(rendering, reply)
    assert prompt in (rendering + reply, rendering + " " + reply)
    found = template.recognise(prompt)
    assert found is not None
    if template.name != "None":
        assert (found.instruction, found.reply) == (instruction, prompt[len(rendering) :])
