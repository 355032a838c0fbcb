"""What torch's allocator needs beyond what is allocated: its rules followed over traces, beside what was measured.

    python benchmarks/memory_gaps.py [--shapes NAME ...] [--tokens 2] [--out FILE]
    python benchmarks/memory_gaps.py --follow marlin --shapes llama-65b --contexts 1024 1536 2048

It needs torch and transformers, and no GPU. Of each load that was measured through gptqmodel
(benchmarks/memory/h100-80gb-hbm3.jsonl) transformers' own forward pass is traced (`memory.tracing`) and
allocated by torch's rules (`memory.segments`) under one limit after another. What counts is transformers' version: a
pass that allocates in another order needs another limit. Traced is the one that is installed; measured was 5.17.0.

With --follow it says of that kernel what loads need that nobody measured, with expandable segments.

How a load is laid out, and how its least limit is found: `memory.layouts`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memory.cases import ACT_128G, SHAPES, Record, expandable, options_of, variant_of
from memory.cells import grid, prose
from memory.layouts import TOLERANCE_BYTES, Load, events, needs, read, runs
from memory.segments import Allocator

from branchfit.memory import terms
from branchfit.memory.transformers import allocator_gaps
from branchfit.memory.weights import weigh
from branchfit.units import MIB

RECORDS = Path(__file__).resolve().parent / "memory" / "h100-80gb-hbm3.jsonl"

TEXT = """Printed by `benchmarks/memory_gaps.py`: the models' own forward passes, traced, and torch's rules followed
over every allocation of them, beside loads that were measured on a GPU ([memory-measured.md](memory-measured.md)). Of
two free blocks of one size the one at the lower address is taken; segments lie where the driver puts them, as it was
seen to do on an H100: upwards in what CUDA has left of its first addresses, as long as there is room, then each below
all others. marlin's repacking is by its source alone.

Traced with transformers {version}, and {tokens} tokens behind each prompt. All in MiB. *Allocated* is the most that
was, measured, and how much more the simulation has; all behind it is above that. *Needs* is the least limit under
which the simulation comes to its end; where there are two figures, the first is the lowest that sufficed, and from the
second on all did. *Takes* is BranchFit's figure for it, and the part of its stated error that is for this alone.
*Died* and *ran* are the trials with the most and with the least. *Reserved* is the most that the allocator had in the
prompt and the tokens behind it where nothing was limited, measured and *simulated*. torch and triton allocate alike;
*alone* are loads with expandable segments asked for by the environment, or by BranchFit when CUDA was in use, without
gptqmodel's max_split_size."""

NEAR_BYTES = 10 * MIB
"""Half a page, and half of the least segment of a large tensor."""

HEAD = ("model", "branch", "kernel", "tokens", "allocated", "needs", "takes", "died", "ran", "reserved", "simulated")


@dataclass(eq=False)
class Row:
    """One load and context, with all that was measured of it; bytes. `reserved` is simulated, one a record."""

    load: Load
    context: int
    records: list[Record] = field(default_factory=list)
    trials: list[Record] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.load.shape} {self.load.branch} {self.load.kernel} {self.context}"

    @property
    def allocated(self) -> int:
        stages = ("load", "prefill", "decode")
        return max(int(record[stage]["peak_allocated"]) for record in self.records for stage in stages)

    @staticmethod
    def taken_at_most(record: Record) -> int:
        """What the allocator had reserved at the most, of that prompt alone."""
        return max(int(record[stage]["peak_reserved"]) for stage in ("prefill", "decode"))

    @property
    def taken(self) -> tuple[int, int]:
        """What branchfit.memory takes for the gaps, and what it says that may be off."""
        record = self.records[0]
        variant = variant_of(record)
        made = terms(variant, record["runtime"], self.context, expandable=options_of(record)["expandable"])
        weights = weigh(variant)
        assert made is not None and weights is not None
        marlin = self.load.kernel == "marlin"
        return allocator_gaps(weights, self.context, made.kv_layer_bytes, expandable(record), marlin)

    def allowed(self, outcome: str) -> list[int]:
        """The limits of trials that ended so, above what was allocated."""
        return [trial["allowed_bytes"] - self.allocated for trial in self.trials if trial["outcome"] == outcome]


def rows_of(records: Sequence[Record], new_tokens: int) -> list[Row]:
    """Measured loads that allocate alike are one row. What is reserved after a prompt depends on the prompts that the
    process has read before, so those are read, too."""
    found: dict[tuple[Load, int], Row] = {}
    processes: dict[tuple[object, ...], tuple[Allocator, set[int | str]]] = {}
    for record in records:
        load, context = Load.of(record), record["context"]
        row = found.setdefault((load, context), Row(load, context))
        if record["kind"] == "limit":
            row.trials.append(record)
            continue
        row.records.append(record)
        which = (record["runtime"], *record["switches"], load)
        if record["fresh"] or which not in processes:
            allocator = load.allocator()
            load.load(allocator)
            processes[which] = allocator, set()
        allocator, kept = processes[which]
        row.reserved.append(read(allocator, events(load.shape, load.kernel, context, new_tokens), kept))
        allocator.release()
    rows = [row for row in found.values() if row.records]
    return sorted(rows, key=lambda row: (row.load.shape, row.load.branch, row.context, row.load.kernel))


def section(title: str, rows: Sequence[Row], new_tokens: int, card_bytes: int) -> list[str]:
    """A table and what it comes to."""
    if not rows:
        return []
    off = {row: abs(needs(row.load, row.context, new_tokens)[2] - row.taken[0]) for row in rows}
    worst = max(rows, key=off.__getitem__)
    outside = sum(off[row] > row.taken[1] + TOLERANCE_BYTES for row in rows)
    trials = [(row, trial) for row in rows for trial in row.trials]
    wrong = [
        f"{row.name} {trial['outcome']} at {above(trial['allowed_bytes'] - row.allocated)}"
        for row, trial in trials
        if runs(row.load, row.context, new_tokens, trial["allowed_bytes"]) != (trial["outcome"] == "ran")
    ]
    differ = f"Largest difference of simulated and taken: {off[worst] / MIB:.0f} MiB ({worst.name})"
    apart = [
        abs(simulated - row.taken_at_most(record))
        for row in rows
        for record, simulated in zip(row.records, row.reserved, strict=True)
    ]
    same = sum(each <= NEAR_BYTES for each in apart)
    told = f"Reserved as simulated, within {NEAR_BYTES // MIB} MiB: {same} of {len(apart)} loads"
    ended = f"Trials that ended otherwise than the simulation under the same limit: {len(wrong)} of {len(trials)}"
    return [
        f"## {title}",
        grid(HEAD, [cells(row, new_tokens, card_bytes) for row in rows]),
        f"{told}.",
        f"{differ}; more than the error and the tolerance in {outside} of {len(rows)} rows.",
        f"{ended}{': ' if wrong else ''}{'; '.join(wrong)}.",
    ]


def followed(kernel: str, shapes: Iterable[str], contexts: Iterable[int], new_tokens: int) -> str:
    """What loads of these need by torch's rules, measured or not, at 4 bits with groups of 128 in act order."""
    rows = []
    for shape in shapes:
        load = Load(kernel, shape, ACT_128G, "gptqmodel")
        weights = weigh(variant_of({"shape": shape, "branch": ACT_128G}))
        assert weights is not None
        for context in contexts:
            peak, least, always = needs(load, context, new_tokens)
            taken, error = allocator_gaps(
                weights, context, weights.kv_layer_bytes(context, 4.0), True, kernel == "marlin"
            )
            need = above(least) if least == always else f"{above(least)}, {above(always)}"
            rows.append([shape, str(context), f"{peak / MIB:.0f}", need, f"{above(taken)} ± {error / MIB:.0f}"])
    return grid(("model", "tokens", "allocated", "needs", "takes"), rows)


def cells(row: Row, new_tokens: int, card_bytes: int) -> list[str]:
    peak, least, always = needs(row.load, row.context, new_tokens)
    taken, error = row.taken
    died, ran = row.allowed("died"), row.allowed("ran")
    kernels = ", ".join(sorted({record["runtime"].partition(":")[2] for record in row.records}))
    return [
        row.load.shape,
        f"`{row.load.branch}`",
        f"{kernels}, alone" if row.load.segments == "alone" else kernels,
        str(row.context),
        f"{row.allocated / MIB:.0f} {above(peak - row.allocated)}",
        above(least) if least == always else f"{above(least)}, {above(always)}",
        f"{above(taken)} ± {error / MIB:.0f}",
        above(max(died)) if died else "",
        above(min(ran)) if ran else "",
        span([row.taken_at_most(record) - row.allocated for record in row.records]),
        span([amount - peak for amount in row.reserved]) if max(row.reserved) < card_bytes else "more than there is",
    ]


def above(amount_bytes: int) -> str:
    return f"{round(amount_bytes / MIB):+d}"


def span(amounts: Iterable[int]) -> str:
    found = [above(amount) for amount in sorted(amounts)]
    return found[0] if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", metavar="NAME", choices=sorted(SHAPES), help="only these models")
    parser.add_argument("--tokens", type=int, default=2, help="generated behind each prompt (measured: 64)")
    parser.add_argument("--follow", choices=("triton", "exllama_v2", "marlin"), help="a kernel, instead of the page")
    parser.add_argument("--contexts", nargs="+", type=int, default=[2048], metavar="N", help="tokens, with --follow")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the tables go (default: they are printed)")
    given = parser.parse_args()
    if given.follow:
        print(followed(given.follow, given.shapes or ["llama-2-13b"], given.contexts, given.tokens))
        return 0
    import transformers

    started = time.monotonic()
    records = [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]
    card_bytes = next(record["memory_bytes"] for record in records if record["kind"] == "environment")
    shapes = given.shapes or SHAPES
    chosen = [one for one in records if str(one.get("runtime")).startswith("gptqmodel:") and one["shape"] in shapes]
    rows = rows_of([one for one in chosen if one["outcome"] in ("ran", "died")], given.tokens)
    kinds = {
        "Expandable segments": [row for row in rows if row.load.segments != "default"],
        "Default segments": [row for row in rows if row.load.segments == "default"],
    }
    paragraphs = [prose(each, version=transformers.__version__, tokens=given.tokens) for each in TEXT.split("\n\n")]
    parts = ["# What torch's allocator needs beyond what is allocated", *paragraphs]
    for title, some in kinds.items():
        parts += section(title, some, given.tokens, card_bytes)
    text = "\n\n".join(parts) + "\n"
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    print(f"{len(rows)} rows in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
