"""config-user.yaml: ours goes in and comes out, and everything else stays as it was, to the byte."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from branchfit_webui.loading.config_user import (
    RUNTIME,
    Unreadable,
    kept,
    key_for,
    ours,
    read,
    with_settings,
    without,
    without_any,
)

NAME = "TheBloke_WizardMath-70B-V1.0-GPTQ_gptq-4bit-32g-actorder_True"
SETTINGS: dict[str, Any] = {"loader": "ExLlamav2_HF", "gpu_split": "17.2,24", "max_seq_len": 4096, RUNTIME: "exllamav2"}

names = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"), blacklist_characters="/\\\ufeff"),
    min_size=1,
    max_size=40,
)
values = st.one_of(st.booleans(), st.integers(-1, 10**9), st.none(), st.text(max_size=20), st.floats(0, 1))
entries = st.dictionaries(st.text(min_size=1, max_size=12), values, max_size=4)
files = st.dictionaries(st.text(min_size=1, max_size=20), entries, max_size=4)
comments = st.sampled_from(["", "# mine\n", "\n\n", "# a key: no\n\n# another\n"])


def matches(key: str, name: str) -> bool:
    """How every version of the host asks."""
    return re.match(key.lower(), name.lower()) is not None


@settings(deadline=None)
@given(names)
def test_the_key_matches_its_own_name(name: str) -> None:
    assert matches(key_for(name), name)


@settings(deadline=None)
@given(names, names)
def test_the_key_matches_no_other_name(name: str, other: str) -> None:
    assume(name.lower() != other.lower())
    assert not matches(key_for(name), other)
    assert not matches(key_for(name), name + other)


@settings(deadline=None)
@given(names)
def test_the_key_is_none_that_the_host_writes(name: str) -> None:
    assert key_for(name) != name + "$"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a-b.c_D", r"a\-b\.c_D$"),
        ("Model_7b", "^Model_7b$"),  # nothing to escape, and the host would write Model_7b$
        ("D+W", r"D\+W$"),
        ("modèle-7B", r"modèle\-7B$"),
        ("ΑΣ.Β", r"ας\.β$" if "ΑΣ.Β".lower().startswith("ας") else r"ασ\.β$"),  # a capital sigma before a dot
    ],
)
def test_a_key_is_the_escaped_name(name: str, key: str) -> None:
    assert key_for(name) == key and matches(key, name)


def test_no_letter_gets_a_backslash_so_lowering_makes_no_class_of_it() -> None:
    everything = "".join(map(chr, range(32, 0x3000)))
    assert not re.search(r"\\[A-Za-z0-9]", re.escape(everything))


@settings(deadline=None)
@given(files, comments, names, st.booleans(), st.booleans())
def test_what_goes_in_comes_out_and_leaves_the_file_as_it_was(
    content: dict[str, dict[str, Any]], comment: str, name: str, windows: bool, cut: bool
) -> None:
    text = comment + (yaml.safe_dump(content, sort_keys=False, allow_unicode=True) if content else "") + comment
    if cut:
        text = text.rstrip("\n")
    data = text.replace("\n", "\r\n").encode() if windows else text.encode()
    assume(key_for(name) not in content)
    made = with_settings(data, name, SETTINGS)
    assert made.startswith(data)
    assert b"\r\n" not in data or b"\n" not in made.replace(b"\r\n", b""), "one kind of line end"
    assert read(made) == {**read(data), key_for(name): SETTINGS}
    assert kept(made, name) == SETTINGS
    assert without(made, name) == data


@settings(deadline=None)
@given(files, names)
def test_it_is_found_after_the_host_has_written_the_file_anew(content: dict[str, dict[str, Any]], name: str) -> None:
    assume(key_for(name) not in content)
    data = yaml.safe_dump(content, sort_keys=False).encode() if content else b""
    made = with_settings(data, name, SETTINGS)
    anew = yaml.dump({**yaml.safe_load(made), "other$": {"loader": "llama.cpp"}}, sort_keys=False).encode()
    assert kept(anew, name) == SETTINGS
    assert read(without(anew, name)) == {**content, "other$": {"loader": "llama.cpp"}}


@settings(deadline=None)
@given(st.sampled_from([b"", b"# mine", b"# mine\n", b"my.*model$:\n  ctx_size: 2048", b"a$:\r\n  b: 1"]), names, names)
def test_two_models_of_ours_do_not_touch_each_other(data: bytes, one: str, two: str) -> None:
    assume(key_for(one) != key_for(two))
    first = with_settings(data, one, SETTINGS)
    both = with_settings(first, two, {"loader": "Transformers"})
    assert without(both, two) == first
    assert kept(without(both, one), two) == {"loader": "Transformers"}
    assert without(without(both, one), two) == without(without(both, two), one) == without_any(both) == data
    again = with_settings(both, one, SETTINGS)
    assert kept(again, two) == {"loader": "Transformers"} and without_any(again) == data


def test_a_second_time_replaces_the_first_and_goes_to_the_end() -> None:
    data = with_settings(b"", NAME, SETTINGS) + b"later$:\n  loader: llama.cpp\n"
    made = with_settings(data, NAME, {"loader": "Transformers"})
    assert list(read(made)) == ["later$", key_for(NAME)], "the host lets the last one win"
    assert made.count(b">>>") == made.count(b"<<<") == 1


def test_the_users_own_settings_of_the_same_model_stay_and_ours_come_after_them() -> None:
    own = b"Model_7b$:\n  loader: AutoGPTQ\n  instruction_template: Alpaca\n"
    made = with_settings(own, "Model_7b", SETTINGS)
    assert list(read(made)) == ["Model_7b$", "^Model_7b$"] and made.startswith(own)
    assert without(made, "Model_7b") == own


def test_everything_of_ours_is_found_for_the_uninstaller() -> None:
    data = with_settings(b"mine$:\n  loader: llama.cpp\n", NAME, SETTINGS)
    anew = yaml.dump(yaml.safe_load(data), sort_keys=False).encode()  # the host's Save settings
    marked = with_settings(anew, "Model_7b", {"loader": "Transformers"})
    assert set(ours(marked)) == {key_for(NAME), key_for("Model_7b")}
    assert read(without_any(marked)) == {"mine$": {"loader": "llama.cpp"}}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a: [", "is not YAML"),
        (b"- a\n- b\n", "holds a list"),
        (b"just words", "holds a str"),
        (b"model$: 3\n", "holds no settings under 'model"),
        (b"3:\n  loader: x\n", "holds no settings under 3"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"{a$: {loader: x}}\n", "nothing can be appended"),
        (b"{}\n", "nothing can be appended"),
        (b"a$:\n  loader: x\n...\n", "nothing can be appended"),
        (b"  a$:\n    loader: x\n", "nothing can be appended"),
        (b"a: !!python/object:os.system {}\n", "is not YAML"),
        (b"a: 2023-99-99\n", "is not YAML that the webui can read"),
        (b"? [1, 2]\n: {}\n", "is not YAML"),
    ],
)
def test_a_file_that_is_none_of_the_hosts_is_left_alone_with_a_reason(data: bytes, says: str) -> None:
    with pytest.raises(Unreadable, match=re.escape(says)):
        with_settings(data, NAME, SETTINGS)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_it_lose_anything(data: bytes) -> None:
    try:
        made = with_settings(data, NAME, SETTINGS)
    except Unreadable:
        return
    assert made.startswith(data) and without(made, NAME) == data
