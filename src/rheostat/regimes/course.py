"""The course of the loss: the last finite losses, what line they follow, and what came after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from rheostat.regimes.robust import BLOCKS, Line, spread

_LEVEL = 8
"""Losses whose median is a level."""
_CLEAR = 4.0
"""Spreads of the losses that progress is at least: less is their noise."""
_SOON = 30
"""Losses after a roll back that are compared with the first of them: later the data may have moved
on."""
_PUT_BACK = 0
"""When a trend was found that is none but that first loss."""
_MUCH = 0.5
"""Of the progress of a run: what has to be there for some of it to be lost."""


class Course:
    """The losses of the last `length` updates that were applied and had a finite one."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._losses: list[float] = []
        self.seen = 0
        """How many there were since the run began, or since it was rolled back."""
        self._trend: list[float] | None = None
        """Value, slope and scatter of the trend, and when it was found. Soon after a roll back it
        is flat, at the first loss of the state that was put back."""
        self._first = math.nan
        self._best = self._best_ever = math.inf
        """Levels: the first, the lowest since the run began or was rolled back, and the lowest."""

    def add(self, applied: bool, loss: float) -> None:
        """Take a step's loss in."""
        if not applied or not math.isfinite(loss):
            return
        self._losses = [*self._losses[-(self.length - 1) :], loss]
        self.seen += 1
        if self._trend is not None and self.fresh:
            if self.seen == 1:
                self._trend[0] = loss
            elif self.seen > _SOON:
                self._trend = None
        if self.seen >= _LEVEL:
            level = self.median(_LEVEL)
            self._first = level if math.isnan(self._first) else self._first
            self._best = min(self._best, level)
            self._best_ever = min(self._best_ever, level)
        # A line is dear, and does not change with every loss.
        if self.seen % (self.length // BLOCKS) == 0 and (line := self.line()) is not None:
            rests = [y - line.value(i) for i, y in enumerate(self._losses)]
            # The line as it is counted from now on: place 0 is the loss just taken in.
            start = len(rests) - 1
            self._trend = [line.value(start), line.slope, spread(rests), self.seen]

    def forget(self) -> None:
        """Start anew: what comes now follows another line."""
        self._losses, self.seen, self._trend = [], 0, None
        self._best = math.inf

    def put_back(self) -> None:
        """Start anew: what was seen belongs to an undone stretch. How single losses scatter does
        not: it tells whether the good state comes to harm at once, too."""
        scatter = self.scatter
        self.forget()
        if not math.isnan(scatter):
            self._trend = [math.nan, 0.0, scatter, _PUT_BACK]

    @property
    def scatter(self) -> float:
        """How far single losses lie from their trend; NaN where none was found."""
        return math.nan if self._trend is None else self._trend[2]

    @property
    def fresh(self) -> bool:
        """Whether losses are compared with the first one after a roll back."""
        return self._trend is not None and self._trend[3] == _PUT_BACK

    @property
    def lost(self) -> float:
        """What part of the progress that the run has made the loss has lost again: 0 at its lowest
        level, 1 where it began. However slowly it went there, which no trend tells.

        After a roll back, 0 until half of the progress is there again: what comes then is new.
        """
        progress = self._first - self._best_ever
        if not self._first - self._best > _MUCH * progress:
            return 0.0
        if not progress > _CLEAR * spread(self._losses):
            return 0.0
        return (self.median(_LEVEL) - self._best) / progress

    def last(self, count: int) -> list[float]:
        """The newest losses, at most so many."""
        return self._losses[-count:]

    def median(self, count: int) -> float:
        """The median of the newest losses; NaN where there is none."""
        losses = self.last(count)
        return median(losses) if losses else math.nan

    def line(self, *, logarithmic: bool = False) -> Line | None:
        """The line through the losses, or through their logarithms; None before there are four for
        each block, or where one has no logarithm. Places on it count from the oldest loss that is
        kept."""
        if len(self._losses) < 4 * BLOCKS or (logarithmic and min(self._losses) <= 0):
            return None
        return Line.through([math.log(x) for x in self._losses] if logarithmic else self._losses)

    def above(self, count: int) -> float:
        """How far the median of the newest losses lies above their trend, and above the lowest
        level, which a trend that fell leads below; in what single losses scatter, NaN where that
        cannot be said."""
        if self._trend is None:
            return math.nan
        value, slope, scatter, found = self._trend
        expected = value + slope * (self.seen - found - (count - 1) / 2)
        if not self.fresh and math.isfinite(self._best):
            expected = max(expected, self._best)
        return (self.median(count) - expected) / scatter if scatter > 0 else math.nan

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        levels = [self._first, self._best, self._best_ever]
        return {"losses": self._losses, "seen": self.seen, "trend": self._trend, "levels": levels}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was."""
        self._losses, self.seen = list(state["losses"]), state["seen"]
        self._trend = state["trend"]
        self._first, self._best, self._best_ever = state["levels"]
