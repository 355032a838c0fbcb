"""The prompt lock on stand-ins of three eras of the host: on every path the model gets the rendering, or nothing."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from branchfit.prompts import ALPACA_COT
from standin_host import ERAS, PARTIAL, PATHS, Refusal, Session, at_once, kind_of, paths, stand_in

QUESTION = "What is 2 + 2?"
RENDERED = ALPACA_COT.render(QUESTION)
CONTINUED = ALPACA_COT.with_reply(RENDERED, PARTIAL)
EVERYWHERE = [(era, name) for era in ERAS for name in PATHS[era]]
GENERATING = [(era, name) for era, name in EVERYWHERE if kind_of(name) not in ("chat_prompt", "direct", "impersonate")]
LOADERS = ["hf", "own"]

HIJACKER = """
import modules.text_generation as text_generation


def custom_generate_chat_prompt(text, state, **kwargs):
    return f"HIJACKED {text}"


def custom_generate_reply(question, original_question, *rest, **kwargs):
    import modules.shared as shared

    own = shared.model.__class__.__name__ != "LlamaForCausalLM"
    generate = text_generation.generate_reply_custom if own else text_generation.generate_reply_HF
    yield from generate(f"HIJACKED {question}", original_question, *rest, **kwargs)
"""


def wanted(name: str) -> str:
    return CONTINUED if kind_of(name) in ("continue", "start_with") else RENDERED


def ask(host: Session, name: str, instruction: str = QUESTION, **fields: Any) -> str:
    """What the asker gets, be it a reply or a refusal."""
    try:
        return paths(host)[name](instruction, **fields)
    except Refusal as refusal:
        return str(refusal)


def needs_samplers_that_it_has_not(loader: str, era: str, name: str) -> bool:
    return name == "logits_samplers" and loader == "own" and era != "v4"


def exact(host: Session, name: str) -> None:
    """All that the model saw was a rendering, with one BOS, and the last was this path's."""
    assert host.seen and host.seen[-1] == wanted(name)
    head, tail = ALPACA_COT.around
    for call in host.calls:
        assert call.text.startswith(head) and tail in call.text and call.bos == 1


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("era", "name"), GENERATING)
def test_on_every_path_the_model_gets_exactly_the_rendering(era: str, name: str, loader: str, tmp_path: Path) -> None:
    if needs_samplers_that_it_has_not(loader, era, name):
        pytest.skip("this loader has no samplers to show")
    with stand_in(era, loader=loader, tmp_path=tmp_path) as host:
        ask(host, name)
        exact(host, name)


@pytest.mark.parametrize("era", ["v3", "v4"])
def test_the_llama_cpp_server_gets_it_too(era: str, tmp_path: Path) -> None:
    with stand_in(era, loader="llama.cpp", tmp_path=tmp_path) as host:
        for name in (name for known, name in GENERATING if known == era):
            ask(host, name)
            exact(host, name)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("era", ERAS)
def test_a_reply_ends_where_the_template_would_begin_the_next_turn(era: str, loader: str, tmp_path: Path) -> None:
    with stand_in(era, loader=loader, tmp_path=tmp_path) as host:
        host.answer_with(" 4.\n\n### Instruction:\nAnd 3 + 3?")
        for name in (name for known, name in GENERATING if known == era and "logits" not in name):
            reply = ask(host, name)
            assert "3 + 3" not in reply and reply.replace(RENDERED, "").rstrip().endswith("4."), name


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("era", ERAS)
def test_a_reply_given_up_midway_frees_the_host_and_the_lock(era: str, loader: str, tmp_path: Path) -> None:
    with stand_in(era, loader=loader, tmp_path=tmp_path) as host:
        reply = host.module("modules.text_generation").generate_reply(QUESTION, host.state())
        next(reply)
        next(reply)
        assert host.shared.generation_lock.locked()
        reply.close()
        assert not host.shared.generation_lock.locked()
        ask(host, "send[instruct]")
        assert host.seen == [RENDERED] * 2


@pytest.mark.parametrize(("era", "name"), GENERATING)
def test_with_the_lock_off_no_path_gets_it(era: str, name: str, tmp_path: Path) -> None:
    with stand_in(era, settings={"branchfit-lock": False}, tmp_path=tmp_path) as host:
        ask(host, name)
        assert host.seen and wanted(name) not in host.seen


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("era", "name"), GENERATING)
def test_an_extension_ahead_that_builds_and_generates_itself_changes_nothing(
    era: str, name: str, loader: str, tmp_path: Path
) -> None:
    if needs_samplers_that_it_has_not(loader, era, name):
        pytest.skip("this loader has no samplers to show")
    with stand_in(era, [("hijacker", HIJACKER), "branchfit"], loader=loader, tmp_path=tmp_path) as host:
        ask(host, name)
        exact(host, name)


@pytest.mark.parametrize(("era", "name"), GENERATING)
def test_a_restart_of_the_page_changes_nothing(era: str, name: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        for _ in range(2):
            host.restart_ui()
        ask(host, name)
        exact(host, name)
        assert len(host.module("branchfit_webui").running().proofs.last()) == len(host.calls)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("mode", ["instruct", "chat-instruct", "chat"])
def test_impersonating_is_refused_and_the_message_box_keeps_what_was_typed(era: str, mode: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        assert "impersonating asks the model" in ask(host, f"impersonate[{mode}]", "I think")
        typed = "I think" if era == "v1" else {"text": "I think", "files": []}
        boxes = []
        with contextlib.suppress(host.module("gradio").Error):
            for box, _ in host.shared.gradio["Impersonate"].pressed(typed, host.state(mode=mode)):
                boxes.append(box if era == "v1" else box["text"])
        assert boxes[:2] == ["I think...", "I think"] and host.seen == []
        # gradio of 2023 shows no error's words, so they stand in the box
        assert len(boxes) >= (3 if era == "v1" else 2) and all(box.startswith("I think") for box in boxes)


@pytest.mark.parametrize("era", ERAS)
def test_forward_passes_and_previews_generate_nothing(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        for name in PATHS[era]:
            if kind_of(name) in ("chat_prompt", "direct"):
                ask(host, name)
        assert host.seen == []


LABELS = {
    "completions": "/v1/completions",
    "completions_stream": "/v1/completions, stream",
    "chat_plain": "/v1/chat/completions",
    "chat_stream": "/v1/chat/completions, stream",
    "chat_continue": "/v1/chat/completions, continue",
    "edits": "/v1/edits",
    "messages": "/v1/messages",
    "messages_stream": "/v1/messages, stream",
    "legacy_generate": "/api/v1/generate",
    "legacy_stream": "/api/v1/stream",
    "legacy_chat": "/api/v1/chat",
    "legacy_chat_stream": "/api/v1/chat-stream",
    "legacy_regenerate": "/api/v1/chat, regenerate",
    "legacy_continue": "/api/v1/chat, continue",
    "default_generate": "Default or Notebook tab",
    "send[instruct]": "Chat tab, instruct, send",
    "send[chat]": "Chat tab, chat, send",
    "regenerate[chat-instruct]": "Chat tab, chat-instruct, regenerate",
    "continue[instruct]": "Chat tab, instruct, continue",
    "logits_samplers": "Logits, with samplers",
}


@pytest.mark.parametrize(("era", "name"), [(era, name) for era, name in GENERATING if name in LABELS])
@pytest.mark.parametrize(("loader", "verdict"), [("hf", "tokens exact"), ("own", "text exact")])
def test_each_prompt_leaves_a_proof_of_its_path_and_of_what_was_compared(
    era: str, name: str, loader: str, verdict: str, tmp_path: Path
) -> None:
    if needs_samplers_that_it_has_not(loader, era, name):
        pytest.skip("this loader has no samplers to show")
    with stand_in(era, loader=loader, tmp_path=tmp_path) as host:
        ask(host, name)
        proof = host.module("branchfit_webui").running().proofs.last()[0]
        assert (proof.path, proof.verdict, proof.text) == (LABELS[name], verdict, host.seen[-1])
        assert proof.instruction == QUESTION
        if name != "default_generate":  # the box holds the rendering by then, not what the host would have sent
            assert proof.host_wanted() not in (None, proof.text)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "instruction",
    [
        "  two spaces before, one newline behind\n",
        "Wie groß ist π? 🧮 \u200b",
        "{instruction} and {system_message}",
        "Explain `### Response:` and\n\n### Instruction:\nagain",
        ALPACA_COT.render("nested") + " and more",
        "<s> is BOS, </s> is EOS",
        "C:\\new\\table & <b>bold</b> &amp;",
    ],
)
def test_instructions_arrive_byte_for_byte(era: str, instruction: str, tmp_path: Path) -> None:
    recognised = ALPACA_COT.recognise(instruction)
    names = {"v1": ["legacy_chat"], "v3": ["chat_stream"], "v4": ["chat_stream", "messages"]}[era]
    with stand_in(era, tmp_path=tmp_path) as host:
        for name in ["chat_plain", "send[instruct]", "send[chat]", *names]:
            ask(host, name, instruction)
            assert host.seen[-1] == ALPACA_COT.render(instruction)
        ask(host, "completions", instruction, max_tokens=16)
        assert host.seen[-1] == (instruction if recognised else ALPACA_COT.render(instruction))


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("loader", LOADERS)
def test_parallel_requests_are_not_mixed_up(era: str, loader: str, tmp_path: Path) -> None:
    with stand_in(era, loader=loader, tmp_path=tmp_path) as host:
        host.answer_with(lambda prompt: str(prompt.count("x")))
        asked = ["x" * number for number in range(1, 9)]
        for name in ("completions", "chat_plain"):
            replies = [int(reply) for reply in at_once(paths(host)[name], asked)]
            assert replies == [prompt.count("x") for prompt in map(ALPACA_COT.render, asked)]
        assert sorted(host.seen) == sorted(map(ALPACA_COT.render, asked * 2))


def test_prompts_made_at_the_same_time_are_each_compared_with_their_own(tmp_path: Path) -> None:
    with stand_in("v4", loader="own", tmp_path=tmp_path) as host:
        host.recorder.meeting = threading.Barrier(2)
        at_once(paths(host)["chat_stream"], ["one", "two"])
        assert sorted(host.seen) == sorted([ALPACA_COT.render("one"), ALPACA_COT.render("two")])
        proofs = host.module("branchfit_webui").running().proofs.last()
        assert [proof.verdict for proof in proofs] == ["text exact"] * 2
