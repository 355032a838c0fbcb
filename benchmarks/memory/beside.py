"""The peers beside branchfit, on the same measurements; what one does not claim to say is no error of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .cases import Record
from .cells import CASE_HEAD, folded, grid, named, off, prose, size, summary_cells
from .peers import ACCELERATE, CLAIMS, HF_MEM, RULE
from .table import CACHE_AT_LOAD, Case, Summary, Trial, summary, summed

PEER_FIELDS = ("peer", "shape", "branch", "cache", "context")
PEERS = (HF_MEM, RULE, ACCELERATE)
GROUPS = (("usual", False), ("CUDA first", True))
NOT_CLAIMED, NOT_ASKED = "not claimed", "not asked"

TEXT = """The same loads, and what the others say of them, each installed and asked on local repos of the same shape
without a network (`python benchmarks/memory.py --peers`). hf-mem: weights and KV cache, as its README's "inference
memory requirements", its cache type set to bfloat16 since its own choice refuses GPTQ; quantised caches are none of its
types. accelerate: the int4 or int8 size that its estimate prints, which by its guide is "to purely load the model in",
so it stands beside what torch held after a load through transformers, never beside a run. The rule is of the file's
size, and is asked for whatever runs. None of them states an error: that one says "fits" is taken to be a figure within
the limit."""


def beside(cases: Sequence[Case], tried: Sequence[Trial], said: Iterable[Record]) -> list[str]:
    """The peers' section; nothing before they were asked."""
    found = {tuple(record.get(name) for name in PEER_FIELDS): record for record in said}
    if not found or not cases:
        return []
    versions = {record["peer"]: record["version"] for record in found.values() if record["version"]}
    listed = ", ".join(f"{peer} {version}" for peer, version in sorted(versions.items()))
    head = ["", "loads", "cases", "median", "95 %", "worst", "in target", "said fits, died", "said no, ran"]
    rows = []
    for label, first in GROUPS:
        chosen = [case for case in cases if case.cuda_first == first]
        under = [trial for trial in tried if ("cuda_first" in trial.record["switches"]) == first]
        if chosen:
            rows.append(_row("**branchfit**", label, summed(chosen), _outcomes_of_ours(under)))
        for peer in PEERS if chosen else ():
            pairs = [pair for case in chosen if (pair := _pair(found, peer, case)) is not None]
            told = summary([(said, 0, measured) for said, measured in pairs]) if pairs else None
            rows.append(_row(peer, label, told, _outcomes(found, peer, under)))
    parts = ["## Beside the peers", prose(TEXT) + f" {listed}.", grid(head, rows)]
    lines = [_line(found, case) for case in cases]
    head = [*CASE_HEAD, "measured, GiB", "branchfit", HF_MEM, RULE, "after the load, GiB", ACCELERATE]
    return [*parts, folded("Case by case, the errors in MiB", grid(head, lines))]


def figure(found: dict[tuple[object, ...], Record], peer: str, record: Record) -> int | str:
    """What the peer says of a measured case, in bytes; or why there is no figure."""
    said = found.get((peer, *(record[name] for name in PEER_FIELDS[1:])))
    if said is None:
        return NOT_ASKED
    transformers = record["runtime"] not in CACHE_AT_LOAD
    if said["predicted_bytes"] is None or (CLAIMS[peer] == "load" and not transformers):
        return NOT_CLAIMED
    return int(said["predicted_bytes"])


def _pair(found: dict[tuple[object, ...], Record], peer: str, case: Case) -> tuple[int, int] | None:
    """The peer's figure and the measurement that it claims to tell."""
    told = figure(found, peer, case.record)
    if isinstance(told, str):
        return None
    return told, case.record["load"]["allocated"] if CLAIMS[peer] == "load" else case.measured_bytes


def _row(name: str, label: str, told: Summary | None, outcomes: Sequence[str]) -> list[str]:
    if told is None:
        return [name, label, "0", *[NOT_CLAIMED] * 4, *outcomes]
    *cells, _ = summary_cells(told)
    return [name, label, *cells, *outcomes]


def _outcomes_of_ours(tried: Sequence[Trial]) -> list[str]:
    return _counts([(trial.said_fits, trial.ran) for trial in tried])


def _outcomes(found: dict[tuple[object, ...], Record], peer: str, tried: Sequence[Trial]) -> list[str]:
    """A figure for the load alone says nothing about a run."""
    if CLAIMS[peer] == "load":
        return [NOT_CLAIMED] * 2
    told = [(figure(found, peer, trial.record), trial) for trial in tried]
    return _counts([(each <= trial.limit_bytes, trial.ran) for each, trial in told if not isinstance(each, str)])


def _counts(verdicts: Sequence[tuple[bool, bool]]) -> list[str]:
    """Said to fit and died of those said to fit; said no and ran of those refused."""
    if not verdicts:
        return ["no limits tried"] * 2
    yes, no = [ran for said, ran in verdicts if said], [ran for said, ran in verdicts if not said]
    return [f"{yes.count(False)} of {len(yes)}", f"{no.count(True)} of {len(no)}"]


def _line(found: dict[tuple[object, ...], Record], case: Case) -> list[str]:
    cells = []
    for peer in PEERS:
        told = figure(found, peer, case.record)
        pair = _pair(found, peer, case)
        cells.append(off(pair[0] - pair[1]) if pair is not None else str(told))
    after_load = size(case.record["load"]["allocated"])
    return [*named(case.record), size(case.measured_bytes), off(case.error_bytes), *cells[:2], after_load, cells[2]]
