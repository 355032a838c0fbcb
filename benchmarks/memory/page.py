"""docs/memory-measured.md: what was predicted beside what was measured, as Markdown with its plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from branchfit.memory import place

from .beside import PEER_FIELDS, beside
from .cases import RANKED, TINY, Record, fitted, variant_of
from .cells import CASE_HEAD, grid, named, prose, size
from .limits import confusion
from .pictures import pictures
from .results import cuda_first, errors, every_case, not_predicted
from .table import (
    CASE_FIELDS,
    LARGE_ENOUGH_BYTES,
    RUNTIME_NAMES,
    Case,
    VariantOf,
    compare,
    latest,
    measured,
    predicted,
    read,
    trials,
    unpredicted,
)
from .two_cards import over_two_cards

INTRODUCTION = """*Predicted* is what `branchfit` says of a branch before it is downloaded ([how](memory.md)).
*Measured* is what the same load needed of the card, at batch 1, with a prompt of the full context and 64 tokens
generated: the CUDA context as the driver counts it, and what torch's allocator could not do without, which is the
most that was allocated at a time and the gaps that stay. What the allocator merely keeps for later is not counted,
since it gives it back before it fails{kept}. An error is predicted less measured: above zero, too much was
predicted."""

READING = """One kind of card was measured, and [two of another at once](#over-two-cards); not consumer cards, Windows,
or flash-attn ([all that was not](#not-measured)). Beside a runtime, `cuda_first` means that somebody had used CUDA
before gptqmodel was imported, so that torch's allocator leaves gaps; `late` the same, and that BranchFit told it of
expandable segments; `expandable` that these were asked for by the environment; `no_compile` the torch kernel without
torch.compile; `no_sdpa` ExLlamaV2 without torch's own attention."""

TARGET = """The target, set before: an error of at most 1 % or 150 MiB, whichever is more, and nothing said to fit
that did not."""

KEPT = """; it can be tens of GB (the driver's peak was {peak} GiB at {shape} with {context} tokens, of which {need}
were needed), and has a column of its own below"""

HOW = """`python benchmarks/memory.py --out FILE`, then `--limits`; this page is `python benchmarks/memory.py
--table`, from `benchmarks/memory/*.jsonl`. Several loads ran at a time on the card, each in a process of its own, and
each process's own figures are what is recorded. The checkpoints have real shapes, and zeros for weights (sparse
files), so that Mixtral's router sends every token to the same two experts. Two repeats of 70B and 7B loads were lost
because the neighbours' caches had filled the card."""

UNMEASURED = """Nor: other GPUs and drivers, other versions than the ones above, Windows, more than two GPUs at once,
batches, flash-attn and xformers (neither was installed), AMD, the CPU."""


def page(paths: Iterable[Path], images: Path) -> str:
    """The whole document; the plots it shows are written into `images`, which stands beside it."""
    tried_out = {case.shape for case in TINY}
    records = [record for record in read(paths) if record.get("shape") not in tried_out]
    cases = compare(records, variant_of, fitted)
    tried = trials(records, variant_of)
    said = latest(records, "peer", PEER_FIELDS)
    usual = [case for case in cases if not case.cuda_first]
    shown = [*pictures(cases, said, images)] if cases else []
    blocks = [
        ["# Memory: predicted and measured", _introduction(cases), prose(READING), prose(TARGET)],
        errors(usual),
        shown[:2],
        confusion(tried),
        cuda_first(cases),
        over_two_cards(records),
        beside(cases, tried, said),
        shown[2:],
        _how(records),
        _unmeasured(records),
        every_case(cases),
        _not_run(records, variant_of),
    ]
    return "\n\n".join(text for block in blocks for text in block).rstrip() + "\n"


def _introduction(cases: Sequence[Case]) -> str:
    """What the words mean, with the case where it matters most which memory is meant."""
    if not cases:
        return prose(INTRODUCTION, kept="")
    most = max(cases, key=lambda case: case.record["peak_bytes"] - case.measured_bytes)
    kept = prose(
        KEPT,
        peak=size(most.record["peak_bytes"]),
        shape=most.record["shape"],
        context=most.record["context"],
        need=size(most.measured_bytes),
    )
    return prose(INTRODUCTION, kept=kept)


def _how(records: Sequence[Record]) -> list[str]:
    """One line a GPU and driver, with every version of a package that there was."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["kind"] == "environment":
            found.setdefault((str(record["gpu"]), str(record.get("driver"))), []).append(record)
    lines = []
    for (gpu, driver), seen in found.items():
        versions: dict[str, list[str]] = {}
        for record in seen:
            for name, version in record["packages"].items():
                versions.setdefault(name, [])
                versions[name] += [] if version in versions[name] else [version]
        packages = ", ".join(f"{name} {' and '.join(each)}" for name, each in versions.items())
        last = seen[-1]
        card = f"{gpu} ({size(last['memory_bytes'])} GiB, compute capability {last['compute_capability']})"
        system = f"driver {driver}, CUDA {last['cuda']}, Python {last['python']}"
        lines.append(f"- {card}, {system}; {packages}. {last['at'][:10]}.")
    told = not_predicted([record for record in measured(records) if unpredicted(record)])
    return ["## How it was measured", prose(HOW), "\n".join(lines), *told] if lines else []


def _unmeasured(records: Sequence[Record]) -> list[str]:
    """What nobody measured: runtimes, what is on the list of cases, and what no list has."""
    seen = measured(records)
    if not seen:
        return []
    names = [name for name in RUNTIME_NAMES if name not in {record["runtime"] for record in seen}]
    there = {_of_list(record) for record in seen}
    missing: dict[str, dict[str, list[str]]] = {}
    for case in RANKED:
        for context in case.contexts:
            record = {**case.record(), "context": context}
            if _of_list(record) not in there:
                runtime = " ".join([case.runtime, *case.switches])
                model = f"{case.shape} `{case.branch}`" + (f" {case.cache}" if case.cache != "fp16" else "")
                missing.setdefault(runtime, {}).setdefault(model, []).append(str(context))
    lines = []
    if names:
        lines.append(f"- Whole runtimes, whose errors are wide for that: {', '.join(names)}.")
    for runtime, shapes in missing.items():
        of_each = "; ".join(f"{shape} at {' and '.join(contexts)}" for shape, contexts in shapes.items())
        lines.append(f"- {runtime}: {of_each}.")
    lines.append("- " + prose(UNMEASURED))
    return ["## Not measured", "\n".join(lines)]


def _of_list(record: Record) -> tuple[object, ...]:
    return tuple(str(record[name]) for name in CASE_FIELDS if name != "gpu")


def _not_run(records: Sequence[Record], variants: VariantOf) -> list[str]:
    """Cases that came to no measurement, with what had been predicted of them: a card too small shows here."""
    rows = []
    for record in latest(records, "case", CASE_FIELDS):
        if record.get("error"):
            made = predicted(record, variants(record))
            said = " ".join(str(record["error"]).split()).replace("|", "/")[:160]
            rows.append([*named(record), size(place(made, [LARGE_ENOUGH_BYTES]).total_bytes), said])
    head = [*CASE_HEAD, "predicted, GiB", "what was said"]
    return ["## Did not run", grid(head, rows)] if rows else []
