"""The training loss: fast and slow averages, its slope, and whether the slope is more than noise."""

from __future__ import annotations

import math
from collections.abc import Callable

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal
from rheostat.signals.averages import empty, follow, keep

FREE = "arithmetic on the loss"

Factors = tuple[float, float]


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


def _trend(
    reading: Reading, memory: Memory, fast: float, slow: float, every: int, factors: Factors
) -> tuple[float, float]:
    """The slope, and its standard error, after this loss."""
    loss = reading.loss
    # Of either average: the sum of weights, the mean, the sum of weights times ages. Then the sums
    # of squared weights, of the fast one, the slow one and both; the noise and its weight.
    wf, mf, af, ws, ms, as_, qf, qs, qb, noise, wn = memory["sums"]
    before, passed = memory["before"], reading.step - memory["step"]
    f, s = factors if passed == every else (math.exp(-passed / fast), math.exp(-passed / slow))
    af, as_ = f * (af + passed * wf), s * (as_ + passed * ws)
    wf, ws = f * wf + 1.0, s * ws + 1.0
    mf += (loss - mf) / wf
    ms += (loss - ms) / ws
    qf, qs, qb = f * f * qf + 1.0, s * s * qs + 1.0, f * s * qb + 1.0
    if before is not None:
        wn = s * wn + 1.0
        noise += (0.5 * (loss - before) ** 2 - noise) / wn
    memory["sums"] = [wf, mf, af, ws, ms, as_, qf, qs, qb, noise, wn]
    memory["before"], memory["step"] = loss, reading.step
    apart = as_ / ws - af / wf
    if apart <= 0.0:
        return math.nan, math.nan
    weights = qf / wf**2 + qs / ws**2 - 2 * qb / (wf * ws)
    return (mf - ms) / apart, math.sqrt(max(noise * weights, 0.0)) / apart


@register("signal", "loss_slope", version=1)
def loss_slope(fast: Positive = 20.0, slow: Positive = 200.0, every: Count = 1) -> Signal:
    """By how much the loss changes in an update: negative while it falls.

    (fast average − slow average) / (mean age of the slow one's losses − that of the fast one's),
    in updates: exact for a loss that falls in a straight line, from the second measurement on.
    A loss that is not finite is left out. Unit: loss per update.
    fast: updates in which the fast average's weights fall by e.
    slow: the same of the slow average; more than `fast`.
    every: updates from one measurement to the next.
    """
    return _from_trend("loss per update", fast, slow, every, lambda slope, error: slope)


@register("signal", "loss_significance", version=1)
def loss_significance(fast: Positive = 20.0, slow: Positive = 200.0, every: Count = 1) -> Signal:
    """How far the slope of the loss is from nothing, in standard errors, with the slope's sign.

    t = loss_slope / error,  error = √(s² Σ cᵢ²) / (difference of the mean ages), where cᵢ is what
    the i-th loss weighs in the fast average less what it weighs in the slow one, and s² the average,
    at the slow pace, of (lossᵢ − lossᵢ₋₁)² / 2: the noise's variance, whatever the trend. For a
    level loss with independent noise t is about standard normal; noise that is shared by
    neighbours makes it larger than it should be. Unit: standard errors.
    Source: the variance by successive differences is von Neumann et al. 1941.
    fast: updates in which the fast average's weights fall by e.
    slow: the same of the slow average; more than `fast`.
    every: updates from one measurement to the next.
    """
    return _from_trend("standard errors", fast, slow, every, _over)


def _over(slope: float, error: float) -> float:
    return slope / error if error > 0 else math.nan


def _from_trend(
    unit: str, fast: float, slow: float, every: int, choose: Callable[[float, float], float]
) -> Signal:
    if slow <= fast:
        raise InputError(f"slow={slow}: should be more than fast={fast}")
    factors = keep(fast, every), keep(slow, every)

    def measure(reading: Reading, memory: Memory) -> float:
        if not math.isfinite(reading.loss):
            return math.nan
        return choose(*_trend(reading, memory, fast, slow, every, factors))

    start = {"sums": [0.0] * 11, "before": None, "step": 0}
    return Signal(measure, unit=unit, cost=FREE, every=every, memory=start)
