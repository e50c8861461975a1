"""Wide ranges: over how many decades of a number training is good, and what a search of it costs.

Pure functions of `Course`s; the number is the value of a condition of a study with a `sweep`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from rheostat.lab.courses import WITHIN, Course, Goal, is_level


def width(values: Mapping[float, float], best: float, goal: Goal) -> float:
    """Decades of the number around an arm's best value in which the metric is within 5 % of `best`.

    Between two values of the number the metric is taken to be linear in its logarithm, and beyond
    the ends of the range nothing is claimed; 0 where the arm is nowhere within.

    values: the number (positive) -> the metric there; a failed run has the worst value, not NaN.
    best: the best metric of any arm.
    """
    ordered = sorted(values)
    sign = 1 if goal == "maximize" else -1
    peak = max(range(len(ordered)), key=lambda i: sign * values[ordered[i]])
    if not is_level(values[ordered[peak]], best, goal):
        return 0.0
    bar = best - sign * WITHIN * abs(best)
    ends = [
        _end([ordered[i] for i in indices], values, bar, sign)
        for indices in (range(peak, -1, -1), range(peak, len(ordered)))
    ]
    return ends[1] - ends[0]


def _end(walk: Sequence[float], values: Mapping[float, float], bar: float, sign: int) -> float:
    """The logarithm (base 10) of where the metric falls below the bar on a walk from the peak."""
    for here, then in pairwise(walk):
        above, below = sign * (values[here] - bar), sign * (values[then] - bar)
        if below < 0:
            part = above / (above - below)
            return math.log10(here) + part * (math.log10(then) - math.log10(here))
    return math.log10(walk[-1])


def steps_to(target: float, run: Course, goal: Goal) -> int | None:
    """Updates until a validation reached the target; None where none did."""
    reached = [
        step
        for step, value in run.evaluations.items()
        if (value >= target if goal == "maximize" else value <= target)
    ]
    return min(reached, default=None)


def search_cost(trials: Sequence[Course], target: float, goal: Goal, steps: int) -> int:
    """Updates that a search spends before it reaches the target, one trial after the other; one
    more whole run than there are trials where none reaches it.

    trials: in the order in which they are tried.
    steps: updates of a whole run.
    """
    spent = 0
    for trial in trials:
        reached = steps_to(target, trial, goal)
        if reached is not None:
            return spent + reached
        spent += trial.steps
    return spent + steps
