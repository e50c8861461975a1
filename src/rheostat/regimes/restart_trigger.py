"""Warm restarts where training is stuck: a plateau, or rising gradients."""

from __future__ import annotations

import math
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Controller, Now, Restart
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.schedule import StateAction
from rheostat.core.signal import Memory
from rheostat.regimes.robust import Level, Line

Window = Annotated[int, at.Ge(48), at.Le(10_000)]


@register("controller", "restart_trigger", version=1)
def restart_trigger(
    window: Window = 200,
    patience: Count = 10,
    rising: Positive = 3.5,
    z: Positive = 2.0,
    spacing: Count = 2000,
    most: Count = 5,
    state: StateAction | None = None,
) -> Controller:
    """Begin the learning rate's schedule again on a plateau of the loss, or where gradients rise.

    The loss of each window is the median of its blocks. Plateau: `patience` windows in a row that
    lie less than z standard errors below the reference, which a better window replaces. Rising
    gradients: Kendall's trend of the norms' blocks above `rising` deviations in two windows in a
    row, while the loss is no better. At most `most` restarts, `spacing` steps apart; after each it
    is armed again only by a window that is better than those after the restart began (hysteresis).

    Stability: restarts have a number and a spacing, both stated beforehand, and between one and the
     next there was progress.
    Worst: `most` times the loss of progress that a restart costs, which is what the schedule's own
     early phase takes to come back to where it was.
    Source: restarts: Loshchilov & Hutter 2017 (arXiv:1608.03983); the trend: Kendall 1938.
    window: losses that are compared at a time. Usual [50, 2000] updates: longer sees less through
     more noise.
    patience: windows without progress. Usual [4, 20] windows: more is surer, and later.
    rising: deviations of the gradients' trend; 4.5 is the largest there is. Usual [2.5, 4.5]: more
     is surer.
    z: what is better, in standard errors. Usual [1.5, 4]: more asks for clearer progress.
    spacing: steps from one restart to the next. Usual [200, 100000] steps: at least the time that a
     restart takes to pay off.
    most: restarts in all. Usual [1, 20]: each has its cost.
    state: what becomes of the optimizer's state. Usual None: as the schedule says.
    """

    def decide(now: Now, memory: Memory) -> Restart | None:
        memory["since"] += 1
        if not now.applied or not math.isfinite(now.loss):
            return None
        memory["losses"].append(now.loss)
        memory["norms"].append(now["gradient_norm"])
        if len(memory["losses"]) < window:
            return None
        level, trend = Level.of(memory["losses"]), Line.through(memory["norms"]).trend
        memory.update(losses=[], norms=[])
        known = memory["reference"]
        if known is None or level.above(Level(*known)) < -z:
            memory.update(
                reference=[level.value, level.error], level=0, rising=0, armed=known is not None
            )
            return None
        memory["level"] += 1
        memory["rising"] = memory["rising"] + 1 if trend > rising else 0
        ready = memory["armed"] and memory["since"] >= spacing and memory["count"] < most
        if not ready or (memory["level"] < patience and memory["rising"] < 2):
            return None
        numbers = {"median": level.value, "trend": trend}
        if memory["rising"] >= 2:
            reason = f"gradients rise ({trend:.1f} deviations) and the loss does not fall"
        else:
            reason = f"no better for {memory['level']} windows of {window} updates"
        count = memory["count"] + 1
        memory.update(since=0, count=count, armed=False, reference=None, level=0, rising=0)
        return Restart(state=state, reason=reason, evidence=numbers)

    start: Memory = {"losses": [], "norms": [], "reference": None, "level": 0, "rising": 0}
    start.update(armed=False, since=spacing, count=0)
    return Controller(decide, ("gradient_norm",), memory=start)
