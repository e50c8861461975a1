"""The learning rate by the trend of the loss: larger while it falls, smaller when it rises."""

from __future__ import annotations

from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Controller, Now, Scale
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory


@register("controller", "loss_trend", version=1)
def loss_trend(
    up: Annotated[float, at.Gt(1), at.Le(2)] = 1.25,
    down: Annotated[float, at.Gt(0), at.Lt(1)] = 0.5,
    every: Count = 50,
    z: Positive = 5.0,
    most: Annotated[float, at.Ge(1)] = 8.0,
) -> Controller:
    """Raise the learning rate while the loss falls, lower it where it rises.

    Every `every` steps, by the loss's slope in standard errors, t: lr × up where t < −z, lr × down
    where t > z, nothing in between. Its part stays within [1/most, most].

    Stability: where steps are too large the loss rises, and one lowering undoes more than one
     raise (up · down < 1), so it settles below the rate at which the loss no longer falls; a slope
     within its noise changes nothing, nor does a fall that ended before the last 200 losses; one
     fall within them may be answered several times, up to `most`.
    Worst: a loss that falls for other reasons (a cool-down, easy data) takes the rate to `most`
     times the plan, from where it has to come back by halves; one that rises for other reasons
     takes it to 1/most.
    Source: after GreedyLR, Subramanian et al. 2025 (arXiv:2512.14527), which compares one loss with
     the best, and has no bound around a plan.
    up: factor while the loss falls. Usual [1.05, 1.5]: larger finds a good rate sooner, and
     overshoots it.
    down: factor where it rises. Usual [0.3, 0.8]: smaller is safer; up · down below 1.
    every: steps from one change to the next. Usual [20, 500] steps: longer judges what the last
     change did, not what was before.
    z: standard errors of the slope that count. Usual [3, 8]: losses that are correlated from step
     to step need more.
    most: bound of its part, up and down. Usual [2, 64]: larger rescues a worse plan.
    """

    def decide(now: Now, memory: Memory) -> Scale | None:
        memory["count"] += 1
        if memory["count"] < every:
            return None
        t, share = now["loss_significance"], now.share("lr")
        if abs(t) <= z:
            return None  # and looks again at the next step
        memory["count"] = 0
        wanted = min(max(share * (up if t < 0 else down), 1 / most), most)
        if wanted == share:
            return None
        said = f"the loss {'falls' if t < 0 else 'rises'} by {abs(t):.1f} standard errors"
        return Scale(
            hyperparameter="lr",
            factor=wanted / share,
            reason=said,
            evidence=now.evidence("loss_significance"),
        )

    return Controller(decide, ("loss_significance",), ("lr",), {"count": 0})
