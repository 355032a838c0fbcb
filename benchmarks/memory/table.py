"""Measured cases beside what branchfit.memory says of them: errors, part by part, and what they come to."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from branchfit.loaders import RUNTIMES
from branchfit.memory import Need, Terms, fits, place, terms
from branchfit.units import MIB
from branchfit.variants import Variant

from .cases import Record, expandable, measured_bytes, options_of, taken_bytes

VariantOf = Callable[[Record], Variant]

ERROR_SHARE, ERROR_BYTES = 0.01, 150 * MIB
"""The target, set before anything was measured: an error of at most the larger of 1 % and 150 MiB."""

LARGE_ENOUGH_BYTES = 2**50
"""One card that takes anything, so that the prediction is for the whole model on it."""

CACHE_AT_LOAD = frozenset({"exllama", "exllamav2"})
"""Runtimes that allocate the KV cache whole before anything is read; transformers lets it grow."""

RUNTIME_NAMES = tuple(runtime.name for runtime in RUNTIMES)

CASE_FIELDS = ("gpu", "runtime", "switches", "cache", "shape", "branch", "context")
LIMIT_FIELDS = (*CASE_FIELDS, "allowed_bytes")


@dataclass(frozen=True)
class Case:
    """One measured case and its prediction. Errors are predicted less measured: positive is too much, in bytes.

    `fitted` is whether a constant of the model was taken from it; the others judge the model. `died_at_bytes` is the
    most, CUDA context included, that this load was allowed and died of, 0 where it never died; `ran_at_bytes` the least
    that it was allowed and ran with, or took where nothing was said.
    """

    record: Record
    terms: Terms
    need: Need
    fitted: bool
    died_at_bytes: int = 0
    ran_at_bytes: int | None = None

    @property
    def runtime(self) -> str:
        return str(self.record["runtime"])

    @property
    def cuda_first(self) -> bool:
        """Whether somebody had used CUDA before gptqmodel was imported: what the allocator then loses is bracketed."""
        return "cuda_first" in self.record["switches"]

    @property
    def measured_bytes(self) -> int:
        """What the load needed of the card, CUDA context included (`cases.measured_bytes`)."""
        return measured_bytes(self.record)

    @property
    def error_bytes(self) -> int:
        return self.need.total_bytes - self.measured_bytes

    @property
    def error_share(self) -> float:
        return self.error_bytes / self.measured_bytes

    @property
    def needs_more(self) -> bool:
        """Whether it died of a limit that is above what counts as measured: then that is too little."""
        return self.died_at_bytes >= self.measured_bytes

    @property
    def known_bytes(self) -> tuple[int, int]:
        """The least that the load can have needed, and the most.

        With expandable segments what was allocated is the least, or what it died of; the most is what it took where
        nothing was said, or ran with. Else both are what was measured.
        """
        least = max(self.measured_bytes, self.died_at_bytes)
        if not expandable(self.record) or self.ran_at_bytes is None:
            return least, least
        return least, max(least, self.ran_at_bytes)

    @property
    def off_bytes(self) -> int:
        """How far the need is, at the least, from what can be right; 0 within what is known."""
        least, most = self.known_bytes
        return max(least - self.need.total_bytes, self.need.total_bytes - most, 0)

    @property
    def in_target(self) -> bool:
        return self.off_bytes <= self.allowed_error_bytes

    @property
    def allowed_error_bytes(self) -> float:
        """What the target allows."""
        return max(ERROR_SHARE * self.measured_bytes, ERROR_BYTES)

    @property
    def covered(self) -> bool:
        """Whether it is within the stated error."""
        return self.off_bytes <= self.need.error_bytes


@dataclass(frozen=True)
class Parts:
    """Where a case's error comes from, in bytes; the three add up to it.

    `after_load` is what torch held once the model was there (in ExLlamaV2 with the gaps between its tensors); `on_top`
    the most it held beyond that; `outside` the CUDA context with its kernels.
    """

    after_load: int
    on_top: int
    outside: int


@dataclass(frozen=True)
class Summary:
    """Errors of a set of cases, absolute. The shares are ranked on their own: another case may be the worst there."""

    cases: int
    median_bytes: float
    median_share: float
    most_bytes: int
    most_share: float
    worst_bytes: int
    worst_share: float
    in_target: int
    covered: int


@dataclass(frozen=True)
class Trial:
    """A case tried under a limit: what was said of it before, and what became of it.

    `over_bytes` is need plus error less the limit: where positive, that much too little for a yes. `error_bytes` of it
    is the stated error.
    """

    record: Record
    limit_bytes: int
    said_fits: bool
    over_bytes: int
    error_bytes: int

    @property
    def ran(self) -> bool:
        return bool(self.record["outcome"] == "ran")


def read(paths: Iterable[Path]) -> list[Record]:
    """Every record of the files, by time. One that does not say its GPU or version has those of the environment that
    stands before it in its file."""
    found = []
    for path in sorted(paths):
        environment: Record = {"gpu": None, "packages": {}}
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["kind"] == "environment":
                environment = record
            elif "runtime" in record:
                package = str(record["runtime"]).partition(":")[0]
                known = {"gpu": environment["gpu"], "version": environment["packages"].get(package.replace("_", "-"))}
                record = {**known, **record}
            found.append(record)
    return sorted(found, key=lambda record: str(record.get("at", "")))


def key_of(record: Record, names: Sequence[str] = CASE_FIELDS) -> tuple[str, ...]:
    """What tells cases apart."""
    return tuple(json.dumps(record.get(name)) for name in names)


def latest(records: Iterable[Record], kind: str, names: Sequence[str]) -> list[Record]:
    """The last record of that kind for each case, the named fields being what tells cases apart.

    A failure never replaces a success: what ran once and then met a machine in use was measured. Of limits every
    outcome is a result, and the last one stands.
    """
    found: dict[tuple[str, ...], Record] = {}
    for record in records:
        if record["kind"] == kind:
            key = key_of(record, names)
            if key not in found or kind == "limit" or not record.get("error") or found[key].get("error"):
                found[key] = record
    return list(found.values())


def unpredicted(record: Record) -> bool:
    """exllamav2's automatic split keeps 448 MiB free while it loads; branchfit never asks for it."""
    return "autosplit" in record["switches"]


def predicted(record: Record, variant: Variant) -> Terms:
    """What branchfit.memory says of the record's case. Raises ValueError where it says nothing."""
    options: dict[str, Any] = {**options_of(record)}
    made = terms(variant, record["runtime"], record["context"], cache=record["cache"], **options)
    if made is None:
        raise ValueError(f"{record['shape']} {record['branch']}: a variant without shape and size; see cases.py")
    return made


def measured(records: Iterable[Record]) -> list[Record]:
    """The cases that came to a measurement, in the order of runtime, shape, branch, context and cache."""
    return sorted((one for one in latest(records, "case", CASE_FIELDS) if not one.get("error")), key=order)


def compare(records: Sequence[Record], variant_of: VariantOf, fitted: Callable[[Record], bool]) -> list[Case]:
    """What was measured beside what was predicted of it; without what is not predicted."""
    died: dict[tuple[str, ...], int] = {}
    ran: dict[tuple[str, ...], int] = {}
    for trial in trials(records, variant_of):
        key = key_of(trial.record)
        if trial.ran:
            ran[key] = min(ran.get(key, trial.limit_bytes), trial.limit_bytes)
        else:
            died[key] = max(died.get(key, 0), trial.limit_bytes)
    found = []
    for record in measured(records):
        if not unpredicted(record):
            made = predicted(record, variant_of(record))
            need = place(made, [LARGE_ENOUGH_BYTES])
            key = key_of(record)
            ran_at = min(ran.get(key, LARGE_ENOUGH_BYTES), taken_bytes(record))
            found.append(Case(record, made, need, fitted(record), died.get(key, 0), ran_at))
    return found


def order(record: Record) -> tuple[object, ...]:
    """Runtimes as branchfit lists them, then smaller models and contexts first."""
    name = record["runtime"]
    place_of = RUNTIME_NAMES.index(name) if name in RUNTIME_NAMES else len(RUNTIME_NAMES)
    rest = (str(record.get(field) or "") for field in ("cache", "switches", "gpu"))
    return (place_of, name, record["shape"], record["branch"], record["context"], *rest)


def parts(case: Case) -> Parts:
    """The case's error, part by part."""
    record, made, need = case.record, case.terms, case.need
    at_load, after_load = record["load"]["allocated"], need.weights_bytes + made.fixed_bytes
    if case.runtime in CACHE_AT_LOAD:
        after_load += need.kv_cache_bytes
        at_load = record["load"]["reserved"]  # what is predicted has the gaps in it
    most = case.measured_bytes - record["context_bytes"]
    return Parts(
        after_load=after_load - at_load,
        on_top=(need.total_bytes - need.context_bytes - after_load) - (most - at_load),
        outside=need.context_bytes - record["context_bytes"],
    )


def summary(errors: Sequence[tuple[int, int, int]]) -> Summary:
    """Of (predicted, stated error, measured) bytes; at least one."""
    off = sorted(abs(need - measured) for need, _, measured in errors)
    shares = sorted(abs(need - measured) / measured for need, _, measured in errors)
    # The nearest rank: with few cases an interpolated percentile would be a figure that nobody measured.
    rank = math.ceil(0.95 * len(off)) - 1
    return Summary(
        cases=len(off),
        median_bytes=statistics.median(off),
        median_share=statistics.median(shares),
        most_bytes=off[rank],
        most_share=shares[rank],
        worst_bytes=off[-1],
        worst_share=shares[-1],
        in_target=sum(abs(need - got) <= max(ERROR_SHARE * got, ERROR_BYTES) for need, _, got in errors),
        covered=sum(abs(need - got) <= error for need, error, got in errors),
    )


def summed(cases: Sequence[Case]) -> Summary:
    found = summary([(case.need.total_bytes, case.need.error_bytes, case.measured_bytes) for case in cases])
    in_target, covered = (sum(each) for each in zip(*((case.in_target, case.covered) for case in cases), strict=True))
    return replace(found, in_target=in_target, covered=covered)


def trials(records: Iterable[Record], variant_of: VariantOf) -> list[Trial]:
    """Every case tried under a limit, judged as `branchfit` judges a card with that much free.

    torch's allocator was limited; beside it a process has its CUDA context, which is the one of the same load without
    a limit. What failed otherwise than for want of memory is no trial of the limit, and neither is what is not
    predicted.
    """
    kept = list(records)
    contexts = {key_of(record): int(record["context_bytes"]) for record in measured(kept)}
    found = []
    for record in latest(kept, "limit", LIMIT_FIELDS):
        if record["outcome"] in ("ran", "died") and key_of(record) in contexts and not unpredicted(record):
            limit = int(record["allowed_bytes"]) + contexts[key_of(record)]
            need = place(predicted(record, variant_of(record)), [limit])
            found.append(Trial(record, limit, fits(need, [limit]), -need.headroom_bytes((limit,)), need.error_bytes))
    return sorted(found, key=lambda trial: (*order(trial.record), trial.limit_bytes))
