"""What people, clients and other models do to the lock: odd prompts, broken records, models that come and go."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest

from branchfit.prompts import ALPACA_COT, by_name
from standin_host import ERAS, Refusal, Session, paths, stand_in

QUESTION = "What is 2 + 2?"
RENDERED = ALPACA_COT.render(QUESTION)


def proofs(host: Session) -> list[dict[str, object]]:
    return [proof.to_dict() for proof in host.module("branchfit_webui").running().proofs.last()]


@pytest.mark.parametrize("era", ERAS)
def test_blanks_behind_a_rendering_are_no_reply_and_are_left_out_with_a_note(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        for behind in ("\n", " ", "\n\n "):
            paths(host)["completions"](RENDERED + behind)
            assert host.seen[-1] == RENDERED
            assert f"{behind!r} behind the rendering is left out: blanks are no reply" in proofs(host)[0]["notes"]  # type: ignore[operator]


def test_a_prompt_in_another_form_is_wrapped_whole_and_that_is_said(tmp_path: Path) -> None:
    plain = by_name("WizardMath-plain")
    assert plain is not None
    with stand_in("v4", tmp_path=tmp_path) as host:
        for text in (plain.render(QUESTION), "\n" + RENDERED, RENDERED.replace("\n", "\r\n")):
            paths(host)["completions"](text)
            assert host.seen[-1] == ALPACA_COT.render(text)
            (note,) = proofs(host)[0]["notes"]  # type: ignore[misc]
            assert "was wrapped whole as an instruction: send the question alone" in note
        paths(host)["completions"](QUESTION)
        assert proofs(host)[0]["notes"] == []


@pytest.mark.parametrize("era", ERAS)
def test_an_empty_prompt_is_refused_on_every_path(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        for name in ("completions", "default_generate", "send[instruct]"):
            try:
                said = paths(host)[name]("")
            except Refusal as refusal:
                said = str(refusal)
            assert "there is no message" in said and host.seen == []


@pytest.mark.parametrize("era", ERAS)
def test_a_refused_text_is_not_written_over_with_the_template(era: str, tmp_path: Path) -> None:
    with stand_in(era, context=300, tmp_path=tmp_path) as host:
        typed = "word " * 100
        shown = [box for box, *_ in _pressed(host, "Generate-default", typed)]
        assert all(text.startswith(typed) for text in shown)


def _pressed(host: Session, button: str, typed: str) -> list[tuple[str, ...]]:
    boxes = []
    try:
        for each in host.shared.gradio[button].pressed(typed, host.state()):
            boxes.append(each)
    except host.module("gradio").Error:
        pass
    return boxes


def test_markup_in_a_prompt_stays_text_in_the_tab(tmp_path: Path) -> None:
    with stand_in("v4", tmp_path=tmp_path) as host:
        panel, lock = host.module("branchfit_webui.panel.prompt_lock"), host.module("branchfit_webui").running()
        paths(host)["completions"](QUESTION)
        lock.proofs.last()[0].notes.append("<s> <img src=x onerror=alert(1)>")
        assert "<img" not in panel.proofs_text(lock) and "&lt;s&gt;" in panel.proofs_text(lock)


@pytest.mark.parametrize("era", ERAS)
def test_a_reply_that_ends_as_a_stop_string_begins_keeps_its_last_word(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        host.module("branchfit_webui").running().choices.keep(host.shared.model_name, "Vicuna", False)
        host.answer_with(" It was made in the US")
        assert paths(host)["completions"](QUESTION, max_tokens=40).endswith("made in the US")


@pytest.mark.parametrize("era", ERAS)
def test_an_unloaded_model_is_freed_and_an_unlocked_one_is_never_touched(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        paths(host)["completions"](QUESTION)
        alive = weakref.ref(host.shared.model)
        host.load_model("Mistral-tiny")
        gc.collect()
        assert alive() is None
        paths(host)["completions"](QUESTION)
        assert host.seen[-1] == QUESTION and "generate" not in vars(host.shared.model)


def test_a_prompt_that_waited_while_another_template_was_chosen_goes_out_in_that_one(tmp_path: Path) -> None:
    chatml = by_name("ChatML")
    assert chatml is not None
    with stand_in("v4", tmp_path=tmp_path) as host:
        lock = host.module("branchfit_webui").running()
        made, built = lock._maker._built, []
        original = lock._maker.build

        def chosen_meanwhile(decision: object, *arguments: object) -> object:
            built.append(len(made))
            lock.choices.keep(host.shared.model_name, "ChatML", False)
            return original(lock.decision(), *arguments)

        lock._maker.build = chosen_meanwhile
        paths(host)["send[instruct]"](QUESTION)
        assert built == [1] and host.seen[-1] == chatml.render(QUESTION)


@pytest.mark.parametrize("era", ["v3", "v4"])  # the API of 2023 fails by itself, before any hook
def test_half_a_character_in_a_prompt_harms_neither_the_tab_nor_the_address(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        try:
            said = paths(host)["completions_stream"]("half \ud800")
        except Refusal as refusal:
            said = str(refusal)
        assert "lone surrogate" in said and host.seen == []
        json.dumps(proofs(host)).encode("utf-8")
        lock = host.module("branchfit_webui").running()
        assert "\\ud800" in host.module("branchfit_webui.panel.prompt_lock").proofs_text(lock)


@pytest.mark.parametrize("era", ERAS)
def test_settings_of_the_wrong_kind_are_said_and_the_defaults_hold(
    era: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with stand_in(era, settings={"branchfit-proofs": "x", "branchfit-floor_tokens": -1}, tmp_path=tmp_path) as host:
        paths(host)["completions"](QUESTION)
        assert host.seen == [RENDERED]
    assert "branchfit-proofs: 'x' cannot be used, 20 holds" in capfd.readouterr().err


@pytest.mark.parametrize("era", ERAS)
def test_a_record_that_cannot_be_read_refuses_where_nothing_else_tells_the_template(era: str, tmp_path: Path) -> None:
    files = {"branchfit.lock.json": '{"version": 1, "template": {"name": "Vic'}
    with stand_in(era, model="some-tiny", model_files=files, tmp_path=tmp_path) as host:
        try:
            said = paths(host)["completions"](QUESTION)
        except Refusal as refusal:
            said = str(refusal)
        assert "cannot be read" in said and host.seen == []


@pytest.mark.parametrize("era", ERAS)
def test_continuing_a_refusal_continues_nothing(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        chat_module = host.module("branchfit_webui.chat")
        lock = host.module("branchfit_webui").running()
        history = {"internal": [[QUESTION, "BranchFit did not send this: too long."]], "visible": []}
        arguments = {"_continue": True, "history": history}
        built = chat_module.from_chat(lock.host, lock.decision(), "", host.state(), arguments, 64)
        assert built.text == RENDERED


def test_rows_of_another_kind_are_passed_over(tmp_path: Path) -> None:
    with stand_in("v4", tmp_path=tmp_path) as host:
        lock = host.module("branchfit_webui").running()
        arguments = {"history": {"internal": [[None], ["a"], [5, "b"], None, ["x", "y"]]}}
        built = host.module("branchfit_webui.chat").from_chat(lock.host, lock.decision(), QUESTION, {}, arguments, 64)
        assert built.text == RENDERED


@pytest.mark.parametrize("strips", [False, True], ids=["v1.7, v3.8 and newer", "v1.8 to v3.7"])
def test_a_template_that_spells_bos_is_sent_with_one_whatever_the_hosts_flag_does(strips: bool, tmp_path: Path) -> None:
    with stand_in("v4", tmp_path=tmp_path) as host:
        webui = host.module("branchfit_webui").running().host

        def encode(text: str, add_bos_token: bool) -> list[list[int]]:
            spelled = [1] * text.startswith("<s>")
            return [(([] if strips else spelled) if not add_bos_token else [1]) + [7]]

        webui.generation.encode = encode
        for prompt in ("<s>[INST] hi [/INST]", "no BOS in the text"):
            assert webui.encode(prompt, webui.wants_bos(prompt)) == [1, 7]


def test_what_the_host_wanted_has_an_attached_file_once(tmp_path: Path) -> None:
    with stand_in("v4", tmp_path=tmp_path) as host:
        lock, asked = host.module("branchfit_webui").running(), []
        lock.host.own_chat_prompt = lambda text, *others: asked.append(text)
        attached = {"user_0": {"attachments": [{"name": "a.txt", "type": "text/plain", "content": "42"}]}}
        arguments = {"history": {"internal": [], "metadata": attached}}
        built = host.module("branchfit_webui.chat").from_chat(lock.host, lock.decision(), QUESTION, {}, arguments, 64)
        assert built.text.count("=====\n42\n=====") == 1 and built.wanted is not None
        built.wanted()
        assert asked == [QUESTION]
