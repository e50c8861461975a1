"""The optimizer's moments: whether gradients agree with the first, and how the second is spread."""

from __future__ import annotations

import math

from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Product, Reading, Signal
from rheostat.signals.averages import cosine, ratio

MEAN: Product = ("one", "second_moment")


@register("signal", "momentum_cosine", version=1)
def momentum_cosine(every: Count = 1) -> Signal:
    """The cosine between the gradient and the momentum that it has not entered yet.

    g·m / (‖g‖ ‖m‖), m as it is before the update: near 1 while gradients go on in one direction,
    around 0 where noise rules, below 0 where training oscillates. NaN where the rule keeps no
    momentum, and in its first update. Unit: 1.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        return cosine(
            reading.dot("gradient", "momentum"),
            reading.dot("gradient", "gradient"),
            reading.dot("momentum", "momentum"),
        )

    return Signal(
        measure,
        unit="1",
        cost="two reads of the gradients and of the momentum",
        products=(("gradient", "momentum"), ("gradient", "gradient"), ("momentum", "momentum")),
        every=every,
    )


@register("signal", "second_moment_mean", version=1)
def second_moment_mean(every: Count = 1) -> Signal:
    """The mean of the second moment, before the update.

    Σ vᵢ / n; NaN where the rule keeps none in the parameters' shape. Unit: of the gradient,
    squared.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        return ratio(reading.dot("one", "second_moment"), reading.size)

    cost = "one read of the second moment"
    return Signal(measure, unit="gradient²", cost=cost, products=(MEAN,), every=every)


@register("signal", "second_moment_spread", version=1)
def second_moment_spread(every: Count = 1) -> Signal:
    """How unequal the second moment is: its standard deviation over its mean.

    √(n Σ vᵢ² / (Σ vᵢ)² − 1): 0 where all elements step alike, at most √(n − 1). NaN where all are
    zero, or none is kept. Unit: 1.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        total = reading.dot("one", "second_moment")
        unequal = ratio(reading.size * reading.dot("second_moment", "second_moment"), total**2)
        return math.sqrt(max(unequal - 1.0, 0.0)) if math.isfinite(unequal) else math.nan

    return Signal(
        measure,
        unit="1",
        cost="two reads of the second moment",
        products=(MEAN, ("second_moment", "second_moment")),
        every=every,
    )


@register("signal", "second_moment_idle", version=1)
def second_moment_idle(every: Count = 1) -> Signal:
    """The share of the second moment's elements that are near zero: √v ≤ 1e-8.

    #{i: √vᵢ ≤ 1e-8} / n. There Adam's usual eps rules the step, not the gradient. Unit: 1.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        return ratio(reading.dot("one", "second_moment_zeros"), reading.size)

    return Signal(
        measure,
        unit="1",
        cost="two reads of the second moment, and a copy for a moment",
        products=(("one", "second_moment_zeros"),),
        every=every,
    )
