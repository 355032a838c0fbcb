"""The three plots of the page, written in a light and a dark form, and the Markdown that shows them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from branchfit.units import GIB, MIB

from .beside import PEER_FIELDS, figure
from .cases import Record
from .peers import HF_MEM, RULE
from .plots import Axis, Chart, Point, draw
from .table import ERROR_BYTES, ERROR_SHARE, RUNTIME_NAMES, Case

TARGET, FITTED, DIED = "1 % or 150 MiB", "hollow: fitted on", "line: died, needs more"
ROUND_GIB = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
BESIDE = ("branchfit", HF_MEM, RULE)
STEPS_MIB = (50, 100, 200, 250, 500, 1000, 2000, 5000, 10000, 20000)


def pictures(cases: Sequence[Case], said: Sequence[Record], images: Path) -> Iterator[str]:
    """Draws and writes what there is to draw; the Markdown of each. At least one case."""
    names = [*RUNTIME_NAMES, *sorted({case.runtime for case in cases} - set(RUNTIME_NAMES))]
    series = {name: number for number, name in enumerate(names)}
    points = [
        Point(case.measured_bytes / GIB, case.need.total_bytes / GIB, series[case.runtime], case.fitted)
        for case in cases
    ]
    chart = _against("Predicted against measured", names, points, FITTED)
    yield _shown(chart, images, "memory-predicted", "predicted against measured memory, a point a case")
    if usual := [case for case in cases if not case.cuda_first]:
        yield _shown(_by_context(usual, names, series), images, "memory-error", "errors against the context")
    found = {tuple(record.get(name) for name in PEER_FIELDS): record for record in said}
    points = []
    for number, peer in reversed(list(enumerate(BESIDE))):  # branchfit's lie on top
        for case in cases:
            told = case.need.total_bytes if number == 0 else figure(found, peer, case.record)
            if not isinstance(told, str):
                points.append(Point(case.measured_bytes / GIB, told / GIB, number))
    if any(point.series for point in points):
        chart = _against("The same cases, and what the peers say", BESIDE, points, "")
        yield _shown(chart, images, "memory-peers", "what branchfit and the peers predict against what was measured")


def _shown(chart: Chart, images: Path, name: str, words: str) -> str:
    """GitHub takes the source that goes with the reader's theme."""
    for theme in ("light", "dark"):
        images.mkdir(parents=True, exist_ok=True)
        # Bytes, not text: the files are the same on every machine.
        (images / f"{name}-{theme}.svg").write_bytes(draw(chart, theme).encode())
    folder = images.name
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{folder}/{name}-dark.svg">'
        f'<img src="{folder}/{name}-light.svg" alt="{words}"></picture>'
    )


def _against(title: str, names: Sequence[str], points: Sequence[Point], hollow_name: str) -> Chart:
    """Both axes logarithmic and alike, in GiB, so that being right is the diagonal."""
    values = [value for point in points for value in (point.x, point.y)]
    low, high = min(values) / 1.15, max(values) * 1.15
    ticks = [(value, f"{value:g}") for value in ROUND_GIB if low <= value <= high]
    steps = [low * (high / low) ** (number / 60) for number in range(61)]
    width = [max(ERROR_SHARE * value, ERROR_BYTES / GIB) for value in steps]
    band = [(x, max(x - off, low / 4), x + off) for x, off in zip(steps, width, strict=True)]
    x, y = (Axis(f"{what}, GiB", (low, high), ticks, log=True) for what in ("measured", "predicted"))
    return Chart(title, x, y, names, points, band, [(low, low), (high, high)], TARGET, hollow_name)


def _by_context(cases: Sequence[Case], names: Sequence[str], series: dict[str, int]) -> Chart:
    """Runtimes stand side by side at each context, so that their points do not cover each other."""
    used = sorted({series[case.runtime] for case in cases})
    contexts = sorted({int(case.record["context"]) for case in cases})
    points = [
        Point(
            case.record["context"],
            case.error_bytes / MIB,
            series[case.runtime],
            case.fitted,
            (used.index(series[case.runtime]) - (len(used) - 1) / 2) * 9,
            (case.need.total_bytes - case.died_at_bytes) / MIB if case.needs_more else None,
        )
        for case in cases
    ]
    reach = 1.15 * max(ERROR_BYTES / MIB, *(abs(y) for point in points for y in (point.y, point.down_to or 0)))
    step = next((step for step in STEPS_MIB if reach / step <= 5), STEPS_MIB[-1])
    marks = range(-math.floor(reach / step), math.floor(reach / step) + 1)
    ends = (contexts[0] / 1.6, contexts[-1] * 1.6)
    x = Axis("context, tokens", ends, [(context, str(context)) for context in contexts], log=True)
    y = Axis(
        "predicted less measured, MiB",
        (-reach, reach),
        [(mark * step, f"{mark * step:+d}" if mark else "0") for mark in marks],
    )
    limit = ERROR_BYTES / MIB
    band = [(end, -limit, limit) for end in ends]
    line = [(end, 0.0) for end in ends]
    # The target is wider for what takes more than 15 GiB, which a band over contexts cannot show.
    return Chart(
        "The error against the context (CUDA not used before gptqmodel)",
        x,
        y,
        names,
        points,
        band,
        line,
        "150 MiB",
        FITTED,
        DIED,
    )
