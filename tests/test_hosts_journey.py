"""The own parts of the harness that makes the whole journey in a real webui (tests/hosts/journey)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from branchfit.demo.synth.tokenizer import _byte_letters, tokenizer_files
from hosts.host import Source
from hosts.journey_ask import text_of
from hosts.journey_disk import flip
from hosts.journey_get import folder_of
from hosts.journey_host import copied
from hosts.journey_listing import Difference, difference, hashed, packages, stamped, without
from hosts.journey_report import Report, summary, table
from hosts.journey_setup import named, sorted_out
from hosts.journey_tab import amount
from hosts.model import SAMPLE


def test_a_listing_sees_new_changed_and_gone_files_links_and_empty_folders(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_text("x")
    before, stamps = hashed(tmp_path), stamped(tmp_path)
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_text("B")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("c")
    found = difference(before, hashed(tmp_path))
    assert found == Difference(("empty/", "link"), ("b",), ("a",))
    assert difference(stamps, stamped(tmp_path)) == found
    assert str(found) == "new: empty/, link; changed: b; gone: a"
    assert not without(found, "a", "b", "empty/", "link")
    assert str(Difference()) == "nothing"


def test_packages_are_those_of_the_python_that_is_asked() -> None:
    from importlib.metadata import version

    assert packages(Path(sys.executable))["pytest"] == version("pytest")


def test_the_copy_is_another_folder_and_small_files_are_really_copied(tmp_path: Path) -> None:
    folder, venv = tmp_path / "webui", tmp_path / "environment"
    (folder / "user_data").mkdir(parents=True)
    (folder / "server.py").write_text("print()")
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin")
    (venv / "library.so").write_bytes(bytes(300_000))
    mine = copied(Source("x", folder, venv / "bin" / "python"), tmp_path / "work")
    assert " " in str(mine.folder) and not str(mine.folder).isascii()
    assert mine.python.parent.parent.joinpath("pyvenv.cfg").stat().st_ino != (venv / "pyvenv.cfg").stat().st_ino
    assert (mine.python.parent.parent / "library.so").stat().st_size == 300_000
    assert not (folder / "user_data" / "settings.yaml").exists()


def test_what_is_left_after_uninstalling_is_the_webuis_or_a_fault(tmp_path: Path) -> None:
    class Host:
        source = type("Source", (), {"user_data": "user_data"})
        copy = tmp_path
        data = tmp_path / "user_data"
        models = tmp_path / "user_data" / "models"

    (Host.models / "A_b").mkdir(parents=True)
    settings = Host.data / "settings.yaml"
    settings.write_text("mode: instruct\n")
    left = Difference(
        ("user_data/cache/x.png", "user_data/models/A_b/config.json", "user_data/extensions/branchfit/"),
        ("user_data/settings.yaml",),
    )
    assert sorted_out(left, Host) == (  # type: ignore[arg-type]
        {"user_data/cache/x.png", "user_data/settings.yaml"},
        Difference(("user_data/extensions/branchfit/",)),
    )
    assert named(Host) == []  # type: ignore[arg-type]
    settings.write_text("default_extensions: [branchfit]\n")
    assert "user_data/settings.yaml" in sorted_out(left, Host)[1].changed  # type: ignore[arg-type]
    assert named(Host) == ["settings.yaml"]  # type: ignore[arg-type]


def test_a_step_that_breaks_is_a_verdict_and_the_next_one_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("v9", say=lambda line: None)
    with report.step("1. first"):
        report.check("a", True, "seen | here\nand there")
        raise RuntimeError("the page went away")
    with report.step("2. second"):
        report.check("b", True)
        report.add("c", "not here", "no GPU")
    assert [row.word for row in report.rows] == ["yes", "NO", "yes", "not here"]
    assert not report.holds
    assert "seen \\| here and there" in table(report)
    assert summary([report]).splitlines()[2:] == ["| 1. first | NO: 1 of 2 |", "| 2. second | yes (1), 1 not here |"]
    assert "the page went away" in capsys.readouterr().err
    assert not Report("nothing was looked at").holds


def test_an_amount_on_the_board_is_read_back() -> None:
    found = amount("A/B:main: downloading\n0.55 MB of 1.36 MB (40 %), 61.10 kB/s, 2 min 13 s left\nverified x")
    assert found is not None and (found.done_bytes, found.total_bytes) == (0.55e6, 1.36e6)
    assert found.as_dict() == {"per_cent": 40, "speed": "61.10 kB", "left": "2 min 13 s"}
    assert amount("A/B:main: starting") is None


def test_tokens_of_the_demos_model_are_read_back_byte_for_byte(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    tokenizer = tokenizer_files(320, 4096)["tokenizer.json"]
    file.write_text(json.dumps(tokenizer))
    vocab, letters = tokenizer["model"]["vocab"], _byte_letters()
    ids = [vocab["<s>"], *(vocab[letters[byte]] for byte in SAMPLE.encode())]
    assert text_of({"ids": ids, "text": "?"}, file) == SAMPLE


def test_one_bit_of_one_byte_is_flipped(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abcde")
    flip(file)
    assert file.read_bytes() == b"abbde"


def test_a_folder_is_named_as_the_webuis_downloader_names_it() -> None:
    assert folder_of("main", "A/B") == "A_B"
    assert folder_of("gptq-4bit-32g", "A/B") == "A_B_gptq-4bit-32g"
