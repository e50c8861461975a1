"""What a schedule will do, before anything runs: milestones, warnings, a line, a drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rheostat.core.sketch import Line, line_chart

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
"""Restarts that are listed; of more, the first few and the last."""


class Milestone(NamedTuple):
    """A step worth knowing of, what happens there, and the value, as it is shown."""

    step: float
    what: str
    value: str


@dataclass(frozen=True)
class Preview:
    """A scheduled hyperparameter over a run of `steps`; `Schedule.preview` makes one.

    Print it, or draw it with `svg()`; a notebook shows both. `beside` are the values of another
    plan, drawn with it.
    """

    title: str
    unit: str
    steps: int
    values: Values
    horizon: int | None = None
    restarts: tuple[float, ...] = ()
    beside: Values | None = None
    usual: tuple[float, float] | None = None

    @cached_property
    def grid(self) -> Array:
        """The steps that are looked at, ascending: all whole ones, where they are not too many."""
        fine = self.unit in ("epochs", "fraction") or self.steps > FINEST
        grid = np.linspace(0, self.steps, (FINEST if fine else self.steps) + 1)
        if not fine:
            return grid
        sides = np.array(self.restarts, dtype=np.float64)
        before = sides - 1 if self.unit == "updates" else np.nextafter(sides, 0)
        whole = grid if self.unit in ("epochs", "fraction") else np.rint(grid)
        return np.unique(np.concatenate([whole, before, sides]))

    @cached_property
    def milestones(self) -> tuple[Milestone, ...]:
        """Start, end of the warm-up, peak, restarts, the last value reached, and end."""
        found: dict[float, list[str]] = {}
        for step, what in self._events():
            found.setdefault(step, []).append(what)
        steps = np.array(sorted(found), dtype=np.float64)
        return tuple(
            Milestone(float(step), ", ".join(found[float(step)]), self._shown(float(step), value))
            for step, value in zip(steps, self.values(steps), strict=True)
        )

    def _events(self) -> Iterator[tuple[float, str]]:
        curve = self.values(self.grid)
        steps = self.grid
        yield 0.0, "start"
        slopes = np.sign(np.diff(curve))
        if slopes.size and slopes[0] > 0 and (slopes <= 0).any():
            yield float(steps[int(np.argmax(slopes <= 0))]), "warm-up ends"
        if curve.max() > curve.min():
            yield float(steps[int(curve.argmax())]), "peak"
        listed = self.restarts
        for i, step in enumerate(listed):
            if len(listed) <= SHOWN or i < SHOWN - 1 or i == len(listed) - 1:
                skipped = len(listed) > SHOWN and i == len(listed) - 1
                yield step, f"restart {i + 1}" + (f" of {len(listed)}" if skipped else "")
        moving = np.flatnonzero(slopes)
        if moving.size and int(moving[-1]) + 1 < len(curve) - 1:
            yield float(steps[int(moving[-1]) + 1]), "keeps this value from here"
        yield float(self.steps), "end"

    def _shown(self, step: float, value: float) -> str:
        if step not in self.restarts:
            return f"{value:.4g}"
        side = step - 1 if self.unit == "updates" else float(np.nextafter(step, 0))
        return f"{self._at(side):.4g} → {value:.4g}"

    def _at(self, step: float) -> float:
        return float(self.values(np.array([step], dtype=np.float64))[0])

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a reader would want to know, a sentence each; empty where nothing is odd."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        curve = self.values(self.grid)
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
        """The curve in one line of bars, scaled to its highest value."""
        return self._line(self.values)

    def _line(self, values: Values) -> str:
        curve = values(self.grid)
        parts = np.array_split(curve, min(WIDTH, len(curve)))
        tops = np.array([part.max() for part in parts])
        highest = tops.max()
        levels = np.ceil(tops / highest * len(BARS)) - 1 if highest > 0 else np.zeros_like(tops)
        return "".join(BARS[int(level)] for level in np.maximum(levels, 0))

    def __str__(self) -> str:
        text = [f"{self.title} over {self.steps:,} {self.unit}", self.line]
        if self.beside is not None:
            text += [f"{self._line(self.beside)}  before the change"]
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
        lines = [Line(self.title, self.grid, self.values(self.grid))]
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
