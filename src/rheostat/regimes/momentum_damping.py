"""Oscillation: less momentum for a while."""

from __future__ import annotations

import math
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Controller, Now, Scale
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory

Window = Annotated[int, at.Ge(20)]

_STRETCH = 5
"""Steps whose cosines are averaged: noise is, and a swing lasts longer."""
_MUCH = 0.25


@register("controller", "momentum_damping", version=1)
def momentum_damping(
    window: Window = 50,
    cosine: Annotated[float, at.Gt(0), at.Le(1)] = 0.2,
    z: Positive = 5.0,
    factor: Annotated[float, at.Gt(1)] = 1.5,
    most: Annotated[float, at.Gt(1)] = 8.0,
    calm: Count = 4,
) -> Controller:
    """Forget faster where gradients turn against the momentum, or the loss goes up and down.

    Over each window: training oscillates where a quarter of its stretches of five steps have a mean
    cosine of gradient and momentum below −cosine, as swinging weights have on every way back; or
    where the loss turns at more places than noise does, by z standard deviations (of n values noise
    turns at 2 (n − 2) / 3, with variance (16 n − 29) / 90). Then 1 − momentum × factor, up to
    `most`; `calm` windows in a row without either take one factor back.

    Stability: a running mean of gradients swings where 1 − β is small beside the curvature's
     √(lr · λ); a larger 1 − β damps that. One factor a window, and back more slowly.
    Worst: 1 − momentum at `most` times the plan, so that much less smoothing of the gradient, while
     a loss alternates for another reason (two kinds of batches in turn).
    Source: turning points: Bienaymé 1874; why momentum oscillates: O'Donoghue & Candès 2015
     (arXiv:1204.3982).
    window: steps that are judged together. Usual [20, 500] steps: longer is surer, and later.
    cosine: of gradient and momentum, how far below 0. Usual [0.05, 0.5]: more wants a clearer sign.
    z: how far beyond noise the loss turns. Usual [3, 8]: more is surer.
    factor: on 1 − momentum. Usual [1.2, 2]: more damps faster.
    most: bound of its part. Usual [2, 10]: more may take all momentum away.
    calm: windows before a factor is taken back. Usual [2, 20] windows: more is slower to return.
    """

    def decide(now: Now, memory: Memory) -> Scale | None:
        if not now.applied or not math.isfinite(now.loss):
            return None
        memory["cosines"].append(now["momentum_cosine"])
        memory["losses"].append(now.loss)
        if len(memory["losses"]) < window:
            return None
        back, turning = _back(memory["cosines"], cosine), _turning(memory["losses"])
        memory.update(cosines=[], losses=[])
        share = now.share("momentum")
        numbers = {"back": back, "turning": turning}
        if back >= _MUCH:
            reason = f"in {back:.0%} of the time gradients turn against the momentum"
        elif turning > z:
            reason = f"the loss goes up and down, {turning:.1f} deviations more than noise"
        else:
            memory["calm"] += 1
            if memory["calm"] < calm or share <= 1:
                return None
            memory["calm"] = 0
            down = max(1 / factor, 1 / share)
            said = f"{calm * window} steps without oscillation"
            return Scale(hyperparameter="momentum", factor=down, reason=said, evidence=numbers)
        memory["calm"] = 0
        up = min(factor, most / share)
        if up <= 1:
            return None
        return Scale(hyperparameter="momentum", factor=up, reason=reason, evidence=numbers)

    start: Memory = {"cosines": [], "losses": [], "calm": 0}
    return Controller(decide, ("momentum_cosine",), ("momentum",), start, priority=50)


def _back(cosines: list[float], below: float) -> float:
    """The share of stretches whose mean is that far below zero."""
    means = [
        math.fsum(cosines[i : i + _STRETCH]) / _STRETCH
        for i in range(0, len(cosines) - _STRETCH + 1, _STRETCH)
    ]
    return sum(mean < -below for mean in means) / len(means)


def _turning(values: list[float]) -> float:
    """Places where values turn, less those of noise, in standard deviations."""
    turns = sum(
        (b > a) == (b > c) and b not in (a, c)
        for a, b, c in zip(values, values[1:], values[2:], strict=False)
    )
    n = len(values)
    return (turns - 2 * (n - 2) / 3) / math.sqrt((16 * n - 29) / 90)
