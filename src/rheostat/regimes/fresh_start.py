"""All that was learnt is lost, and does not come back: from the start again, once."""

from __future__ import annotations

import math
from statistics import median
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Controller, Now, RollBack
from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.core.signal import Memory
from rheostat.regimes.robust import spread

_LEVEL = 8
"""Losses whose median is a level."""
_WINDOW = 32
"""Losses whose spread says what is their noise."""
_CLEAR = 4.0
"""Spreads by which the best level lies below that of the beginning, before anything can be lost."""


@register("controller", "fresh_start", version=1)
def fresh_start(
    within: Annotated[int, at.Ge(16), at.Le(100_000)] = 48, most: Count = 1
) -> Controller:
    """Go back to the start where a run has become worse than it was soon after it.

    The mark is the level of the loss (a median of eight) after the first `within` updates. Once the
    run was better than that by four spreads of its losses, a level above the mark for `within`
    steps in a row says that whoever begins now is better off: back to the weights, the optimizer
    and the schedules of the start. Steps whose updates are left out after a roll back count: what
    the good weights make of the new data is what is asked. Needs safeguards, which keep that state,
    one copy more.

    Stability: `most` times in all; each takes back everything, so that nothing is left to swing.
     Less drastic means come first: a roll back begins the count of updates anew.
    Worst: data that has become harder for good, also for a new beginning, costs all that was
     learnt, once; it is in no state any more but that of an older checkpoint.
    Source: this project; that what was learnt can be a worse beginning than none: Ash & Adams 2020
     (arXiv:1910.08475), Dohare et al. 2024 (doi:10.1038/s41586-024-07711-7).
    within: updates to the mark, and steps above it. Usual [40, 5000] updates: more is surer, and
     later; beyond the warm-up.
    most: times, at most. Usual [1, 3]: each costs all.
    """

    def decide(now: Now, memory: Memory) -> RollBack | None:
        if now.step < memory["step"]:
            memory.update(losses=[], lost=0)
        memory["step"] = now.step
        if not math.isfinite(now.loss):
            return None
        losses: list[float] = memory["losses"]
        losses.append(now.loss)
        del losses[:-_WINDOW]
        memory["seen"] += bool(now.applied)  # the mark is of updates
        if len(losses) < _LEVEL:
            return None
        level = median(losses[-_LEVEL:])
        if memory["mark"] is None:
            memory["mark"] = level if memory["seen"] >= within else None
            return None
        mark: float = memory["mark"]
        if len(losses) == _WINDOW and mark - level > _CLEAR * spread(losses):
            memory["learnt"] = True
        memory["lost"] = memory["lost"] + 1 if memory["learnt"] and level > mark else 0
        if memory["lost"] < within or memory["count"] >= most:
            return None
        memory.update(lost=0, count=memory["count"] + 1)
        said = f"for {within} steps worse than after the first {within}: from the start again"
        return RollBack(start=True, reason=said, evidence={"level": level, "mark": mark})

    start: Memory = {"losses": [], "seen": 0, "mark": None, "learnt": False}
    start.update(lost=0, count=0, step=0)
    return Controller(decide, memory=start, priority=100, keeps_start=True)
