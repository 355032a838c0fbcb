"""The page's sections on errors: runtime by runtime, where CUDA was used first, and case by case."""

from __future__ import annotations

from collections.abc import Sequence

from branchfit.units import MIB

from .cases import Record
from .cells import CASE_HEAD, folded, grid, named, off, prose, size, summary_cells
from .table import Case, Trial, parts, summed

SETS = (("fitted", True), ("judged", False))

FITTED_TEXT = """*Fitted* are the cases of {fitted}, from which constants were taken: the CUDA contexts and cuBLAS'
workspace. *Judged* are {judged}: no constant is from them, but that transformers' CUDA context is the largest of all
shapes', some MiB above the fitted ones'. All else is from the runtimes' sources. Two widths of the stated error are
from all shapes, since they only bracket: `EXPANDABLE_GAPS` and `GAPS`. Formulas were corrected where a measurement,
of whichever shape, showed something that had been overlooked in the source. Errors are absolute; MiB and % are ranked
each on its own, the 95th percentile is the nearest rank. *In ±* is within the error that was stated with the
prediction."""

NEEDS_MORE_TEXT = """**What counts as measured is too little there:** {cases} died though allowed {more:.0f} MiB more
than that, and {above:.0f} MiB more than predicted. So they are out of the target, and the stated error (±{error:.0f}
MiB) is what says that they do not fit. Through transformers, what counts as measured is the least that a load can
need: {ran} of these loads ran with at most {spare:.0f} MiB more; the other {untried} were not tried with so little
({long} of them with more than 8192 tokens), and may need more."""

FIRST_TEXT = """gptqmodel sets torch's allocator to expandable segments when it is imported. Where somebody has used
CUDA before (in a webui an extension may have), and on Windows, torch's default allocator stays: K and V then lie
among what the prompt's activations left, with gaps that are of no use. These are not predicted. Measured they were
{least:.2f} to {most:.2f} of the KV cache, so the middle is in the need and what it may be off in the error. **The
target is not met here: {missed} of {cases} cases are off by more.** The stated error covers {covered} of {cases}. All
shapes went into that bracket: none judges it."""

CASES_TEXT = """In bold what is out of the target. The error is made of three, in MiB: *after the load*, what torch held
then (weights, fixed buffers, the KV cache where it is allocated whole; cuBLAS' workspace is predicted there and taken
at the first product, which is 32 MiB too much and then too little); *on top*, the most beyond that; *context*, CUDA's.
*Driver's peak* is in GiB, with what the allocator kept and would have given back. Behind a runtime: `no_compile`,
without torch.compile; `expandable`, with expandable segments asked for by the environment; `cuda_first`, as above;
`no_sdpa`, exllamav2's plain attention."""


def errors(cases: Sequence[Case], tried: Sequence[Trial]) -> list[str]:
    """A row for each runtime and set; what is out of the target is named."""
    parts_ = ["## The error, runtime by runtime"]
    if not cases:
        return [*parts_, "Nothing has been measured."]
    rows = []
    for name in [*dict.fromkeys(case.runtime for case in cases), None]:
        for label, is_fitted in SETS:
            chosen = [case for case in cases if case.fitted == is_fitted and name in (None, case.runtime)]
            if chosen:
                rows.append([name or "**all**", label, *summary_cells(summed(chosen))])
    shapes = {
        label: ", ".join(dict.fromkeys(case.record["shape"] for case in cases if case.fitted == is_fitted)) or "none"
        for label, is_fitted in SETS
    }
    head = ["runtime", "set", "cases", "median", "95 %", "worst", "in target", "in ±"]
    missed = [case for case in cases if not case.in_target]
    found = "Every case is in the target." if not missed else f"Out of the target: {listed(missed)}."
    return [*parts_, grid(head, rows), found, *_needs_more(cases, tried), prose(FITTED_TEXT, **shapes)]


def _needs_more(cases: Sequence[Case], tried: Sequence[Trial]) -> list[str]:
    """What limits say of the measurements themselves; nothing where they agree."""
    short = [case for case in cases if case.needs_more]
    if not short:
        return []
    transformers = [case for case in cases if case.runtime.startswith("gptqmodel:") and not case.needs_more]
    ran = {_row(trial.record): trial.limit_bytes for trial in reversed(tried) if trial.ran}
    spare = [ran[_row(case.record)] - case.measured_bytes for case in transformers if _row(case.record) in ran]
    untried = [case for case in transformers if _row(case.record) not in ran]
    text = prose(
        NEEDS_MORE_TEXT,
        cases="they" if len(short) == sum(not case.in_target for case in cases) else listed(short),
        more=max(case.died_at_bytes - case.measured_bytes for case in short) / MIB,
        above=max(case.died_at_bytes - case.need.total_bytes for case in short) / MIB,
        error=min(case.need.error_bytes for case in short) / MIB,
        ran=len(spare),
        spare=max(spare, default=0) / MIB,
        untried=len(untried),
        long=sum(case.record["context"] > 8192 for case in untried),
    )
    return [text]


def _row(record: Record) -> tuple[str, ...]:
    return (str(record.get("gpu")), *named(record))


def listed(cases: Sequence[Case]) -> str:
    return "; ".join(" ".join(named(case.record)) for case in cases)


def cuda_first(cases: Sequence[Case]) -> list[str]:
    """Loads in which the allocator's gaps are bracketed, not predicted."""
    if not cases:
        return []
    rows = []
    for name in [*dict.fromkeys(case.runtime for case in cases), None]:
        chosen = [case for case in cases if name in (None, case.runtime)]
        stated = [case.need.error_bytes / MIB for case in chosen]
        found = summary_cells(summed(chosen))
        rows.append([name or "**all**", *found[:-1], f"{min(stated):.0f} to {max(stated):.0f} MiB", found[-1]])
    shares = [gaps_bytes(case) / case.need.kv_cache_bytes for case in cases]
    text = prose(
        FIRST_TEXT,
        least=min(shares),
        most=max(shares),
        missed=sum(not case.in_target for case in cases),
        covered=sum(abs(case.error_bytes) <= case.need.error_bytes for case in cases),
        cases=len(cases),
    )
    head = ["runtime", "cases", "median", "95 %", "worst", "in target", "stated ±", "in ±"]
    return ["## Where CUDA was used before gptqmodel was imported", text, grid(head, rows)]


def gaps_bytes(case: Case) -> int:
    """What torch's allocator had reserved at the most beyond what was allocated at the most."""
    stages = [case.record[name] for name in ("load", "prefill", "decode")]
    return int(max(one["peak_reserved"] for one in stages) - max(one["peak_allocated"] for one in stages))


def not_predicted(records: Sequence[Record]) -> list[str]:
    """Measured all the same."""
    if not records:
        return []
    lines = [f"{' '.join(named(one))}: {size(one['peak_bytes'])} GiB by the driver" for one in records]
    text = (
        "Measured and not predicted, and in no table: exllamav2's automatic split, which keeps 448 MiB free while it "
        f"loads and which BranchFit never asks for ({'; '.join(lines)})."
    )
    return [text]


def every_case(cases: Sequence[Case]) -> list[str]:
    if not cases:
        return []
    rows = []
    for case in cases:
        error = f"{off(case.error_bytes)} MiB, {case.error_share:+.1%}"
        need = f"{size(case.need.total_bytes)} ± {size(case.need.error_bytes)}"
        shown = error if case.in_target else f"**{error}**"
        found = parts(case)
        three = [off(amount) for amount in (found.after_load, found.on_top, found.outside)]
        peak = size(case.record["peak_bytes"])
        set_ = "fitted" if case.fitted else "judged"
        rows.append([*named(case.record), need, size(case.measured_bytes), shown, *three, peak, set_])
    head = [*CASE_HEAD, "predicted, GiB", "measured, GiB", "error", "after the load", "on top", "context"]
    table = grid([*head, "driver's peak", "set"], rows)
    return ["## Every case", prose(CASES_TEXT), folded(f"All {len(cases)}", table)]
