"""Horizons: how far it is to the end of each schedule, and how to make it so far again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from rheostat.core.schedule import Schedule
from rheostat.optimizers.followed import Followed
from rheostat.optimizers.loop import Optimizer

Left: TypeAlias = Mapping[tuple[str, int], int]
"""What is left of a schedule, in its own unit, by hyperparameter and index of the group."""


def left(optimizer: Optimizer | Followed) -> Left:
    """Of each schedule up to its horizon. Those without one, past it, or not at a whole count are
    not there: a plan changes at a whole count."""
    found: dict[tuple[str, int], int] = {}
    groups, schedules = optimizer.param_groups, optimizer.plan.schedules
    for index, (group, scheduled) in enumerate(zip(groups, schedules, strict=True)):
        for name, one in scheduled.items():
            if isinstance(one, Schedule) and one.horizon is not None:
                count = float(group[one.unit])
                if count.is_integer() and count < one.horizon:
                    found[name, index] = one.horizon - int(count)
    return found


def sooner(optimizer: Optimizer | Followed, updates: int) -> Left:
    """What is left of schedules in updates, less these, but for one at least: samples and tokens
    are counted whether or not they are learnt."""
    schedules = optimizer.plan.schedules
    return {
        (name, index): max(1, count - updates)
        for (name, index), count in left(optimizer).items()
        if schedules[index][name].unit == "updates"
    }


def finish_in(optimizer: Optimizer | Followed, wanted: Left) -> None:
    """Move horizons so that so much is left; of what has no end any more nothing is changed."""
    now = left(optimizer)
    ends: dict[tuple[str, int], list[int]] = {}
    for (name, index), count in wanted.items():
        horizon = optimizer.plan.schedules[index][name].horizon
        more = count - now.get((name, index), count)
        if more:
            ends.setdefault((name, horizon + more), []).append(index)
    for (name, end), groups in ends.items():
        optimizer.plan.extend(end, name, group=groups)
