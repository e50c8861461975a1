"""Up and down again: one cycle, with its companion for momentum, and triangular waves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

import annotated_types as at
import numpy as np

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.schedule import Schedule
from rheostat.schedules.shapes import SHAPES, Array, between, by_piece, check_floor, powers

Rise = Annotated[float, at.Gt(0), at.Lt(1)]
Divisor = Annotated[float, at.Ge(1)]
Height = Callable[[Array, Array], Array | float]
"""Steps and the numbers of their cycles -> the height of the wave there, relative to the first."""


@register("schedule", "one_cycle")
def one_cycle(
    peak: NonNegative,
    steps: Count,
    rise: Rise = 0.3,
    divisor: Divisor = 25.0,
    final_divisor: Divisor = 1e4,
    shape: Literal["cosine", "linear"] = "cosine",
    three_phase: bool = False,
) -> Schedule:
    """One-cycle policy: up from peak / divisor, then down far below where it began.

    It ends at peak / (divisor · final_divisor), in the last update. one_cycle_momentum is its
    companion: give it the same steps, rise, shape and phases.
    Use: short runs at large learning rates ("super-convergence").
    Avoid: runs that may be prolonged.
    Equals: torch OneCycleLR; optax cosine_onecycle_schedule comes down over one more step.
    Source: Smith & Topin 2019 (arXiv:1708.07120).
    peak: the highest value.
    steps: the horizon, in updates.
    rise: the part of the horizon in which it rises.
    divisor: the start is the peak over this.
    final_divisor: the end is the start over this.
    shape: of each phase.
    three_phase: down to the start as fast as it rose, and then to the end.
    """
    start = peak / divisor
    levels = [start, peak, start, start / final_divisor] if three_phase else None
    return _phases("one_cycle", levels or [start, peak, start / final_divisor], steps, rise, shape)


@register("schedule", "one_cycle_momentum")
def one_cycle_momentum(
    steps: Count,
    high: Fraction = 0.95,
    low: Fraction = 0.85,
    rise: Rise = 0.3,
    shape: Literal["cosine", "linear"] = "cosine",
    three_phase: bool = False,
) -> Schedule:
    """The momentum of the one-cycle policy: low while the learning rate is high.

    Use: `momentum`, or the first of `betas`, beside one_cycle.
    Equals: torch OneCycleLR with cycle_momentum.
    Source: Smith & Topin 2019 (arXiv:1708.07120).
    steps: the horizon, in updates.
    high: the value at the start and at the end.
    low: the value at the learning rate's peak.
    rise: the part of the horizon in which the learning rate rises.
    shape: of each phase.
    three_phase: as of the learning rate.
    """
    if low > high:
        raise InputError(f"one_cycle_momentum: low={low:g} is above high={high:g}")
    levels = [high, low, high] + [high] * three_phase
    return _phases("one_cycle_momentum", levels, steps, rise, shape)


def _phases(name: str, levels: list[float], steps: int, rise: float, shape: str) -> Schedule:
    """From level to level, the last of them in the last update, `steps` − 1."""
    top = rise * steps - 1
    ends = (
        [0.0, top, 2 * rise * steps - 2, steps - 1.0] if len(levels) == 4 else [0, top, steps - 1]
    )
    if not all(a < b for a, b in pairwise(ends)):
        raise InputError(f"{name}: rise={rise:g} leaves a phase of {steps} steps without an update")
    edges = np.array(ends[:-1], dtype=np.float64)

    def phase(i: int, k: Array) -> Array:
        left = np.maximum((ends[i + 1] - k) / (ends[i + 1] - ends[i]), 0)
        return between(SHAPES[shape](left), levels[i], levels[i + 1])

    def curve(k: Array) -> Array:
        return by_piece(edges, k, phase)

    return Schedule(curve, horizon=steps)


@register("schedule", "triangular")
def triangular(
    peak: NonNegative,
    floor: NonNegative = 0.0,
    rise: Count = 2000,
    fall: Count | None = None,
) -> Schedule:
    """A wave of straight lines between `floor` and `peak`, for ever.

    Use: many settings of a run at one budget, a snapshot at each low.
    Avoid: as the end of a run: stop it at a low, or cool it down.
    Equals: torch CyclicLR(mode="triangular").
    Source: Smith 2017 (arXiv:1506.01186).
    peak: the highest value.
    floor: the lowest value, which it starts from.
    rise: steps up.
    fall: steps down, by default as many as up.
    """
    return _wave("triangular", peak, floor, rise, fall, None)


@register("schedule", "triangular2")
def triangular2(
    peak: NonNegative,
    floor: NonNegative = 0.0,
    rise: Count = 2000,
    fall: Count | None = None,
) -> Schedule:
    """A triangular wave whose height halves in each cycle.

    Equals: torch CyclicLR(mode="triangular2").
    Source: Smith 2017 (arXiv:1506.01186).
    peak: the highest value of the first cycle.
    floor: the lowest value, which it starts from.
    rise: steps up.
    fall: steps down, by default as many as up.
    """
    return _wave("triangular2", peak, floor, rise, fall, _halving)


@register("schedule", "exp_range")
def exp_range(
    peak: NonNegative,
    floor: NonNegative = 0.0,
    rise: Count = 2000,
    fall: Count | None = None,
    factor: Annotated[float, at.Gt(0), at.Le(1)] = 0.9999,
) -> Schedule:
    """A triangular wave whose height is multiplied by `factor` in every step.

    Equals: torch CyclicLR(mode="exp_range").
    Source: Smith 2017 (arXiv:1506.01186).
    peak: what the height is measured from.
    floor: the lowest value, which it starts from.
    rise: steps up.
    fall: steps down, by default as many as up.
    factor: what each step multiplies the height by.
    """

    def height(k: Array, cycle: Array) -> Array:
        del cycle
        return np.power(factor, k)

    return _wave("exp_range", peak, floor, rise, fall, height)


def _halving(k: Array, cycle: Array) -> Array | float:
    del k
    return powers(0.5, cycle)


def _wave(
    name: str, peak: float, floor: float, rise: int, fall: int | None, height: Height | None
) -> Schedule:
    check_floor(name, floor, peak)
    down = fall or rise
    period = rise + down

    def curve(k: Array) -> Array:
        cycle = np.floor(k / period)
        at_ = k - cycle * period
        share = np.where(at_ <= rise, at_ / rise, (period - at_) / down)
        return floor + (peak - floor) * (share if height is None else share * height(k, cycle))

    return Schedule(curve)
