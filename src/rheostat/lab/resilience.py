"""Faults survived: what noticed them, what recovered, what it cost; and alarms without a cause.

A run under a fault is compared with the undisturbed run of the same arm and seed. Pure functions of
`Course`s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rheostat.lab.conditions import UNDISTURBED
from rheostat.lab.courses import WITHIN, Course, Goal, is_level
from rheostat.lab.statistics import Interval, rate_interval, share_interval

NOTICED = 50
"""Steps from its beginning within which an alarm counts as having noticed a fault."""

PER = 10_000
"""Clean steps that false alarms are counted over."""

PROTOCOL = (
    f"A fault is noticed by an alarm within {NOTICED} steps of its beginning: a skipped update, a "
    "limit on the gradient, a way back, a restart, a stop, a lower learning rate, or a report. A "
    f"run has recovered if it ends within {WITHIN:.0%} of the metric of the undisturbed run of the "
    "same arm and seed. Steps lost are those from the fault's beginning until its validations stay "
    "within that of the undisturbed ones, and those done twice after an interruption; a run that "
    "does not recover has lost all that were left. Any alarm of an undisturbed run is a false one. "
    "Intervals: Wilson's for shares, Garwood's for rates, 95 %."
)


@dataclass(frozen=True)
class Ordeal:
    """One arm under one fault. `delay` and `lost` are medians in steps, `delay` over the runs that
    noticed (None: none did)."""

    arm: str
    fault: str
    runs: int
    noticed: int
    delay: float | None
    recovered: int
    recovery: Interval
    lost: float


@dataclass(frozen=True)
class Alarms:
    """The false alarms of one arm: how many, in how many clean steps, and the rate per 10,000."""

    arm: str
    alarms: int
    steps: int
    rate: float
    interval: Interval


@dataclass(frozen=True)
class Resilience:
    """What a study of faults found, beside its verdict; in the order of the plan."""

    ordeals: tuple[Ordeal, ...]
    alarms: tuple[Alarms, ...]
    protocol: str = PROTOCOL


def resilience(
    courses: Sequence[Course], arms: Sequence[str], begins: Mapping[str, int], goal: Goal
) -> Resilience:
    """Judge runs under faults; `begins` says at which step (from 0) each fault does.

    Raises KeyError where a run has no undisturbed one beside it.
    """
    clean = {(c.arm, c.seed): c for c in courses if c.condition == UNDISTURBED}
    ordeals: list[Ordeal] = []
    for fault, first in begins.items():
        for arm in arms:
            runs = [c for c in courses if (c.arm, c.condition) == (arm, fault)]
            if runs:
                ordeals.append(_ordeal(runs, clean, first, goal))
    alarms = [_alarms([c for c in clean.values() if c.arm == arm]) for arm in arms]
    return Resilience(tuple(ordeals), tuple(alarms))


def has_recovered(run: Course, undisturbed: Course, goal: Goal) -> bool:
    """Whether a run ends level with the undisturbed one; never where either failed."""
    whole = not run.failed and not undisturbed.failed
    return whole and is_level(run.value, undisturbed.value, goal)


def steps_lost(run: Course, undisturbed: Course, first: int, goal: Goal) -> int:
    """Steps from `first` until the run stays level with the undisturbed one, and repeated ones."""
    repeated = sum(max(0, first - step) for step in run.resumed)
    if not has_recovered(run, undisturbed, goal):
        return undisturbed.steps - first + repeated
    after = sorted(step for step in run.evaluations if step > first)
    back = first
    for step, then in zip(after, [*after[1:], undisturbed.steps], strict=True):
        reference = undisturbed.evaluations.get(step)
        if reference is not None and not is_level(run.evaluations[step], reference, goal):
            back = then
    return back - first + repeated


def _ordeal(
    runs: Sequence[Course], clean: Mapping[tuple[str, int], Course], first: int, goal: Goal
) -> Ordeal:
    pairs = [(run, clean[run.arm, run.seed]) for run in runs]
    delays = [
        min(alarms)
        for run in runs
        if (alarms := [step - first for step in run.alarms if first <= step < first + NOTICED])
    ]
    recovered = sum(has_recovered(*pair, goal) for pair in pairs)
    return Ordeal(
        arm=runs[0].arm,
        fault=runs[0].condition,
        runs=len(runs),
        noticed=len(delays),
        delay=median(delays) if delays else None,
        recovered=recovered,
        recovery=share_interval(recovered, len(runs)),
        lost=median(steps_lost(*pair, first, goal) for pair in pairs),
    )


def _alarms(runs: Sequence[Course]) -> Alarms:
    alarms, steps = sum(len(run.alarms) for run in runs), sum(run.steps for run in runs)
    found = rate_interval(alarms, max(steps, 1) / PER)
    return Alarms(runs[0].arm, alarms, steps, PER * alarms / max(steps, 1), found)
