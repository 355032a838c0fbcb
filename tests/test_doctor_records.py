"""`branchfit doctor` says how many loads were measured and where, and forgets them when it is told to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from branchfit.cli.app import app
from branchfit.errors import BranchFitError
from branchfit.memory.records import RecordFile
from test_memory_records import RECORD


def doctor(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_it_says_that_there_are_none_yet() -> None:
    assert f"Loads measured here: none yet ({RecordFile().path})" in doctor()


def test_it_says_how_many_by_what_and_why_some_are_left_out() -> None:
    file = RecordFile()
    for number, why in enumerate(("", "", "the card was simulated")):
        file.append(replace(RECORD, load=str(number), left_out=why))
    said = doctor()
    assert f"Loads measured here, which correct what is predicted: 3 ({file.path})" in said
    assert "  2 with exllamav2 0.3.2\n" in said and "  1 left out: the card was simulated\n" in said
    document = json.loads(doctor("--json"))["records"]
    assert (document["path"], document["loads"]) == (str(file.path), 3)
    assert [each["read_tokens"] for each in document["used"]] == [700, 700]
    assert [each["why"] for each in document["left_out"]] == ["the card was simulated"]


def test_it_forgets_them() -> None:
    file = RecordFile()
    file.append(RECORD)
    assert doctor("--forget-records") == f"Forgotten: 1 load ({file.path}).\n"
    assert file.read() == ()
    assert json.loads(doctor("--forget-records", "--json")) == {"forgotten": 0, "path": str(file.path)}


def test_what_cannot_be_deleted_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BRANCHFIT_CACHE", str(tmp_path))
    (tmp_path / "memory" / "records.jsonl").mkdir(parents=True)
    done = CliRunner().invoke(app, ["doctor", "--forget-records"])
    assert isinstance(done.exception, BranchFitError) and "cannot be deleted" in str(done.exception)
