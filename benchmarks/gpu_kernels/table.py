"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from .cases import CONTROLS, RECIPES, SHAPES, VARIANTS
from .fast import NEW_TOKENS, READ_TOKENS
from .records import Record, records_in
from .right import FACTOR, ONE_BY_ONE

PEER = "gptqmodel:torch"
"""Ratios are to this one, the kernel that takes everything."""


def page(files: Iterable[Path]) -> str:
    """All files' results, a machine after another."""
    made = (
        "Made by `python benchmarks/gpu_kernels.py --table benchmarks/gpu_kernels/*.jsonl`, which says what is "
        "measured and how."
    )
    parts = ["# GPTQ kernels on real GPUs", "", made]
    for file in files:
        parts += ["", section(file)]
    return "\n".join(parts).rstrip() + "\n"


def section(file: Path) -> str:
    """One file's results."""
    records = list(records_in(file).values())
    parts = [*_environment(_of_kind(records, "environment")), *_notes(_of_kind(records, "note"))]
    right = _of_kind(records, "correctness")
    for shape in SHAPES:
        parts += _right(_of_shape(_of_kind(records, "reference"), shape), _of_shape(right, shape), shape)
    parts += _controls([one for one in right if "controls" in one])
    parts += _failed([one for one in right if "error" in one and one.get("can_load", True)])
    parts += _refused([one for one in right if not one.get("can_load", True)])
    for shape in SHAPES:
        for branch in RECIPES[shape]:
            parts += _fast([one for one in _of_shape(_of_kind(records, "speed"), shape) if one["branch"] == branch])
    return "\n".join([*parts, *_built(_of_kind(records, "build"))])


def _of_kind(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


def _of_shape(records: list[Record], shape: str) -> list[Record]:
    return [record for record in records if record["shape"] == shape]


def _environment(records: list[Record]) -> list[str]:
    lines = []
    for one in records:
        packages = ", ".join(f"{name} {version}" for name, version in one["packages"].items())
        lines += [
            f"## {one['gpu']}",
            "",
            f"Compute capability {one['compute_capability']}, driver {one.get('driver')}, CUDA {one['cuda']}, nvcc "
            f"{one.get('nvcc')}, Python {one['python']}, {one['cores']} cores; {packages}. {one['at'][:10]}.",
        ]
    return lines


def _notes(records: list[Record]) -> list[str]:
    return [line for one in records for line in ("", one["text"])]


def _right(references: list[Record], found: list[Record], shape: str) -> list[str]:
    if not references:
        return []
    names = [name for name in VARIANTS if any(one["variant"] == name for one in found)]
    rows = []
    for one in references:
        cells = {other["variant"]: _share_cell(other) for other in found if other["branch"] == one["branch"]}
        dense = [_both(measured) for measured in one["dense fp16"].values()]
        rows.append([one["branch"], *dense, _both(one["tolerance"]), *(cells.get(name, "") for name in names)])
    text = (
        f"How far the furthest logit is from the fp32 reference's (whose spread is {references[0]['spread']:.1f}), the "
        f"prompt read whole / its last {ONE_BY_ONE} tokens one by one: for the dense model in fp16, and as tolerance "
        f"{FACTOR:g} times the larger. Then the share of the tolerance that each runtime takes: up to 1 is right."
    )
    head = ["branch", *(f"dense, {name}" for name in references[0]["dense fp16"]), "tolerance", *names]
    return ["", f"### Right? The shape `{shape}`", "", text, "", *_grid(head, rows)]


def _both(measured: Mapping[str, object]) -> str:
    numbers = [one["max"] if isinstance(one, dict) else one for one in measured.values()]
    return " / ".join(f"{number:.4f}" for number in numbers)


def _share(errors: Record, tolerance: Mapping[str, float]) -> float:
    """The furthest logit over the tolerance, the worse of both ways; infinite for not a number."""
    return max(
        float("inf") if errors[way]["max"] is None else errors[way]["max"] / allowed
        for way, allowed in tolerance.items()
    )


def _share_cell(one: Record) -> str:
    if "error" in one:
        return "refused" if not one.get("can_load", True) else "**error**"
    share = _share(one["errors"], one["tolerance"])
    said = f"{share:.2f}" if one["right"] else f"**{share:.0f}**"
    return said if one.get("can_load", True) else f"{said} (branchfit refuses)"


def _controls(found: list[Record]) -> list[str]:
    rows = []
    for name in VARIANTS:
        own = [one for one in found if one["variant"] == name]
        if not own:
            continue
        row = [name, f"{max(_share(one['errors'], one['tolerance']) for one in own):.2f}"]
        for control in CONTROLS:
            seen = [(one["controls"][control], one["tolerance"]) for one in own if control in one["controls"]]
            fails = sum(spoilt["fails"] for spoilt, _ in seen)
            least = min((_share(spoilt["errors"], tolerance) for spoilt, tolerance in seen), default=0)
            said = f"{fails} of {len(seen)} fail; least {least:.1f}"
            row.append(said if fails == len(seen) else f"**{said}**")
        rows.append(row)
    explained = "; ".join(f"*{name}*: {what}" for name, what in CONTROLS.items())
    text = (
        f"The same checkpoints with one thing wrong ({explained}), again in shares of the tolerance: over 1 fails, as "
        "they must. Marlin gets no zeros wrong: of symmetric files it reads none, and takes the middle of the codes."
    )
    head = ["runtime", "worst without", *CONTROLS]
    return ["", "### Controls", "", text, "", *_grid(head, rows)] if rows else []


def _failed(found: list[Record]) -> list[str]:
    first: dict[str, str] = {}
    for one in found:
        first.setdefault(one["variant"], " ".join(one["error"].split()).replace("|", "/")[:600])
    rows = [[name, said, str(sum(one["variant"] == name for one in found))] for name, said in first.items()]
    return ["", "### Errors", "", *_grid(["runtime", "the first", "times"], rows)] if rows else []


def _refused(found: list[Record]) -> list[str]:
    rows: dict[tuple[str, ...], int] = {}
    for one in found:
        said = _short(one["error"]) if "error" in one else "**it ran**"
        key = one["variant"].partition("+")[0], one["why"], said
        rows[key] = rows.get(key, 0) + 1
    text = "What branchfit says a runtime does not take, tried all the same."
    cells = [[*key, str(count)] for key, count in rows.items()]
    head = ["runtime", "branchfit says", "the runtime says", "times"]
    return ["", "### Refused", "", text, "", *_grid(head, cells)] if rows else []


def _short(error: str) -> str:
    return error.replace("\n", " ").replace("|", "/")[:160]


def _fast(found: list[Record]) -> list[str]:
    if not found:
        return []
    done = sorted((one for one in found if "error" not in one), key=lambda one: -one["new_per_s"]["most"])
    peer = next((one for one in done if one["variant"] == PEER), None)

    def ratio(one: Record, *names: str) -> str:
        ours, theirs = one, peer
        for name in names:
            ours, theirs = ours.get(name), theirs and theirs.get(name)
        return f"{ours / theirs:.2f}" if ours and theirs else "-"

    rows = []
    for one in done:
        new = one["new_per_s"]
        runs = f"{new['least']:.1f} to {new['most']:.1f}, {new['runs']} runs of {one['new_tokens']}"
        rows.append(
            [
                one["variant"],
                f"{one['read_per_s']['median']:,.0f}",
                f"{new['median']:.1f} ({runs})",
                ratio(one, "new_per_s", "most"),
                f"{one['loop_per_s']:.1f}",
                *(f"{one[name]:.2f}" if name in one else "-" for name in ("gpu_ms_per_read", "gpu_ms_per_token")),
                ratio(one, "gpu_ms_per_token"),
                f"{one['load_s']:.1f} + {one['first_s']:.1f}",
                *(
                    f"{one[name] / 2**30:.2f}" if one.get(name) else "-"
                    for name in ("resident_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "driver_bytes")
                ),
            ]
        )
    head = ["runtime", "prompt tokens/s", "new tokens/s", "best run / torch's", "bare loop tokens/s", "GPU ms a prompt"]
    head += ["GPU ms a token", "GPU ms / torch's", "load + first use, s"]
    head += ["resident", "peak allocated", "peak reserved", "driver"]
    text = (
        f"{READ_TOKENS} prompt tokens, {NEW_TOKENS} new ones (fewer for the slowest), batch 1, greedy; medians, and "
        "memory in GiB. What GPU ms leave of a token's time is Python and launching."
    )
    failed = [f"\n{one['variant']}: {_short(one['error'])}" for one in found if "error" in one]
    title = f"### Fast? Llama of {found[0]['shape']}, {found[0]['branch']}"
    return ["", title, "", text, "", *_grid(head, rows), *failed]


def _built(records: list[Record]) -> list[str]:
    rows = [[one["variant"], f"{one['build_s']:.0f}" if "build_s" in one else _short(one["error"])] for one in records]
    text = "Seconds nvcc took at first use, all at the same time."
    return ["", "### Compiling", "", text, "", *_grid(["runtime", "s"], rows)] if rows else []


def _grid(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
