"""The training loss: fast and slow averages, its slope, and whether that is more than noise."""

from __future__ import annotations

import math
from typing import Any

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal
from rheostat.signals.averages import empty, follow, keep, ratio

FREE = "arithmetic on the loss"


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


class _Trend:
    """A fast and a slow average of the loss, in a signal's memory."""

    def __init__(self, fast: float, slow: float, every: int) -> None:
        if slow <= fast:
            raise InputError(f"slow={slow}: should be more than fast={fast}")
        self._spans, self._every = (fast, slow), every
        self._factors = keep(fast, every), keep(slow, every)

    @staticmethod
    def start() -> dict[str, Any]:
        """What a memory starts from."""
        return {"averages": [0.0] * 6, "step": 0, "squares": [0.0] * 3, "noise": [0.0, 0.0, None]}

    def follow(self, reading: Reading, memory: Memory) -> tuple[float, float, float, float]:
        """Take the loss in: the slope, the difference of the mean ages, and the factors by which
        older weights have fallen."""
        passed = reading.step - memory["step"]
        fast, slow = self._factors
        if passed != self._every:
            fast, slow = (math.exp(-passed / span) for span in self._spans)
        memory["step"] = reading.step
        # Of either average the sum of weights, the mean, and the sum of weights times ages.
        w, mean, age, wide, level, old = memory["averages"]
        age, old = fast * (age + passed * w), slow * (old + passed * wide)
        w, wide = fast * w + 1.0, slow * wide + 1.0
        mean += (reading.loss - mean) / w
        level += (reading.loss - level) / wide
        memory["averages"] = [w, mean, age, wide, level, old]
        apart = old / wide - age / w
        return (mean - level) / apart if apart > 0.0 else math.nan, apart, fast, slow

    def error(self, loss: float, memory: Memory, apart: float, fast: float, slow: float) -> float:
        """The standard error of that slope."""
        w, _, _, wide, _, _ = memory["averages"]
        # The sums of squared weights: of the fast average, the slow one, and of both multiplied.
        a, b, both = memory["squares"]
        a, b, both = fast * fast * a + 1.0, slow * slow * b + 1.0, fast * slow * both + 1.0
        memory["squares"] = [a, b, both]
        noise, seen, before = memory["noise"]
        if before is not None:
            seen = slow * seen + 1.0
            noise += (0.5 * (loss - before) ** 2 - noise) / seen
        memory["noise"] = [noise, seen, loss]
        weights = a / w**2 + b / wide**2 - 2.0 * both / (w * wide)
        return math.sqrt(max(noise * weights, 0.0)) / apart if apart > 0.0 else math.nan


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
    trend = _Trend(fast, slow, every)

    def measure(reading: Reading, memory: Memory) -> float:
        return trend.follow(reading, memory)[0] if math.isfinite(reading.loss) else math.nan

    unit = "loss per update"
    return Signal(measure, unit=unit, cost=FREE, every=every, memory=trend.start())


@register("signal", "loss_significance", version=1)
def loss_significance(fast: Positive = 20.0, slow: Positive = 200.0, every: Count = 1) -> Signal:
    """How far the slope of the loss is from nothing, in standard errors, with the slope's sign.

    t = loss_slope / error,  error = √(s² Σ cᵢ²) / (difference of the mean ages), where cᵢ is what
    the i-th loss weighs in the fast average less what it weighs in the slow one, and s² the mean,
    at the slow pace, of (lossᵢ − lossᵢ₋₁)² / 2: the noise's variance, whatever the trend. For a
    level loss with independent noise t is about standard normal; noise that is shared by
    neighbours makes it larger than it should be. Unit: standard errors.
    Source: the variance by successive differences is von Neumann et al. 1941.
    fast: updates in which the fast average's weights fall by e.
    slow: the same of the slow average; more than `fast`.
    every: updates from one measurement to the next.
    """
    trend = _Trend(fast, slow, every)

    def measure(reading: Reading, memory: Memory) -> float:
        if not math.isfinite(reading.loss):
            return math.nan
        slope, *rest = trend.follow(reading, memory)
        return ratio(slope, trend.error(reading.loss, memory, *rest))

    unit = "standard errors"
    return Signal(measure, unit=unit, cost=FREE, every=every, memory=trend.start())
