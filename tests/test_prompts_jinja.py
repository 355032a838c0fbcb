"""The Jinja form through the prompt builders of text-generation-webui and of transformers.

The builders below are written by hand after the webui's `modules/chat.py` (`generate_chat_prompt`,
`get_generation_prompt`, `get_stopping_strings`): "old" is December 2023 to v3.11, "new" is v3.12 to v4.7.3.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from branchfit.prompts import ALPACA_COT, TEMPLATES, Template, by_name
from branchfit.prompts.jinja import literal

Messages = list[dict[str, str]]

TEXT = st.text(st.characters(blacklist_categories=["Cs"]))
SAID = TEXT.map(str.strip).filter(bool)
"""The webui strips instructions and replies, and leaves out empty ones."""
PIECES = st.sampled_from(["", " ", "\n", "### ", "U: ", "</s>", "a", "{{ x }}", "it's \\n {% raw %}", "\t ", "\r\n"])
FAKE = "fake assistant message replace me"

every_template = pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
few = settings(max_examples=25, deadline=None)
"""Compiling a template takes a while, and each of these tests runs for each of them."""
both_builders = pytest.mark.parametrize("builder", ["old", "new"])


@st.composite
def made_up_templates(draw: st.DrawFn) -> Template:
    head, middle, tail = draw(PIECES), draw(PIECES), draw(PIECES)
    text = draw(st.sampled_from(["H{i}T", "H{s}M{i}T", "H{i}M{s}T"]))
    for mark, value in (("H", head), ("M", middle), ("T", tail), ("{i}", "{instruction}"), ("{s}", "{system_message}")):
        text = text.replace(mark, value, 1) if mark not in value else text
    stops = draw(st.sampled_from([(), ("\nU:",), ("<|end|>",)]))
    return Template("made up", text, "a test", stops, default_system_message=draw(PIECES))


@functools.cache
def compiled(source: str, trim: bool) -> Any:
    return ImmutableSandboxedEnvironment(trim_blocks=trim, lstrip_blocks=trim).from_string(source)


def shown(source: str, messages: Messages, trim: bool = True, **variables: Any) -> str:
    rendered: str = compiled(source, trim).render(messages=messages, **variables)
    return rendered


def said(*texts: str, role: str = "user") -> Messages:
    """A conversation of these texts, the first by `role`, the others in turn."""
    roles = ["user", "assistant"] if role == "user" else ["assistant", "user"]
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]


def cut_out(source: str, role: str) -> tuple[str, str]:
    """Old: what stands before and behind a message, from two of them in a row."""
    prompt = shown(source, [{"role": role, "content": text} for text in ("<<|1|>>", "<<|2|>>")])
    suffix = prompt.split("<<|2|>>")[1]
    between = prompt.split("<<|1|>>")[1].split("<<|2|>>")[0]
    return between[len(suffix) :].rstrip(" "), suffix


def send(builder: str, source: str, messages: Messages) -> str:
    if builder == "old":
        return shown(source, messages, add_generation_prompt=False) + cut_out(source, "assistant")[0]
    return shown(source, messages, add_generation_prompt=True, tools=None, bos_token="<s>", eos_token="</s>")


def go_on(builder: str, source: str, messages: Messages) -> str:
    """The prompt that continues the last reply."""
    if builder == "old":
        suffix = cut_out(source, "assistant")[1]
        # Until March 2024 without asking whether there is a suffix: an empty one would leave nothing.
        return shown(source, messages, add_generation_prompt=False)[: -len(suffix)]
    faked = [*messages[:-1], *({"role": "assistant", "content": text} for text in (FAKE, "this will get deleted"))]
    prompt = shown(source, faked, add_generation_prompt=False, tools=None, bos_token="<s>", eos_token="</s>")
    return prompt.split(FAKE, 1)[0] + messages[-1]["content"]


def old_stop_strings(source: str) -> list[str]:
    (before_reply, after_reply), (before, after) = cut_out(source, "assistant"), cut_out(source, "user")
    return [after + before_reply, after + before, after_reply + before_reply, after_reply + before]


def new_stop_strings(source: str) -> list[str]:
    """New, as from v3.20 on (bos_token is given): the pieces between messages, up to a bracket or a colon."""
    texts = ["first user message", "first assistant message", "second user message", "second assistant message"]
    prompt = shown(source, said(*texts), add_generation_prompt=False, bos_token="<s>", eos_token="</s>")
    assert all(text in prompt for text in texts), "the host would cut at places that are not there"
    at = [prompt.find(text) for text in texts]
    found = []
    for piece in (
        prompt[at[0] + len(texts[0]) : at[1]],
        prompt[at[1] + len(texts[1]) : at[2]],
        prompt[at[3] + len(texts[3]) :],
    ):
        if piece.strip().startswith("<") and ">" in piece:
            found.append(piece.strip().split(">")[0] + ">")
        elif piece.strip().startswith("[") and "]" in piece:
            found.append(piece.strip().split("]")[0] + "]")
        elif ":" in piece:
            found.append(piece.split(":")[0] + ":")
    return found


@every_template
@both_builders
@few
@given(instruction=SAID, reply=SAID)
def test_a_send_and_a_continue_are_exact_through_both_builders(
    template: Template, builder: str, instruction: str, reply: str
) -> None:
    source = template.jinja()
    rendering = template.render(instruction)
    assert send(builder, source, said(instruction)) == rendering
    assert go_on(builder, source, said(instruction, reply)) == template.with_reply(rendering, reply)


@both_builders
@few
@given(template=made_up_templates(), instruction=SAID, reply=SAID)
def test_so_they_are_for_any_cards_own_template(template: Template, builder: str, instruction: str, reply: str) -> None:
    source = template.jinja()
    rendering = template.render(instruction)
    assert send(builder, source, said(instruction)) == rendering
    assert go_on(builder, source, said(instruction, reply)) == template.with_reply(rendering, reply)


def test_the_chain_of_thought_is_there_on_a_send_and_on_a_continue() -> None:
    source = ALPACA_COT.jinja()
    for builder in ("old", "new"):
        assert send(builder, source, said("2+2?")).endswith("\n\n### Response: Let's think step by step.")
        assert go_on(builder, source, said("2+2?", "It is")).endswith("### Response: Let's think step by step. It is")


@every_template
@pytest.mark.parametrize("trim", [True, False])
@few
@given(instruction=TEXT, reply=TEXT)
def test_plain_apply_chat_template_is_exact_whatever_the_white_space_settings(
    template: Template, trim: bool, instruction: str, reply: str
) -> None:
    source = template.jinja()
    rendering = template.render(instruction)
    assert shown(source, said(instruction), trim, add_generation_prompt=True) == rendering
    # continue_final_message: rendered with the reply, then cut behind it.
    continued = template.with_reply(rendering, reply)
    assert shown(source, said(instruction, reply), trim, add_generation_prompt=False).startswith(continued)


@every_template
@both_builders
def test_a_conversation_is_as_the_format_keeps_it_or_its_last_turn_alone(template: Template, builder: str) -> None:
    source = template.jinja()
    earlier = [("a {instruction}", "b\n"), ("c", "d")]
    expected = template.render("e")
    if template.can_keep_turns:
        expected = template.render_turns([("a {instruction}", "b\n"), ("c", "d")], "e")
    texts = [text for turn in earlier for text in turn]
    assert send(builder, source, said(*texts, "e")) == expected
    assert go_on(builder, source, said(*texts, "e", "f")) == template.with_reply(expected, "f")
    assert send(builder, source, said("A greeting.", "e", role="assistant")) == template.render("e")


@every_template
@both_builders
def test_a_system_message_fills_its_slot_or_is_left_out(template: Template, builder: str) -> None:
    messages = [{"role": "system", "content": "be {{ brief }}"}, *said("hi")]
    assert send(builder, template.jinja(), messages) == template.render("hi", "be {{ brief }}")


@every_template
def test_no_stop_string_that_the_old_builder_makes_is_empty(template: Template) -> None:
    assert all(string.strip() for string in old_stop_strings(template.jinja()))


@few
@given(template=made_up_templates())
def test_nor_is_one_for_any_cards_own_template(template: Template) -> None:
    assert all(string.strip() for string in old_stop_strings(template.jinja()))


def test_the_hosts_own_stop_strings_are_the_templates_next_turn() -> None:
    source = ALPACA_COT.jinja()
    assert "\n\n### Instruction:\n" in old_stop_strings(source)
    assert "\n\n### Instruction:" in new_stop_strings(source)
    chatml = by_name("ChatML")
    assert chatml is not None and "<|im_end|>" in new_stop_strings(chatml.jinja())


@every_template
def test_no_stop_string_that_the_new_builder_makes_would_cut_any_answer(template: Template) -> None:
    for string in new_stop_strings(template.jinja()):
        assert len(string.strip()) > 3, f"{string!r} is nothing that only a next turn has"


@every_template
@few
@given(instruction=SAID)
def test_what_the_old_host_strikes_out_of_a_models_own_template_does_no_harm(
    template: Template, instruction: str
) -> None:
    # modules/models_settings.py, v1.8 to v3.11, on a chat_template in tokenizer_config.json
    source = template.jinja()
    for token in ("eos_token", "bos_token"):
        source = source.replace(token, "'</s>'")
    source = re.sub(r"{% if add_generation_prompt %}.*", "", source, flags=re.DOTALL)
    assert send("old", source, said(instruction)) == template.render(instruction)


@few
@given(text=TEXT)
def test_a_literal_is_the_text_again_whatever_stands_in_it(text: str) -> None:
    for written in (text, f"'{text}\"", text + "\\", "{{" + text + "}}{%#}", "\r\n\t\0\x7f\x85\u2028é😀" + text):
        assert shown("{{ " + literal(written) + " }}", []) == written
        assert not re.search(r"[\x00-\x1f\x7f]", literal(written))
    assert literal("\r\n\t'\\") == r"'\r\n\t\'\\'"  # the escapes that every Jinja engine knows
