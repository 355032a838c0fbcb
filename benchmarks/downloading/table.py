"""The page: a table for each line, and the targets with whether they were met."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .clients import HUB, OURS, Client
from .measuring import Floor, Measured

OPEN_RATIO, CAPPED_RATIO, FLOOR_RATIO, SMALL_RATIO, BEST_RATIO = 0.6, 0.35, 1.25, 1.0, 1.0
PEAK_BYTES = 100e6
"""The targets, set before anything was written, from a prototype that hashed in the same pass: wall time beside that of
huggingface_hub, of the floor, and of the best of the others; and peak memory."""


@dataclass
class Results:
    """The rounds on one line. `runs` and `floors` have one entry a round."""

    key: str
    title: str
    total_bytes: int
    file_count: int
    clients: Sequence[Client]
    notes: list[str] = field(default_factory=list)
    runs: list[dict[str, Measured]] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)

    def of(self, name: str) -> list[Measured]:
        """A client's runs that count."""
        return [one[name] for one in self.runs if name in one and one[name].problem is None]

    def ratios(self, name: str, to: str, seconds: Callable[[Measured], float]) -> list[float]:
        """A client's time as a share of another's, round by round."""
        pairs = [(one.get(name), one.get(to)) for one in self.runs]
        return [seconds(a) / seconds(b) for a, b in pairs if a and b and not a.problem and not b.problem]

    def floor_ratios(self, name: str, seconds: Callable[[Measured], float]) -> list[float]:
        pairs = zip((one.get(name) for one in self.runs), self.floors, strict=False)
        return [seconds(run) / floor.seconds for run, floor in pairs if run and not run.problem]

    def best_ratios(self) -> list[float]:
        """Our time as a share of the fastest other client's, round by round."""
        found = []
        for one in self.runs:
            others = [run.wall_s for name, run in one.items() if name != OURS and run.problem is None]
            if OURS in one and one[OURS].problem is None and others:
                found.append(one[OURS].wall_s / min(others))
        return found


def section(results: Results) -> str:
    """One line's table in Markdown, with what was true of it."""
    head = ["client", "verified", "wall", "wall with sync", "to the floor", "... with sync"]
    per_gb = results.total_bytes >= 1e8
    head += ["CPU s/GB" if per_gb else "CPU s", "peak MB", "wall s"]
    if not results.floors:
        head = [name for name in head if "floor" not in name and name != "... with sync"]
    lines = [f"## {results.title}", "", *results.notes, "", _row(head), _row(["---"] * len(head))]
    for client in results.clients:
        runs = results.of(client.name)
        if not runs:
            lines.append(_row([f"{client.name} {client.version}".strip(), "failed", *[""] * (len(head) - 2)]))
            continue
        cells = [f"{client.name} {client.version}".strip(), client.verifies]
        cells += [_spread(results.ratios(client.name, HUB, seconds)) for seconds in (_wall, _synced)]
        if results.floors:
            cells += [_spread(results.floor_ratios(client.name, seconds)) for seconds in (_wall, _synced)]
        cpu_s = statistics.median(run.cpu_s for run in runs)
        cells.append(f"{cpu_s / (results.total_bytes / 1e9 if per_gb else 1):.1f}")
        cells.append(f"{max(run.peak_bytes for run in runs) / 1e6:.0f}")
        cells.append(f"{statistics.median(run.wall_s for run in runs):.2f}")
        lines.append(_row(cells))
    if results.floors:
        lines += ["", _floor_line(results)]
    problems = {
        f"- {client.name} failed in {count} of {len(results.runs)} rounds. The last time: {said}"
        for client in results.clients
        for count, said in [_failures(results, client.name)]
        if count
    }
    return "\n".join([*lines, *([""] if problems else []), *sorted(problems), ""])


def targets(all_results: Sequence[Results]) -> str:
    """What was asked for, what came out, and whether that meets it; medians over rounds of wall time as it is."""
    by_key = {results.key: results for results in all_results}
    lines = [_row(["target", "asked", "found", ""]), _row(["---"] * 4)]

    def judge(what: str, limit: float, on: Sequence[Results], found: Sequence[float], form: str = ".2f") -> None:
        value = statistics.median(found) if found else None
        verdict = "not measured" if value is None else "met" if value <= limit else "**not met**"
        failed, runs = sum(_failures(results, OURS)[0] for results in on), sum(len(results.runs) for results in on)
        if failed:
            verdict = f"{'' if value is None else verdict + '; '}**failed in {failed} of {runs} rounds**"
        lines.append(_row([what, f"at most {limit:g}", "" if value is None else format(value, form), verdict]))

    for key, what, limit in (
        ("open", "open line: wall time to huggingface_hub's", OPEN_RATIO),
        ("capped", "each connection capped: wall time to huggingface_hub's", CAPPED_RATIO),
        ("small", "many small files: wall time to huggingface_hub's", SMALL_RATIO),
    ):
        on = [by_key[key]] if key in by_key else []
        judge(what, limit, on, on[0].ratios(OURS, HUB, _wall) if on else [])
        if key == "open":
            judge("open line: wall time to the floor", FLOOR_RATIO, on, on[0].floor_ratios(OURS, _wall) if on else [])
    shaped = [results for results in all_results if results.key.startswith("shaped")]
    for results in shaped:
        name = results.key.replace("shaped-", "shaped line, ")
        judge(f"{name}: wall time to the best of the others", BEST_RATIO, [results], results.best_ratios())
    if not shaped:
        judge("shaped line: wall time to the best of the others", BEST_RATIO, [], [])
    peaks = [run.peak_bytes / 1e6 for results in all_results for run in results.of(OURS)]
    judge("peak memory on any line, MB", PEAK_BYTES / 1e6, [], [max(peaks)] if peaks else [], ".0f")
    return "\n".join(["## Targets", "", *lines, ""])


def _wall(run: Measured) -> float:
    return run.wall_s


def _synced(run: Measured) -> float:
    return run.synced_s


def _spread(ratios: Sequence[float]) -> str:
    """Median, and the range over rounds where there is one."""
    if not ratios:
        return ""
    text = f"{statistics.median(ratios):.2f}"
    return text if max(ratios) - min(ratios) < 0.005 else f"{text} ({min(ratios):.2f}-{max(ratios):.2f})"


def _floor_line(results: Results) -> str:
    def each(name: str, seconds: Sequence[float]) -> str:
        return f"{name} {statistics.median(seconds):.2f} s"

    parts = (
        each("loopback read", [floor.read_s for floor in results.floors]),
        each("disk write with fsync", [floor.write_s for floor in results.floors]),
        each("sha256 on one core", [floor.hash_s for floor in results.floors]),
    )
    which = [floor.which for floor in results.floors]
    most = ", ".join(f"{name} in {which.count(name)} of {len(which)} rounds" for name in sorted(set(which)))
    cpu_s, cores = statistics.median([floor.cpu_s for floor in results.floors]), os.cpu_count() or 1
    return (
        f"The floor is the slowest of three, medians: {'; '.join(parts)}. It was {most}. Each has the machine "
        f"to itself; together they take {cpu_s:.1f} processor seconds, which is {cpu_s / cores:.2f} s on {cores} cores "
        f"at the least, and the server takes of them, too."
    )


def _failures(results: Results, name: str) -> tuple[int, str]:
    said = [one[name].problem for one in results.runs if name in one and one[name].problem]
    return len(said), " ".join((said[-1] or "").split()) if said else ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
