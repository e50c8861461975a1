"""The clip threshold by the history of gradient norms."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import annotated_types as at

from rheostat.core.controller import Controller, Now, Scale
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory
from rheostat.regimes.grants import stepwise


@register("controller", "adaptive_clipping", version=1)
def adaptive_clipping(
    by: Literal["zscore", "percentile"] = "zscore",
    z: Positive = 2.5,
    percentile: Annotated[float, at.Gt(0), at.Le(100)] = 90.0,
    window: Annotated[int, at.Ge(20), at.Le(10_000)] = 200,
    every: Count = 25,
    band: Positive = 0.25,
) -> Controller:
    """Set max_norm by the gradient norms seen so far.

    "zscore": max_norm = μ + z σ, with exponential averages μ and σ² over about `window` norms, of
    which one above μ + z σ enters as μ + z² σ / z_of_it, as it would be clipped. "percentile": that
    percentile of the last `window` norms. Every `every` steps, where it is off by more than `band`,
    by 1.8 at most at a time.

    Stability: norms are measured before clipping, so what it sets does not change what it sees; the
     threshold is an average of the norms, and moves no faster than they do.
    Worst: gradients that grow for thousands of steps take the threshold along, as far as the bounds
     go; it limits jumps, not growth. Too low a percentile scales nearly all updates down, which
     Adam undoes and SGD does not.
    Source: zscore: Kumar et al. 2025, ZClip (arXiv:2504.02507), whose clipping is the optimizer's
     own here, a step later; percentile: Seetharaman et al. 2020, AutoClip (arXiv:2007.14469).
    by: how. Usual zscore: percentile clips a fixed share of updates.
    z: standard deviations above the mean. Usual [2, 4]: more clips less.
    percentile: of the norms. Usual [5, 99]: more clips less.
    window: norms that count. Usual [50, 1000] updates: longer is steadier and slower to follow.
    every: steps from one look to the next. Usual [10, 200] steps: longer lags more.
    band: octaves off that do not matter. Usual [0.1, 1] octaves: less acts more often.
    """

    def decide(now: Now, memory: Memory) -> Scale | None:
        norm, planned = now["gradient_norm"], now.planned.get("max_norm", 0.0)
        if not math.isfinite(norm):
            return None
        memory["seen"] += 1
        _take_in(norm, memory)
        if memory["seen"] % every or memory["seen"] < window // 2 or planned <= 0:
            return None
        limit = _limit(memory)
        if not limit > 0:
            return None
        quotient = limit / (planned * now.factors.get("max_norm", 1.0))
        if abs(math.log2(quotient)) <= band:
            return None
        return Scale(
            hyperparameter="max_norm",
            factor=stepwise(quotient),
            reason=f"the {by} of the last {min(memory['seen'], window)} gradient norms",
            evidence={"threshold": limit, "gradient_norm": norm},
        )

    def _take_in(norm: float, memory: Memory) -> None:
        if by == "percentile":
            memory["norms"] = [*memory["norms"][-(window - 1) :], norm]
            return
        mean, variance = memory["mean"], memory["variance"]
        deviation = math.sqrt(variance)
        if memory["seen"] > window // 4 and deviation > 0 and norm > mean + z * deviation:
            norm = mean + z * z * deviation / ((norm - mean) / deviation)
        share = max(1 / memory["seen"], 2 / (window + 1))
        memory["mean"] = mean + share * (norm - mean)
        memory["variance"] = (1 - share) * (variance + share * (norm - mean) ** 2)

    def _limit(memory: Memory) -> float:
        if by == "zscore":
            return memory["mean"] + z * math.sqrt(memory["variance"])
        ranked = sorted(memory["norms"])
        return ranked[round((len(ranked) - 1) * percentile / 100)] if ranked else 0.0

    start: Memory = {"norms": [], "mean": 0.0, "variance": 0.0, "seen": 0}
    return Controller(decide, ("gradient_norm",), ("max_norm",), start, priority=50)
