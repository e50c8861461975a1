"""Curvature along the last update, from two successive gradients."""

from __future__ import annotations

from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal
from rheostat.signals.averages import ratio


@register("signal", "curvature", version=1)
def curvature(every: Count = 1) -> Signal:
    """The curvature of the loss along the last update, by the secant of two gradients.

    (gₖ₋₁·uₖ₋₁ − gₖ·uₖ₋₁) / (uₖ₋₁·uₖ₋₁). As wₖ = wₖ₋₁ − uₖ₋₁, the gradients differ by −H uₖ₋₁, and
    this is uᵀHu / uᵀu: exact for a quadratic loss. Gradients of two different batches differ by
    their noise too, which averages out only over many updates. NaN in the first update, and where
    the last one was zero. Unit: loss per weight².
    Source: the secant condition; Nocedal & Wright 2006, chapter 6.
    every: updates from one measurement to the next; the one before is looked at too.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        fall = reading.dot("last_gradient", "last_update") - reading.dot("gradient", "last_update")
        return ratio(fall, reading.dot("last_update", "last_update"))

    return Signal(
        measure,
        unit="loss per weight²",
        cost="a copy of the weights, and three reads of it and of the gradients",
        products=(
            ("gradient", "last_update"),
            ("last_gradient", "last_update"),
            ("last_update", "last_update"),
        ),
        every=every,
    )
