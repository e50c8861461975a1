"""Restart schedules that need no more than a peak: cadences that were tried, each with its study.

Cycles are parts of the horizon, so that the last one always ends with the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative
from rheostat.core.registry import register
from rheostat.core.schedule import Schedule, StateAction, StatePolicy
from rheostat.schedules.restarts import cycled, falling
from rheostat.schedules.shapes import Cycles, Shape, cosine_shape, linear_shape


@register("schedule", "restart_sgdr")
def restart_sgdr(peak: NonNegative, steps: Count, floor: NonNegative = 0.0) -> Schedule:
    """Three cosine cycles, each twice as long as the one before, all of full height.

    Cadence: restarts at 1/7 and 3/7 of the run; the optimizer's state is kept.
    Study: studies/restart_presets.yaml compares it with one cosine at an equal budget; they ended
    alike. So they did with AdamW (studies/restart_state.yaml).

    Use: SGD with momentum, where good weights at 1/7 and 3/7 of the run are worth having.
    Avoid: rules that find their own step size, Prodigy above all, without a safeguard: a jump of
     the rate misleads their estimate; schedule-free rules, which average instead.
    Source: Loshchilov & Hutter 2017 (arXiv:1608.03983), T_mult = 2.
    peak: the value at the start of each cycle.
    steps: the horizon, in updates.
    floor: the value at the end of each cycle.
    """
    return _preset("restart_sgdr", peak, steps, floor, (1, 2, 4))


@register("schedule", "restart_equal")
def restart_equal(peak: NonNegative, steps: Count, floor: NonNegative = 0.0) -> Schedule:
    """Five cosine cycles of equal length and height, for an ensemble of snapshots.

    Cadence: restarts at every fifth of the run; the optimizer's state is kept.
    Study: studies/restart_presets.yaml compares it with one cosine at an equal budget; they ended
    alike.

    Use: five models for the price of one, each taken where a cycle ends.
    Avoid: for a single model: the last cycle is a fifth of the budget. Prodigy without its
     safeguard, and schedule-free rules, as with any restart.
    Source: Huang et al. 2017 (arXiv:1704.00109).
    peak: the value at the start of each cycle.
    steps: the horizon, in updates.
    floor: the value at the end of each cycle.
    """
    return _preset("restart_equal", peak, steps, floor, (1, 1, 1, 1, 1))


@register("schedule", "restart_decayed")
def restart_decayed(peak: NonNegative, steps: Count, floor: NonNegative = 0.0) -> Schedule:
    """Three cosine cycles, each twice as long and half as high as the one before.

    Cadence: restarts at 1/7 and 3/7 of the run; the optimizer's state is kept.
    Study: studies/restart_presets.yaml compares it with one cosine at an equal budget; it ended
    worse, by 0.8 points of accuracy.

    Use: where full restarts throw away too much, and the peak is high.
    Avoid: a peak that is right for one descent: the longest cycle has a quarter of it. Prodigy
     without its safeguard, and schedule-free rules, as with any restart.
    Source: after Loshchilov & Hutter 2017 (arXiv:1608.03983).
    peak: the value at the start of the first cycle.
    steps: the horizon, in updates.
    floor: the value at the end of each cycle.
    """
    return _preset("restart_decayed", peak, steps, floor, (1, 2, 4), decay=0.5)


@register("schedule", "restart_once")
def restart_once(peak: NonNegative, steps: Count, floor: NonNegative = 0.0) -> Schedule:
    """Two straight descents of equal length, the second half as high: one second wind.

    Cadence: one restart, at half of the run; the optimizer's state is kept.
    Study: studies/restart_presets.yaml compares it with one cosine at an equal budget; whether it
    ended worse was not decided, better it did not.

    Use: the mildest restart, to see whether a task gains by any.
    Avoid: Prodigy without its safeguard, and schedule-free rules, as with any restart.
    Source: after Loshchilov & Hutter 2017 (arXiv:1608.03983).
    peak: the value at the start.
    steps: the horizon, in updates.
    floor: the value at the end of each cycle.
    """
    return _preset("restart_once", peak, steps, floor, (1, 1), shape=linear_shape, decay=0.5)


@register("schedule", "restart_rewarmed")
def restart_rewarmed(peak: NonNegative, steps: Count, floor: NonNegative = 0.0) -> Schedule:
    """Three cosine cycles, 1 : 2 : 4, each with a warm-up of a tenth of the shortest.

    Cadence: restarts at 1/7 and 3/7 of the run; the optimizer's state is kept.
    Study: studies/restart_state.yaml compares what becomes of the state, with AdamW; it ended as
    one cosine did, and as the same cycles without a warm-up.

    Use: Adam's family, whose second moments are those of the quiet end of a cycle.
    Avoid: short runs: the rises take a tenth of the first cycle each. Prodigy without its
     safeguard, and schedule-free rules, as with any restart.
    Source: after Loshchilov & Hutter 2017 (arXiv:1608.03983).
    peak: the highest value of each cycle.
    steps: the horizon, in updates.
    floor: the value at the end of each cycle.
    """
    return _preset("restart_rewarmed", peak, steps, floor, (1, 2, 4), rise=0.1)


@register("schedule", "restart_fresh")
def restart_fresh(peak: NonNegative, steps: Count, floor: NonNegative = 0.0) -> Schedule:
    """As restart_rewarmed, with the optimizer's moments reset at each restart.

    Cadence: restarts at 1/7 and 3/7 of the run, each from fresh moments.
    Study: studies/restart_state.yaml compares what becomes of the state, with AdamW; it ended as
    one cosine did, and as with the state kept.

    Use: where old moments point away from the new cycle: the data or the loss changed there.
    Avoid: as a default: it pays the price of a beginning each time. Prodigy, whose estimate would
     begin anew, and schedule-free rules, whose average would.
    Source: after Loshchilov & Hutter 2017 (arXiv:1608.03983).
    peak: the highest value of each cycle.
    steps: the horizon, in updates.
    floor: the value at the end of each cycle.
    """
    return _preset("restart_fresh", peak, steps, floor, (1, 2, 4), rise=0.1, state="reset")


def _preset(
    name: str,
    peak: float,
    steps: int,
    floor: float,
    parts: Sequence[int],
    *,
    shape: Shape = cosine_shape,
    decay: float = 1.0,
    rise: float = 0.0,
    state: StateAction = "keep",
) -> Schedule:
    """Cycles whose lengths are as `parts`, the first update of each that of its exact beginning."""
    whole = sum(parts)
    edges = [float(-(-steps * begun // whole)) for begun in accumulate(parts, initial=0)]
    cycles = Cycles.at(edges)
    if cycles.shortest < 2:
        raise InputError(f"{name}: steps={steps}: too few for {len(parts)} cycles of two or more")
    warmup = round(rise * cycles.shortest)
    policy = StatePolicy(state)
    return cycled(name, falling(shape), cycles, peak, decay, warmup, floor, steps, policy)
