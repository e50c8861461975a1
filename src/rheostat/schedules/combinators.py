"""Schedules made of schedules: after one another, together, scaled, moved, bounded, converted."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import annotated_types as at
import numpy as np

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative, Positive, Steps
from rheostat.core.registry import register
from rheostat.core.schedule import (
    Past,
    Schedule,
    Unit,
    product,
    scaled,
    shared_policy,
    shared_unit,
    total,
)
from rheostat.schedules.shapes import Array, Cycles, by_piece, first_reaching, warmed

Some = Annotated[tuple[Schedule, ...], at.MinLen(1)]


@register("schedule", "warmup")
def warmup(of: Schedule, length: Steps) -> Schedule:
    """A linear rise before any schedule, which begins when the rise is over.

    Use: schedules without a warm-up of their own; those that have one keep their horizon with it.
    of: what it rises to: its value at step 0.
    length: steps of the rise, by which the horizon grows.
    """
    return replace(
        _delayed(of, length), curve=warmed(of.values, of(0), length), at_restart=of.at_restart
    )


@register("schedule", "shift")
def shift(of: Schedule, by: Steps) -> Schedule:
    """A schedule that begins so many steps later, and has its first value until then.

    of: what begins later.
    by: how many steps.
    """
    return _delayed(of, by)


def _delayed(of: Schedule, by: int) -> Schedule:
    def curve(k: Array) -> Array:
        return of.values(np.maximum(k - by, 0))

    def starts(after: float) -> float:
        found = of.next_restart(max(after - by, 0))
        return first_reaching(found, found + by, of.unit, lambda k: k - by)

    horizon = None if of.horizon is None else of.horizon + by
    marks = tuple((step + by, what) for step, what in of.marks)
    return replace(of, curve=curve, horizon=horizon, starts=starts, marks=marks)


@register("schedule", "join")
def join(schedules: Some, boundaries: tuple[Count, ...] | None = None) -> Schedule:
    """One schedule after the other, each from its own step 0.

    Equals: optax join_schedules; torch SequentialLR, but for its values at milestones (pytorch
     #162591, #185872).
    schedules: what comes after one another, counted in one unit.
    boundaries: the steps at which the next one begins, one fewer; by default each one's horizon.
    """
    unit = shared_unit("join", schedules)
    edges = _edges(schedules, boundaries)
    begins = np.array(edges)
    last = schedules[-1]

    def curve(k: Array) -> Array:
        return by_piece(begins, k, lambda i, steps: schedules[i].values(steps - begins[i]))

    def starts(after: float) -> float:
        for i in range(bisect.bisect_right(edges, after) - 1, len(schedules)):
            found = schedules[i].next_restart(max(after - edges[i], 0))
            step = first_reaching(found, found + edges[i], unit, lambda k, i=i: k - edges[i])
            if step < (edges[i + 1] if i + 1 < len(edges) else math.inf):
                return step
        return math.inf

    return Schedule(
        curve,
        horizon=None if last.horizon is None else int(edges[-1]) + last.horizon,
        starts=starts,
        unit=unit,
        past=last.past,
        at_restart=shared_policy("join", schedules),
        marks=tuple(_marks_of(schedules, edges)),
    )


def _marks_of(schedules: tuple[Schedule, ...], edges: list[float]) -> Iterator[tuple[float, str]]:
    for i, (schedule, edge) in enumerate(zip(schedules, edges, strict=True)):
        if i:
            yield edge, "next schedule begins"
        end = edges[i + 1] if i + 1 < len(edges) else math.inf
        yield from ((edge + step, what) for step, what in schedule.marks if edge + step < end)


def _edges(schedules: tuple[Schedule, ...], boundaries: tuple[int, ...] | None) -> list[float]:
    """Where each schedule begins. Raises InputError where they do not fit into one another."""
    horizons = [s.horizon for s in schedules[:-1]]
    if boundaries is None:
        if None in horizons:
            raise InputError(
                f"join: boundaries: is required, for schedules[{horizons.index(None)}] has no end"
            )
        return [float(sum(h or 0 for h in horizons[:i])) for i in range(len(schedules))]
    if len(boundaries) != len(schedules) - 1:
        raise InputError(
            f"join: boundaries={boundaries!r}: should be {len(schedules) - 1} for "
            f"{len(schedules)} schedules"
        )
    edges = [0, *boundaries]
    if edges != sorted(set(edges)):
        raise InputError(f"join: boundaries={boundaries!r}: should ascend without repeats")
    for i, horizon in enumerate(horizons):
        if horizon is not None and edges[i] + horizon > edges[i + 1]:
            raise InputError(
                f"join: schedules[{i}] ends at {edges[i] + horizon} and overlaps the next, which "
                f"begins at {edges[i + 1]}; cut it with until"
            )
    return [float(edge) for edge in edges]


@register("schedule", "repeat")
def repeat(of: Schedule, times: Count | None = None) -> Schedule:
    """A schedule over and over, from step 0 to its horizon: a wave, whose turns are no restarts.

    of: what is repeated; it needs a horizon.
    times: how often; without it for ever.
    """
    if of.horizon is None:
        raise InputError("repeat: of: should have a horizon; until(of, steps) gives it one")
    cycles = Cycles(of.horizon, last=math.inf if times is None else times - 1)

    def starts(after: float) -> float:
        begun = float(cycles.locate(np.array([after]))[1][0])
        for start in (begun, cycles.start_after(after)):
            if (found := of.next_restart(max(after - start, 0))) < math.inf:
                return first_reaching(
                    found, found + start, of.unit, lambda k, start=start: k - start
                )
        return math.inf

    def curve(k: Array) -> Array:
        return of.values(k - cycles.locate(k)[1])

    horizon = None if times is None else times * of.horizon
    return replace(of, curve=curve, horizon=horizon, starts=starts, marks=())


@register("schedule", "scale")
def scale(of: Schedule, factor: NonNegative) -> Schedule:
    """A schedule times a number; `0.5 * schedule` in Python.

    of: what is scaled.
    factor: the number.
    """
    return scaled(of, factor)


@register("schedule", "add")
def add(schedules: Some) -> Schedule:
    """The sum of schedules; `a + b` in Python.

    schedules: what is added, counted in one unit.
    """
    return total(schedules)


@register("schedule", "multiply")
def multiply(schedules: Some) -> Schedule:
    """The product of schedules; `a * b` in Python.

    Equals: torch ChainedScheduler, of factors.
    schedules: what is multiplied, counted in one unit.
    """
    return product(schedules)


@register("schedule", "clamp")
def clamp(of: Schedule, lower: NonNegative = 0.0, upper: NonNegative | None = None) -> Schedule:
    """A schedule kept within bounds.

    of: what is bounded.
    lower: the least value.
    upper: the greatest value; none by default.
    """
    if upper is not None and lower > upper:
        raise InputError(f"clamp: lower={lower:g} is above upper={upper:g}")

    def curve(k: Array) -> Array:
        return np.clip(of.values(k), lower, upper)

    return replace(of, curve=curve)


@register("schedule", "until")
def until(of: Schedule, steps: Count, past: Past = "hold") -> Schedule:
    """A schedule up to a horizon, and what it does beyond: keep its value there, or raise.

    Use: past: raise, where going on past the plan is a mistake to be told of.
    of: what ends there, whether it had an end or not.
    steps: the horizon.
    past: hold keeps the value at the horizon; raise refuses to go on.
    """
    return replace(of, curve=replace(of, past="hold").values, horizon=steps, past=past)


@register("schedule", "in_unit")
def in_unit(of: Schedule, unit: Unit, per_update: Positive) -> Schedule:
    """A schedule counted in another unit, by a declared ratio; one of the two units is updates.

    Use: a plan in tokens or epochs that holds at any batch size; `per_update: 1` says that the
     numbers of `of` are counts of `unit` already.
    of: what is converted.
    unit: updates, samples, tokens, epochs, or fraction (of a budget of wall-clock time).
    per_update: how many of the other unit one update is.
    """
    if (of.unit == "updates") == (unit == "updates"):
        raise InputError(
            f"in_unit: unit={unit!r}: `of` counts {of.unit}; convert by way of updates"
        )
    outward = unit != "updates"

    def into(k: float) -> float:
        return k / per_update if outward else k * per_update

    def out(step: float) -> float:
        return step * per_update if outward else step / per_update

    def starts(after: float) -> float:
        found = of.next_restart(into(after))
        return first_reaching(found, out(found), unit, into)

    # A part in 10¹² is rounding: a horizon of 1.0000000000000002 is one of 1.
    horizon = None if of.horizon is None else math.ceil(out(of.horizon) * (1 - 1e-12))

    def curve(k: Array) -> Array:
        return of.values(k / per_update if outward else k * per_update)

    marks = tuple((first_reaching(k, out(k), unit, into), what) for k, what in of.marks)
    return replace(of, curve=curve, horizon=horizon, starts=starts, unit=unit, marks=marks)


@register("schedule", "on_base")
def on_base(of: Schedule, base: Positive) -> Schedule:
    """A schedule of factors on a base value that others may write: base · of.

    Use: where a framework or a person sets the learning rate by hand, and the schedule goes on from
     what was set. Who writes v where the factor is f makes the base v / f.
    Avoid: without need; a schedule that owns its hyperparameter notices a stray write.
    of: the factors.
    base: the value to begin with, in the units of the hyperparameter.
    """
    return replace(scaled(of, base), base=base)
