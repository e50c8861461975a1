"""The course of a run, as studies of faults and of wide ranges judge it: what was measured on the
way, when something was decided, how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rheostat.record.log import Event
from rheostat.record.run import RESUME, RunRecord

Goal: TypeAlias = Literal["maximize", "minimize"]

WITHIN = 0.05
"""The share of a reference value that a run may fall short of it and count as level with it."""

_ALARMS = ("skip", "spike", "restart", "roll_back", "stop")
_AFTERWARDS = ("kept", "undone")
"""How a regime's trials end."""


@dataclass(frozen=True)
class Course:
    """One run.

    `value` is the metric at its end, NaN where it failed; `evaluations` the metric by the number of
    updates done; `alarms` the steps (from 0) at which whoever watches raised one; `steps` how many
    were done; `resumed` from which steps the run went on after an interruption.
    """

    arm: str
    condition: str
    seed: int
    value: float
    evaluations: Mapping[int, float]
    alarms: tuple[int, ...]
    steps: int
    resumed: tuple[int, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether it ended without a metric."""
        return not math.isfinite(self.value)


def course(record: RunRecord, metric: str) -> Course:
    """The course that a run's record tells."""
    header = record.header
    done = record.status == "done"
    value = record.metrics.get(metric, math.nan) if done else math.nan
    steps = len(record.steps)
    evaluations = {
        int(event.fields["step"]): float(event.fields["metrics"][metric])
        for event in record.events
        if event.kind == "evaluation"
    }
    return Course(
        arm=header["arm"],
        condition=header.get("condition", ""),
        seed=header["seed"],
        value=value if math.isfinite(value) else math.nan,
        evaluations={**evaluations, steps: value} if done else evaluations,
        alarms=tuple(int(event.fields["step"]) for event in record.events if is_alarm(event)),
        steps=steps,
        resumed=tuple(int(e.fields["step"]) for e in record.events if e.kind == RESUME),
    )


def is_alarm(event: Event) -> bool:
    """Whether an event says that something is wrong: an update that was skipped, a limit, a
    restart, a way back, a stop, a lower learning rate. What only turns a knob is none, nor what a
    regime was refused, would have done in a dry run, or takes back; and what it did is one alarm,
    though it is told again once its outcome is known."""
    if event.kind == "skipped":
        return True
    if event.kind != "decision":
        return False
    done = event.fields
    if "verdict" in done:  # an account of a regime; a contestant's decision is written as it is
        if done["done"] is None or done["dry"] or done["outcome"] or done["verdict"] in _AFTERWARDS:
            return False
        done = done["done"]
    if done.get("kind") == "scale":
        lowers = float(done.get("factor", 1.0)) < 1.0
        return done.get("hyperparameter") == "lr" and lowers
    if done.get("kind") == "limit":
        return float(done.get("norm", 0.0)) < math.inf
    return done.get("kind") in _ALARMS


def is_level(value: float, reference: float, goal: Goal) -> bool:
    """Whether a value is no more than `WITHIN` of the reference worse than it."""
    short = reference - value if goal == "maximize" else value - reference
    return short <= WITHIN * abs(reference)
