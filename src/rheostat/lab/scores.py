"""What the verdict of a study is about: a score a run, or one for all runs of an arm and a seed.

`judge: metric` scores the metric at the end (in a study of faults, of the undisturbed runs).
`recovery` scores the share of the faults that an arm recovers from, `width` the decades of a sweep
in which it is within 5 % of the best, `search` the updates that a search among the values of a
sweep takes to the target. All arms of a seed share what they are measured by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rheostat.lab.conditions import UNDISTURBED, names_of
from rheostat.lab.courses import Course, Goal
from rheostat.lab.ranges import search_cost, width
from rheostat.lab.resilience import has_recovered
from rheostat.lab.verdict import Score


@dataclass(frozen=True)
class Judged:
    """Scores and what they are."""

    name: str
    unit: str
    goal: Goal
    worst: float
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Sweep:
    """The metric over a sweep: a row a value, a mean an arm (a failed run counts as the worst), and
    how many of the arm's runs failed there."""

    key: str
    arms: tuple[str, ...]
    values: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    failures: tuple[tuple[int, ...], ...]


def sweep_of(plan: Mapping[str, Any], arms: Sequence[str], courses: Sequence[Course]) -> Sweep:
    """The means behind the scores of a study with a sweep."""
    cells = [
        [[c for c in courses if (c.arm, c.condition) == (arm, name)] for arm in arms]
        for name in names_of(plan)
    ]
    return Sweep(
        key=plan["sweep"]["key"],
        arms=tuple(arms),
        values=tuple(plan["sweep"]["values"]),
        means=tuple(
            tuple(fmean(_scored(plan, run) for run in runs) for runs in row) for row in cells
        ),
        failures=tuple(tuple(sum(run.failed for run in runs) for runs in row) for row in cells),
    )


def judged(plan: Mapping[str, Any], courses: Sequence[Course]) -> Judged:
    """The scores of a finished study, in the order of its arms and seeds."""
    metric = plan["metric"]
    goal: Goal = metric["goal"]
    what = plan.get("judge", "metric")
    by_place: dict[tuple[str, int], list[Course]] = {}
    for run in courses:
        by_place.setdefault((run.arm, run.seed), []).append(run)
    if what == "recovery":
        scored = {place: _recovery(runs, goal) for place, runs in by_place.items()}
        return _of(scored, "faults recovered from", "of all faults", "maximize", 0.0)
    if what == "width":
        return _widths(plan, courses, by_place)
    if what == "search":
        steps, tries = plan["steps"], len(plan["sweep"]["values"])
        scored = {
            place: float(search_cost(_in_turn(plan, runs), plan["target"], goal, steps))
            for place, runs in by_place.items()
        }
        worst = float((tries + 1) * steps)
        return _of(scored, f"search for {metric['name']}", "updates", "minimize", worst)
    shown = reference(plan, courses)
    scores = [Score(c.arm, c.seed, c.value, c.failed) for c in courses if c.condition == shown]
    worst = float(metric["worst"])  # JSON has infinities as text
    return Judged(metric["name"], metric["unit"], goal, worst, tuple(scores))


def reference(plan: Mapping[str, Any], courses: Sequence[Course]) -> str:
    """The condition whose runs stand for the study in figures and tables: the undisturbed one, or
    the value of the sweep that serves the baseline best."""
    if "faults" in plan:
        return UNDISTURBED
    if "sweep" not in plan:
        return ""
    means: dict[str, float] = {}
    for condition in names_of(plan):
        runs = [c for c in courses if (c.arm, c.condition) == (plan["baseline"], condition)]
        if runs:
            means[condition] = fmean(_scored(plan, run) for run in runs)
    sign = 1 if plan["metric"]["goal"] == "maximize" else -1
    return max(means, key=lambda name: sign * means[name], default=names_of(plan)[0])


def _recovery(runs: Sequence[Course], goal: Goal) -> float:
    (clean,) = (run for run in runs if run.condition == UNDISTURBED)
    disturbed = [run for run in runs if run is not clean]
    return sum(has_recovered(run, clean, goal) for run in disturbed) / len(disturbed)


def _widths(
    plan: Mapping[str, Any],
    courses: Sequence[Course],
    by_place: Mapping[tuple[str, int], Sequence[Course]],
) -> Judged:
    goal: Goal = plan["metric"]["goal"]
    numbers = dict(zip(names_of(plan), plan["sweep"]["values"], strict=True))
    better = max if goal == "maximize" else min
    best: dict[int, float] = {}
    for run in courses:
        value = _scored(plan, run)
        best[run.seed] = better(best.get(run.seed, value), value)
    scored = {
        place: width({numbers[c.condition]: _scored(plan, c) for c in runs}, best[place[1]], goal)
        for place, runs in by_place.items()
    }
    return _of(scored, f"width of {plan['sweep']['key']}", "decades", "maximize", 0.0)


def _scored(plan: Mapping[str, Any], run: Course) -> float:
    """The metric of a run; one that failed, or ended worse than that, has the worst of the plan."""
    metric = plan["metric"]
    worst = float(metric["worst"])
    if run.failed:
        return worst
    return max(run.value, worst) if metric["goal"] == "maximize" else min(run.value, worst)


def _in_turn(plan: Mapping[str, Any], runs: Sequence[Course]) -> list[Course]:
    """The trials of a search in the order of the file, each seed beginning with another."""
    order = names_of(plan)
    first = runs[0].seed % len(order)
    place = {name: (index - first) % len(order) for index, name in enumerate(order)}
    return sorted(runs, key=lambda run: place[run.condition])


def _of(
    scored: Mapping[tuple[str, int], float], name: str, unit: str, goal: Goal, worst: float
) -> Judged:
    scores = tuple(Score(arm, seed, value) for (arm, seed), value in scored.items())
    return Judged(name, unit, goal, worst, scores)
