"""`branchfit prompt`: the exact bytes, the comparison, the list, the Jinja form."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from branchfit.cli.app import app
from branchfit.errors import BranchFitError
from branchfit.prompts import ALPACA_COT, TEMPLATES, WIZARDMATH_PLAIN, by_name


def prompt(*arguments: str | Path, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["prompt", *map(str, arguments)], input=stdin)


def cot(*arguments: str | Path, stdin: bytes = b"") -> Result:
    return prompt("--template", "alpaca cot", *arguments, stdin=stdin)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "prompt.txt"
    path.write_bytes(ALPACA_COT.render("2+2?").encode())
    return path


def test_the_bytes_are_the_template_around_the_instruction() -> None:
    assert cot("m", "2+2?").stdout_bytes == ALPACA_COT.render("2+2?").encode()
    assert cot(stdin=b"2+2?\n").stdout_bytes == ALPACA_COT.render("2+2?\n").encode()


def test_without_system_the_templates_own_message_is_used() -> None:
    phind = by_name("Phind")
    assert phind is not None
    assert prompt("m", "hi", "--template", "phind").stdout == phind.render("hi")
    assert prompt("m", "hi", "--template", "phind", "--system", "").stdout == phind.render("hi", "")
    assert prompt("m", "hi", "--template", "phind", "--system", "be").stdout == phind.render("hi", "be")


def test_a_rendering_compares_equal(saved: Path) -> None:
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    expected = f"exactly Alpaca-CoT: {len(saved.read_bytes())} bytes, sha256 {digest}\n"
    for done in (cot("--diff", saved), cot("m", "2+2?", "--diff", saved), cot("--diff", "-", stdin=saved.read_bytes())):
        assert (done.exit_code, done.stdout) == (0, expected)


def test_a_rendering_with_a_reply_behind_it_is_said_to_be_one(saved: Path) -> None:
    done = cot("--diff", "-", stdin=saved.read_bytes() + b" It is")
    assert done.exit_code == 0
    assert done.stdout.startswith("Alpaca-CoT with a reply of 6 bytes behind it: ")


def test_anything_else_shows_its_first_differing_byte_and_exits_1() -> None:
    done = cot("--diff", "-", stdin=WIZARDMATH_PLAIN.render("2+2?").encode())
    assert done.exit_code == 1
    assert done.stdout.splitlines()[1:] == [
        "first difference at byte 143 (line 6, column 14):",
        "    expected  ...struction:\\n2+2?\\n\\n### Response:>>> <<<Let's think step by step.",
        "    found     ...struction:\\n2+2?\\n\\n### Response:>>>end<<<",
        "this is WizardMath-plain or Alpaca",
    ]


def test_another_template_that_it_is_exactly_is_named_even_where_it_matches(saved: Path) -> None:
    done = prompt("--template", "WizardMath-plain", "--diff", saved)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1:] == ["this is Alpaca-CoT"]


def test_with_an_instruction_the_comparison_is_with_exactly_its_rendering(saved: Path) -> None:
    done = cot("m", "2+3?", "--diff", saved)
    assert done.exit_code == 1
    assert "2+>>>3<<<?" in done.stdout and "2+>>>2<<<?" in done.stdout


def test_the_comparison_as_json(saved: Path) -> None:
    same = json.loads(cot("--diff", saved, "--json").stdout)
    assert (same["template"], same["verdict"], same["difference"]) == ("Alpaca-CoT", "rendering", None)
    assert same["recognised"] == {"instruction": "2+2?", "reply": "", "system_message": ""}
    done = cot("--diff", "-", "--json", stdin=saved.read_bytes() + b"\n")
    assert done.exit_code == 1
    different = json.loads(done.stdout)
    assert different["difference"]["offset_bytes"] == len(saved.read_bytes())


def test_the_known_templates_are_listed_with_size_stop_strings_and_source() -> None:
    lines = prompt("--list").stdout.splitlines()
    assert len(lines) == 2 * len(TEMPLATES)
    assert lines[0] == (
        'Alpaca-CoT: 178 bytes, sha256 e15b2496495eee70..., stops at "\\n### Instruction:", "\\n### Response:"'
    )
    assert lines[1].strip() == ALPACA_COT.source
    listed = json.loads(prompt("--list", "--json").stdout)["templates"]
    assert [entry["name"] for entry in listed] == [template.name for template in TEMPLATES]
    assert listed[0] == {
        "name": "Alpaca-CoT",
        "text": ALPACA_COT.text,
        "source": ALPACA_COT.source,
        "size_bytes": 178,
        "sha256": "e15b2496495eee707e94e3c0b21e5c877a7d924b107d492f706dcbcc4bb3f2d8",
        "stop_strings": ["\n### Instruction:", "\n### Response:"],
        "default_system_message": None,
        "keeps_turns": True,
    }


def test_the_jinja_form_is_printed_without_reading_an_instruction() -> None:
    assert cot("--jinja").stdout_bytes == ALPACA_COT.jinja().encode()
    assert cot("--jinja", "--plain").stdout == WIZARDMATH_PLAIN.jinja()


def test_a_cards_template_is_compared_and_keeps_its_turns_where_its_bytes_are_known(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    chat = by_name("OpenChat")
    assert chat is not None
    fence = chat.text.replace("{instruction}", "{prompt}")
    card.write_text(f"# X\n\n## Prompt template: OpenChat\n\n```\n{fence}\n```\n", encoding="utf-8")
    assert prompt("--card", card, "--diff", "-", stdin=chat.render("hi").encode()).exit_code == 0
    assert prompt("--card", card, "--jinja").stdout == chat.jinja()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--list", "--jinja"], "ask for one"),
        (["--diff", "-", "--list"], "ask for one"),
        (["--json"], "--json goes with"),
        (["--template", "ChatML", "--diff", "-", "--system", "x"], "both or neither"),
        (["--template", "Alpaca-CoT", "--diff", "none.txt"], "cannot be read"),
        (["--template", "Alpaca-CoT", "--diff", "-", "--system", "x"], "no system message"),
        (["--template", "nonsense"], "Alpaca-CoT, WizardMath-plain, Alpaca"),
    ],
)
def test_what_cannot_be_asked_is_said(arguments: list[str], words: str) -> None:
    done = prompt(*arguments)
    assert isinstance(done.exception, BranchFitError) and words in str(done.exception)


def test_a_file_that_is_no_text_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "prompt.bin"
    path.write_bytes(b"ab\xff")
    done = cot("--diff", path)
    assert "prompt.bin is not UTF-8: byte 2 is 0xff" in str(done.exception)
