"""Decays without an end of their own: exponential, inverse square root, power."""

from __future__ import annotations

from typing import Annotated

import annotated_types as at
import numpy as np

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative, Positive, Steps
from rheostat.core.registry import register
from rheostat.core.schedule import Schedule
from rheostat.schedules.shapes import Array, check_floor, check_warmup, powers, warmed

Ratio = Annotated[float, at.Gt(0), at.Le(1)]


@register("schedule", "exponential")
def exponential(
    peak: NonNegative,
    factor: Ratio = 0.01,
    every: Count | None = None,
    steps: Count | None = None,
    staircase: bool = False,
    warmup: Steps = 0,
    floor: NonNegative = 0.0,
) -> Schedule:
    """Multiplied by `factor` in every so many steps, evenly: peak · factor^(k / every).

    Use: where each part of a run should lower the rate by the same ratio.
    Avoid: a factor per update from another run's length: 0.999 means nothing without its horizon.
    Equals: torch ExponentialLR (every=1) and StepLR (staircase); optax exponential_decay.
    peak: the value at the start.
    factor: what each `every` steps multiply by; of the whole descent where `every` is not given.
    every: steps, by default those that the warm-up leaves of the horizon.
    steps: the horizon, in updates; without it the decay goes on for ever.
    staircase: in whole jumps, at each multiple of `every`.
    warmup: steps of linear rise before it.
    floor: it does not fall below.
    """
    check_floor("exponential", floor, peak)
    if steps is not None:
        check_warmup("exponential", warmup, steps)
    if every is None and steps is None:
        raise InputError("exponential: every: is required where no horizon (steps) is given")
    length = every or (steps or 0) - warmup

    def curve(k: Array) -> Array:
        falls = powers(factor, np.floor(k / length)) if staircase else np.power(factor, k / length)
        return np.maximum(peak * falls, floor)

    return Schedule(warmed(curve, peak, warmup), horizon=steps)


@register("schedule", "inverse_sqrt")
def inverse_sqrt(
    peak: NonNegative,
    warmup: Steps = 0,
    timescale: Count | None = None,
    floor: NonNegative = 0.0,
) -> Schedule:
    """Falls as one over the root of the step, for as long as training lasts.

    peak · √(t / (t + k)), k counted from the end of the warm-up and t the `timescale`.
    Use: training whose length is open, as of the first Transformers.
    Avoid: a fixed budget: it ends far above zero; cool it down at the end (cooldown_from).
    Equals: Noam's schedule, and get_inverse_sqrt_schedule of transformers, from the warm-up's end.
    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 3.
    peak: the value at the end of the warm-up.
    warmup: steps of linear rise before it.
    timescale: steps in which it falls to 71 %; by default the warm-up, or 10,000 without one.
    floor: it does not fall below.
    """
    check_floor("inverse_sqrt", floor, peak)
    scale = timescale or warmup or 10_000

    def curve(k: Array) -> Array:
        return np.maximum(peak * np.sqrt(scale / (scale + k)), floor)

    return Schedule(warmed(curve, peak, warmup))


@register("schedule", "power")
def power(
    peak: NonNegative,
    scale: Positive,
    exponent: Annotated[float, at.Lt(0)] = -0.51,
    warmup: Steps = 0,
    floor: NonNegative = 0.0,
) -> Schedule:
    """Power scheduler: min(peak, scale · k^exponent), whatever the batch size and the length.

    The warm-up is a third thing that it is the least of.
    Use: pre-training whose number of tokens is open, counted in tokens (in_unit); the paper ends it
     with a decay over the last tenth (cooldown_from).
    Avoid: counting updates with the paper's numbers: its `scale` is 4.6 times the batch size, and
     k counts tokens.
    Source: Shen et al. 2024 (arXiv:2408.13359).
    peak: the highest value.
    scale: what the power of the step is multiplied by.
    exponent: how fast it falls.
    warmup: steps of linear rise to `peak`.
    floor: it does not fall below.
    """
    check_floor("power", floor, peak)
    # Before this step the power is above the peak, and at step 0 infinite.
    meets = max(1.0, min((peak / scale) ** (1 / exponent), 2.0**53)) if peak else 2.0**53

    def curve(k: Array) -> Array:
        falling = np.maximum(scale * np.power(np.maximum(k, meets), exponent), floor)
        return np.minimum(falling, peak * np.minimum((k + 1) / (warmup + 1), 1.0))

    return Schedule(curve)
