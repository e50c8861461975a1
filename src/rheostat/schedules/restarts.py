"""Warm restarts: an annealing that begins again."""

from __future__ import annotations

from typing import Annotated

import annotated_types as at
import numpy as np
from numpy.typing import NDArray

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.schedule import Schedule
from rheostat.schedules.annealing import half_cosine

Array = NDArray[np.float64]
MOST_CYCLES = 100_000
"""More restarts than this are a mistyped period, and would only fill the memory."""


@register("schedule", "cosine_restarts")
def cosine_restarts(
    peak: NonNegative,
    steps: Count,
    period: Count,
    multiplier: Annotated[float, at.Ge(1)] = 1.0,
    decay: Positive = 1.0,
    floor: NonNegative = 0.0,
) -> Schedule:
    """Cosine annealing with warm restarts (SGDR).

    Cycle i is half a cosine over period · multiplierⁱ steps from peak · decayⁱ down to `floor`.
    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), equation 5.
    peak: the value at the start of the first cycle.
    steps: the horizon, in updates.
    period: length of the first cycle, in updates.
    multiplier: each cycle is this many times as long as the one before, rounded to whole updates.
    decay: each peak is this many times the one before.
    floor: the value that each cycle descends to.
    """
    if floor > peak:
        raise InputError(f"cosine_restarts: floor={floor:g} is above peak={peak:g}")
    # Cycle starts in whole updates; those within the horizon are the restarts.
    starts = [0]
    length = float(period)
    while starts[-1] + round(length) < steps:
        if len(starts) > MOST_CYCLES:
            raise InputError(
                f"cosine_restarts: period={period} gives more than {MOST_CYCLES} cycles in {steps} "
                "steps; a longer period or a larger multiplier is needed"
            )
        starts.append(starts[-1] + round(length))
        length = min(length * multiplier, float(steps))
    edges = np.array([*starts, starts[-1] + round(length)], dtype=np.float64)

    def curve(k: Array) -> Array:
        cycle = np.minimum(np.searchsorted(edges, k, side="right") - 1, len(starts) - 1)
        fraction = (k - edges[cycle]) / (edges[cycle + 1] - edges[cycle])
        top = np.maximum(peak * np.power(decay, cycle), floor)
        return half_cosine(np.minimum(fraction, 1.0), top, floor)

    return Schedule(curve, horizon=steps, restarts=tuple(starts[1:]))
