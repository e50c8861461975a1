"""A learning rate that is far off is found out at the start, and corrected once."""

from __future__ import annotations

import math
from statistics import median
from typing import Annotated

import annotated_types as at

from rheostat.core.controller import Controller, Decision, Now, RollBack, Scale
from rheostat.core.hyper import Count, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory
from rheostat.regimes.robust import spread

_BLOCK = 8
"""Losses, and ratios, whose median is looked at."""
_STARTED = 0.9
"""Of the first losses: a level above this is no progress."""
_LOST = 0.5
"""The same: a level below this is progress, whatever the loss was in between."""
_RISEN = 1.25
"""Standard deviations of single losses by which a level lies above the lowest where the loss has
risen: one of a loss that only scatters does so at both looks in 2 or 3 of 100 runs."""
_LATE = 0.5
"""Of the largest rate that was planned: below this the plan itself makes the steps small."""
_NEAR = 1.05
"""What is this near to a bound is at it."""


@register("controller", "starting_rate", version=1)
def starting_rate(
    low: Positive = 3e-3,
    target: Positive = 1e-2,
    worse: Annotated[float, at.Gt(1)] = 1.5,
    settle: Count = 32,
    factor: Annotated[float, at.Gt(0), at.Lt(1)] = 0.25,
    most: Annotated[float, at.Gt(1)] = 64.0,
) -> Controller:
    """Correct a learning rate that is orders of magnitude off, while a run begins; then be silent.

    Once the plan's warm-up is over (the planned rate no longer rises), by medians of eight steps:
    where weights move in an update by less than `low` of their norm, lr × target / ratio, until it
    is above `low` or the plan has come down to half of its peak. Where it is above, and `settle`
    steps later the loss, in two such medians in a row, has risen from its lowest one by more than
    it scatters, to `worse` times that and above half of the first, or to where it began, the rate
    is in doubt; where it is so still when another two `settle` are over, back to the good state and
    lr × `factor`, and again, at one look each. With neither, the rate is taken as sound, and is not
    touched any more.

    Stability: it acts only before it has once found the rate sound; a rate once in doubt is
     never raised again, so it cannot oscillate; its part stays within [1/most, most].
    Worst: a rule or a model whose sound rates move the weights by less than `low` in an update gets
     a rate that is too high by as much; one under which the loss never falls at all is left as it
     is; a loss that rises for other reasons takes the rate to 1/most, one roll back for each
     `factor`.
    Source: this project. That sound rates move matrices by about 1e-3 to 1e-2 of their norm in an
     update is folklore; of layer-wise ratios, You et al. 2017 (arXiv:1708.03888).
    low: norm of the update over that of the weights, below which it is too small. Usual [3e-4,
     5e-3]: more raises more rates.
    target: the ratio to begin with then. Usual [1e-3, 2e-2]: more learns faster, and may be too
     much.
    worse: level over the best one, for the rate to be too large. Usual [1.2, 3]: less is stricter.
    settle: steps from the end of the warm-up to the first look; where the rate was raised, as many
     more as there were before. Usual [20, 500] steps: more is surer, and later.
    factor: on a rate that is too large. Usual [0.1, 0.5]: smaller needs fewer ways back.
    most: bound of its part, up and down. Usual [8, 64]: larger rescues a worse plan.
    """

    def decide(now: Now, memory: Memory) -> Decision | None:
        if memory["sound"]:
            return None
        if memory["wanted"] is not None and now.share("lr") > _NEAR * memory["wanted"]:
            return _lowered(now, memory["wanted"])
        if not now.applied or not math.isfinite(now.loss):
            return None
        level, ratio = _taken_in(now, memory)
        if "lr" in now.backed_off:  # smaller steps end by themselves, and say nothing of the plan's
            memory["ratios"].clear()
            ratio = math.inf
        if level is None or ratio is None or memory["since"] < _BLOCK:
            return None
        return _judged(now, memory, level, ratio)

    def _judged(now: Now, memory: Memory, level: float, ratio: float) -> Decision | None:
        share = now.share("lr")
        judged = memory["since"] >= memory["wait"]
        # In two blocks in a row: one may have met a few hard batches.
        least = min(level, median(memory["losses"][:_BLOCK]))
        stuck = judged and least > _STARTED * memory["first"]
        # Weights that a rate too large has blown up move little, too.
        small = not memory["doubted"] and ratio < (target if stuck else low)
        small = small and memory["planned"] >= _LATE * memory["peak"]
        if small and share * _NEAR < most:
            memory.update(since=0, wait=settle + now.step)  # as long as a run from its start has
            up = min(target / ratio if ratio else math.inf, most / share)
            said = (
                f"an update moves the weights by {ratio:.2g} of their norm: the rate is too small"
            )
            numbers = {"ratio": ratio}
            # A loss may be slow to leave its start under a sound rate, too.
            return Scale(hyperparameter="lr", factor=up, reason=said, evidence=numbers, trial=stuck)
        if not judged:
            return None
        best = memory["best"]
        lost = least > worse * best and least > _LOST * memory["first"]
        risen = least - best > _RISEN * spread(memory["losses"])
        if risen and (lost or (stuck and not small)) and share / _NEAR > 1 / most:
            if not memory["doubted"]:  # a loss that scatters looks so, now and then
                memory.update(doubted=True, wait=memory["wait"] + 2 * settle)
                return None
            memory["wait"] = settle
            memory["wanted"] = max(share * factor, 1 / most)
            said = f"the loss has risen from {best:.3g} to {level:.3g}: the rate is too large"
            numbers = {"level": level, "best": best, "start": memory["first"]}
            return RollBack(reason=said, evidence=numbers)
        memory["sound"] = ratio < math.inf
        return None

    start: Memory = {"losses": [], "ratios": [], "best": math.inf, "first": None, "since": 0}
    start.update(planned=0.0, peak=0.0, step=0, wait=settle, wanted=None, doubted=False)
    start["sound"] = False
    return Controller(decide, ("update_ratio",), ("lr",), start, priority=100)


def _lowered(now: Now, wanted: float) -> Scale:
    down = wanted / now.share("lr")
    return Scale(hyperparameter="lr", factor=down, reason="the rate was too large at the start")


def _taken_in(now: Now, memory: Memory) -> tuple[float | None, float | None]:
    """The levels of the loss and of the ratio with this step; None before there are any."""
    if now.step < memory["step"]:  # back at the start
        memory.update(losses=[], ratios=[], best=math.inf, since=0)
    planned = now.planned.get("lr", 0.0)
    rises, memory["planned"] = planned > memory["planned"], planned
    memory["peak"] = max(memory["peak"], planned)
    memory["step"], memory["since"] = now.step, 0 if rises else memory["since"] + 1
    level = _follow(memory, "losses", now.loss, keep=2 * _BLOCK)
    if level is not None:
        memory["first"] = level if memory["first"] is None else memory["first"]
        memory["best"] = min(memory["best"], level)
    return level, _follow(memory, "ratios", now["update_ratio"])


def _follow(memory: Memory, name: str, value: float, keep: int = _BLOCK) -> float | None:
    """The median of the newest values with this one; None before there are enough."""
    values: list[float] = memory[name]
    values.append(value)
    del values[:-keep]
    return median(values[-_BLOCK:]) if len(values) >= _BLOCK else None
