"""How often an update is clipped, or skipped."""

from __future__ import annotations

import math

from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal
from rheostat.signals.averages import empty, follow, keep
from rheostat.signals.gradients import ONE_READ, SQUARE, norm

FREE = "arithmetic"


@register("signal", "clip_rate", version=1)
def clip_rate(max_norm: Positive | None = None, span: Positive = 100.0, every: Count = 1) -> Signal:
    """The share of updates whose gradient is clipped.

    With `max_norm`, those whose gradient's norm reaches it, less one part in 1e5: a gradient that
    torch's clip_grad_norm_ has clipped already is that long. Without it, the mean of what the loop
    reports as "clipped": 0, 1, or a share; a run does so where its rules begin with a clip by the
    global norm, as a recipe's `clip` does. A norm that is not finite is left out: such an update is
    skipped, not clipped. Unit: 1.
    max_norm: the norm above which gradients are clipped.
    span: updates in which weights fall by e.
    every: updates from one measurement to the next.
    """
    factor = keep(span, every)

    def measure(reading: Reading, memory: Memory) -> float:
        if max_norm is None:
            clipped = reading.reported["clipped"]
        else:
            found = norm(reading)
            clipped = float(found >= (1 - 1e-5) * max_norm) if math.isfinite(found) else math.nan
        return follow(memory, clipped, factor) if math.isfinite(clipped) else math.nan

    return Signal(
        measure,
        unit="1",
        cost=FREE if max_norm is None else ONE_READ,
        products=() if max_norm is None else (SQUARE,),
        reported=("clipped",) if max_norm is None else (),
        every=every,
        memory=empty(),
    )


@register("signal", "skip_rate", version=1)
def skip_rate(span: Positive = 100.0, every: Count = 1) -> Signal:
    """The share of steps that were skipped: no update, for a gradient that was not finite.

    Σ wᵢ skippedᵢ / Σ wᵢ, weights falling by e in `span` updates; with `every` above 1, of the steps
    that are looked at. Unit: 1.
    span: updates in which weights fall by e.
    every: updates from one measurement to the next.
    """
    factor = keep(span, every)

    def measure(reading: Reading, memory: Memory) -> float:
        return follow(memory, 0.0 if reading.applied else 1.0, factor)

    return Signal(measure, unit="1", cost=FREE, every=every, memory=empty())
