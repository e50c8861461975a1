"""A warm-up, a plateau and a cool-down."""

from __future__ import annotations

from typing import Annotated

import annotated_types as at
import numpy as np

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative, Steps
from rheostat.core.registry import register
from rheostat.core.schedule import Schedule
from rheostat.schedules.shapes import SHAPES, Array, ShapeName, between, check_floor, warmed


@register("schedule", "wsd")
def wsd(
    peak: NonNegative,
    steps: Count,
    warmup: Steps = 0,
    cooldown: Annotated[float, at.Gt(0), at.Le(1)] = 0.2,
    shape: ShapeName = "linear",
    floor: NonNegative = 0.0,
) -> Schedule:
    """Warm-up, stable, decay (WSD, trapezoid): constant at `peak`, then a cool-down to `floor`.

    Use: runs whose length is not decided: the plateau can go on, and be cooled down from anywhere.
    Avoid: judging it before its cool-down, which is where the loss falls.
    Equals: get_wsd_schedule of transformers, from the end of the warm-up.
    Source: Hu et al. 2024 (arXiv:2404.06395); the cool-downs: Hägele et al. 2024
     (arXiv:2405.18392), who found 1 − √ the best and 20 % enough.
    peak: the value of the plateau.
    steps: the horizon, in updates, the warm-up and the cool-down included.
    warmup: steps of linear rise before it.
    cooldown: the part of the horizon that cools down, rounded to whole updates.
    shape: of the cool-down.
    floor: the value at the end.
    """
    check_floor("wsd", floor, peak)
    length = max(1, round(cooldown * steps))
    if warmup + length > steps:
        raise InputError(
            f"wsd: warmup={warmup} and a cool-down of {length} do not fit into {steps} steps"
        )

    def curve(k: Array) -> Array:
        left = np.minimum((steps - warmup - k) / length, 1.0)
        return between(SHAPES[shape](left), peak, floor)

    marks = ((float(steps - length), "cool-down begins"),)
    return Schedule(warmed(curve, peak, warmup), horizon=steps, marks=marks)
