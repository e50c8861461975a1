"""Weights and updates: their norms, and the ratio of the two."""

from __future__ import annotations

import math

from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Product, Reading, Signal
from rheostat.signals.averages import ratio

WEIGHTS: Product = ("weights", "weights")
UPDATE: Product = ("update", "update")


@register("signal", "weight_norm", version=1)
def weight_norm(every: Count = 1) -> Signal:
    """The Euclidean norm of the weights, before the update.

    ‖w‖ = √(w·w). Unit: of the weights.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        return math.sqrt(reading.dot("weights", "weights"))

    return Signal(
        measure, unit="weight", cost="one read of the weights", products=(WEIGHTS,), every=every
    )


@register("signal", "update_norm", version=1)
def update_norm(every: Count = 1) -> Signal:
    """The Euclidean norm of the update, weight decay included.

    ‖u‖ = √(u·u), u the weights before less the weights after; 0 where a step was skipped. Unit: of
    the weights.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        return math.sqrt(reading.dot("update", "update"))

    cost = "a copy of the weights, and two reads of it"
    return Signal(measure, unit="weight", cost=cost, products=(UPDATE,), every=every)


@register("signal", "update_ratio", version=1)
def update_ratio(every: Count = 1) -> Signal:
    """The norm of the update over that of the weights: by what part they move in a step.

    ‖u‖ / ‖w‖, u the weights before less the weights after. NaN where all weights are zero. About
    1e-3 is usual where matrices are trained at a good rate. Unit: 1.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        moved, weights = reading.dot("update", "update"), reading.dot("weights", "weights")
        return ratio(math.sqrt(moved), math.sqrt(weights))

    cost = "a copy of the weights, and three reads of it"
    return Signal(measure, unit="1", cost=cost, products=(UPDATE, WEIGHTS), every=every)
