"""The page's section on verdicts: what was said to fit under a limit, and what ran."""

from __future__ import annotations

from collections.abc import Sequence

from branchfit.units import MIB

from .cells import CASE_HEAD, folded, grid, named, prose, size
from .table import Trial

TEXT = """The same loads with torch's allocator held to a limit (`set_per_process_memory_fraction`); with the CUDA
context that is what the process can take. The limits are what was said to be just enough at the time, error included;
97 % of what was allocated at most, in which nothing can run; and of some loads the halves between. The verdict is
today's forecast, not the one at the time: it is said to fit where need plus error is at most the limit. Where a load
died of what had been said to be enough, its need or error was raised for that; the last were two of marlin's."""

SHOWN = """Of the {loads} loads that were tried {shown} ran with no more than need and error, so that a yes holds for
them, tried or not; {more} ran with more."""

NEVER_RAN = """The other {count} were tried only with less than they are now said to need, and died: {names}."""

ABOVE_NEED = """{count} of all that died (CUDA first aside) had more than the need alone: that is what the stated error
is for."""

FIRST = ", CUDA first"


def confusion(tried: Sequence[Trial]) -> list[str]:
    """Verdict against outcome; nothing where no limit was tried."""
    if not tried:
        return []
    groups = [_group(trial) for trial in tried]
    rows = []
    for name in [*dict.fromkeys(groups), None]:
        chosen = [trial for trial, group in zip(tried, groups, strict=True) if name in (None, group)]
        counts = [
            sum(trial.said_fits == said and trial.ran == ran for trial in chosen)
            for said, ran in ((True, True), (True, False), (False, False), (False, True))
        ]
        wrong = f"**{counts[1]}**" if counts[1] else "0"
        rows.append([name or "**all**", str(counts[0]), wrong, str(counts[2]), str(counts[3])])
    head = ["runtime", "said fits, ran", "said fits, died", "said no, died", "said no, ran"]
    parts = ["## Fits or not", prose(TEXT), grid(head, rows)]
    parts += [" ".join(_shown(tried))]
    wrong_yes = [trial for trial in tried if trial.said_fits and not trial.ran]
    wrong_no = [trial for trial in tried if not trial.said_fits and trial.ran]
    if wrong_yes:
        head = [*CASE_HEAD, "limit, GiB", "to spare, it was said, MiB", "died in"]
        rows = [[*_limited(trial), f"{-trial.over_bytes / MIB:.0f}", str(trial.record["where"])] for trial in wrong_yes]
        parts += ["**Said to fit, and died:**", grid(head, rows)]
    else:
        parts += ["Said to fit, and died: none."]
    if wrong_no:
        beyond = sum(trial.over_bytes > trial.error_bytes for trial in wrong_no)
        worst = f"{beyond} of them with less than the need alone" if beyond else "all of them within the stated error"
        head = [*CASE_HEAD, "limit, GiB", "short by, it was said, MiB", "of which stated error"]
        rows = [
            [*_limited(trial), f"{trial.over_bytes / MIB:.0f}", f"{trial.error_bytes / MIB:.0f}"] for trial in wrong_no
        ]
        parts += [folded(f"Said not to fit, and ran: {len(wrong_no)}, {worst}", grid(head, rows))]
    return parts


def _shown(tried: Sequence[Trial]) -> list[str]:
    """How many loads are known to run with what they are said to need; which are not known to."""
    loads: dict[str, list[Trial]] = {}
    for trial in tried:
        loads.setdefault(" ".join(named(trial.record)), []).append(trial)
    shown = sum(any(trial.ran and trial.over_bytes >= 0 for trial in each) for each in loads.values())
    never = [name for name, each in loads.items() if not any(trial.ran for trial in each)]
    told = [prose(SHOWN, shown=shown, loads=len(loads), more=len(loads) - shown - len(never))]
    if never:
        told.append(prose(NEVER_RAN, count=len(never), names="; ".join(never)))
    died = [trial for trial in tried if not trial.ran and "cuda_first" not in trial.record["switches"]]
    above = sum(0 < trial.over_bytes < trial.error_bytes for trial in died)
    return [*told, prose(ABOVE_NEED, count=above)] if above else told


def _group(trial: Trial) -> str:
    runtime = str(trial.record["runtime"])
    return runtime + FIRST if "cuda_first" in trial.record["switches"] else runtime


def _limited(trial: Trial) -> list[str]:
    return [*named(trial.record), size(trial.limit_bytes)]
