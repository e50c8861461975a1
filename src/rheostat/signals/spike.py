"""Spikes of the gradient: how far its norm lies from that of the last updates."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence

from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal
from rheostat.signals.gradients import ONE_READ, SQUARE, norm

NORMAL = 1.4826
"""Median absolute deviation -> standard deviation, for a normal distribution: 1 / Φ⁻¹(3/4)."""


def median(values: Sequence[float]) -> float:
    """The median of values in rising order."""
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def deviation(values: Sequence[float]) -> float:
    """The median absolute deviation from the median, of values in rising order.

    The distances of the lower half and of the upper half are two rising sequences; where the
    middle of both together lies is found by halving, in O(log n).
    """
    middle, n = median(values), len(values)
    half = n // 2  # the lower half is values[half - 1], values[half - 2] …
    count = (n + 1) // 2
    low, high = max(0, count - (n - half)), min(half, count)
    while low < high:  # how many of the `count` nearest lie in the lower half
        below = (low + high) // 2
        if middle - values[half - 1 - below] < values[half + count - below - 1] - middle:
            low = below + 1
        else:
            high = below
    above = count - low
    inner = max(
        middle - values[half - low] if low else 0.0,
        values[half + above - 1] - middle if above else 0.0,
    )
    if n % 2:
        return inner
    outer = min(
        middle - values[half - 1 - low] if low < half else math.inf,
        values[half + above] - middle if half + above < n else math.inf,
    )
    return (inner + outer) / 2


@register("signal", "gradient_spike", version=1)
def gradient_spike(
    window: Count = 100, least: Count = 20, floor: Positive = 0.01, every: Count = 1
) -> Signal:
    """How far the gradient's norm lies above those of the last updates: a robust z score.

    (log‖g‖ − median) / (1.4826 · MAD), over the norms of the last `window` measurements, this one
    not among them; MAD is the median absolute deviation. Half of the window may be spikes without
    moving it far. NaN until it has seen `least` norms; infinite for an infinite gradient, which is
    not taken in, as a NaN or zero one is not. Unit: standard deviations.
    window: measurements that it looks back over.
    least: of them, before it says anything.
    floor: of the deviation: what never varied by more than 1 % says nothing of smaller steps.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        found = norm(reading)
        if not 0.0 < found < math.inf:
            return found if found == math.inf else math.nan
        value = math.log(found)
        ranked: list[float] = memory["ranked"]
        score = math.nan
        if len(ranked) >= least:
            score = (value - median(ranked)) / (NORMAL * max(deviation(ranked), floor))
        turn, at = memory["turn"], memory["at"]
        if len(turn) < window:
            turn.append(value)
        else:
            del ranked[bisect_left(ranked, turn[at])]
            turn[at] = value
        memory["at"] = (at + 1) % window
        insort(ranked, value)
        return score

    return Signal(
        measure,
        unit="standard deviations",
        cost=ONE_READ,
        products=(SQUARE,),
        every=every,
        memory={"turn": [], "ranked": [], "at": 0},
    )
