"""Line searches: how far to go along a direction, from losses and slopes at a few points of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

_DECREASE = 1e-4
_CURVATURE = 0.9


class Point(NamedTuple):
    """A point of the line: how far along it, the loss, its slope along it, and the gradients."""

    t: float
    loss: float
    slope: float
    gradients: Sequence[Tensor]


def strong_wolfe(
    at: Callable[[float], Point],
    start: Point,
    t: float,
    *,
    reach: float,
    tolerance_change: float,
    limit: int,
) -> tuple[Point, int]:
    """A point where the loss is low enough and the slope flat enough, and how many were looked at.

    That is: loss ≤ start.loss + 1e-4 t start.slope and |slope| ≤ 0.9 |start.slope|, the strong
    Wolfe conditions; where none is found, the lowest of those seen last. An interval that holds
    one is bracketed, then narrowed by cubic interpolation, as in Nocedal & Wright 2006,
    Algorithms 3.5 and 3.6; the details are those of torch.optim.LBFGS.

    Args:
        at: looks at a point. A loss that is not a number must come as infinite.
        start: the point t = 0; its slope is negative.
        t: the first guess.
        reach: the greatest change of one weight per unit of t.
        tolerance_change: an interval in which weights change by less is not narrowed further.
        limit: most points to look at after the first.
    """

    def too_high(point: Point) -> bool:
        return point.loss > start.loss + _DECREASE * point.t * start.slope

    def flat(point: Point) -> bool:
        return abs(point.slope) <= -_CURVATURE * start.slope

    previous, point = start, at(t)
    for steps in range(limit):
        if too_high(point) or (steps > 1 and point.loss >= previous.loss):
            break
        if flat(point):
            return point, steps + 1
        if point.slope >= 0:
            break
        nearest = point.t + 0.01 * (point.t - previous.t)
        previous, point = point, at(_cubic(previous, point, nearest, 10 * point.t))
    else:
        return (start if start.loss <= point.loss else point), limit + 1
    bracket = [previous, point]
    lower = _lower(bracket)
    stalled = False
    while steps < limit and abs(bracket[1].t - bracket[0].t) * reach >= tolerance_change:
        t, stalled = _inside(bracket, stalled)
        point, steps = at(t), steps + 1
        if too_high(point) or point.loss >= bracket[lower].loss:
            bracket[1 - lower] = point
            lower = _lower(bracket)
            continue
        if flat(point):
            return point, steps + 1
        if point.slope * (bracket[1 - lower].t - bracket[lower].t) >= 0:
            bracket[1 - lower] = bracket[lower]
        bracket[lower] = point
    return bracket[lower], steps + 1


def _lower(bracket: Sequence[Point]) -> int:
    return 0 if bracket[0].loss <= bracket[1].loss else 1


def _inside(bracket: Sequence[Point], stalled: bool) -> tuple[float, bool]:
    """The next t within the bracket, and whether it is so near an end that the next must not be."""
    low, high = sorted(point.t for point in bracket)
    t = _cubic(bracket[0], bracket[1], low, high)
    margin = 0.1 * (high - low)
    if min(high - t, t - low) >= margin:
        return t, False
    if stalled or t >= high or t <= low:
        return (high - margin if high - t < t - low else low + margin), False
    return t, True


def _cubic(a: Point, b: Point, low: float, high: float) -> float:
    """The minimum of the cubic with the losses and slopes of two points, kept within [low, high];
    the middle where it has none, or a loss is infinite."""
    if a.t > b.t:
        a, b = b, a
    middle = (low + high) / 2
    if a.t == b.t:
        return middle
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:  # nor is NaN
        return middle
    d2 = math.sqrt(square)
    top, bottom = b.slope + d2 - d1, b.slope - a.slope + 2 * d2
    # A straight line falls for ever, on one side or the other.
    share = top / bottom if bottom else math.copysign(math.inf, top) if top else math.nan
    t = b.t - (b.t - a.t) * share
    return middle if math.isnan(t) else min(max(t, low), high)
