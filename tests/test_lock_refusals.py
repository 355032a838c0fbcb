"""What the prompt lock lowers, what it refuses and how that is said, and how it comes and goes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from branchfit.prompts import ALPACA_COT
from standin_host import ERAS, Refusal, Session, paths, stand_in

QUESTION = "What is 2 + 2?"
RENDERED = ALPACA_COT.render(QUESTION)
AROUND = len(ALPACA_COT.render("")) + 1
"""Tokens of the template alone: one a byte, and BOS. 182."""

LOADERS = ["hf", "own"]
TEXT_API = {"v1": "legacy_generate", "v3": "completions", "v4": "completions"}
"""v1's newer API turns away long prompts itself, before any hook."""
MAX_TOKENS = {"v1": "max_new_tokens", "v3": "max_tokens", "v4": "max_tokens"}

CHAT = ("send[instruct]", "send[chat]")
NEWER = ("chat_plain", "chat_stream", "completions", "completions_stream")
REFUSING = {
    "v1": (*CHAT, "default_generate", "notebook_generate", "legacy_generate", "legacy_stream", "legacy_chat"),
    "v3": (*CHAT, *NEWER, "default_generate", "notebook_generate"),
    "v4": (*CHAT, *NEWER, "default_generate", "notebook_generate", "messages", "messages_stream"),
}


def ask(host: Session, name: str, instruction: str = QUESTION, said: bool = True, **fields: Any) -> str:
    """The reply, or the refusal as whoever asked gets to read it."""
    try:
        return paths(host)[name](instruction, **fields)
    except Refusal as refusal:
        assert refusal.said or not said, refusal
        return str(refusal)


def lock_of(host: Session) -> Any:
    return host.module("branchfit_webui").running()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("era", "name"), [(era, name) for era in ERAS for name in REFUSING[era]])
def test_a_prompt_that_does_not_fit_is_refused_with_its_size_and_the_limit(
    era: str, name: str, loader: str, tmp_path: Path
) -> None:
    with stand_in(era, loader=loader, context=1000, tmp_path=tmp_path) as host:
        sentence = ask(host, name, "é" * 500, **({} if era != "v1" else {"truncation_length": 1000}))
        assert f"the prompt takes {AROUND + 1000:,} tokens" in sentence and "is 1,000" in sentence
        assert "Nothing was cut" in sentence and host.seen == []


@pytest.mark.parametrize(("era", "name"), [("v3", "chat_plain"), ("v3", "completions"), ("v4", "chat_plain")])
def test_the_api_answers_a_refusal_with_status_400(era: str, name: str, tmp_path: Path) -> None:
    with stand_in(era, context=1000, tmp_path=tmp_path) as host:
        with pytest.raises(Refusal) as refused:
            paths(host)[name]("é" * 500)
        assert refused.value.status == 400


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("era", ERAS)
def test_more_tokens_than_the_context_leaves_are_lowered_and_the_prompt_stays_whole(
    era: str, loader: str, tmp_path: Path
) -> None:
    with stand_in(era, loader=loader, context=1000, tmp_path=tmp_path) as host:
        for wanted in (1000, 1001, 100_000):
            ask(host, TEXT_API[era], **{MAX_TOKENS[era]: wanted, "truncation_length": 1000})
            assert host.seen[-1] == RENDERED and host.calls[-1].bos == 1
            assert host.calls[-1].max_new_tokens == 1000 - AROUND - len(QUESTION)


@pytest.mark.parametrize("era", ERAS)
def test_at_least_the_floor_is_left_for_a_reply(era: str, tmp_path: Path) -> None:
    with stand_in(era, context=1000, tmp_path=tmp_path) as host:
        longest = 1000 - 64 - AROUND
        for name in ("default_generate", "send[instruct]"):
            ask(host, name, "x" * longest, max_new_tokens=500)
            assert host.seen.pop() if host.seen else None
            assert host.calls[-1].max_new_tokens == 64
            before = len(host.calls)
            assert "at least 64 are kept" in ask(host, name, "x" * (longest + 1), max_new_tokens=500)
            assert len(host.calls) == before
        ask(host, "default_generate", "x" * (longest + 60), max_new_tokens=4)  # who asks for less, gets it
        assert host.calls[-1].max_new_tokens == 4 and len(host.calls) == before + 1


@pytest.mark.parametrize("era", ERAS)
def test_a_floor_of_the_settings_holds(era: str, tmp_path: Path) -> None:
    with stand_in(era, context=1000, settings={"branchfit-floor_tokens": 300}, tmp_path=tmp_path) as host:
        assert "at least 300 are kept" in ask(host, "default_generate", "x" * 600, max_new_tokens=500)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("era", ERAS)
def test_a_client_can_shorten_the_context_but_not_stretch_it(era: str, loader: str, tmp_path: Path) -> None:
    with stand_in(era, loader=loader, context=1000, tmp_path=tmp_path) as host:
        name = TEXT_API[era]
        assert "is 200" in ask(host, name, truncation_length=200) and host.seen == []
        ask(host, name, truncation_length=10**6, **{MAX_TOKENS[era]: 5000})
        assert host.seen == [RENDERED]
        assert len(host.calls[-1].ids) + host.calls[-1].max_new_tokens == 1000


@pytest.mark.parametrize(("loader", "adds_bos", "bos"), [("hf", True, 1), ("hf", False, 0), ("own", True, 1)])
@pytest.mark.parametrize("era", ERAS)
def test_bos_is_the_tokenizers_affair_whatever_a_client_asks(
    era: str, loader: str, adds_bos: bool, bos: int, tmp_path: Path
) -> None:
    with stand_in(era, loader=loader, adds_bos=adds_bos, tmp_path=tmp_path) as host:
        for asked in (True, False):
            for name in (TEXT_API[era], "default_generate", "send[instruct]", "send[chat]"):
                ask(host, name, add_bos_token=asked)
                assert (host.seen[-1], host.calls[-1].bos) == (RENDERED, bos)


@pytest.mark.parametrize("era", ERAS)
def test_a_chat_without_a_message_is_refused(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        assert "there is no message" in ask(host, "send[instruct]", "") and host.seen == []


@pytest.mark.parametrize("era", ERAS)
def test_a_refusal_kept_in_the_chat_is_not_sent_as_an_earlier_reply(era: str, tmp_path: Path) -> None:
    with stand_in(era, context=1000, tmp_path=tmp_path) as host:
        typed: Any = (lambda text: text) if era == "v1" else (lambda text: {"text": text, "files": []})
        history = host.press("Generate", typed("é" * 500), host.state())[-1][1]
        assert "did not send this" in history["internal"][-1][1]
        host.press("Generate", typed(QUESTION), host.state(history=history))
        assert host.seen == [RENDERED]


# Other extensions

MEDDLERS = {
    "tokens are added": "def tokenizer_modifier(state, prompt, ids, embeds):\n"
    "    rows = ids.tolist()\n    return prompt, type(ids)([rows[0] + [100]]), embeds\n",
    "embeddings come": "def tokenizer_modifier(state, prompt, ids, embeds):\n    return prompt, ids, [[0.5]]\n",
    "the model is asked directly": "import modules.shared as shared\n\n\n"
    "def custom_generate_reply(question, original_question, *rest, **kwargs):\n"
    "    ids = shared.tokenizer.encode('HIJACKED', return_tensors='pt')\n"
    "    yield str(shared.model.generate(inputs=ids, max_new_tokens=9))\n",
}


@pytest.mark.parametrize("meddling", MEDDLERS)
@pytest.mark.parametrize("era", ERAS)
def test_what_differs_at_the_model_itself_is_refused(era: str, meddling: str, tmp_path: Path) -> None:
    with stand_in(era, ["branchfit", ("meddler", MEDDLERS[meddling])], tmp_path=tmp_path) as host:
        for name in ("default_generate", "send[instruct]", TEXT_API[era]):
            assert "what arrived at the model is not" in ask(host, name), name
        assert host.seen == []


@pytest.mark.parametrize("era", ERAS)
def test_the_model_asked_outside_any_generation_refuses(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        ask(host, "default_generate")
        ids = host.shared.tokenizer.encode("directly", return_tensors="pt")
        with pytest.raises(Exception, match="asked the loaded model directly"):
            host.shared.model.generate(inputs=ids, max_new_tokens=9)
        assert host.seen == [RENDERED]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("era", ERAS)
def test_an_extension_behind_that_puts_its_own_functions_in_place_is_undone(
    era: str, loader: str, tmp_path: Path
) -> None:
    usurper = """
import modules.extensions as extensions
import modules.text_generation as text_generation


def setup():
    for name in ("generate_reply_HF", "generate_reply_custom"):
        def mine(question, *rest, inner=getattr(text_generation, name), **kwargs):
            yield from inner(f"HIJACKED {question}", *rest, **kwargs)
        setattr(text_generation, name, mine)
    extensions.EXTENSION_MAP["custom_generate_chat_prompt"] = lambda text, state, **kwargs: "HIJACKED"
"""
    with stand_in(era, ["branchfit", ("usurper", usurper)], loader=loader, tmp_path=tmp_path) as host:
        for name in ("default_generate", "send[instruct]", "send[chat]", TEXT_API[era]):
            ask(host, name)
            assert host.seen[-1] == RENDERED


# In place and out again


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("missing", ["generate_reply_HF", "generate_reply_custom", "custom_generate_reply"])
@pytest.mark.parametrize("era", ERAS)
def test_where_a_part_is_missing_the_server_starts_and_a_locked_model_refuses(
    era: str, missing: str, loader: str, tmp_path: Path
) -> None:
    def take_out(host: Session) -> None:
        if missing == "custom_generate_reply":
            host.module("modules.extensions").EXTENSION_MAP[missing] = None
        else:
            delattr(host.module("modules.text_generation"), missing)

    other = ("other", "def setup():\n    import modules.shared as shared\n\n    shared.session.heard.append('up')\n")
    with stand_in(era, ["branchfit", other], loader=loader, before_load=take_out, tmp_path=tmp_path) as host:
        assert host.heard == ["up"]
        for name in ("default_generate", "send[instruct]", TEXT_API[era]):
            assert re.search(rf"{missing}.* not being there", ask(host, name, said=False)), name
        assert host.seen == [] and not lock_of(host).status().active
        host.load_model("Plain-7B")
        if missing != "custom_generate_reply" and (missing == "generate_reply_HF") is (loader == "own"):
            ask(host, "default_generate")  # another model, on a host that can do without that part
            assert host.seen == [QUESTION]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("era", ERAS)
def test_switched_off_the_host_is_as_it_was(era: str, loader: str, tmp_path: Path) -> None:
    found: dict[str, Any] = {}

    def look(host: Session) -> dict[str, Any]:
        pages = [host.module(f"modules.{name}") for name in ("text_generation", "ui_default", "ui_notebook", "chat")]
        seen = {f"{page.__name__}.{name}": value for page in pages for name, value in vars(page).items()}
        table = host.module("modules.extensions").EXTENSION_MAP
        own = {name: value for name, value in vars(host.shared.model).items() if callable(value)}
        return seen | {f"map.{name}": value for name, value in table.items()} | own

    with stand_in(era, loader=loader, before_load=lambda host: found.update(look(host)), tmp_path=tmp_path) as host:
        host.restart_ui()
        ask(host, "send[instruct]")
        assert host.seen == [RENDERED]
        locked = look(host)
        assert sum(locked[name] is not found.get(name) for name in locked) >= 5
        lock_of(host).switch(False)
        after = look(host)
        assert after.keys() == found.keys()
        assert [name for name in after if after[name] is not found[name] and after[name] != found[name]] == []
        ask(host, "default_generate")
        assert host.seen[-1] == QUESTION
        lock_of(host).switch(True)
        ask(host, "default_generate")
        assert host.seen[-1] == RENDERED


@pytest.mark.parametrize("era", ERAS)
def test_another_model_is_let_alone_and_the_first_is_held_again(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        first = host.shared.model
        for name, seen in (("Plain-7B", QUESTION), ("WizardMath-tiny", RENDERED), ("Plain-7B", QUESTION)):
            host.load_model(name)
            ask(host, "default_generate")
            assert host.seen[-1] == seen
        assert "generate" not in vars(first)


@pytest.mark.parametrize("era", ["v3", "v4"])
def test_the_proofs_have_an_address_for_this_machine_and_the_admin(era: str, tmp_path: Path) -> None:
    with stand_in(era, tmp_path=tmp_path) as host:
        ask(host, "chat_plain")
        host.restart_ui()
        path = "/v1/internal/branchfit/prompts"
        assert [route.path for route in host.app.routes].count(path) == 1
        assert host.get(path).json["prompts"][0]["text"] == RENDERED
        assert host.get(path, origin="http://localhost:7860").status == 200
        assert host.get(path, origin="https://elsewhere.example").status == 403
        host.shared.args.admin_key = "key"
        assert host.get(path).status == 401
        assert host.get(path, authorization="Bearer key").status == 200


@pytest.mark.parametrize(("era", "enabled_by"), [("v3", "flags"), ("v4", "flags"), ("v4", "settings")])
def test_without_a_page_the_api_is_locked(era: str, enabled_by: str, tmp_path: Path) -> None:
    with stand_in(era, ui=False, enabled_by=enabled_by, tmp_path=tmp_path) as host:
        for name in ("completions", "chat_plain", "chat_stream"):
            ask(host, name)
        assert host.seen == [RENDERED] * 3
        assert "1,000" in ask(host, "completions", truncation_length=1000, max_tokens=5, instruction="x" * 999)
