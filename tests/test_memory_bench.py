"""Which loads the memory bench runs next, from what its file has."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from test_memory_page import ACT_128G, MIB, a_case, a_limit

BENCH = Path(__file__).resolve().parent.parent / "benchmarks" / "memory.py"
TRITON: dict[str, Any] = {"runtime": "gptqmodel:triton", "context": 2048}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The command; `import memory` is the folder beside it."""
    spec = importlib.util.spec_from_file_location("memory_bench", BENCH)
    assert spec is not None and spec.loader is not None
    module = sys.modules["memory_bench"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def file_of(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "some.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_least_limit_is_looked_for_by_halves(bench: ModuleType, tmp_path: Path) -> None:
    case = a_case(**TRITON)
    died, ran = ({**a_limit(0, outcome, **TRITON)} for outcome in ("died", "ran"))
    ((_, untried),) = bench.narrowed(file_of(tmp_path, case))
    allocated = case["prefill"]["peak_allocated"]
    assert untried == (allocated + ran["allowed_bytes"]) // 2
    died["allowed_bytes"], ran["allowed_bytes"] = allocated + 40 * MIB, allocated + 80 * MIB
    ((found, limit),) = bench.narrowed(file_of(tmp_path, case, died, ran))
    assert (found.contexts, limit) == ((2048,), allocated + 60 * MIB)
    ran["allowed_bytes"] = allocated + 64 * MIB  # near enough
    assert bench.narrowed(file_of(tmp_path, case, died, ran)) == []
    failed = {**died, "outcome": "failed"}  # otherwise than for want of memory: not for ever again
    assert bench.narrowed(file_of(tmp_path, case, failed)) == []


def test_default_segments_are_measured_a_prompt_a_process(bench: ModuleType, tmp_path: Path) -> None:
    usual, first = (
        bench.Case("gptqmodel:triton", "llama-2-7b", ACT_128G, (2048, 4096), switches=switches)
        for switches in ((), ("cuda_first",))
    )
    path = file_of(tmp_path)
    assert [case.contexts for case, _ in bench.unmeasured(path, (usual, first))] == [(2048, 4096), (2048,), (4096,)]
    path = file_of(tmp_path, a_case(**TRITON, shape="llama-2-7b", switches=["cuda_first"]))
    assert [case.contexts for case, _ in bench.unmeasured(path, (usual, first))] == [(2048, 4096), (4096,)]


def test_under_limits_go_first_those_that_are_said_to_be_enough(bench: ModuleType, tmp_path: Path) -> None:
    case = a_case(**TRITON)
    split = a_case(switches=["autosplit"])
    first = a_case(**TRITON, switches=["cuda_first"])
    enough = a_limit(0, "ran", **TRITON)["allowed_bytes"]
    limits = [limit for _, limit in bench.unlimited(file_of(tmp_path, case, split, first))]
    assert limits == [enough, int(case["prefill"]["peak_allocated"] * 0.97)]
    assert bench.unlimited(file_of(tmp_path, case, a_limit(0, "ran", **TRITON)))[0][1] == limits[1]
