"""Statistics that one wild value cannot bend: medians of blocks, lines through them, z scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

BLOCKS = 12
"""A window is cut into so many blocks, each of which speaks by its median: a spike moves one of
them, and what neighbouring losses share stays within a block."""

_NORMAL = 1.4826
"""Median absolute deviation -> standard deviation, for a normal distribution."""
MEDIAN = 1.2533
"""Standard error of a median over that of a mean, for a normal distribution: √(π/2)."""


def spread(values: Sequence[float]) -> float:
    """A standard deviation from the median absolute deviation."""
    middle = median(values)
    return _NORMAL * median(abs(value - middle) for value in values)


def z_score(value: float, values: Sequence[float]) -> float:
    """How far a value lies above the median of others, in spreads; NaN without spread."""
    width = spread(values)
    return (value - median(values)) / width if width > 0 else math.nan


def over(difference: float, error: float) -> float:
    """difference / error; infinite, with its sign, where there is no error, and 0 / 0 is 0."""
    if error > 0:
        return difference / error
    return math.copysign(math.inf, difference) if difference else 0.0


def blocks(values: Sequence[float], count: int = BLOCKS) -> list[float]:
    """The medians of `count` blocks of equal length; what does not fill one is left out in front.

    Raises ValueError where there are fewer values than blocks.
    """
    length = len(values) // count
    start = len(values) - count * length
    return [median(values[start + i * length : start + (i + 1) * length]) for i in range(count)]


@dataclass(frozen=True)
class Level:
    """Where a window lies: the median of its blocks, and the standard error of that."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float], count: int = 8) -> Level:
        """The level of a window. Its error comes from the differences between neighbouring blocks,
        so that a trend within the window counts for little."""
        found = blocks(values, count)
        steps = [after - before for before, after in pairwise(found)]
        width = _NORMAL * median(abs(step) for step in steps) / math.sqrt(2)
        return cls(median(found), MEDIAN * width / math.sqrt(count))

    def above(self, other: Level) -> float:
        """How far it lies above another, in standard errors."""
        return over(self.value - other.value, math.hypot(self.error, other.error))


@dataclass(frozen=True)
class Line:
    """A straight line through a window by Theil and Sen: the median of the slopes between blocks.

    Attributes:
        middle: the centre of the window, counted from its first value.
        level, slope: at the middle, and from one value to the next.
        width: what the medians of blocks scatter about it.
        trend: Kendall's: pairs of blocks that rise less pairs that fall, in standard deviations of
            what that is without a trend. 12 blocks give at most ± 4.5.
        length, count: of a block, and how many there were.
    """

    middle: float
    level: float
    slope: float
    width: float
    trend: float
    length: int
    count: int

    @classmethod
    def through(cls, values: Sequence[float], count: int = BLOCKS) -> Line:
        """The line through a window of at least `count` values."""
        found = blocks(values, count)
        length = len(values) // count
        slopes = [
            (found[i] - found[j]) / ((i - j) * length) for i in range(count) for j in range(i)
        ]
        slope, centre = median(slopes), (count - 1) / 2
        order = sum((s > 0) - (s < 0) for s in slopes)
        trend = order / math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
        rests = [y - slope * length * (i - centre) for i, y in enumerate(found)]
        # Two numbers were fitted.
        width = spread(rests) * math.sqrt(count / (count - 2))
        first = len(values) - count * length
        middle = first + (count * length - 1) / 2
        return cls(middle, median(rests), slope, width, trend, length, count)

    @property
    def slope_error(self) -> float:
        """The standard error of the slope."""
        squares = self.length**2 * self.count * (self.count**2 - 1) / 12
        return self.width / math.sqrt(squares)

    def value(self, place: float) -> float:
        """Where it is at a place, counted as `middle` is."""
        return self.level + (place - self.middle) * self.slope

    def at(self, place: float) -> Level:
        """What it forecasts at a place, with the standard error of that."""
        away = place - self.middle
        error = math.hypot(MEDIAN * self.width / math.sqrt(self.count), away * self.slope_error)
        return Level(self.value(place), error)
