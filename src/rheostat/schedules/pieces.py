"""Constant pieces, and points with lines between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import annotated_types as at
import numpy as np

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative, Steps, UnitInterval
from rheostat.core.registry import register
from rheostat.core.schedule import Curve, Schedule
from rheostat.schedules.shapes import (
    SHAPES,
    Array,
    ShapeName,
    between,
    check_warmup,
    warmed,
)

Rising = Annotated[tuple[Count, ...], at.MinLen(1)]
Values = Annotated[tuple[NonNegative, ...], at.MinLen(1)]


@register("schedule", "step")
def step(
    peak: NonNegative,
    steps: Count,
    drops: Annotated[tuple[UnitInterval, ...], at.MinLen(1)] = (0.5, 0.75),
    factor: UnitInterval = 0.1,
    warmup: Steps = 0,
) -> Schedule:
    """Piecewise constant: multiplied by `factor` at each fraction of the horizon in `drops`.

    Use: image classification with SGD, where it was tuned for years.
    Avoid: short runs: the part at the high rate is lost where the last drop comes late.
    Equals: torch MultiStepLR with its milestones at those fractions.
    peak: the value before the first drop.
    steps: the horizon, in updates.
    drops: where the drops come, as fractions of the horizon, ascending.
    factor: what each drop multiplies by.
    warmup: steps of linear rise before it; the drops stay where they are.
    """
    if list(drops) != sorted(set(drops)):
        raise InputError(f"step: drops={drops!r}: should ascend without repeats")
    check_warmup("step", warmup, steps)
    return _dropping(peak, [math.ceil(drop * steps) for drop in drops], factor, warmup, steps)


@register("schedule", "multi_step")
def multi_step(
    peak: NonNegative, milestones: Rising, factor: UnitInterval = 0.1, warmup: Steps = 0
) -> Schedule:
    """Piecewise constant: multiplied by `factor` at each of the steps in `milestones`.

    Equals: torch MultiStepLR, where a milestone written twice counts twice too; optax
     piecewise_constant_schedule.
    peak: the value before the first milestone.
    milestones: steps, ascending.
    factor: what each milestone multiplies by.
    warmup: steps of linear rise before it; the milestones stay where they are.
    """
    if list(milestones) != sorted(milestones):
        raise InputError(f"multi_step: milestones={milestones!r}: should ascend")
    return _dropping(peak, milestones, factor, warmup, None)


def _dropping(
    peak: float, milestones: Sequence[int], factor: float, warmup: int, steps: int | None
) -> Schedule:
    edges = np.array(milestones, dtype=np.float64) - warmup
    levels = peak * np.power(factor, np.arange(len(edges) + 1))

    def curve(k: Array) -> Array:
        return levels[np.searchsorted(edges, k, side="right")]

    marks = tuple((float(milestone), "drop") for milestone in milestones)
    return Schedule(warmed(curve, peak, warmup), horizon=steps, marks=marks)


@register("schedule", "piecewise")
def piecewise(
    boundaries: Rising,
    values: Values,
    interpolate: Literal["none"] | ShapeName = "none",
) -> Schedule:
    """Constant pieces: values[0] before the first boundary, values[i] from boundary i on.

    With `interpolate`, what lies between two boundaries goes from the one's value to the next
    one's in that shape: values[0] at step 0, values[i] at boundary i.
    Equals: optax piecewise_interpolate_schedule, with interpolate linear or cosine.
    boundaries: steps, ascending without repeats.
    values: one more than there are boundaries.
    interpolate: none, or the shape of the way from one value to the next.
    """
    if list(boundaries) != sorted(set(boundaries)):
        raise InputError(f"piecewise: boundaries={boundaries!r}: should ascend without repeats")
    if len(values) != len(boundaries) + 1:
        raise InputError(
            f"piecewise: values: there are {len(values)} for {len(boundaries)} boundaries, which "
            f"need {len(boundaries) + 1}"
        )
    levels = np.array(values)
    edges = np.array([0, *boundaries], dtype=np.float64)
    marks = tuple((float(boundary), "boundary") for boundary in boundaries)
    if interpolate == "none":
        return Schedule(lambda k: levels[np.searchsorted(edges, k, side="right") - 1], marks=marks)
    return Schedule(_through(edges, levels, interpolate), horizon=boundaries[-1], marks=marks)


@register("schedule", "table")
def table(
    values: Values, every: Count = 1, interpolate: Literal["none"] | ShapeName = "none"
) -> Schedule:
    """The values of a list, one every so many steps; the last one stays.

    Use: a curve that was measured, or comes from another program; schedules.from_csv reads one
     from a file. The values themselves are the record: a recipe names no file.
    values: values[i] from step i · every on.
    every: steps that one value stands for.
    interpolate: none, or the shape of the way from one value to the next.
    """
    levels = np.array(values)
    last = len(values) - 1
    if interpolate == "none" or not last:

        def curve(k: Array) -> Array:
            return levels[np.minimum(np.floor(k / every), last).astype(np.intp)]

        return Schedule(curve, horizon=max(last * every, 1))
    edges = np.arange(last + 1, dtype=np.float64) * every
    return Schedule(_through(edges, levels, interpolate), horizon=last * every)


def _through(edges: Array, levels: Array, interpolate: ShapeName) -> Curve:
    shape, ends, lengths = SHAPES[interpolate], edges[1:], np.diff(edges)

    def curve(k: Array) -> Array:
        i = np.searchsorted(ends[:-1], k, side="right")
        left = np.clip((ends[i] - k) / lengths[i], 0, 1)
        return between(shape(left), levels[i], levels[i + 1])

    return curve
