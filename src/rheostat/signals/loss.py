"""The training loss: fast and slow averages, its slope, and whether that is more than noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import annotated_types as at

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal
from rheostat.signals.averages import empty, follow, keep, ratio

FREE = "arithmetic on the loss"
_BLOCKS = 20
"""Of a window whose slope is tested, each of which speaks by its mean."""
_LEAST = 10
"""Blocks from which on it is."""
_ROUNDING = 1e-12


def _average(span: float, every: int) -> Signal:
    factor = keep(span, every)

    def measure(reading: Reading, memory: Memory) -> float:
        if not math.isfinite(reading.loss):
            return math.nan
        return follow(memory, reading.loss, factor)

    return Signal(measure, unit="loss", cost=FREE, every=every, memory=empty())


@register("signal", "loss_fast", version=1)
def loss_fast(span: Positive = 20.0, every: Count = 1) -> Signal:
    """The loss, averaged over the last few updates.

    Σ wᵢ lossᵢ / Σ wᵢ, where weights fall by e in `span` updates; without bias from the first one
    on. A loss that is not finite is left out, and the value of that step is NaN. Unit: of the loss.
    span: updates in which weights fall by e.
    every: updates from one measurement to the next.
    """
    return _average(span, every)


@register("signal", "loss_slow", version=1)
def loss_slow(span: Positive = 200.0, every: Count = 1) -> Signal:
    """The loss, averaged over many updates.

    As loss_fast, with another span. Unit: of the loss.
    span: updates in which weights fall by e.
    every: updates from one measurement to the next.
    """
    return _average(span, every)


@register("signal", "loss_slope", version=1)
def loss_slope(fast: Positive = 20.0, slow: Positive = 200.0, every: Count = 1) -> Signal:
    """By how much the loss changes in an update: negative while it falls.

    (fast average − slow average) / (mean age of the slow one's losses − that of the fast one's),
    in updates: exact for a loss that falls in a straight line, from the second measurement on.
    The slow average forgets gradually: a steep fall is seen for some times `slow` updates.
    A loss that is not finite is left out. Unit: loss per update.
    fast: updates in which the fast average's weights fall by e.
    slow: the same of the slow average; more than `fast`.
    every: updates from one measurement to the next.
    """
    if slow <= fast:
        raise InputError(f"slow={slow}: should be more than fast={fast}")
    factors = keep(fast, every), keep(slow, every)

    def measure(reading: Reading, memory: Memory) -> float:
        if not math.isfinite(reading.loss):
            return math.nan
        passed = reading.step - memory["step"]
        quick, late = factors
        if passed != every:
            quick, late = math.exp(-passed / fast), math.exp(-passed / slow)
        memory["step"] = reading.step
        # Of either average the sum of weights, the mean, and the sum of weights times ages.
        w, mean, age, wide, level, old = memory["averages"]
        age, old = quick * (age + passed * w), late * (old + passed * wide)
        w, wide = quick * w + 1.0, late * wide + 1.0
        mean += (reading.loss - mean) / w
        level += (reading.loss - level) / wide
        memory["averages"] = [w, mean, age, wide, level, old]
        apart = old / wide - age / w
        return (mean - level) / apart if apart > 0.0 else math.nan

    memory = {"averages": [0.0] * 6, "step": 0}
    return Signal(measure, unit="loss per update", cost=FREE, every=every, memory=memory)


@register("signal", "loss_significance", version=1)
def loss_significance(
    window: Annotated[int, at.Ge(_BLOCKS), at.Le(1_000_000)] = 200, every: Count = 1
) -> Signal:
    """How far the slope of the loss is from nothing, in standard errors, with the slope's sign.

    t = r √((n − 2) / (1 − r²)): the slope of the least-squares line through the means of the last
    n = 20 blocks of window / 20 losses, over its standard error; r is the correlation of the means
    with their places. It changes with each block that is full, and is NaN before there are 10.
    Losses before the window do not count, and what is no line within it counts as its noise; what
    neighbouring losses share stays within a block. For a level loss it has Student's distribution.
    A loss that is not finite is left out, and the value of that step is NaN. Unit: standard errors.
    Source: the slope's error is Fisher 1922; means of blocks: Conway 1963.
    window: measurements that it looks back over; what is over a multiple of 20 is left out.
    every: updates from one measurement to the next.
    """
    length = window // _BLOCKS

    def measure(reading: Reading, memory: Memory) -> float:
        if not math.isfinite(reading.loss):
            return math.nan
        memory["sum"] += reading.loss
        memory["count"] += 1
        if memory["count"] == length:
            means = memory["means"] = [*memory["means"][1 - _BLOCKS :], memory["sum"] / length]
            memory["sum"], memory["count"] = 0.0, 0
            memory["t"] = _significance(means) if len(means) >= _LEAST else None
        return math.nan if memory["t"] is None else memory["t"]

    start: Memory = {"sum": 0.0, "count": 0, "means": [], "t": None}
    return Signal(measure, unit="standard errors", cost=FREE, every=every, memory=start)


def _significance(values: Sequence[float]) -> float | None:
    """The slope of the line through values over its standard error; None where all are equal."""
    n, middle = len(values), math.fsum(values) / len(values)
    squares = products = 0.0
    for place, value in enumerate(values):
        off = value - middle
        squares += off * off
        products += off * (place - 0.5 * (n - 1))
    r = ratio(products, math.sqrt(squares * (n * (n * n - 1) / 12)))
    # A line without noise lies as near to its values as they are rounded.
    return None if math.isnan(r) else r * math.sqrt((n - 2) / max(1.0 - r * r, _ROUNDING))
