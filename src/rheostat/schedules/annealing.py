"""One descent from a peak: constant, step and cosine, with an optional linear warm-up."""

from __future__ import annotations

import math
from typing import Annotated

import annotated_types as at
import numpy as np
from numpy.typing import NDArray

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative, Steps, UnitInterval
from rheostat.core.registry import register
from rheostat.core.schedule import Curve, Schedule

Array = NDArray[np.float64]


def warmed(curve: Curve, peak: float, warmup: int) -> Curve:
    """`curve` after a linear rise: step k < warmup has peak · (k + 1) / (warmup + 1).

    The rise begins above zero, so that the first update does something, and meets the curve's
    start at step `warmup`.
    """
    if not warmup:
        return curve

    def rising(steps: Array) -> Array:
        rise = peak * (steps + 1) / (warmup + 1)
        return np.where(steps < warmup, rise, curve(np.maximum(steps - warmup, 0)))

    return rising


@register("schedule", "constant")
def constant(peak: NonNegative, warmup: Steps = 0) -> Schedule:
    """The same value at every step.

    peak: the value, in the units of the hyperparameter.
    warmup: steps of linear rise before it.
    """
    return Schedule(warmed(lambda steps: np.full_like(steps, peak), peak, warmup))


@register("schedule", "step")
def step(
    peak: NonNegative,
    steps: Count,
    drops: Annotated[tuple[UnitInterval, ...], at.MinLen(1)] = (0.5, 0.75),
    factor: UnitInterval = 0.1,
    warmup: Steps = 0,
) -> Schedule:
    """Piecewise constant: multiplied by `factor` at each fraction of the horizon in `drops`.

    peak: the value before the first drop.
    steps: the horizon, in updates.
    drops: where the drops come, as fractions of the horizon, ascending.
    factor: what each drop multiplies by.
    warmup: steps of linear rise before it; the drops stay where they are.
    """
    if list(drops) != sorted(set(drops)):
        raise InputError(f"step: drops={drops!r}: should ascend without repeats")
    _check_warmup("step", warmup, steps)
    milestones = np.array([math.ceil(drop * steps) - warmup for drop in drops], dtype=np.float64)

    def curve(k: Array) -> Array:
        return peak * np.power(factor, np.searchsorted(milestones, k, side="right"))

    return Schedule(warmed(curve, peak, warmup), horizon=steps)


@register("schedule", "cosine")
def cosine(
    peak: NonNegative, steps: Count, warmup: Steps = 0, floor: NonNegative = 0.0
) -> Schedule:
    """Half a cosine from `peak` to `floor`, which it reaches at the horizon and then keeps.

    floor + (peak − floor) · (1 + cos(π k / n)) / 2, over the n steps after the warm-up.
    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), equation 5, without restarts.
    peak: the highest value.
    steps: the horizon, in updates, the warm-up included.
    warmup: steps of linear rise before it.
    floor: the value at the end.
    """
    _check_warmup("cosine", warmup, steps)
    _check_floor("cosine", floor, peak)
    length = steps - warmup

    def curve(k: Array) -> Array:
        return half_cosine(np.minimum(k / length, 1.0), peak, floor)

    return Schedule(warmed(curve, peak, warmup), horizon=steps)


def half_cosine(fraction: Array, peak: float | Array, floor: float) -> Array:
    """floor + (peak − floor) · cos²(π fraction / 2), which is exactly `floor` at fraction 1.

    The square of a cosine equals (1 + cos(π f)) / 2 but loses no digits near the end, where
    1 + cos(π f) cancels.
    """
    values = floor + (peak - floor) * np.square(np.cos(0.5 * np.pi * fraction))
    return np.where(fraction >= 1.0, floor, values)


def _check_warmup(name: str, warmup: int, steps: int) -> None:
    if warmup >= steps:
        raise InputError(f"{name}: warmup={warmup} leaves nothing of the horizon of {steps} steps")


def _check_floor(name: str, floor: float, peak: float) -> None:
    if floor > peak:
        raise InputError(f"{name}: floor={floor:g} is above peak={peak:g}")
