"""Restarts: what a schedule's new cycle does to the optimizer's state, and an account of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.schedule import Restart, Schedule, StatePolicy, never
from rheostat.core.transform import Transform
from rheostat.optimizers.scheduled import schedules_in
from rheostat.signals.norms import total_norm

FIRST_MOMENTS = ("momentum_buffer", "exp_avg", "exp_avg_slow", "exp_avg_diff")
"""Running means of the update, whatever the rule calls them."""

_SECOND_MOMENTS = (
    *("exp_avg_sq", "exp_avg_sq_r", "exp_avg_sq_c", "exp_avg_var", "exp_inf", "max_exp_avg_sq"),
    *("square_avg", "grad_avg", "acc_delta", "sum", "grad_sum_sq", "hessian"),
    *("row_var", "col_var", "variance", "second_momentum_buffer"),
)
"""Running means of its square, or what stands in the place of one."""

_CONCERNED: Mapping[str, tuple[str, ...]] = {
    "decay": (*FIRST_MOMENTS, *_SECOND_MOMENTS),
    "reset_first_moment": FIRST_MOMENTS,
}
"""Action -> the buffers that it is about; of the others all, or none."""

Place: TypeAlias = tuple[int, str, int]
"""Where a schedule is: the index of its group, its hyperparameter, and which part of a tuple."""

MOST = 1000
"""More cycles than this in one step are counted in the wrong unit."""


@dataclass(frozen=True)
class Restarted:
    """A cycle that began: of which hyperparameter, with which jump, and what became of the state.

    `norms` are the Euclidean norms of each buffer over the group, before and after.
    """

    group: int
    hyperparameter: str
    restart: Restart
    policy: StatePolicy
    norms: Mapping[str, tuple[float, float]]


class Reached(NamedTuple):
    """A restart that the counts of a group come to, and the schedule that it is of."""

    hyperparameter: str
    schedule: Schedule
    restart: Restart


class CycleCounts:
    """How many cycles each schedule has begun.

    It counts on from where it was last asked, so that the account of a restart costs the same
    however many went before it; after a load they are counted once.
    """

    def __init__(self) -> None:
        self._known: dict[Place, tuple[float, int]] = {}

    def up_to(self, place: Place, schedule: Schedule, count: float) -> int:
        """The restarts of the schedule at a place, up to a count."""
        at, number = self._known.get(place, (0.0, 0))
        if at > count:
            at, number = 0.0, 0
        while (following := schedule.next_restart(at)) <= count:
            at, number = following, number + 1
        self._known[place] = (at, number)
        return number

    def begun(self, place: Place, at: float, number: int) -> None:
        """Note that cycle `number` began at a count."""
        self._known[place] = (at, number)

    def forget(self, index: int) -> None:
        """Count those of a group anew: it has other schedules now."""
        self._known = {place: known for place, known in self._known.items() if place[0] != index}


def reached(
    index: int,
    group: Mapping[str, Any],
    schedules: Mapping[str, Any],
    counts: Mapping[str, float],
    cycles: CycleCounts,
) -> list[Reached]:
    """The restarts that a group reaches when its counts move on by so much, in order.

    Raises InputError where they are too many for one step.
    """
    found: list[Reached] = []
    for key, value in schedules.items():
        for part, schedule in enumerate(schedules_in(value)):
            unit = schedule.unit
            if unit not in counts:
                continue
            before, now = group[unit], group[unit] + counts[unit]
            step = schedule.next_restart(before)
            if step > now:
                continue
            for _ in range(MOST):
                step = schedule.next_restart(step)
                if step > now:
                    break
            else:
                raise InputError(
                    f"{key} of param group {index}: from {before:g} to {now:g} {unit} its schedule "
                    f"restarts more than {MOST} times; are its periods counted in {unit}?"
                )
            first = cycles.up_to((index, key, part), schedule, before) + 1
            events = schedule.restart_events(
                before=math.nextafter(now, math.inf), after=before, cycle=first
            )
            found += [Reached(key, schedule, event) for event in events]
    return sorted(found, key=lambda one: one.restart.step)


def begin_all(
    index: int,
    group: dict[str, Any],
    rule: Transform,
    members: Sequence[tuple[Tensor, dict[str, Tensor]]],
    found: Sequence[Reached],
) -> list[Restarted]:
    """Begin the cycles that a group has reached; what begins together is done to the state once."""
    done: dict[tuple[Any, ...], Mapping[str, tuple[float, float]]] = {}
    told: list[Restarted] = []
    for key, schedule, event in found:
        policy = schedule.at_restart
        once = (policy, schedule.unit, event.step)
        if once not in done:
            done[once] = begin(policy, group, rule, members)
        told.append(Restarted(index, key, event, policy, done[once]))
    return told


def begin(
    policy: StatePolicy,
    group: dict[str, Any],
    rule: Transform,
    members: Sequence[tuple[Tensor, dict[str, Tensor]]],
) -> Mapping[str, tuple[float, float]]:
    """Do to the state what a restart's policy says; returns the norms before and after."""
    before = _norms(rule, members)
    if policy.action == "reset":
        group.update(rule.scalars, renewed=True)
    concerned = _concerned(policy.action, rule)
    for param, state in members:
        if policy.action == "reset":
            _renew(rule, param, state)
        for name in concerned:
            state[name].mul_(policy.factor if policy.action == "decay" else 0.0)
    after = _norms(rule, members)
    return {name: (norm, after[name]) for name, norm in before.items()}


def _renew(rule: Transform, param: Tensor, state: dict[str, Tensor]) -> None:
    """Begin the state again at the present weights; of a parameter that was ever updated what lasts
    stays, and so does the master, which is these weights."""
    begun = state["step"].item() > 0
    if "master" in state and not begun:
        state["master"].copy_(param)
    weights = state.get("master", param)
    for name, buffer in rule.buffers.items():
        if not (begun and buffer.lasts):
            state[name].copy_(buffer.make(weights))
    state["step"].zero_()


def check_policy(index: int, rule: Transform, schedules: Mapping[str, Any]) -> None:
    """Refuse a schedule whose restarts are to do something to moments that the rule has not."""
    for key, value in schedules.items():
        for schedule in schedules_in(value):
            action = schedule.at_restart.action
            void = action in _CONCERNED and rule.buffers and not _concerned(action, rule)
            if void and schedule.starts is not never:
                raise InputError(
                    f"{key} of param group {index}: state: {action!r} at its restarts, but "
                    f"{rule.name} keeps no such moment; choose 'keep' or 'reset'"
                )


def _concerned(action: str, rule: Transform) -> list[str]:
    wanted = _CONCERNED.get(action, ())
    return [name for name in rule.buffers if name.rpartition(".")[2] in wanted]


def _norms(
    rule: Transform, members: Sequence[tuple[Tensor, dict[str, Tensor]]]
) -> dict[str, float]:
    return {
        name: total_norm([_real(state[name]) for _, state in members if state[name].numel()])
        for name in rule.buffers
    }


def _real(buffer: Tensor) -> Tensor:
    """The buffer as numbers that have a norm: counts (L-BFGS) as floats, complex as pairs."""
    if buffer.is_complex():
        return torch.view_as_real(buffer)
    return buffer if buffer.is_floating_point() else buffer.float()
