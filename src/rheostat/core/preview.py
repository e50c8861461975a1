"""What a schedule will do, before anything runs: milestones, warnings, a line, a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rheostat.core.sketch import Line, drawn_from, line_chart

Array: TypeAlias = NDArray[np.float64]
Values = Callable[[Array], Array]

FINEST = 100_000
"""At how many steps a curve is looked at, at most, besides its restarts."""
WIDTH = 64
"""Characters of the line."""
BARS = "▁▂▃▄▅▆▇█"
LAST = 0.05
"""The last part of a run, in which a restart costs more than it can bring."""
SHOWN = 6
"""Restarts, or drops, that are listed; of more, the first few and the last."""
JUMP = 0.05
"""A step that the schedule names is shown with both its sides where they differ by more."""
FINER = 1001
"""Points between two of the grid, where steps are no whole numbers."""
BARELY = 0.1
"""A decay without an end that takes no more than this of the peak has hardly begun."""
WHOLE = ("updates", "samples", "tokens")
"""Units whose steps are whole numbers."""


class Milestone(NamedTuple):
    """A step worth knowing of, what happens there, and the value, as it is shown."""

    step: float
    what: str
    value: str


@dataclass(frozen=True)
class Preview:
    """A scheduled hyperparameter over a run of `steps`; `Schedule.preview` makes one.

    Print it, or draw it with `svg()`; a notebook shows both. `beside` are the values of another
    plan, drawn with it; `marks` steps that the schedule names, within the run or beyond it;
    `constant` says that it was made to stay as it is.
    """

    title: str
    unit: str
    steps: int
    values: Values
    horizon: int | None = None
    restarts: tuple[float, ...] = ()
    marks: tuple[tuple[float, str], ...] = ()
    constant: bool = True
    beside: Values | None = None
    usual: tuple[float, float] | None = None

    @cached_property
    def grid(self) -> Array:
        """The steps that are looked at, ascending: all whole ones, where they are not too many."""
        fine = self.unit not in WHOLE or self.steps > FINEST
        grid = np.linspace(0, self.steps, (FINEST if fine else self.steps) + 1)
        if not fine:
            return grid
        named = [*self.restarts, *self._marked, min(self.horizon or self.steps, self.steps)]
        sides = np.array(named, dtype=np.float64)
        before = sides - 1 if self.unit == "updates" else np.nextafter(sides, 0)
        whole = np.rint(grid) if self.unit in WHOLE else grid
        return np.unique(np.concatenate([whole, np.maximum(before, 0), sides]))

    @cached_property
    def curve(self) -> Array:
        """The values on the grid."""
        return self.values(self.grid)

    @property
    def _marked(self) -> list[float]:
        """The steps of the marks that the run reaches."""
        return [step for step, _ in self.marks if step < self.steps]

    @cached_property
    def milestones(self) -> tuple[Milestone, ...]:
        """Start, end of the warm-up, peak, lowest value, restarts, what the schedule names (a
        cool-down, a drop), the last value reached, and end."""
        found: dict[float, list[str]] = {}
        for step, what in self._events():
            found.setdefault(step, []).append(what)
        steps = np.array(sorted(found), dtype=np.float64)
        return tuple(
            Milestone(float(step), ", ".join(found[float(step)]), self._shown(float(step), value))
            for step, value in zip(steps, self.values(steps), strict=True)
        )

    def _events(self) -> Iterator[tuple[float, str]]:
        curve, steps = self.curve, self.grid
        yield 0.0, "start"
        slopes = np.sign(np.diff(curve))
        if slopes.size and slopes[0] > 0 and (slopes <= 0).any():
            yield self._extreme(int(np.argmax(slopes <= 0))), "warm-up ends"
        if curve.max() > curve.min():
            yield self._extreme(int(curve.argmax())), "peak"
        if curve.min() < min(curve[0], curve[-1]) and not self.restarts:
            yield self._extreme(int(curve.argmin()), lowest=True), "lowest"
        yield from _numbered([(step, "restart") for step in self.restarts])
        for name in dict.fromkeys(what for _, what in self.marks):
            alike = [(step, what) for step, what in self.marks if what == name]
            within = [mark for mark in alike if mark[0] < self.steps]
            yield from _numbered(within) if len(alike) > 1 else within
        moving = np.flatnonzero(slopes)
        if moving.size and int(moving[-1]) + 1 < len(curve) - 1:
            yield float(steps[int(moving[-1]) + 1]), "keeps this value from here"
        yield float(self.steps), "end"

    def _extreme(self, i: int, *, lowest: bool = False) -> float:
        """The step between the neighbours of the i-th, where the grid is coarse, that is highest
        or lowest."""
        low, high = self.grid[max(i - 1, 0)], self.grid[min(i + 1, len(self.grid) - 1)]
        whole = self.unit in WHOLE
        count = int(min(high - low, FINEST)) + 1 if whole else FINER
        fine: Array = np.linspace(float(low), float(high), count)
        near = np.unique(np.append(np.rint(fine) if whole else fine, self.grid[i]))
        curve = self.values(near)
        return float(near[int(curve.argmin() if lowest else curve.argmax())])

    def _shown(self, step: float, value: float) -> str:
        if step not in self.restarts and step not in self._marked:
            return f"{value:.4g}"
        before = self._at(max(step - 1, 0) if self.unit == "updates" else np.nextafter(step, 0))
        jumps = abs(value - before) > JUMP * max(value, before)
        return f"{before:.4g} → {value:.4g}" if jumps or step in self.restarts else f"{value:.4g}"

    def _at(self, step: float) -> float:
        return float(self.values(np.array([step], dtype=np.float64))[0])

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a reader would want to know, a sentence each; empty where nothing is odd."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        curve = self.curve
        planned, run = self.horizon, self.steps
        unfinished = planned is None or planned > run
        if unfinished and curve[-1] > curve[-2] and (np.diff(curve) >= 0).all():
            yield f"it only rises: the warm-up is longer than the run of {run:,} {self.unit}"
        if planned is not None and planned > run and self._at(planned) != curve[-1]:
            yield (
                f"it was planned for {planned:,} {self.unit}: the run ends at {curve[-1]:.4g}, and "
                f"{self._at(planned):.4g} is never reached"
            )
        if planned is not None and run - planned > LAST * run:
            yield (
                f"it ends at {planned:,} {self.unit} and keeps {self._at(planned):.4g} for the "
                f"other {run - planned:,}"
            )
        missed = [(step, what) for step, what in self.marks if step >= run]
        if missed and planned is None:
            step, what = missed[0]
            yield f"the {what} at {step:,.10g} is never reached: the run ends at {run:,}"
        if not self.constant and curve.max() == curve.min():
            yield f"it keeps {curve[0]:.4g} throughout: nothing rises or falls in this run"
        top = int(curve.argmax())
        fall = np.diff(curve[top:])
        if planned is None and fall.size and (fall <= 0).all() and fall[-1] < 0:
            share = 1 - curve[-1] / curve[top]
            if share < BARELY:
                yield f"the decay hardly begins: in this run it falls by {share:.2g} of its peak"
        late = [step for step in self.restarts if step >= (1 - LAST) * run]
        if late:
            yield (
                f"a restart at {late[0]:,.10g} leaves {run - late[0]:,.10g} {self.unit}, less than "
                f"{LAST:.0%} of the run, to recover in"
            )
        if self.usual is not None:
            low, high = self.usual
            if curve.max() > high:
                yield f"the peak, {curve.max():.4g}, is above what is usual, [{low:g}, {high:g}]"
            elif curve.max() < low:
                yield f"the peak, {curve.max():.4g}, is below what is usual, [{low:g}, {high:g}]"

    @property
    def line(self) -> str:
        """The curve in one line of bars, from `scale[0]` to `scale[1]`."""
        return self._line(self.curve)

    @cached_property
    def scale(self) -> tuple[float, float]:
        """What the bars go from and to: the highest value, of `beside` too, and 0; or the lowest
        value, where all of it is in the upper half."""
        curves = [self.curve] if self.beside is None else [self.curve, self.beside(self.grid)]
        return drawn_from(curves), max(float(curve.max()) for curve in curves)

    def _line(self, curve: Array) -> str:
        low, high = self.scale
        parts = np.array_split(curve, min(WIDTH, len(curve)))
        tops = np.array([part.max() for part in parts])
        levels = np.ceil((tops - low) / ((high - low) or 1.0) * len(BARS)) - 1
        return "".join(BARS[int(level)] for level in np.maximum(levels, 0))

    def __str__(self) -> str:
        low, high = self.scale
        said = f"  from {low:.4g} to {high:.4g}" if low else ""
        text = [f"{self.title} over {self.steps:,} {self.unit}", self.line + said]
        if self.beside is not None:
            text += [f"{self._line(self.beside(self.grid))}  before the change"]
        return "\n".join([*text, *self._listed()])

    def _listed(self) -> Iterator[str]:
        steps = [f"{m.step:,.10g}" for m in self.milestones]
        wide = max(map(len, steps))
        high = max(len(m.value) for m in self.milestones)
        for step, m in zip(steps, self.milestones, strict=True):
            yield f"  {step:>{wide}}  {m.value:<{high}}  {m.what}"
        for warning in self.warnings:
            yield f"  warning: {warning}"

    def svg(self) -> str:
        """A drawing that stands by itself: it follows the colour of the text around it, light or
        dark, and is read out by its title and description."""
        lines = [Line(self.title, self.grid, self.curve)]
        if self.beside is not None:
            before = Line("before the change", self.grid, self.beside(self.grid), dashed=True)
            lines.append(before)
        told = "; ".join(f"{m.step:,.10g}: {m.value}, {m.what}" for m in self.milestones)
        marks = [(m.step, m.what) for m in self.milestones if m.step in self.restarts]
        return line_chart(self.title, f"progress [{self.unit}]", told, lines, marks)

    def html(self) -> str:
        """The drawing and the milestones below it, for a page."""
        listed = escape("\n".join(self._listed()))
        return f"<figure>{self.svg()}<figcaption><pre>{listed}</pre></figcaption></figure>"

    def _repr_html_(self) -> str:
        return self.html()


def _numbered(events: list[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    """Events of one name with their numbers; of many the first few and the last."""
    count = len(events)
    for i, (step, what) in enumerate(events, 1):
        if i < SHOWN or i == count:
            yield step, f"{what} {i}" + (f" of {count}" if i == count > SHOWN else "")
