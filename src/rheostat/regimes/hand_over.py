"""One rule hands over to another."""

from __future__ import annotations

from rheostat.core.controller import Controller, Move, Now
from rheostat.core.hyper import Count, Steps, UnitInterval
from rheostat.core.registry import register
from rheostat.core.signal import Memory

_RETRY = 50


@register("controller", "hand_over", version=1)
def hand_over(
    at: Steps,
    over: Count = 1000,
    to: UnitInterval = 1.0,
    hyperparameter: str = "blend",
) -> Controller:
    """From a step on, move the weight of a blend of two rules in equal steps.

    For a chain with `blend(a, b)` (`rheostat.transforms.blending`): both rules see every gradient,
    so the second has its state when its turn comes, and in a step the update changes by 1/over of
    the difference of both.

    Stability: a fixed path, independent of what is measured; the mix of two descent directions is
     one.
    Worst: the second rule is the wrong one, and training goes on with it. Its learning rate is the
     first one's: where their updates differ in size, scale one of them in the chain.
    Source: Keskar & Socher 2017 (arXiv:1712.07628), who switch at once, for Adam to SGD.
    at: steps seen when it begins. Usual [0, 1000000] steps: before the schedule's cool-down.
    over: updates that it takes. Usual [100, 10000] updates: more is smoother.
    to: the weight in the end. Usual [0, 1]: 1 is all of the second.
    hyperparameter: the weight. Usual blend: another where the blend is named so.
    """

    def decide(now: Now, memory: Memory) -> Move | None:
        memory["seen"] += 1
        late = memory["seen"] - at
        if late < 0 or memory["done"]:
            return None
        if now.planned.get(hyperparameter) == to:
            memory["done"] = True
            return None
        # It may have been refused, or rolled back.
        if late % (over + _RETRY):
            return None
        return Move(hyperparameter=hyperparameter, to=to, over=over, reason=f"{at} steps were made")

    return Controller(decide, acts_on=(hyperparameter,), memory={"seen": 0, "done": False})
