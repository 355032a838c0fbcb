"""The stand-in behaves as the webui was seen to, without any lock."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from standin.measured import PROBE, expected
from standin_host import ERAS, PARTIAL, PATHS, Refusal, at_once, kind_of, paths, stand_in


@pytest.mark.parametrize(("era", "name"), [(era, name) for era in ERAS for name in PATHS[era]])
def test_hooks_fire_in_the_order_that_was_measured(era: str, name: str, tmp_path: Path) -> None:
    with stand_in(era, [("probe", PROBE)], tmp_path=tmp_path) as host:
        host.heard.clear()
        paths(host)[name]("What is 2 + 2?")
        heard = " ".join(host.heard)
        wanted = expected(era, name)
        # What came before is another press of a button: its own hooks stand first.
        assert heard.endswith(wanted) and (wanted or not heard)
        if kind_of(name) == "send" and name != "completions_list":
            assert heard == wanted


def test_the_first_extension_with_a_hook_wins_even_where_it_answers_none(tmp_path: Path) -> None:
    first = ("first", "def custom_generate_chat_prompt(text, state, **kwargs):\n    return None\n")
    second = ("second", "def custom_generate_chat_prompt(text, state, **kwargs):\n    return 'mine'\n")
    for era in ERAS:
        with stand_in(era, [first, second], tmp_path=tmp_path) as host:
            paths(host)["send[instruct]"]("What is 2 + 2?")
            assert "mine" not in host.seen[-1] and "What is 2 + 2?" in host.seen[-1]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("loader", ["hf", "own"])
def test_a_prompt_is_cut_from_the_left_and_vanishes_where_less_than_nothing_is_left(
    era: str, loader: str, tmp_path: Path
) -> None:
    with stand_in(era, [], loader=loader, context=100, tmp_path=tmp_path) as host:
        ask, text = paths(host)["default_generate"], "x" * 49 + "y" * 50  # and BOS: 100 tokens
        ask(text, max_new_tokens=60)
        assert host.seen[-1] == "y" * 40 and host.calls[-1].bos == 0
        ask(text, max_new_tokens=100)  # [:, -0:] is everything
        assert host.seen[-1] == text
        ask(text, max_new_tokens=130)  # [:, 30:] cuts the front instead
        assert host.seen[-1] == text[29:]
        ask(text, max_new_tokens=1000)
        assert host.calls[-1].ids == ()


def test_the_2023_api_says_400_where_a_text_and_max_tokens_are_too_long(tmp_path: Path) -> None:
    with stand_in("v1", [], context=100, tmp_path=tmp_path) as host:
        with pytest.raises(Refusal) as refused:
            paths(host)["completions"]("x" * 50, max_tokens=60)
        assert refused.value.status == 400 and host.seen == []


@pytest.mark.parametrize(
    ("era", "text", "asked", "adds_bos", "bos"),
    [
        ("v1", "hi", True, True, 1),
        ("v1", "hi", False, True, 0),
        ("v1", "hi", True, False, 0),
        ("v1", "<s>hi", True, True, 2),
        ("v3", "hi", True, True, 1),
        ("v3", "hi", False, True, 1),
        ("v3", "hi", True, False, 1),
        ("v3", "<s>hi", True, True, 1),
        ("v4", "hi", True, True, 1),
        ("v4", "hi", False, True, 1),
        ("v4", "hi", True, False, 1),
        ("v4", "<s>hi", True, True, 1),
    ],
)
def test_bos_is_added_and_taken_away_as_each_era_does(
    era: str, text: str, asked: bool, adds_bos: bool, bos: int, tmp_path: Path
) -> None:
    with stand_in(era, [], adds_bos=adds_bos, tmp_path=tmp_path) as host:
        paths(host)["default_generate"](text, add_bos_token=asked)
        assert (host.calls[-1].bos, host.seen[-1]) == (bos, "hi")


@pytest.mark.parametrize(("era", "bos"), [("v1", 1), ("v3", 0), ("v4", 0)])
def test_newer_chats_leave_bos_to_the_template_and_a_template_without_it_gets_none(
    era: str, bos: int, tmp_path: Path
) -> None:
    with stand_in(era, [], loader="own", tmp_path=tmp_path) as host:
        paths(host)["send[instruct]"]("hi")
        assert host.calls[-1].bos == bos
        paths(host)["default_generate"]("hi")
        assert host.calls[-1].bos == 1


@pytest.mark.parametrize("era", ERAS)
def test_stop_strings_are_fixed_before_the_generator_runs(era: str, tmp_path: Path) -> None:
    late = """
def custom_generate_reply(*args, **kwargs):
    state = next(value for value in args if isinstance(value, dict))
    state["custom_stopping_strings"], state["marked"] = ["STOP"], True
    yield f"{len(args)} go STOP on"
"""
    with stand_in(era, [("late", late)], tmp_path=tmp_path) as host:
        generate = host.module("modules.text_generation").generate_reply
        seed = 1 if era == "v1" else 0
        state = host.state(stream=False)
        assert list(generate("q", state))[-1] == f"{4 + seed} go STOP on" and state["marked"]
        state = host.state(stream=False)
        assert list(generate("q", state, ["on"]))[-1] == f"{4 + seed} go STOP " and "marked" not in state


@pytest.mark.parametrize("era", ERAS)
def test_the_next_turns_head_ends_a_reply_and_its_beginning_is_trimmed(era: str, tmp_path: Path) -> None:
    with stand_in(era, [], tmp_path=tmp_path) as host:
        host.answer_with("It is 4.\n\n### Instruction:\nAnd")
        assert paths(host)["send[instruct]"]("2 + 2?").strip() == "It is 4."
        host.answer_with("It is 4.\n\n### Instru")
        assert paths(host)["send[instruct]"]("2 + 2?").strip() == "It is 4."


@pytest.mark.parametrize(("era", "times"), [("v1", 1), ("v3", 1), ("v4", 2)])
def test_a_restart_of_the_page_runs_an_extension_again_only_in_the_newest(era: str, times: int, tmp_path: Path) -> None:
    counting = """
import modules.shared as shared

shared.session.heard.append("executed")


def setup():
    shared.session.heard.append("setup")
"""
    with stand_in(era, [("counting", counting)], tmp_path=tmp_path) as host:
        button = host.shared.gradio["Generate-default"]
        host.restart_ui()
        assert host.heard == ["executed", "setup"] * times
        assert host.shared.gradio["Generate-default"] is not button


@pytest.mark.parametrize("era", ERAS)
def test_an_extension_that_fails_is_left_out_and_one_that_lacks_a_module_ends_newer_servers(
    era: str, tmp_path: Path
) -> None:
    with stand_in(era, [("failing", "def setup():\n    raise ValueError\n")], tmp_path=tmp_path) as host:
        assert list(host.module("modules.extensions").state) == ["openai", "api"][: {"v1": 2, "v3": 1, "v4": 0}[era]]
    (tmp_path / "again").mkdir()
    lacking = stand_in(era, [("lacking", "import no_such_module_anywhere\n")], tmp_path=tmp_path / "again")
    if era == "v1":
        with lacking as host:
            assert paths(host)["completions"]("hi", max_tokens=100) == "4. The answer is: 4"
    else:
        with pytest.raises(ModuleNotFoundError), lacking:
            pass


@pytest.mark.parametrize(
    ("era", "enabled_by", "loaded"),
    [("v3", "settings", False), ("v3", "flags", True), ("v4", "settings", True), ("v4", "flags", True)],
)
def test_without_a_page_v3s_api_keeps_extensions_of_the_settings_from_loading(
    era: str, enabled_by: str, loaded: bool, tmp_path: Path
) -> None:
    with stand_in(era, [("probe", PROBE)], ui=False, enabled_by=enabled_by, tmp_path=tmp_path) as host:
        assert len(host.doors) == 1
        paths(host)["completions"]("hi")
        assert bool(host.heard) is loaded


@pytest.mark.parametrize("era", ERAS)
def test_text_boxes_show_what_was_typed_and_the_reply_unescaped(era: str, tmp_path: Path) -> None:
    with stand_in(era, [], tmp_path=tmp_path) as host:
        host.answer_with(" 3 < 4 & 5 > 4")
        assert paths(host)["default_generate"]("Is 3 < 4?") == "Is 3 < 4? 3 < 4 & 5 > 4"
        assert paths(host)["default_generate"]("AT&amp;T?") == "AT&T? 3 < 4 & 5 > 4"  # the host's own loss
        assert host.seen == ["Is 3 < 4?", "AT&amp;T?"]


@pytest.mark.parametrize("era", ERAS)
def test_rows_are_stripped_when_the_host_makes_the_prompt(era: str, tmp_path: Path) -> None:
    with stand_in(era, [], tmp_path=tmp_path) as host:
        rows = {"internal": [["Q", "It is \n"]], "visible": [["Q", "It is \n"]]}
        host.press("Continue", "", host.state(history=rows))
        assert host.seen[-1].endswith("### Response:\nIt is")


@pytest.mark.parametrize("era", ERAS)
def test_the_prompt_hook_gets_the_turn_itself_only_when_it_is_continued(era: str, tmp_path: Path) -> None:
    telling = """
import modules.shared as shared


def custom_generate_chat_prompt(text, state, **kwargs):
    rows = [row[:2] for row in kwargs["history"]["internal"]]
    shared.session.heard.append((text, kwargs["_continue"], rows))
    return "prompt"
"""
    with stand_in(era, [("telling", telling)], tmp_path=tmp_path) as host:
        host.answer_with("A")
        ways = paths(host)
        ways["send[instruct]"]("Q", history={"internal": [["q", "a"]], "visible": [["q", "a"]]})
        ways["regenerate[instruct]"]("Q")
        ways["continue[instruct]"]("Q")
        assert host.heard == [
            ("Q", False, [["q", "a"]]),
            ("Q", False, []),
            ("Q", False, []),
            ("Q", False, []),
            ("Q", True, [["Q", PARTIAL]]),
        ]


@pytest.mark.parametrize("era", ERAS)
def test_a_streamed_reply_of_a_transformers_model_is_made_in_another_thread(era: str, tmp_path: Path) -> None:
    with stand_in(era, [], tmp_path=tmp_path) as host:
        generate, threads = host.module("modules.text_generation").generate_reply, []
        for stream in (True, False):
            list(generate("q", host.state(stream=stream)))
            threads.append(host.calls[-1].thread == threading.get_ident())
        assert threads == [False, True]


@pytest.mark.parametrize(("era", "together"), [("v1", False), ("v3", False), ("v4", True)])
def test_only_the_newest_lets_a_loader_that_can_answer_several_at_once(
    era: str, together: bool, tmp_path: Path
) -> None:
    with stand_in(era, [], loader="own", tmp_path=tmp_path) as host:
        locked: list[bool] = []
        host.answer_with(lambda prompt: str(locked.append(host.shared.generation_lock.locked())))
        if together:
            host.recorder.meeting = threading.Barrier(2)
        at_once(paths(host)["completions"], ["one", "two"])
        assert sorted(host.seen) == ["one", "two"] and locked == [not together] * 2


def test_forward_passes_without_generation_are_seen_apart(tmp_path: Path) -> None:
    with stand_in("v4", [], tmp_path=tmp_path) as host:
        paths(host)["logits_direct"]("hi")
        paths(host)["completions"]("score me", echo=True, logprobs=1, max_tokens=0)
        assert host.recorder.forwards == ["<s>hi", "<s>score me"] and host.seen == []


def test_nothing_of_a_host_is_left_behind(tmp_path: Path) -> None:
    before = set(sys.modules), list(sys.path), Path.cwd()
    for era in ERAS:
        with stand_in(era, tmp_path=tmp_path):
            assert "modules.shared" in sys.modules and Path.cwd() == tmp_path / f"webui-{era}"
    left = {name for name in set(sys.modules) - before[0] if name.split(".")[0] not in ("branchfit", "standin")}
    assert "modules" not in left and not {name for name in left if name.startswith(("modules.", "extensions", "user_"))}
    assert (list(sys.path), Path.cwd()) == before[1:]
