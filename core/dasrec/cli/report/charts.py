"""Plots as inline SVG that take their colours from the page's style, so that both themes fit.

A series is drawn in the class `s0`, `s1`, ... with a marker shape of its own: colour is never the
only difference. Every text that comes from data is escaped.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from dasrec.cli.report.document import Estimate
from dasrec.cli.report.scales import padded, tick_labels, ticks

WIDTH = 360
LETTER = 6.3
"""Width of a letter of the labels, about."""
BESIDE = 18
"""Letters of the longest label that stands beside its row; longer ones stand above."""
MOST_LETTERS = 52
LINE = 12
"""Between the series of one row."""

MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
    "M-3.6-3.6h7.2v7.2h-7.2Z",
    "M0-5L5 0L0 5L-5 0Z",
    "M0-4.8L4.8 3.6H-4.8Z",
    "M0 4.8L4.8-3.6H-4.8Z",
    "M-1.5-4.6h3v3.1h3.1v3h-3.1v3.1h-3v-3.1h-3.1v-3h3.1Z",
)


class Dot(NamedTuple):
    """A figure with its interval."""

    series: int
    """Picks colour and marker; -1 = neither stands for anything."""
    estimate: Estimate
    told: str
    """What a reader who points at it is told."""


class Line(NamedTuple):
    """A series of points, x ascending."""

    series: int
    name: str
    x: Sequence[float]
    y: Sequence[float]


class Box(NamedTuple):
    """The plotting area in pixels, and the values at its edges."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float] = (0.0, 1.0)

    def at_x(self, value: float) -> float:
        """Pixel of a value."""
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def at_y(self, value: float) -> float:
        """Pixel of a value."""
        low, high = self.y
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def marker(series: int) -> Markup:
    """The marker of a series by itself, for a legend."""
    path = MARKERS[series % len(MARKERS)]
    return Markup(
        '<svg class="key" viewBox="-6 -6 12 12" aria-hidden="true">'
        f'<path class="mark s{series}" d="{path}"/></svg>'
    )


def interval_plot(
    rows: Sequence[tuple[str, Sequence[Dot]]], name: str, *, from_zero: bool = True
) -> Markup:
    """Rows of dots with their intervals on one horizontal axis.

    Args:
        rows: (label, dots); the dots of a row lie below each other.
        name: what the plot shows, for those who do not see it.
        from_zero: begin the axis at 0; otherwise 0 is marked by a line (for differences).
    """
    dots = [dot for _, of_row in rows for dot in of_row]
    ends = [end for dot in dots for end in (dot.estimate.low, dot.estimate.high)] + [0.0]
    low, high = padded(min(ends), max(ends))
    letters = max((len(label) for label, _ in rows), default=0)
    above = 13 if letters > BESIDE else 0
    heights = [LINE * max(1, len(of_row)) + 9 + above for _, of_row in rows]
    bottom = 6.0 + sum(heights)
    left = 8 if above else letters * LETTER + 14
    box = Box(left, WIDTH - 12, 6, bottom, (0.0 if from_zero else low, high))
    parts = [_x_axis(box)]
    if not from_zero:
        parts.append(f'<path class="zero" d="M{box.at_x(0):.1f} {box.top}V{bottom}"/>')
    top = box.top
    for (label, of_row), height in zip(rows, heights, strict=True):
        middle = top + above + (height - above) / 2
        at = (2, top + 11, "start") if above else (box.left - 8, middle + 4, "end")
        parts.append(_row_label(label, *at))
        for place, dot in enumerate(of_row):
            y = middle + (place - (len(of_row) - 1) / 2) * LINE
            parts.append(_dot(box, dot, y))
        top += height
    return _svg(parts, bottom + 20, name)


def line_plot(lines: Sequence[Line], name: str, *, height: int = 190) -> Markup:
    """Lines over a common x, with a marker at the last point.

    Args:
        lines: the series; one point is drawn as its marker.
        name: what the plot shows, for those who do not see it.
        height: in pixels at full width.
    """
    xs = [x for line in lines for x in line.x]
    low, high = padded(*_ends(y for line in lines for y in line.y))
    marks = ticks(low, high)
    left = 14 + LETTER * max(map(len, tick_labels(marks)))
    span = (min(xs), max(xs)) if max(xs) > min(xs) else padded(min(xs), max(xs))
    box = Box(left, WIDTH - 12, 8, height - 22, span, (low, high))
    parts = [_x_axis(box, whole=True)]
    for value, text in zip(marks, tick_labels(marks), strict=True):
        y = box.at_y(value)
        parts.append(f'<path class="grid" d="M{box.left:.1f} {y:.1f}H{box.right}"/>')
        parts.append(
            f'<text x="{box.left - 6:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
        )
    parts += [_line(box, line) for line in lines]
    return _svg(parts, height, name)


def _line(box: Box, line: Line) -> str:
    points = [f"{box.at_x(x):.1f} {box.at_y(y):.1f}" for x, y in zip(line.x, line.y, strict=True)]
    shape = MARKERS[line.series % len(MARKERS)]
    told = escape(f"{line.name}: {line.y[-1]:.4g} at the end")
    return (
        f'<g data-series="{line.series}"><title>{told}</title>'
        f'<path class="line s{line.series}" d="M{"L".join(points)}"/>'
        f'<path class="mark s{line.series}" transform="translate({points[-1]})" d="{shape}"/></g>'
    )


def _dot(box: Box, dot: Dot, y: float) -> str:
    x, low, high = (box.at_x(value) for value in dot.estimate)
    style = f"s{dot.series}" if dot.series >= 0 else "plain"
    return (
        f'<g data-series="{dot.series}"><title>{escape(dot.told)}</title>'
        f'<path class="whisker {style}" d="M{low:.1f} {y:.1f}H{high:.1f}"/>'
        f'<path class="mark {style}" transform="translate({x:.1f} {y:.1f})" '
        f'd="{MARKERS[dot.series % len(MARKERS) if dot.series >= 0 else 0]}"/></g>'
    )


def _row_label(label: str, x: float, y: float, anchor: str) -> str:
    short = label if len(label) <= MOST_LETTERS else f"{label[: MOST_LETTERS - 1]}…"
    told = f"<title>{escape(label)}</title>" * (short != label)
    return (
        f'<text class="row" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{told}{escape(short)}</text>"
    )


def _x_axis(box: Box, *, whole: bool = False) -> str:
    """Ticks at whole numbers, or a grid of any."""
    values = ticks(*box.x, most=6, whole=whole)
    parts = [f'<path class="axis" d="M{box.left:.1f} {box.bottom}H{box.right}"/>']
    for value, text in zip(values, tick_labels(values), strict=True):
        x = box.at_x(value)
        if not whole:
            parts.append(f'<path class="grid" d="M{x:.1f} {box.top}V{box.bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{box.bottom + 15}" text-anchor="middle">{text}</text>')
    return "".join(parts)


def _ends(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)


def _svg(parts: Iterable[str], height: float, name: str) -> Markup:
    return Markup(
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(name)}">{"".join(parts)}</svg>'
    )
