"""Restarts: what a schedule's new cycle does to the optimizer's state, and an account of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.schedule import Restart, StatePolicy, never
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


def move(
    index: int,
    group: dict[str, Any],
    rule: Transform,
    schedules: Mapping[str, Any],
    members: Callable[[int], Sequence[tuple[Tensor, dict[str, Tensor]]]],
    counts: Mapping[str, float],
) -> list[Restarted]:
    """Move a group's counts on, and begin the cycles that they reach.

    `members` gives the group's parameters with their state; most steps do not ask for them.
    """
    before = {unit: group[unit] for unit in counts}
    for unit, more in counts.items():
        group[unit] += more
    found: list[tuple[str, Restart, StatePolicy]] = []
    for key, value in schedules.items():
        for schedule in schedules_in(value):
            if schedule.unit not in counts:
                continue
            now = group[schedule.unit]
            if schedule.next_restart(before[schedule.unit]) <= now:
                events = schedule.restart_events(before=math.nextafter(now, math.inf))
                found.append((key, events[-1], schedule.at_restart))
    done: dict[StatePolicy, Mapping[str, tuple[float, float]]] = {}
    for _, _, policy in found:
        if policy not in done:
            done[policy] = begin(policy, group, rule, members(index))
    return [Restarted(index, key, event, policy, done[policy]) for key, event, policy in found]


def begin(
    policy: StatePolicy,
    group: dict[str, Any],
    rule: Transform,
    members: Sequence[tuple[Tensor, dict[str, Tensor]]],
) -> Mapping[str, tuple[float, float]]:
    """Do to the state what a restart's policy says; returns the norms before and after."""
    before = _norms(rule, members)
    if policy.action == "reset":
        group.update(rule.scalars)
    concerned = _concerned(policy.action, rule)
    for param, state in members:
        if policy.action == "reset":
            # As at the first update, which also copies the parameter where a buffer begins as it.
            state["step"].zero_()
            for name, buffer in rule.buffers.items():
                state[name].copy_(buffer.make(param))
        for name in concerned:
            state[name].mul_(policy.factor if policy.action == "decay" else 0.0)
    after = _norms(rule, members)
    return {name: (norm, after[name]) for name, norm in before.items()}


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
