"""Warm restarts: an annealing that begins again. `restart` does it to any schedule, `triggered` at
steps that a log holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import annotated_types as at
import numpy as np

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative, Positive, Steps, UnitInterval
from rheostat.core.registry import register
from rheostat.core.schedule import Schedule, StateAction, StatePolicy, never
from rheostat.schedules.shapes import (
    Array,
    Cycles,
    Shape,
    between,
    check_floor,
    cosine_shape,
    first_reaching,
    linear_shape,
    power_shape,
    powers,
)

Growth = Annotated[float, at.Ge(1)]
Decay = Annotated[float, at.Gt(0), at.Le(1)]
Fall = Callable[[Array, Array | float, float], Array]
"""The part of a cycle that is left, its top and the floor -> values."""


@register("schedule", "cosine_restarts")
def cosine_restarts(
    peak: NonNegative,
    period: Count,
    steps: Count | None = None,
    multiplier: Growth = 1.0,
    decay: Decay = 1.0,
    warmup: Steps = 0,
    floor: NonNegative = 0.0,
    state: StateAction = "keep",
    state_factor: UnitInterval = 0.5,
) -> Schedule:
    """Cosine annealing with warm restarts (SGDR).

    Cycle i is half a cosine over period · multiplierⁱ steps from peak · decayⁱ down to `floor`.
    Use: good weights several times in a run; ensembles of them.
    Avoid: where only the last weights count: at an equal budget one cosine ends no worse.
    Equals: torch CosineAnnealingWarmRestarts.
    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), equation 5.
    peak: the value at the start of the first cycle.
    period: length of the first cycle, in updates.
    steps: the horizon, in updates; without it the restarts have no end.
    multiplier: each cycle is this many times as long as the one before, rounded to whole updates.
    decay: each peak is this many times the one before.
    warmup: steps of linear rise from `floor` at the start of each cycle, its length included.
    floor: the value that each cycle descends to.
    state: what becomes of the optimizer's moments at a restart.
    state_factor: what `state: decay` multiplies them by.
    """
    name = "cosine_restarts"
    cycles = Cycles.growing(name, period, multiplier, steps)
    policy = StatePolicy(state, state_factor)
    return cycled(name, falling(cosine_shape), cycles, peak, decay, warmup, floor, steps, policy)


@register("schedule", "linear_restarts")
def linear_restarts(
    peak: NonNegative,
    period: Count,
    steps: Count | None = None,
    multiplier: Growth = 1.0,
    decay: Decay = 1.0,
    warmup: Steps = 0,
    floor: NonNegative = 0.0,
    state: StateAction = "keep",
    state_factor: UnitInterval = 0.5,
) -> Schedule:
    """Linear annealing with warm restarts: the teeth of a saw.

    Use: as cosine_restarts; a line spends less of each cycle at the extremes.
    Source: after Loshchilov & Hutter 2017 (arXiv:1608.03983).
    peak: the value at the start of the first cycle.
    period: length of the first cycle, in updates.
    steps: the horizon, in updates; without it the restarts have no end.
    multiplier: each cycle is this many times as long as the one before, rounded to whole updates.
    decay: each peak is this many times the one before.
    warmup: steps of linear rise from `floor` at the start of each cycle, its length included.
    floor: the value that each cycle descends to.
    state: what becomes of the optimizer's moments at a restart.
    state_factor: what `state: decay` multiplies them by.
    """
    name = "linear_restarts"
    cycles = Cycles.growing(name, period, multiplier, steps)
    policy = StatePolicy(state, state_factor)
    return cycled(name, falling(linear_shape), cycles, peak, decay, warmup, floor, steps, policy)


@register("schedule", "polynomial_restarts")
def polynomial_restarts(
    peak: NonNegative,
    period: Count,
    steps: Count | None = None,
    power: Positive = 2.0,
    multiplier: Growth = 1.0,
    decay: Decay = 1.0,
    warmup: Steps = 0,
    floor: NonNegative = 0.0,
    state: StateAction = "keep",
    state_factor: UnitInterval = 0.5,
) -> Schedule:
    """Polynomial annealing with warm restarts.

    Use: power 2 and more for short bursts at a high rate and long quiet ends.
    Source: after Loshchilov & Hutter 2017 (arXiv:1608.03983).
    peak: the value at the start of the first cycle.
    period: length of the first cycle, in updates.
    steps: the horizon, in updates; without it the restarts have no end.
    power: of the part of a cycle that is left.
    multiplier: each cycle is this many times as long as the one before, rounded to whole updates.
    decay: each peak is this many times the one before.
    warmup: steps of linear rise from `floor` at the start of each cycle, its length included.
    floor: the value that each cycle descends to.
    state: what becomes of the optimizer's moments at a restart.
    state_factor: what `state: decay` multiplies them by.
    """
    name = "polynomial_restarts"
    cycles = Cycles.growing(name, period, multiplier, steps)
    fall = falling(power_shape(power))
    policy = StatePolicy(state, state_factor)
    return cycled(name, fall, cycles, peak, decay, warmup, floor, steps, policy)


@register("schedule", "exponential_restarts")
def exponential_restarts(
    peak: NonNegative,
    period: Count,
    steps: Count | None = None,
    factor: Decay = 0.01,
    multiplier: Growth = 1.0,
    decay: Decay = 1.0,
    warmup: Steps = 0,
    floor: NonNegative = 0.0,
    state: StateAction = "keep",
    state_factor: UnitInterval = 0.5,
) -> Schedule:
    """Exponential annealing with warm restarts: each cycle falls to `factor` of its top.

    Use: cycles that should spend equal time in each order of magnitude.
    Source: after Loshchilov & Hutter 2017 (arXiv:1608.03983).
    peak: the value at the start of the first cycle.
    period: length of the first cycle, in updates.
    steps: the horizon, in updates; without it the restarts have no end.
    factor: what a whole cycle multiplies by.
    multiplier: each cycle is this many times as long as the one before, rounded to whole updates.
    decay: each peak is this many times the one before.
    warmup: steps of linear rise from `floor` at the start of each cycle, its length included.
    floor: it does not fall below.
    state: what becomes of the optimizer's moments at a restart.
    state_factor: what `state: decay` multiplies them by.
    """
    name = "exponential_restarts"
    cycles = Cycles.growing(name, period, multiplier, steps)

    def fall(left: Array, top: Array | float, floor: float) -> Array:
        return np.maximum(top * np.power(factor, 1 - left), floor)

    policy = StatePolicy(state, state_factor)
    return cycled(name, fall, cycles, peak, decay, warmup, floor, steps, policy)


@register("schedule", "restart")
def restart(
    of: Schedule,
    period: Count | None = None,
    steps: Count | None = None,
    multiplier: Growth = 1.0,
    decay: Decay = 1.0,
    state: StateAction = "keep",
    state_factor: UnitInterval = 0.5,
) -> Schedule:
    """Any schedule, begun again and again, its horizon stretched to the length of each cycle.

    Cycle i takes period · multiplierⁱ steps, and is multiplied by decayⁱ. One without a horizon is
    cut, not stretched.
    Use: what has no restarts of its own: WSD, REX, a table.
    of: what each cycle does.
    period: length of the first cycle, by default the horizon of `of`.
    steps: the horizon; without it the restarts have no end.
    multiplier: each cycle is this many times as long as the one before, rounded to whole steps.
    decay: each cycle is this many times as high as the one before.
    state: what becomes of the optimizer's moments at a restart.
    state_factor: what `state: decay` multiplies them by.
    """
    if period is None and of.horizon is None:
        raise InputError("restart: period: is required where `of` has no horizon")
    cycles = Cycles.growing("restart", period or of.horizon or 1, multiplier, steps)
    policy = StatePolicy(state, state_factor)
    return replace(replayed(of, cycles, decay, policy, stretched=True), horizon=steps)


@register("schedule", "triggered")
def triggered(
    of: Schedule,
    at: tuple[Count, ...],
    decay: Decay = 1.0,
    state: StateAction = "keep",
    state_factor: UnitInterval = 0.5,
) -> Schedule:
    """A schedule begun again at each of the steps in a log: a triggered run, replayed exactly.

    Use: what a controller decided while the run went on, as a pure function of step and log.
    of: what each cycle does, from its own step 0; the last one goes on to its horizon.
    at: the steps at which it began again, ascending without repeats.
    decay: each cycle is this many times as high as the one before.
    state: what becomes of the optimizer's moments at a restart.
    state_factor: what `state: decay` multiplies them by.
    """
    if list(at) != sorted(set(at)):
        raise InputError(f"triggered: at={at!r}: should ascend without repeats")
    return _played_again(of, at, decay, StatePolicy(state, state_factor))


def begun_again(of: Schedule, at: tuple[int, ...]) -> Schedule:
    """`triggered(of, at)` with the policy of its own restarts, for a log that is known to be one:
    the checks of an argument take longer than the rest."""
    policy = of.at_restart
    given = {"of": of, "at": at, "decay": 1.0}
    given |= {"state": policy.action, "state_factor": policy.factor}
    again = _played_again(of, at, 1.0, policy).stamped("triggered@1", given, set())
    return replace(again, base=of.base)


def _played_again(of: Schedule, at: tuple[int, ...], decay: float, policy: StatePolicy) -> Schedule:
    cycles = Cycles.at([0.0, *map(float, at), math.inf])
    return replace(
        replayed(of, cycles, decay, policy, stretched=False),
        horizon=None if of.horizon is None else (at[-1] if at else 0) + of.horizon,
    )


def falling(shape: Shape) -> Fall:
    """A fall of this shape from the top to the floor."""
    return lambda left, top, floor: between(shape(left), top, floor)


def cycled(
    name: str,
    fall: Fall,
    cycles: Cycles,
    peak: float,
    decay: float,
    warmup: int,
    floor: float,
    steps: int | None,
    policy: StatePolicy,
) -> Schedule:
    """A fall in each cycle, after a rise of `warmup` steps, from peak · decayⁱ or the floor.

    Raises InputError for a floor above the peak, or a warm-up as long as a cycle.
    """
    check_floor(name, floor, peak)
    if warmup >= cycles.shortest:
        raise InputError(
            f"{name}: warmup={warmup} leaves nothing of a cycle of {cycles.shortest:g} steps"
        )

    def curve(k: Array) -> Array:
        number, start, length = cycles.locate(k)
        since = k - start
        height = peak * powers(decay, number)
        top = np.maximum(height, floor) if isinstance(height, np.ndarray) else height
        # The last cycle may end before the horizon, by rounding.
        left = np.clip((length - since) / (length - warmup), 0, 1)
        if not warmup:
            return fall(left, top, floor)
        rise = between((since + 1) / (warmup + 1), top, floor)
        return np.where(since < warmup, rise, fall(left, top, floor))

    return Schedule(curve, horizon=steps, starts=cycles.start_after, at_restart=policy)


def replayed(
    of: Schedule, cycles: Cycles, decay: float, policy: StatePolicy, *, stretched: bool
) -> Schedule:
    """A schedule played in each cycle, as it is or stretched to the cycle's length; without end.

    Raises InputError where it restarts by itself with another policy.
    """
    if of.starts is not never and of.at_restart != policy:
        raise InputError("state: should be that of the schedule's own restarts")
    played = replace(of, past="hold")  # a cycle may be longer than what it plays

    horizon = of.horizon if stretched else None

    def curve(k: Array) -> Array:
        number, start, length = cycles.locate(k)
        # The product before the quotient: whole steps then meet whole steps exactly.
        step = k - start if horizon is None else (k - start) * horizon / length
        return powers(decay, number) * played.values(step)

    def starts(after: float) -> float:
        edge = cycles.start_after(after)
        if of.starts is never:
            return edge
        _, starts, lengths = cycles.locate(np.array([after]))
        start, length = float(starts[0]), float(np.ravel(lengths)[0])

        def inner(k: float) -> float:
            return k - start if horizon is None else (k - start) * horizon / length

        found = of.next_restart(inner(after))
        near = start + (found if horizon is None else found * length / horizon)
        return min(edge, first_reaching(found, near, of.unit, inner))

    return Schedule(curve, starts=starts, unit=of.unit, past=of.past, at_restart=policy)
