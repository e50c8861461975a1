"""One descent from a peak: constant, linear, cosine, polynomial, REX, tanh; and a straight ramp."""

from __future__ import annotations

from typing import Annotated

import annotated_types as at
import numpy as np

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative, Positive, Steps
from rheostat.core.registry import register
from rheostat.core.schedule import Schedule
from rheostat.schedules.shapes import (
    Array,
    annealed,
    between,
    check_floor,
    check_warmup,
    cosine_shape,
    linear_shape,
    power_shape,
    warmed,
)


@register("schedule", "constant")
def constant(peak: NonNegative, warmup: Steps = 0) -> Schedule:
    """The same value at every step.

    Use: a baseline; with a warm-up, whatever decides by itself how far to step.
    Avoid: where the last weights count: the noise of a constant rate stays in them.
    Equals: torch ConstantLR with factor 1; optax constant_schedule.
    peak: the value, in the units of the hyperparameter.
    warmup: steps of linear rise before it.
    """
    return Schedule(warmed(lambda steps: np.full_like(steps, peak), peak, warmup))


@register("schedule", "cosine")
def cosine(
    peak: NonNegative, steps: Count, warmup: Steps = 0, floor: NonNegative = 0.0
) -> Schedule:
    """Half a cosine from `peak` to `floor`, which it reaches at the horizon and then keeps.

    floor + (peak − floor) · (1 + cos(π k / n)) / 2, over the n steps after the warm-up.
    Use: most supervised training whose length is known.
    Avoid: where the length may change: the curve belongs to its horizon; wsd does not.
    Equals: torch CosineAnnealingLR up to T_max, after which that climbs again; optax
     cosine_decay_schedule.
    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), equation 5, without restarts.
    peak: the highest value.
    steps: the horizon, in updates, the warm-up included.
    warmup: steps of linear rise before it.
    floor: the value at the end.
    """
    return annealed("cosine", cosine_shape, peak, steps, warmup, floor)


@register("schedule", "linear")
def linear(
    peak: NonNegative, steps: Count, warmup: Steps = 0, floor: NonNegative = 0.0
) -> Schedule:
    """A straight line from `peak` to `floor`, which it reaches at the horizon and then keeps.

    Use: fine-tuning, and wherever cosine serves; from the same peak it ends with less noise.
    Avoid: where the length may change.
    Equals: torch LinearLR and PolynomialLR(power=1); optax linear_schedule.
    peak: the highest value.
    steps: the horizon, in updates, the warm-up included.
    warmup: steps of linear rise before it.
    floor: the value at the end.
    """
    return annealed("linear", linear_shape, peak, steps, warmup, floor)


@register("schedule", "linear_to_zero")
def linear_to_zero(peak: NonNegative, steps: Count, warmup: Steps = 0) -> Schedule:
    """A straight line to zero (D2Z), after a warm-up.

    peak · (1 − k / n), over the n steps after the warm-up.
    Use: pre-training of language models with AdamW at many tokens a parameter.
    Avoid: where training goes on after it: from zero there is no way on.
    Equals: linear with floor 0, which it may not be given.
    Source: Bergsma et al. 2025 (arXiv:2502.15938); Defazio et al. 2023 (arXiv:2310.07831).
    peak: the highest value.
    steps: the horizon, in updates, the warm-up included.
    warmup: steps of linear rise before it.
    """
    return annealed("linear_to_zero", linear_shape, peak, steps, warmup)


@register("schedule", "polynomial")
def polynomial(
    peak: NonNegative,
    steps: Count,
    power: Positive = 2.0,
    warmup: Steps = 0,
    floor: NonNegative = 0.0,
) -> Schedule:
    """A power of the part that is left: floor + (peak − floor) · (1 − k / n)^power.

    Use: power 0.9 in segmentation, 2 or more where a low rate should last long.
    Avoid: powers below 1 without a floor: they fall steeply at the very end.
    Equals: torch PolynomialLR; optax polynomial_schedule.
    peak: the highest value.
    steps: the horizon, in updates, the warm-up included.
    power: 1 is a straight line; more falls early, less falls late.
    warmup: steps of linear rise before it.
    floor: the value at the end.
    """
    return annealed("polynomial", power_shape(power), peak, steps, warmup, floor)


@register("schedule", "rex")
def rex(
    peak: NonNegative,
    steps: Count,
    bend: Annotated[float, at.Ge(0), at.Lt(1)] = 0.5,
    warmup: Steps = 0,
    floor: NonNegative = 0.0,
) -> Schedule:
    """REX: stays high, then falls ever faster, as budgeted training does best with.

    floor + (peak − floor) · l / (1 − bend + bend · l), l = 1 − k / n the part that is left.
    Use: small budgets, with SGD and with Adam.
    Avoid: long budgets, where linear and cosine end as well.
    Source: Chen, Wolfe & Kyrillidis 2021 (arXiv:2107.04197).
    peak: the highest value.
    steps: the horizon, in updates, the warm-up included.
    bend: 0 is a straight line; the paper's curve is 1/2.
    warmup: steps of linear rise before it.
    floor: the value at the end.
    """
    return annealed("rex", lambda left: left / (1 - bend + bend * left), peak, steps, warmup, floor)


@register("schedule", "tanh")
def tanh(
    peak: NonNegative,
    steps: Count,
    begin: float = -6.0,
    end: float = 3.0,
    warmup: Steps = 0,
    floor: NonNegative = 0.0,
) -> Schedule:
    """Hyperbolic-tangent decay (HTD): flat, then a fall, then flat.

    floor + (peak − floor) · (1 − tanh(begin + (end − begin) · k / n)) / 2. It ends
    (1 − tanh(end)) / 2 of the height above `floor`, 0.25 % by default.
    Use: image classification with SGD, where it beat step and cosine by little.
    Source: Hsueh, Li & Wu 2018 (arXiv:1806.01593).
    peak: the value that it starts from, where `begin` is low enough.
    steps: the horizon, in updates, the warm-up included.
    begin: the argument of tanh at the start.
    end: the argument of tanh at the horizon.
    warmup: steps of linear rise before it.
    floor: the value that it nears.
    """
    check_warmup("tanh", warmup, steps)
    check_floor("tanh", floor, peak)
    if begin >= end:
        raise InputError(f"tanh: begin={begin:g} should be below end={end:g}")
    length = steps - warmup

    def curve(k: Array) -> Array:
        # (1 − tanh x) / 2 = 1 / (1 + e²ˣ), without the cancellation.
        return between(1 / (1 + np.exp(2 * (begin + (end - begin) * k / length))), peak, floor)

    return Schedule(warmed(curve, peak, warmup), horizon=steps)


@register("schedule", "ramp")
def ramp(start: NonNegative, end: NonNegative, steps: Count) -> Schedule:
    """A straight line from one value to another, up or down, which it then keeps.

    Use: momentum, weight decay or a clip threshold that drifts over the run; parts of a join.
    Equals: torch LinearLR; optax linear_schedule.
    start: the value at step 0.
    end: the value at the horizon and after it.
    steps: the horizon, in updates.
    """

    def curve(k: Array) -> Array:
        part = k / steps
        return start * (1 - part) + end * part

    return Schedule(curve, horizon=steps)
