"""A change of plan: a new schedule that is the old one before the step `at`.

Each is a component, so that a record holds what was changed into what;
`new.preview(beside=old)` shows both curves.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import numpy as np

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative, Steps
from rheostat.core.registry import register
from rheostat.core.schedule import Schedule
from rheostat.schedules.shapes import SHAPES, Array, ShapeName, between, first_reaching


@register("schedule", "extend")
def extend(of: Schedule, at: Steps, steps: Count) -> Schedule:
    """Another horizon: what was left of the curve at step `at`, stretched over what is left now.

    Use: more budget in the middle of a run, or less. The curve goes on without a jump, and falls
     more slowly from there on, or faster.
    Avoid: once it is at its floor: nothing is left to stretch; restart it instead.
    of: the old plan, with a horizon.
    at: the step of the change.
    steps: the new horizon, beyond `at`.
    """
    old = of.horizon
    if old is None:
        raise InputError(f"extend: steps={steps}: the plan has no horizon to move")
    if steps <= at:
        raise InputError(f"extend: steps={steps}: should be beyond at={at}")
    if at >= old:
        raise InputError(f"extend: at={at}: nothing is left of the plan, which ends at {old}")

    # The product before the quotient: whole steps then meet whole steps exactly.
    def inner(k: float) -> float:
        return k if k <= at else at + (k - at) * (old - at) / (steps - at)

    def moved(k: float) -> float:
        return k if k <= at else at + (k - at) * (steps - at) / (old - at)

    def starts(after: float) -> float:
        found = of.next_restart(inner(after))
        return first_reaching(found, moved(found), of.unit, inner)

    def curve(k: Array) -> Array:
        return of.values(np.where(k <= at, k, at + (k - at) * (old - at) / (steps - at)))

    marks = [(first_reaching(k, moved(k), of.unit, inner), what) for k, what in of.marks]
    return replace(
        of,
        curve=curve,
        horizon=steps,
        starts=starts,
        marks=(*marks, (at, "another horizon from here")),
    )


@register("schedule", "rescale_from")
def rescale_from(
    of: Schedule, at: Steps, peak: NonNegative, old_peak: NonNegative | None = None
) -> Schedule:
    """Another peak from here: every value from step `at` on times peak / old_peak.

    Use: a learning rate that turns out too high or too low in the middle of a run.
    of: the old plan.
    at: the first step of the new one.
    peak: the peak that it should have had.
    old_peak: the peak that it has; by default the one that it was made with.
    """
    before = peak_of(of) if old_peak is None else old_peak
    if not before:
        raise InputError(
            "rescale_from: old_peak: is required, and above 0, where `of` was made without `peak`"
        )
    factor = peak / before

    def curve(k: Array) -> Array:
        return of.values(k) * np.where(k < at, 1.0, factor)

    return replace(of, curve=curve, marks=(*of.marks, (at, "another peak from here")))


def following(value: float, lead: float) -> float:
    """`value`, or where it is a number and `lead` a schedule, that schedule with `value` for its
    peak: the learning rate of the parameters that a rule leaves to another.

    Both are annotated as the numbers that they stand for.
    """
    led = cast("object", lead)
    if not isinstance(led, Schedule) or not isinstance(cast("object", value), int | float):
        return value
    peak = peak_of(led) or led.extremes()[1][1]
    return cast("float", (value / peak) * led) if peak else value


_SAME_PEAK = (
    "extend",
    "cooldown_from",
    "triggered",
    "restart",
    "until",
    "in_unit",
    "warmup",
    "shift",
)
"""Combinators that leave the peak of what they are made of as it is."""


def peak_of(of: Schedule) -> float | None:
    """The peak that a schedule was made with; None where it cannot be told from its making."""
    if of.origin is None:
        return None
    name, given = of.origin.component.partition("@")[0], of.origin.arguments
    if "peak" in given:
        return given["peak"]
    inner = peak_of(given["of"]) if "of" in given else None
    if inner is None:
        return None
    if name in ("scale", "on_base"):
        return inner * given["factor" if name == "scale" else "base"]
    return inner if name in _SAME_PEAK else None


@register("schedule", "cooldown_from")
def cooldown_from(
    of: Schedule, at: Steps, steps: Count, shape: ShapeName = "linear", floor: NonNegative = 0.0
) -> Schedule:
    """Cooled down from here: from its value at step `at` to `floor`, which it reaches at `steps`.

    Use: to end a WSD run, or any run, well: now, or from a checkpoint of its plateau.
    of: the old plan, of which no restart after `at` is left.
    at: the step from which it cools down.
    steps: the new horizon.
    shape: of the way down.
    floor: the value at the end.
    """
    if steps <= at:
        raise InputError(f"cooldown_from: steps={steps}: should be beyond at={at}")
    top = of(at)
    if floor > top:
        raise InputError(f"cooldown_from: floor={floor:g} is above the value at step {at}, {top:g}")

    def curve(k: Array) -> Array:
        left = np.clip((steps - k) / (steps - at), 0, 1)
        return np.where(
            k < at, of.values(np.minimum(k, at)), between(SHAPES[shape](left), top, floor)
        )

    def starts(after: float) -> float:
        found = of.next_restart(after)
        return found if found <= at else math.inf

    marks = (*(mark for mark in of.marks if mark[0] < at), (at, "cool-down begins"))
    return replace(of, curve=curve, horizon=steps, starts=starts, past="hold", marks=marks)
