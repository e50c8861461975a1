"""A line chart as SVG, small enough to need no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 40, 50
"""Margins: the title above, the labels of the axes below and to the left."""
COLUMNS = WIDTH - LEFT - RIGHT


@dataclass(frozen=True)
class Line:
    """One curve: x ascending, y ≥ 0."""

    name: str
    x: Array
    y: Array
    dashed: bool = False


def line_chart(
    title: str,
    x_label: str,
    description: str,
    lines: Sequence[Line],
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """The chart, its x axis from 0, its y axis from what `drawn_from` says. `marks` are upright
    lines at an x, each with what it says.

    Everything is drawn in `currentColor`, so that a page's own light or dark text colour holds; a
    file opened by itself follows the reader's preference.
    """
    right = max(float(line.x[-1]) for line in lines)
    top = max(float(line.y.max()) for line in lines) or 1.0
    x_ticks, y_ticks = _ticks(0, right, 6), _ticks(drawn_from([line.y for line in lines]), top, 5)
    bottom, top = y_ticks[0], max(top, y_ticks[-1])

    def across(x: float) -> float:
        return LEFT + COLUMNS * x / right

    def down(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - bottom) / (top - bottom))

    floor = HEIGHT - BOTTOM
    name = sha256(f"{title}{description}".encode()).hexdigest()[:8]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="t{name} d{name}" font-family="system-ui, sans-serif" font-size="12" '
        'fill="currentColor" style="color-scheme: light dark; max-width: 100%">'
    )
    drawn = [
        head,
        f'<title id="t{name}">{escape(title)}</title>',
        f'<desc id="d{name}">{escape(description)}</desc>',
        f'<text x="{LEFT}" y="20" font-size="14" font-weight="600">{escape(title)}</text>',
    ]
    for y in y_ticks:
        rule = f'stroke="currentColor" stroke-opacity="{0.6 if y == bottom else 0.15}"'
        drawn += [
            f'<path d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}" {rule}/>',
            f'<text x="{LEFT - 8}" y="{down(y) + 4:.1f}" text-anchor="end">{y:.6g}</text>',
        ]
    for x in x_ticks:
        anchor = "middle" if across(x) < WIDTH - 2 * RIGHT else "end"
        drawn += [
            f'<path d="M{across(x):.1f} {floor}v5" stroke="currentColor" stroke-opacity="0.6"/>',
            f'<text x="{across(x):.1f}" y="{floor + 19}" text-anchor="{anchor}">{x:,.10g}</text>',
        ]
    middle = LEFT + COLUMNS / 2
    drawn.append(
        f'<text x="{middle:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    drawn += [
        f'<path d="M{across(x):.1f} {TOP}V{floor}" stroke="currentColor" stroke-opacity="0.45" '
        f'stroke-dasharray="2 4"><title>{escape(what)} at {x:,.10g}</title></path>'
        for x, what in marks
    ]
    for line in lines:
        points = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in _outline(line, right))
        drawn.append(
            f'<polyline points="{points}" fill="none" stroke-linejoin="round" {_stroke(line)}>'
            f"<title>{escape(line.name)}</title></polyline>"
        )
    if len(lines) > 1:
        drawn += _legend(lines)
    return "\n".join([*drawn, "</svg>"])


def _stroke(line: Line) -> str:
    dashes = ' stroke-dasharray="7 5" stroke-opacity="0.7"' if line.dashed else ""
    return f'stroke="currentColor" stroke-width="2"{dashes}'


def _legend(lines: Sequence[Line]) -> list[str]:
    drawn: list[str] = []
    at = WIDTH - RIGHT
    for line in reversed(lines):
        drawn += [
            f'<text x="{at}" y="20" text-anchor="end">{escape(line.name)}</text>',
            f'<path d="M{at - 7 * len(line.name) - 30} 16h24" {_stroke(line)}/>',
        ]
        at -= 7 * len(line.name) + 46
    return drawn


def drawn_from(curves: Sequence[Array]) -> float:
    """What a scale of these values begins with: 0, or the lowest of values that are all in the
    upper half, which would look level from 0."""
    low, high = min(float(y.min()) for y in curves), max(float(y.max()) for y in curves)
    return low if high / 2 < low < high else 0.0


def _ticks(low: float, top: float, about: int) -> list[float]:
    """Round numbers from `low` or just below it to `top` or just short of it, some `about`."""
    span = top - low
    size = 10 ** math.floor(math.log10(span / about))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m * about >= span * (1 - 1e-9))
    first, last = math.floor(low / step * (1 + 1e-9)), math.floor(top / step * (1 + 1e-9))
    return [i * step for i in range(first, last + 1)]


def _outline(line: Line, right: float) -> list[tuple[float, float]]:
    """The points that can be seen: of all that share a column, the first, lowest, highest, last."""
    columns = np.floor(line.x / right * COLUMNS)
    edges = np.flatnonzero(np.diff(columns)) + 1
    kept: set[int] = set()
    for part in np.split(np.arange(len(line.x)), edges):
        y = line.y[part]
        kept |= {int(part[0]), int(part[int(y.argmin())]), int(part[int(y.argmax())])}
        kept.add(int(part[-1]))
    chosen = sorted(kept)
    return list(zip(line.x[chosen].tolist(), line.y[chosen].tolist(), strict=True))
