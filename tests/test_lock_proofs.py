"""What the lock tells of itself: proofs, the address, the tab's words; earlier turns; direct calls to the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from branchfit.prompts import ALPACA_COT, by_name
from standin_host import ERAS, Refusal, Session, paths, stand_in

QUESTION = "What is 2 + 2?"
RENDERED = ALPACA_COT.render(QUESTION)
ADDRESS = "/v1/internal/branchfit/prompts"
HISTORY = [("1 + 1?", "It is 2."), ("1 + 2?", "It is 3.")]


def proofs(host: Session) -> list[dict[str, object]]:
    return [proof.to_dict() for proof in host.module("branchfit_webui").running().proofs.last()]


def chat(host: Session, turns: list[tuple[str, str]], **fields: object) -> None:
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    host.post("/v1/chat/completions", {"messages": [*messages, {"role": "user", "content": QUESTION}], **fields})


@pytest.mark.parametrize("era", ERAS)
def test_a_proof_has_the_bytes_their_hash_the_tokens_and_what_the_host_wanted(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        paths(host)["default_generate"](QUESTION)
        (proof,) = proofs(host)
        assert (proof["text"], proof["host_wanted"]) == (RENDERED, QUESTION)
        assert proof["tokens"] == len(RENDERED) + 1 == len(host.calls[0].ids)
        assert proof["size_bytes"] == len(RENDERED)
        assert proof["verdict"] == "tokens exact"
        difference = proof["difference"]
        assert isinstance(difference, dict) and difference["offset_bytes"] == 0


@pytest.mark.parametrize("era", ERAS)
def test_a_rendering_that_came_as_one_differs_in_nothing(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        paths(host)["completions"](RENDERED)
        assert proofs(host)[0]["difference"] is None


@pytest.mark.parametrize("era", ERAS)
def test_what_the_host_wanted_in_a_chat_is_its_own_builders_prompt(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        paths(host)["send[instruct]"](QUESTION)
        wanted = proofs(host)[0]["host_wanted"]
        assert isinstance(wanted, str) and QUESTION in wanted and wanted != RENDERED


def test_as_many_proofs_are_kept_as_the_settings_say_and_none_is_written(tmp_path: Path) -> None:
    with stand_in("v4", settings={"branchfit-proofs": 2}, tmp_path=tmp_path) as host:
        before = {path for path in tmp_path.rglob("*") if path.suffix != ".pyc"}
        for number in range(4):
            paths(host)["completions"](f"Question {number}")
        assert [str(proof["text"]).count("Question 3") for proof in proofs(host)] == [1, 0]
        assert not [path for path in set(tmp_path.rglob("*")) - before if path.is_file() and path.suffix != ".pyc"]


def test_a_file_that_was_asked_for_gets_one_line_a_prompt(tmp_path: Path) -> None:
    file = tmp_path / "proofs.jsonl"
    with stand_in("v4", settings={"branchfit-proof_file": str(file)}, tmp_path=tmp_path) as host:
        paths(host)["completions"](QUESTION)
    assert [json.loads(line)["text"] for line in file.read_text().splitlines()] == [RENDERED]


def test_a_file_that_cannot_be_written_costs_no_reply(tmp_path: Path) -> None:
    settings = {"branchfit-proof_file": str(tmp_path / "missing" / "proofs.jsonl")}
    with stand_in("v4", settings=settings, tmp_path=tmp_path) as host:
        assert paths(host)["completions"](QUESTION)
        assert any("cannot be written" in note for note in proofs(host)[0]["notes"])  # type: ignore[union-attr]


@pytest.mark.parametrize("era", ["v3", "v4"])
def test_the_address_gives_the_proofs_to_programs_and_own_pages_alone(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        paths(host)["completions"](QUESTION)
        answer = host.get(ADDRESS)
        assert answer.status == 200
        told = answer.json if not callable(answer.json) else answer.json()
        assert told["active"] and told["template"] == "Alpaca-CoT" and told["prompts"][0]["text"] == RENDERED
        assert host.get(ADDRESS, origin="http://127.0.0.1:7860").status == 200
        assert host.get(ADDRESS, origin="https://evil.example").status == 403
        assert host.get(ADDRESS, origin="null").status == 403


@pytest.mark.parametrize("era", ERAS)
def test_earlier_turns_are_kept_as_repeated_pairs_where_that_was_chosen(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        chat(host, HISTORY)
        assert host.seen == [RENDERED]
        assert "2 earlier turns left out: one turn by design" in proofs(host)[0]["notes"]  # type: ignore[operator]
        host.module("branchfit_webui").running().choices.keep(host.shared.model_name, None, True)
        chat(host, HISTORY)
        assert host.seen[-1] == ALPACA_COT.render_turns(HISTORY, QUESTION)


@pytest.mark.parametrize("era", ["v3", "v4"])  # the API of 2023 refuses by itself what is longer than the context
def test_the_oldest_turns_go_first_where_the_context_is_full(era: str, tmp_path: Path) -> None:
    with stand_in(era, context=1000, tmp_path=tmp_path) as host:
        host.module("branchfit_webui").running().choices.keep(host.shared.model_name, None, True)
        chat(host, [("x" * 800, "y"), HISTORY[0]], max_tokens=20)
        assert host.seen == [ALPACA_COT.render_turns([HISTORY[0]], QUESTION)]
        assert "1 earlier turn left out: the context is full" in proofs(host)[0]["notes"]  # type: ignore[operator]


@pytest.mark.parametrize("era", ["v3", "v4"])
def test_asking_for_the_whole_context_does_not_cost_the_turns(era: str, tmp_path: Path) -> None:
    with stand_in(era, context=1000, tmp_path=tmp_path) as host:
        host.module("branchfit_webui").running().choices.keep(host.shared.model_name, None, True)
        chat(host, HISTORY[:1], max_tokens=600)
        assert host.seen == [ALPACA_COT.render_turns(HISTORY[:1], QUESTION)]


def test_a_template_with_a_place_for_a_system_message_gets_the_clients(tmp_path: Path) -> None:
    chatml = by_name("ChatML")
    assert chatml is not None
    for era in ERAS:
        with stand_in(era, tmp_path=tmp_path / era) as host:
            host.module("branchfit_webui").running().choices.keep(host.shared.model_name, "ChatML", False)
            messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
            host.post("/v1/chat/completions", {"messages": messages})
            assert host.seen == [chatml.render(QUESTION, "Be brief.")]


@pytest.mark.parametrize("era", ERAS)
def test_who_asks_the_model_directly_is_refused_from_the_start_and_after_a_switch_of_models(
    era: str, tmp_path: Path
) -> None:
    with stand_in(era, loader="own", tmp_path=tmp_path) as host:
        with pytest.raises(Exception, match="asked the loaded model directly"):
            host.shared.model.generate("raw text", host.state())
        assert host.seen == []


@pytest.mark.parametrize("era", ERAS)
def test_html_entities_stand_in_the_box_as_they_were_sent(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        typed = "What is AT&amp;T &lt;b&gt;?"
        paths(host)["default_continue"](typed)
        head, tail = ALPACA_COT.around
        assert all(text.startswith(head + typed + tail) for text in host.seen) and len(host.seen) >= 1


def test_a_reply_that_writes_the_next_turn_ends_there_even_without_a_stop_string_of_the_hosts(tmp_path: Path) -> None:
    for era in ERAS:
        with stand_in(era, tmp_path=tmp_path / era) as host:
            host.answer_with(" It is 4.\n\n### Instruction:\nAnother one")
            reply = paths(host)["completions"](QUESTION)
            assert "It is 4." in reply and "Instruction" not in reply


@pytest.mark.parametrize("era", ERAS)
def test_the_tabs_words_tell_what_holds_and_what_was_sent(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        panel, lock = host.module("branchfit_webui.panel.prompt_lock"), host.module("branchfit_webui").running()
        assert "**Prompt lock active: WizardMath-tiny gets Alpaca-CoT" in panel.status_text(lock)
        assert "WizardMath-plain" in panel.advice_text(lock) and "simple" in panel.advice_text(lock)
        paths(host)["completions"]("```\nfenced\n```")
        shown = panel.proofs_text(lock)
        assert "````text\n" in shown and "/v1/completions" in shown and "from byte 0 on" in shown
        assert panel.keep_choice(lock, "off", False) == "Kept for WizardMath-tiny."
        assert "inactive: switched off by your choice" in panel.status_text(lock)
        paths(host)["completions"](QUESTION)
        assert host.seen[-1] == QUESTION


def test_a_part_that_cannot_stand_is_refused_in_words_on_a_chat_path_too(tmp_path: Path) -> None:
    def break_it(host: Session) -> None:
        import modules.extensions

        del modules.extensions.EXTENSION_MAP["custom_generate_reply"]

    for era in ("v3", "v4"):
        with stand_in(era, before_load=break_it, tmp_path=tmp_path / era) as host:
            try:
                said = paths(host)["chat_plain"](QUESTION)
            except Refusal as refusal:
                said = str(refusal)
            assert "custom_generate_reply" in said and host.seen == []
