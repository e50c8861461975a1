"""Oscillation: less momentum for a while."""

from __future__ import annotations

import math
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Controller, Now, Scale
from rheostat.core.hyper import Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory

Window = Annotated[int, at.Ge(10)]


@register("controller", "momentum_damping", version=1)
def momentum_damping(
    window: Window = 50,
    cosine: Annotated[float, at.Gt(0), at.Le(1)] = 0.1,
    z: Positive = 5.0,
    factor: Annotated[float, at.Gt(1)] = 1.5,
    most: Annotated[float, at.Gt(1)] = 8.0,
) -> Controller:
    """Forget faster where gradients turn against the momentum, or the loss goes up and down.

    Over each window: training oscillates where the mean cosine of gradient and momentum is below
    −cosine and more than z standard errors below 0, or where the loss turns at more places than
    noise does, by z standard deviations (of n values noise turns at 2 (n − 2) / 3, with variance
    (16 n − 29) / 90). Then 1 − momentum × factor, up to `most`; a window without either takes one
    factor back.

    Stability: a running mean of gradients oscillates where 1 − β is small beside the curvature's
     √(lr · λ); a larger 1 − β damps it. One factor a window, and back by the same.
    Worst: momentum at 1 − most · (1 − β), so `most` times less smoothing of the gradient, while a
     loss alternates for another reason (two kinds of batches in turn).
    Source: turning points: Bienaymé 1874; why momentum oscillates: O'Donoghue & Candès 2015
     (arXiv:1204.3982).
    window: steps that are judged together. Usual [20, 500] steps: longer sees weaker oscillation.
    cosine: of gradient and momentum, how far below 0. Usual [0.05, 0.5]: more wants a clearer sign.
    z: how far beyond noise. Usual [3, 8]: more is surer.
    factor: on 1 − momentum. Usual [1.2, 2]: more damps faster.
    most: bound of its part. Usual [2, 10]: more may take all momentum away.
    """

    def decide(now: Now, memory: Memory) -> Scale | None:
        if not now.applied or not math.isfinite(now.loss):
            return None
        memory["cosines"].append(now["momentum_cosine"])
        memory["losses"].append(now.loss)
        if len(memory["losses"]) < window:
            return None
        cosines, losses = memory["cosines"], memory["losses"]
        memory.update(cosines=[], losses=[])
        mean, against = _mean(cosines)
        turning = _turning(losses)
        share = now.share("momentum")
        numbers = {"mean_cosine": mean, "against": against, "turning": turning}
        if mean < -cosine and against < -z:
            reason = f"gradients turn against the momentum: their cosine is {mean:.2f} in the mean"
        elif turning > z:
            reason = f"the loss goes up and down, {turning:.1f} deviations more than noise"
        elif share > 1:
            down = max(1 / factor, 1 / share)
            said = f"{window} steps without oscillation"
            return Scale(hyperparameter="momentum", factor=down, reason=said, evidence=numbers)
        else:
            return None
        if share >= most:
            return None
        up = min(factor, most / share)
        return Scale(hyperparameter="momentum", factor=up, reason=reason, evidence=numbers)

    start: Memory = {"cosines": [], "losses": []}
    return Controller(decide, ("momentum_cosine",), ("momentum",), start, priority=50)


def _mean(values: list[float]) -> tuple[float, float]:
    """The mean, and how many standard errors it is from 0."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    error = math.sqrt(variance / len(values))
    return mean, mean / error if error > 0 else math.copysign(math.inf, mean)


def _turning(values: list[float]) -> float:
    """Places where values turn, less those of noise, in standard deviations."""
    turns = sum(
        (b > a) == (b > c) and b not in (a, c)
        for a, b, c in zip(values, values[1:], values[2:], strict=False)
    )
    n = len(values)
    return (turns - 2 * (n - 2) / 3) / math.sqrt((16 * n - 29) / 90)
