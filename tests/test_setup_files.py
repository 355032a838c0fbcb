"""settings.yaml and CMD_FLAGS.txt: one name in or out, every other byte as it was."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from branchfit_webui.installer import CannotEdit, flags_file, settings_file

NAME = "branchfit"
KEY = "default_extensions"


def added(text: str, *without: str) -> str:
    return settings_file.add_name(text, {KEY: without}, NAME, "settings.yaml")


def taken(text: str) -> str:
    return settings_file.take_name(text, [KEY], NAME, "settings.yaml")


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("default_extensions:\n- gallery\nx: 1\n", "default_extensions:\n- branchfit\n- gallery\nx: 1\n"),
        ("default_extensions:\n  - 'a'  # mine\n", "default_extensions:\n  - branchfit\n  - 'a'  # mine\n"),
        ("default_extensions:\r\n# c\r\n- a\r\n", "default_extensions:\r\n# c\r\n- branchfit\r\n- a\r\n"),
        ("default_extensions: []\nx: 1\n", "default_extensions: [branchfit]\nx: 1\n"),
        ("default_extensions: [a, 'b']", "default_extensions: [branchfit, a, 'b']"),
        ("default_extensions: [ a, # one\n  b ]\n", "default_extensions: [ branchfit, a, # one\n  b ]\n"),
        ('{"default_extensions": ["a"], "x": 1}', '{"default_extensions": ["branchfit", "a"], "x": 1}'),
        ('{"default_extensions": []}\n', '{"default_extensions": ["branchfit"]}\n'),
        (
            "a: 1\ndefault_extensions: [x]\ndefault_extensions:\n- b\n",
            "a: 1\ndefault_extensions: [x]\ndefault_extensions:\n- branchfit\n- b\n",
        ),
        ("\ufeffdefault_extensions:\n- a\n", "\ufeffdefault_extensions:\n- branchfit\n- a\n"),
    ],
)
def test_a_list_that_is_there_gets_the_name_first_and_gives_it_back(text: str, edited: str) -> None:
    assert added(text) == edited
    assert yaml.safe_load(edited)[KEY][0] == NAME
    assert taken(edited) == text


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("", "default_extensions:\n- branchfit\n- gallery\n"),
        ("# mine\n", "# mine\ndefault_extensions:\n- branchfit\n- gallery\n"),
        ("x: 1", "x: 1\ndefault_extensions:\n- branchfit\n- gallery\n"),
        ("x: 1\r\n", "x: 1\r\ndefault_extensions:\r\n- branchfit\r\n- gallery\r\n"),
        ("---\nx: |\n  a\n...\n", "---\ndefault_extensions:\n- branchfit\n- gallery\nx: |\n  a\n...\n"),
        ("  x: 1\n  y: 2\n", "  x: 1\n  y: 2\n  default_extensions:\n  - branchfit\n  - gallery\n"),
        ('{"x": 1}', '{"default_extensions": ["branchfit", "gallery"], "x": 1}'),
        ("{}", '{"default_extensions": ["branchfit", "gallery"]}'),
        ("\ufeffx: 1\n", "\ufeffx: 1\ndefault_extensions:\n- branchfit\n- gallery\n"),
    ],
)
def test_a_missing_list_is_added_with_what_the_webui_takes_without_it(text: str, edited: str) -> None:
    assert added(text, "gallery") == edited
    assert yaml.safe_load(edited) == {**(yaml.safe_load(text) or {}), KEY: [NAME, "gallery"]}


def test_json_stays_json() -> None:
    for value in ({}, {"x": [1, {"y": None}]}, {KEY: ["a"], "z": "ü"}):
        for indent in (None, 2):
            made = added(json.dumps(value, indent=indent))
            assert json.loads(made)[KEY][0] == NAME
            assert json.loads(taken(made)) == {**value, KEY: value.get(KEY, [])}


@pytest.mark.parametrize(
    "text", ["default_extensions: null\n", "default_extensions: ~ # c\n", "default_extensions:\nx: 1\n"]
)
def test_an_empty_value_becomes_a_list_the_webui_can_loop_over(text: str) -> None:
    made = added(text)
    assert yaml.safe_load(made)[KEY] == [NAME]
    assert yaml.safe_load(taken(made))[KEY] == []


def test_taking_the_only_name_leaves_an_empty_list_and_never_none() -> None:
    for text in (
        "default_extensions:\n- branchfit\nx: 1\n",
        "x: 1\ndefault_extensions:\n  - branchfit",
        "default_extensions: [branchfit]",
    ):
        left = yaml.safe_load(taken(text))
        assert left[KEY] == []
        assert {**yaml.safe_load(text), KEY: []} == left


@pytest.mark.parametrize(
    "text",
    [
        "default_extensions: gallery\n",
        "default_extensions: {a: b}\n",
        "default_extensions:\n- [a]\n",
        "x: [\n",
        "- a\n",
        "just words\n",
        "x: !!python/object:os.system {}\n",
        "x: &l [a]\ndefault_extensions: *l\n",
    ],
)
def test_what_cannot_be_edited_safely_is_refused_with_the_line_to_write(text: str) -> None:
    with pytest.raises(CannotEdit, match=r"settings\.yaml is left as it is") as refused:
        added(text)
    assert NAME in refused.value.by_hand


def test_a_second_time_changes_nothing() -> None:
    for text in ("", "x: 1\n", "default_extensions: [a]\n", '{"default_extensions": ["a"]}'):
        assert added(added(text)) == added(text)
    for flags in ("", "--api\n", "--extensions a\n"):
        once = flags_file.add_name(flags, NAME, "f")
        assert flags_file.add_name(once, NAME, "f") == once


names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in (NAME, "null", "true", "false", "yes", "no", "on", "off", "y", "n")
)
values = st.one_of(
    st.integers(), st.booleans(), st.none(), st.text(max_size=12), st.lists(st.text(max_size=5), max_size=3)
)
settings = st.dictionaries(st.sampled_from(["seed", "mode", "greeting", "z", "a"]), values, max_size=4)


@given(
    settings,
    st.none() | st.lists(names, max_size=4, unique=True),
    st.sampled_from([None, True, False]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_whatever_the_settings_only_our_name_comes_and_goes(
    rest: dict[str, Any], listed: list[str] | None, flow: bool | None, newline: str
) -> None:
    value = {**rest, **({KEY: listed} if listed is not None else {})}
    text = yaml.safe_dump(value, default_flow_style=flow, sort_keys=False, allow_unicode=True, line_break=newline)
    made = added(text, "gallery")
    assert yaml.safe_load(made) == {
        **yaml.safe_load(text),
        KEY: [NAME, *(listed if listed is not None else ["gallery"])],
    }
    back = taken(made)
    if listed is not None:
        assert back == text
    else:
        assert yaml.safe_load(back) == {**yaml.safe_load(text), KEY: ["gallery"]}


def server_reads(text: str) -> list[str]:
    """The words as modules/shared.py has them (v3.1 and newer)."""
    kept = (line.strip().rstrip("\\").strip() for line in text.split("\n") if not line.strip().startswith("#"))
    return shlex.split(" ".join(line for line in kept if line))


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ("", "--extensions branchfit\n"),
        ("# Example:\n# --listen --api\n", "# Example:\n# --listen --api\n--extensions branchfit\n"),
        ("--listen", "--listen\n--extensions branchfit\n"),
        ("--api\r\n", "--api\r\n--extensions branchfit\r\n"),
        ("--listen --extensions a b --api\n", "--listen --extensions branchfit a b --api\n"),
        ("--extensions openai\n", "--extensions branchfit openai\n"),
        ("--extensions a \\\n  b\n--api\n", "--extensions branchfit a \\\n  b\n--api\n"),
        ("# --extensions x\n--extensions 'a' \"b\"\n", "# --extensions x\n--extensions branchfit 'a' \"b\"\n"),
        ("--extensions a\n--extensions b\n", "--extensions a\n--extensions branchfit b\n"),
        ("--exten a\n", "--exten branchfit a\n"),
        ("--extra-flags x\n", "--extra-flags x\n--extensions branchfit\n"),
        ("--model 'C:\\a b'\n", "--model 'C:\\a b'\n--extensions branchfit\n"),
    ],
)
def test_the_flags_get_the_name_first_and_give_it_back(text: str, edited: str) -> None:
    made = flags_file.add_name(text, NAME, "CMD_FLAGS.txt")
    assert made == edited
    words = server_reads(made)
    assert words[words.index(NAME) - 1].startswith("--exten")
    back = flags_file.take_name(made, NAME, "CMD_FLAGS.txt")
    assert back == (text if not text or text.endswith("\n") else text + "\n")


def test_one_name_given_with_an_equals_sign_keeps_its_place_behind() -> None:
    assert flags_file.add_name("--extensions=a --api\n", NAME, "f") == "--extensions branchfit a --api\n"


words = st.sampled_from(
    [
        "--api",
        "--listen",
        "--extensions",
        "--cpu",
        "gallery",
        "'a b'",
        '"c"',
        "--model x",
        "# no",
        "--extensions=z",
        "\\",
    ]
)


@given(st.lists(st.lists(words, max_size=4).map(" ".join), max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_whatever_the_flags_every_other_word_stays(lines: list[str], newline: str, ends: bool) -> None:
    text = newline.join(lines) + (newline if ends else "")
    try:
        before = server_reads(text)
        made = flags_file.add_name(text, NAME, "f")
    except (ValueError, CannotEdit):
        return
    plain = [word for part in before for word in (["--extensions", "z"] if part == "--extensions=z" else [part])]
    after = [
        word for part in server_reads(made) for word in (["--extensions", "z"] if part == "--extensions=z" else [part])
    ]
    after.remove(NAME)
    assert after == plain or after == [*plain, "--extensions"]
    assert NAME not in flags_file.names_in(flags_file.take_name(made, NAME, "f"))
