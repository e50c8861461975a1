"""The gradient: its norm, how that varies, its direction from one update to the next, its zeros."""

from __future__ import annotations

import math

from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Product, Reading, Signal
from rheostat.signals.averages import cosine, empty, follow, keep, ratio

SQUARE: Product = ("gradient", "gradient")
ONE_READ = "one read of the gradients"


def norm(reading: Reading) -> float:
    """‖g‖; NaN where it was not measured."""
    return math.sqrt(reading.dot("gradient", "gradient"))


@register("signal", "gradient_norm", version=1)
def gradient_norm(every: Count = 1) -> Signal:
    """The Euclidean norm of the gradient, as the optimizer sees it.

    ‖g‖ = √(g·g). Infinite or NaN where the gradient is. Unit: of the gradient.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        return norm(reading)

    return Signal(measure, unit="gradient", cost=ONE_READ, products=(SQUARE,), every=every)


@register("signal", "gradient_variance", version=1)
def gradient_variance(span: Positive = 100.0, every: Count = 1) -> Signal:
    """How much the norm of the gradient varies from update to update.

    Σ wᵢ (‖gᵢ‖ − mean)² / Σ wᵢ, weights falling by e in `span` updates. A norm that is not finite
    is left out. For the variance of the gradient itself see gradient_sample_variance.
    Unit: of the gradient, squared.
    span: updates in which weights fall by e.
    every: updates from one measurement to the next.
    """
    factor = keep(span, every)

    def measure(reading: Reading, memory: Memory) -> float:
        found = norm(reading)
        if not math.isfinite(found):
            return math.nan
        follow(memory, found, factor)
        return memory["variance"]

    return Signal(
        measure,
        unit="gradient²",
        cost=ONE_READ,
        products=(SQUARE,),
        every=every,
        memory=empty(),
    )


@register("signal", "gradient_cosine", version=1)
def gradient_cosine(every: Count = 1) -> Signal:
    """The cosine between this gradient and the one before: below zero where training oscillates.

    gₖ·gₖ₋₁ / (‖gₖ‖ ‖gₖ₋₁‖); NaN where either is zero. Unit: 1.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        return cosine(
            reading.dot("gradient", "last_gradient"),
            reading.dot("gradient", "gradient"),
            reading.dot("last_gradient", "last_gradient"),
        )

    return Signal(
        measure,
        unit="1",
        cost="two reads of the gradients, and a copy of them that is kept",
        products=(SQUARE, ("gradient", "last_gradient"), ("last_gradient", "last_gradient")),
        every=every,
    )


@register("signal", "gradient_sparsity", version=1)
def gradient_sparsity(every: Count = 1) -> Signal:
    """The share of the gradient's elements that are exactly zero.

    #{i: gᵢ = 0} / n: rows of embeddings that did not occur, weights into dead units. Unit: 1.
    every: updates from one measurement to the next.
    """

    def measure(reading: Reading, memory: Memory) -> float:
        return ratio(reading.dot("one", "gradient_zeros"), reading.size)

    return Signal(
        measure,
        unit="1",
        cost="two reads of the gradients, and a copy for a moment",
        products=(("one", "gradient_zeros"),),
        every=every,
    )
