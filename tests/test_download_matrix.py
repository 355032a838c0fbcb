"""The fault matrix: under every fault, at places left to chance, the promises of a download are kept.

Each trial's seed is in its message; FAULT_SEED=... (the number after "seed") runs the same ones again, and
FAULT_ROUNDS=... more of them. benchmarks/download_faults.py runs them many times, for other clients too.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from branchfit.demo.server import LoopbackHub
from fault_cases import CASES
from fault_clients import Ours
from fault_machine import able
from fault_stage import SMALL, a_server, a_stage, large_files
from faults import Case, attempt

SEED = os.environ.get("FAULT_SEED") or str(random.SystemRandom().randrange(10**6))
ROUNDS = int(os.environ.get("FAULT_ROUNDS") or 0)
"""By default two of the quick ones and one where files are large or processes die: the suite has to stay quick."""


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackHub]:
    with a_server() as one:
        yield one


@pytest.fixture(scope="module")
def large() -> dict[str, bytes]:
    return large_files()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whatever_happens_a_model_is_whole_or_absent_and_the_exit_says_which(
    case: Case, server: LoopbackHub, large: dict[str, bytes], tmp_path: Path
) -> None:
    if not able(case.needs):
        pytest.skip("needs to mount a file system of its own, as root on Linux")
    for number in range(ROUNDS or (1 if case.slow else 2)):
        seed = f"{SEED}-{number}-{case.name}"
        print(f"seed {seed}")
        stage = a_stage(server, large if case.large else SMALL, tmp_path / str(number), seed)
        trial = attempt(case, Ours(), stage)
        assert trial.broken_promises() == [], f"seed {SEED}, round {number}"
