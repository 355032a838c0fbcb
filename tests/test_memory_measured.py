"""What was measured on a GPU, load by load: nothing is predicted further off than the target, or than is stated."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

from memory.cases import fitted, variant_of  # noqa: E402 (benchmarks are found only now)
from memory.table import CASE_FIELDS, Case, Trial, compare, key_of, read, trials, unpredicted  # noqa: E402

MIB = 2**20
RECORDS = read(sorted((ROOT / "benchmarks" / "memory").glob("*.jsonl")))
CASES = compare(RECORDS, variant_of, fitted)
TRIALS = trials(RECORDS, variant_of)


def named(one: Case | Trial) -> str:
    fields = (str(one.record[name]) for name in CASE_FIELDS if name not in ("gpu", "switches"))
    limit = [f"{one.limit_bytes // MIB}MiB"] if isinstance(one, Trial) else []
    return "-".join([*fields, *one.record["switches"], *limit]).replace(" ", "")


def test_every_record_is_judged_here() -> None:
    kinds = Counter(record["kind"] for record in RECORDS if not unpredicted({"switches": (), **record}))
    assert (len(CASES), len(TRIALS)) == (kinds["case"], kinds["limit"])
    assert len(CASES) > 100 and len(TRIALS) > 100
    assert {case.runtime for case in CASES} == {
        "exllamav2",
        "gptqmodel:exllama_v2",
        "gptqmodel:marlin",
        "gptqmodel:triton",
        "gptqmodel:torch",
    }
    # One load was tried twice with the same limit and would be one trial: there is none such.
    limits = [(*key_of(record), record["allowed_bytes"]) for record in RECORDS if record["kind"] == "limit"]
    assert len(limits) == len(set(limits))


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_measured_load_is_within_the_stated_error_and_within_the_target(case: Case) -> None:
    assert case.off_bytes <= case.need.error_bytes
    if not case.cuda_first:  # there the gaps are only bracketed
        assert abs(case.error_bytes) <= case.need.error_bytes
        assert case.off_bytes <= max(0.01 * case.measured_bytes, 150 * MIB)


@pytest.mark.parametrize("trial", TRIALS, ids=named)
def test_nothing_died_of_a_limit_in_which_it_was_said_to_fit(trial: Trial) -> None:
    assert trial.ran or not trial.said_fits


def test_limits_do_tell_what_fits_from_what_does_not() -> None:
    found = Counter((trial.said_fits, trial.ran) for trial in TRIALS)
    assert found[True, False] == 0
    assert found[True, True] >= 30 and found[False, False] >= 50


def test_the_stated_error_stays_small_where_the_allocator_loses_nothing() -> None:
    """A runtime that could be off by anything would always be right: at most 5 %, or twice the target."""
    usual = [case for case in CASES if not case.cuda_first]
    wide = [named(case) for case in usual if case.need.error_bytes > max(300 * MIB, 0.05 * case.measured_bytes)]
    assert usual and not wide


def test_the_command_prints_the_page_that_is_in_the_repository(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "memory.py"), "--table", "--images", str(tmp_path / "images")]
    environ = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, check=True, env=environ)
    assert done.stdout.replace(b"\r\n", b"\n") == (ROOT / "docs" / "memory-measured.md").read_bytes()
    assert len(list((tmp_path / "images").iterdir())) == 6
