"""Plots as SVG text, once for a light page and once for a dark one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 62, 200, 34, 48
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

COLOURS = {
    "light": ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#6a51a3", "#5f6b76", "#b2182b"),
    "dark": ("#56b4e9", "#ff9e4a", "#2fd0a0", "#f2a6cf", "#f0e442", "#b6a3f0", "#b0bac5", "#ff8f8f"),
}
"""Okabe and Ito's palette, which colour-blind readers can tell apart, darker or lighter where the page asks for it."""

INK = {"light": ("#1f2328", "#d1d9e0"), "dark": ("#e6edf3", "#3d444d")}
"""Text and lines, from GitHub's own two themes; the ground stays transparent."""

MARKS = ("circle", "square", "diamond", "up", "down", "plus")

Ends = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """`ticks` are (value, label); the ends are the lowest and highest value drawn."""

    title: str
    ends: Ends
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value stands between the ends: 0 to 1."""
        low, high = self.ends
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


@dataclass(frozen=True)
class Point:
    """`series` is an index into the chart's names. `hollow` are the cases that constants were fitted on. `down_to` is
    where a line from the point ends, for one that is known to lie lower."""

    x: float
    y: float
    series: int
    hollow: bool = False
    shift: float = 0.0
    down_to: float | None = None


@dataclass(frozen=True)
class Chart:
    """`band` is the target's outline, as (x, low, high) from left to right; `line` goes through its middle."""

    title: str
    x: Axis
    y: Axis
    names: Sequence[str]
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]]
    line: Sequence[tuple[float, float]]
    band_name: str
    hollow_name: str = ""
    line_name: str = ""


def draw(chart: Chart, theme: str) -> str:
    """The chart as one SVG document."""
    ink, faint = INK[theme]
    used = sorted({point.series for point in chart.points})
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12" fill="{ink}">',
        f"<title>{escape(chart.title)}</title>",
        f'<text x="{LEFT}" y="18" font-size="14" font-weight="600">{escape(chart.title)}</text>',
        *_grid(chart, ink, faint),
        '<clipPath id="plot">' + _box() + "</clipPath>",
        '<g clip-path="url(#plot)">',
        f'<path d="{_outline(chart)}" fill="{COLOURS[theme][0]}" fill-opacity="0.16"/>',
        f'<path d="M{" L".join(_at(chart, x, y) for x, y in chart.line)}" stroke="{ink}" stroke-opacity="0.55"/>',
        "</g>",
    ]
    for point in chart.points:
        x = LEFT + chart.x.share(point.x) * PLOT_WIDTH + point.shift
        y = TOP + (1 - chart.y.share(point.y)) * PLOT_HEIGHT
        if point.down_to is not None:
            colour = COLOURS[theme][point.series % len(COLOURS[theme])]
            end = TOP + (1 - chart.y.share(point.down_to)) * PLOT_HEIGHT
            parts.append(f'<path d="M{x:.1f} {y:.1f} V{end:.1f}" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(_mark(point.series, x, y, COLOURS[theme], point.hollow))
    return "\n".join([*parts, *_legend(chart, used, theme), "</svg>"]) + "\n"


def _box() -> str:
    return f'<rect x="{LEFT}" y="{TOP}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}"/>'


def _at(chart: Chart, x: float, y: float) -> str:
    return f"{LEFT + chart.x.share(x) * PLOT_WIDTH:.1f} {TOP + (1 - chart.y.share(y)) * PLOT_HEIGHT:.1f}"


def _outline(chart: Chart) -> str:
    lower = [_at(chart, x, low) for x, low, _ in chart.band]
    upper = [_at(chart, x, high) for x, _, high in reversed(chart.band)]
    return f"M{' L'.join([*lower, *upper])}Z"


def _grid(chart: Chart, ink: str, faint: str) -> list[str]:
    """Lines and labels of both axes; a label that would touch the one before is left out."""
    parts = []
    last = -math.inf
    for value, label in chart.x.ticks:
        x = LEFT + chart.x.share(value) * PLOT_WIDTH
        parts.append(f'<path d="M{x:.1f} {TOP} v{PLOT_HEIGHT}" stroke="{faint}"/>')
        if x - last > 30:
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{escape(label)}</text>')
            last = x
    last = math.inf
    for value, label in chart.y.ticks:
        y = TOP + (1 - chart.y.share(value)) * PLOT_HEIGHT
        parts.append(f'<path d="M{LEFT} {y:.1f} h{PLOT_WIDTH}" stroke="{faint}"/>')
        if last - y > 14:
            parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
            last = y
    middle = TOP + PLOT_HEIGHT / 2
    parts.append(_box().replace("/>", f' fill="none" stroke="{ink}" stroke-opacity="0.5"/>'))
    parts.append(f'<text x="{LEFT + PLOT_WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">{chart.x.title}</text>')
    turned = f'transform="rotate(-90 14 {middle})" text-anchor="middle"'
    parts.append(f'<text x="14" y="{middle}" {turned}>{chart.y.title}</text>')
    return parts


def _mark(series: int, x: float, y: float, colours: Sequence[str], hollow: bool) -> str:
    """A series is told by its form as well as by its colour."""
    colour = colours[series % len(colours)]
    look = f'fill="{"none" if hollow else colour}" fill-opacity="0.85" stroke="{colour}" stroke-width="1.5"'
    kind, size = MARKS[series % len(MARKS)], 4.2
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {look}/>'
    forms = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        "up": ((0, -1.3), (1.2, 1), (-1.2, 1)),
        "down": ((0, 1.3), (1.2, -1), (-1.2, -1)),
        "plus": (
            *((-0.5, -1.5), (0.5, -1.5), (0.5, -0.5), (1.5, -0.5), (1.5, 0.5), (0.5, 0.5)),
            *((0.5, 1.5), (-0.5, 1.5), (-0.5, 0.5), (-1.5, 0.5), (-1.5, -0.5), (-0.5, -0.5)),
        ),
    }
    corners = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in forms[kind])
    return f'<polygon points="{corners}" {look}/>'


def _legend(chart: Chart, used: Sequence[int], theme: str) -> list[str]:
    x, y = WIDTH - RIGHT + 18, TOP + 10
    parts = []
    for series in used:
        parts.append(_mark(series, x, y, COLOURS[theme], False))
        parts.append(f'<text x="{x + 13}" y="{y + 4}">{escape(chart.names[series])}</text>')
        y += 20
    if chart.hollow_name and any(point.hollow for point in chart.points):
        parts.append(f'<circle cx="{x}" cy="{y}" r="4.2" fill="none" stroke="{INK[theme][0]}" stroke-width="1.5"/>')
        parts.append(f'<text x="{x + 13}" y="{y + 4}">{escape(chart.hollow_name)}</text>')
        y += 20
    if chart.line_name and any(point.down_to is not None for point in chart.points):
        parts.append(f'<path d="M{x} {y - 7} V{y + 7}" stroke="{INK[theme][0]}" stroke-width="2.5"/>')
        parts.append(f'<text x="{x + 13}" y="{y + 4}">{escape(chart.line_name)}</text>')
        y += 20
    parts.append(
        f'<rect x="{x - 6}" y="{y - 5}" width="12" height="10" fill="{COLOURS[theme][0]}" fill-opacity="0.3"/>'
    )
    parts.append(f'<text x="{x + 13}" y="{y + 4}">{escape(chart.band_name)}</text>')
    return parts
