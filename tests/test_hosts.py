"""The harness that runs real webuis (tests/hosts): its own parts, and the whole where a webui is given."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from branchfit.prompts import ALPACA_COT
from hosts import matrix, surface
from hosts.browser import found as browser_found
from hosts.client import _frame, _message, _texts
from hosts.compare import Answer, Verdict, Wanted, details, difference, judge, table
from hosts.host import REPLY_TOKENS, Source
from hosts.model import CONTEXT_TOKENS, REPLY_PIECE, SAMPLE, tokenizer_json
from hosts.paths_api import HEAD, TAIL, TIGHT, Numbered, tokens
from hosts.recorder import text_of

RUN = Path(__file__).parent / "hosts" / "run"
JOURNEY = RUN.with_name("journey")
OK = Answer(200, " ok ok")


def entered(*texts: str, bos: int = 1) -> list[dict[str, Any]]:
    return [{"text": text, "bos": bos} for text in texts]


@pytest.mark.skipif(
    not (os.environ.get("BRANCHFIT_WEBUI") and os.environ.get("BRANCHFIT_WEBUI_PYTHON")),
    reason="needs BRANCHFIT_WEBUI (a text-generation-webui folder) and BRANCHFIT_WEBUI_PYTHON (its Python)",
)
def test_every_path_of_the_webui_sends_exactly_the_template(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, RUN, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    not (os.environ.get("BRANCHFIT_WEBUI") and os.environ.get("BRANCHFIT_WEBUI_PYTHON")) or browser_found() is None,
    reason="needs BRANCHFIT_WEBUI (a text-generation-webui folder), BRANCHFIT_WEBUI_PYTHON (its Python, in an "
    "environment of its own), and Chromium and chromedriver on PATH",
)
def test_the_whole_journey_of_a_person(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, JOURNEY, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", [RUN, JOURNEY])
def test_without_a_webui_the_command_says_what_it_needs(command: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BRANCHFIT_")}
    done = subprocess.run([sys.executable, command], env=environment, capture_output=True, text=True)
    assert done.returncode == 77
    assert "BRANCHFIT_WEBUI_PYTHON" in done.stdout


def test_a_prompt_that_entered_exactly_is_exact() -> None:
    assert judge(Wanted(("a",)), entered("a"), OK).word == "yes"


def test_prompts_of_parallel_requests_may_come_in_any_order_but_each_only_once() -> None:
    assert judge(Wanted(("a", "b")), entered("b", "a"), OK).exact
    assert not judge(Wanted(("a", "b")), entered("a", "a"), OK).exact
    assert not judge(Wanted(("a",)), entered("a", "a"), OK).exact


def test_a_difference_names_its_first_byte_and_shows_both() -> None:
    found = difference("### Response: Let", "### Response:\n")
    assert found.startswith("byte 13 of 17")
    assert "Response: Let" in found and "Response:\\n" in found


def test_bytes_are_counted_not_letters() -> None:
    assert difference("éa", "éb").startswith("byte 2 of 3")


def test_a_shorter_prompt_differs_where_it_ends() -> None:
    assert difference("abc", "ab").startswith("byte 2 of 3")
    assert difference("abc", "abc") == ""


@pytest.mark.parametrize("bos", [0, 2])
def test_an_exact_text_without_one_bos_in_front_is_not_exact(bos: int) -> None:
    verdict = judge(Wanted(("a",)), entered("a", bos=bos), OK)
    assert not verdict.exact and f"{bos} BOS" in verdict.detail


def test_an_exact_prompt_whose_client_got_an_error_is_not_exact() -> None:
    assert not judge(Wanted(("a",)), entered("a"), Answer(500, "oops")).exact


def test_a_refusal_has_to_say_its_numbers() -> None:
    wanted = Wanted(says=(("2667", "2,667"), ("2048", "2,048")))
    assert judge(wanted, [], Answer(400, "takes 2,667 tokens; the context is 2,048")).word == "refused"
    silent = judge(wanted, [], Answer(200, ""))
    assert not silent.exact and "2,667" in silent.detail


def test_what_must_be_refused_may_not_enter() -> None:
    assert not judge(Wanted(says=(("no",),)), entered("x"), Answer(400, "no")).exact


def test_a_prompt_that_never_came_is_told_with_the_answer() -> None:
    verdict = judge(Wanted(("a",)), [], Answer(500, "KeyError"))
    assert not verdict.exact and "KeyError" in verdict.detail


def test_either_spelling_of_a_continued_reply_will_do() -> None:
    wanted = Wanted(either=("a ok ok", "a ok"))
    assert judge(wanted, entered("a ok"), OK).exact
    assert not judge(wanted, entered("a  ok"), OK).exact
    assert not judge(wanted, [], OK).exact


def test_a_rendering_that_holds_both_texts_of_an_edit_will_do() -> None:
    wanted = Wanted(holds=("fix", "teh"))
    assert judge(wanted, entered(f"{HEAD}fix\nteh{TAIL}"), OK, HEAD, TAIL).exact
    assert not judge(wanted, entered(f"{HEAD}fix{TAIL}"), OK, HEAD, TAIL).exact
    assert not judge(wanted, entered(f"{HEAD}fix\nteh{TAIL} "), OK, HEAD, TAIL).exact


def test_the_table_has_a_row_a_path_and_a_column_a_run() -> None:
    results = {
        "on": {"a": Verdict(True, "yes"), "b": Verdict(False, "NO", "byte 3")},
        "off": {"a": Verdict(False, "NO")},
    }
    assert table(["on", "off"], results).splitlines()[2:] == ["| a | yes | NO |", "| b | NO |  |"]
    assert details(["on"], results) == "- on, b: byte 3"


def test_a_test_that_cannot_fail_does_not_hold() -> None:
    yes, no = {"a": Verdict(True, "yes")}, {"a": Verdict(False, "NO")}
    assert matrix.holds({"v4 on": yes, "v4 off": no})
    assert not matrix.holds({"v4 on": yes, "v4 off": yes})
    assert not matrix.holds({"v4 on": no, "v4 off": no})
    assert matrix.holds({"v4 on": yes, "v4 off": {**no, "a rendering already": Verdict(True, "yes")}})
    assert not matrix.holds({"v4 on": yes, "v4 off": {**no, "b": Verdict(True, "yes")}})


def test_the_recorder_reads_tokens_back_byte_for_byte() -> None:
    vocab = tokenizer_json()["model"]["vocab"]
    ids = [vocab["<s>"], vocab["\u2581"]]
    for letter in SAMPLE.replace(" ", "\u2581"):
        ids += [vocab[letter]] if letter in vocab else [vocab[f"<0x{byte:02X}>"] for byte in letter.encode()]
    pieces = {number: piece for piece, number in vocab.items()}
    assert text_of(ids, pieces) == (1, SAMPLE)
    assert text_of([vocab["<s>"]] * 2 + [vocab[REPLY_PIECE]], pieces) == (2, "ok")
    assert len(ids) == tokens(SAMPLE)


def test_the_tight_instruction_leaves_120_tokens() -> None:
    assert tokens(ALPACA_COT.render(TIGHT)) == CONTEXT_TOKENS - 120
    assert REPLY_TOKENS < 120


def test_no_two_instructions_are_alike() -> None:
    say = Numbered()
    assert len({say() for _ in range(30)}) == 30


def test_a_streamed_answer_is_read_as_one_text() -> None:
    first, second = '{"choices":[{"delta":{"content":"two "}}],"model":"m"}', '{"delta":{"content":"words"}}'
    stream = f"data: {first}\n\ndata: {second}\n\ndata: [DONE]\n"
    assert "".join(_texts(stream)) == "two words"
    assert "".join(_texts('{"error": {"message": "too long", "type": "x"}}')) == "too long"


def test_a_websocket_frame_is_masked_and_read_back() -> None:
    import io
    import struct

    frame = _frame(b'{"a": 1}')
    mask, payload = frame[2:6], frame[6:]
    assert frame[:2] == bytes([0x81, 0x80 | 8])
    assert bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload)) == b'{"a": 1}'
    long = b'{"text": "' + b"x" * 300 + b'"}'
    assert _message(io.BytesIO(b"\x81\x7e" + struct.pack(">H", len(long)) + long)) == {"text": "x" * 300}
    assert _message(io.BytesIO(b"\x88\x00")) is None


def test_a_hosts_era_is_read_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "user_data").mkdir()
    (tmp_path / "modules/utils.py").write_text("user_ext_path = shared.user_data_dir / 'extensions'\n")
    (tmp_path / "modules/shared.py").write_text("group.add_argument('--nowebui', action='store_true')\n")
    host = Source("new", tmp_path, Path(sys.executable))
    assert host.extensions == "user_data/extensions" and host.user_data == "user_data"
    assert host.has_flag("--nowebui") and not host.has_flag("--api-port")
    old = Source("old", tmp_path / "modules", Path(sys.executable))
    assert old.extensions == "extensions" and old.user_data == "." and not old.is_legacy


def test_the_surface_of_a_stand_in_is_compared_with_the_webuis(tmp_path: Path) -> None:
    ours, real = tmp_path / "standin" / "modules", tmp_path / "host" / "modules"
    for folder in (ours, real):
        folder.mkdir(parents=True)
    (ours / "text.py").write_text("def a(x, y=1): ...\ndef b(): ...\nEXTENSION_MAP = {'input': f, 'new': g}\n")
    (real / "text.py").write_text("def a(x: int, y=2): ...\ndef c(): ...\nEXTENSION_MAP = {'input': f}\n")
    assert surface.differences(ours.parent, real.parent) == [
        "modules/text.py: function a: (x, y=1) here, (x, y=2) in the webui",
        "modules/text.py: function b: the webui has none",
        "modules/text.py: hook new: the webui has none",
    ]


def test_types_and_what_a_stand_in_calls_its_own_are_left_out() -> None:
    tree = ast.parse("class A:\n    def go(self, x: int = 3) -> str: ...\ndef _standin_help(): ...\n")
    assert surface.functions(tree)["A.go"] == "self, x=3"
    assert not list(surface._unlike("function", {"_standin_help": ""}, {}))
