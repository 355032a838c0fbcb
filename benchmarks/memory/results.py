"""The page's sections on errors: runtime by runtime, where CUDA was used first, and case by case."""

from __future__ import annotations

from collections.abc import Sequence

from branchfit.memory.transformers import GAPS
from branchfit.units import MIB

from .cases import Record, expandable
from .cells import CASE_HEAD, folded, grid, named, off, prose, size, summary_cells
from .table import Case, parts, summed

SETS = (("fitted", True), ("judged", False))

WIDE_BYTES = 300 * MIB
"""Twice the target: a prediction in the middle of what is known is within it."""

FITTED_TEXT = """*Fitted* are the cases of {fitted}, from which constants were taken: the CUDA contexts and cuBLAS'
workspace. *Judged* are {judged}: no constant is from them, but that transformers' CUDA context is the largest of all
shapes', some MiB above the fitted ones'. All else is from the runtimes' sources, what expandable segments lose from
following [torch's own rules](memory-gaps.md). Two more are of judged shapes, too: the width of `GAPS`, which only
brackets, and `MARLIN_APART`, which is from those rules, and was put in after loads of llama-2-13b had died. Formulas
were corrected where a measurement, of whichever shape, showed something that had been overlooked in the source. Errors
are absolute; MiB and % are ranked each on its own, the 95th percentile is the nearest rank. *In ±* is within the error
that was stated with the prediction."""

LEAST_TEXT = """**Through transformers, what counts as measured is the least that a load can need**, since what was
allocated at a time need not lie together: the prediction is above it on purpose, by the rest of a page and a hidden
state of the prompt. The most that such a load needs is what it took where nothing limited it, or a limit that it ran
with, and the least is raised by a limit that it died of: it is in the target where the prediction is no further than
that from what lies between. Of {known} of these {cases} loads the two are at most 300 MiB apart.{wide}"""

WIDE_TEXT = """Of {wide} the most is not known so well, since the allocator kept more than it needed and no limit was
tried; those are predicted {least:.0f} to {most:.0f} MiB above the least: {names}."""

DIED_TEXT = """That it is only the least was seen: {count} loads died of more than what counts as measured, of up to
{more:.0f} MiB more: {names}."""

FIRST_TEXT = """gptqmodel asks for expandable segments when it is imported, which counts only where nobody has used
CUDA before. Where somebody has (in a webui an extension may have), BranchFit tells torch's allocator of them before it
loads{late}. Default segments stay on Windows, which has no others, on AMD, and where the user's own settings ask for
none. There K and V lie among what the prompt's activations left, with gaps that are of no use: measured {least:.2f} to
{most:.2f} of the KV cache, so the median of the fitted shapes' loads, {middle:.2f}, is in the need, and up to
{upper:.2f} in the error. **The target is not met here: {missed} of {cases} cases are off by more.** The stated error
covers {covered} of {cases}; its width is from all shapes, and none judges it."""

LATE_TEXT = """; {cases} loads above were begun so (`late`), and {in_target} of them are in the target"""

FALLING_TEXT = """**No forecast that grows with the context can meet it there**, and one that does not would find no
longest context that fits: {model} with {short} tokens took {more:.0f} MiB more than with {long}, which is more than
both may be off together. What is lost depends on which gaps K and V just fit. It is not by chance: [torch's own
rules](memory-gaps.md), followed over every allocation with segments where the driver puts them, come to the same MiB
in most loads; but that takes seconds for one context, and says nothing of the next."""

CASES_TEXT = """In bold what is out of the target. The error is made of three, in MiB: *after the load*, what torch held
then (weights, fixed buffers, the KV cache where it is allocated whole; cuBLAS' workspace is predicted there and taken
at the first product, which is 32 MiB too much and then too little); *on top*, the most beyond that; *context*, CUDA's.
*Driver's peak* is in GiB, with what the allocator kept and would have given back. Behind a runtime: `no_compile`,
without torch.compile; `expandable`, with expandable segments asked for by the environment; `cuda_first`, as above;
`no_sdpa`, exllamav2's plain attention."""


def errors(cases: Sequence[Case]) -> list[str]:
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
    return [*parts_, grid(head, rows), found, *_least(cases), prose(FITTED_TEXT, **shapes)]


def _least(cases: Sequence[Case]) -> list[str]:
    """What is known of loads of which an allocation at a time is only the least; nothing where there are none."""
    chosen = [case for case in cases if expandable(case.record)]
    if not chosen:
        return []
    wide = [case for case in chosen if case.known_bytes[1] - case.known_bytes[0] > WIDE_BYTES]
    died = [case for case in chosen if case.needs_more]
    above = [case.error_bytes / MIB for case in wide]
    text = prose(
        LEAST_TEXT,
        cases=len(chosen),
        known=len(chosen) - len(wide),
        wide=" " + prose(WIDE_TEXT, wide=len(wide), least=min(above), most=max(above), names=listed(wide))
        if wide
        else "",
    )
    return [text, *_died(died)]


def _died(cases: Sequence[Case]) -> list[str]:
    """Loads that limits say more of than what was allocated."""
    if not cases:
        return []
    more = max(case.died_at_bytes - case.measured_bytes for case in cases) / MIB
    return [prose(DIED_TEXT, count=len(cases), names=listed(cases), more=more)]


def listed(cases: Sequence[Case]) -> str:
    return "; ".join(" ".join(named(case.record)) for case in cases)


def cuda_first(cases: Sequence[Case]) -> list[str]:
    """Loads in which the allocator's gaps are bracketed, not predicted; `cases` are all."""
    first = [case for case in cases if case.cuda_first]
    if not first:
        return []
    rows = []
    for name in [*dict.fromkeys(case.runtime for case in first), None]:
        chosen = [case for case in first if name in (None, case.runtime)]
        stated = [case.need.error_bytes / MIB for case in chosen]
        found = summary_cells(summed(chosen))
        rows.append([name or "**all**", *found[:-1], f"{min(stated):.0f} to {max(stated):.0f} MiB", found[-1]])
    shares = [gaps_bytes(case) / case.need.kv_cache_bytes for case in first]
    late = [case for case in cases if "late" in case.record["switches"]]
    told = prose(LATE_TEXT, cases=len(late), in_target=sum(case.in_target for case in late)) if late else ""
    text = prose(
        FIRST_TEXT,
        late=told,
        least=min(shares),
        most=max(shares),
        middle=GAPS[0],
        upper=sum(GAPS),
        missed=sum(not case.in_target for case in first),
        covered=sum(case.covered for case in first),
        cases=len(first),
    )
    head = ["runtime", "cases", "median", "95 %", "worst", "in target", "stated ±", "in ±"]
    return ["## With torch's default segments", text, grid(head, rows), *_falling(first)]


def _falling(cases: Sequence[Case]) -> list[str]:
    """The two loads whose measurements leave no room for a forecast that grows with the context; nothing else."""
    pairs = [
        (short.measured_bytes - long.measured_bytes, short, long)
        for short in cases
        for long in cases
        if named({**short.record, "context": 0}) == named({**long.record, "context": 0})
        and short.record["context"] < long.record["context"]
        and short.measured_bytes - long.measured_bytes > short.allowed_error_bytes + long.allowed_error_bytes
    ]
    if not pairs:
        return []
    more, short, long = max(pairs, key=lambda pair: pair[0])
    contexts = {"short": short.record["context"], "long": long.record["context"]}
    return [prose(FALLING_TEXT, model=short.record["shape"], more=more / MIB, **contexts)]


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
