"""The plan of a run: which schedules own which hyperparameters, where they are, and how to change
them by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from torch import Tensor

from rheostat.core.errors import InputError, nearest
from rheostat.core.schedule import Schedule, StateAction, StatePolicy
from rheostat.core.transform import Transform
from rheostat.optimizers.restarting import Restarted, begin, move
from rheostat.optimizers.scheduled import (
    COUNTS,
    at_counts,
    bases,
    check_counted,
    check_owners,
    has_schedule,
    log_key,
    schedules_in,
)
from rheostat.schedules.changes import cooldown_from, extend, rescale_from
from rheostat.schedules.restarts import triggered
from rheostat.schedules.shapes import ShapeName

Members = Callable[[int], Sequence[tuple[Tensor, dict[str, Tensor]]]]
"""Index of a group -> its parameters that have state, with it."""


@dataclass(frozen=True)
class Replanned:
    """A change of plan: of which hyperparameter of which group, at which count, from what to what;
    `new.preview(beside=old)` shows both curves."""

    group: int
    hyperparameter: str
    at: int
    old: Schedule
    new: Schedule


class Plan:
    """The schedules of an optimizer, one mapping from hyperparameter to schedule a group.

    `opt.plan` is it. The counts that they follow live in the param groups, and are saved with them.
    `learn` makes sure of the count of updates, which may have been taken on trust; see `recount`.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        rules: Sequence[Transform],
        members: Members,
        learn: Callable[[], None] = lambda: None,
    ) -> None:
        self._groups = groups
        self._rules = rules
        self._members = members
        self._learn = learn
        self._made: list[dict[str, Any]] = []
        self._changed: set[tuple[int, str]] = set()
        self.schedules: list[dict[str, Any]] = []

    def join(self, group: dict[str, Any]) -> None:
        """Take the schedules out of a new group, and put what they say in their place."""
        found = {key: value for key, value in group.items() if has_schedule(value)}
        self._made.append(found)
        self.schedules.append(dict(found))
        group.update(bases(found))
        group.update({log_key(key): () for key in found})
        group["plan"] = _written(found)
        self._refresh(len(self.schedules) - 1, group)

    def check_ready(self) -> None:
        """Refuse a step where a scheduled hyperparameter was overwritten, or where nobody has said
        what the last step consumed of what a schedule counts. Raises InputError."""
        for index, (group, schedules) in enumerate(zip(self._groups, self.schedules, strict=True)):
            check_owners(index, group, schedules)
            check_counted(index, group, schedules)

    def stepped(self, applied: bool) -> tuple[Restarted, ...]:
        """Count a step, and its update if it was applied; returns the restarts that it reached."""
        for group in self._groups:
            group["uncounted"] = COUNTS
        return self._move({"updates": 1}) if applied else ()

    def consumed(self, counts: Mapping[str, float]) -> tuple[Restarted, ...]:
        """Count what the last step consumed. Raises InputError; see `Optimizer.consumed`."""
        for unit, count in counts.items():
            if unit not in COUNTS:
                raise InputError(f"consumed: unknown unit {unit!r}; {nearest(unit, COUNTS)}")
            if not 0 <= count < math.inf:
                raise InputError(f"consumed: {unit}={count!r}: should be finite and not negative")
        for group in self._groups:
            group["uncounted"] = tuple(unit for unit in group["uncounted"] if unit not in counts)
        return self._move(counts)

    def _move(self, counts: Mapping[str, float]) -> tuple[Restarted, ...]:
        found: list[Restarted] = []
        for index, (group, rule) in enumerate(zip(self._groups, self._rules, strict=True)):
            schedules = self.schedules[index]
            found += move(index, group, rule, schedules, self._members, counts)
            self._refresh(index, group)
        return tuple(found)

    def updates_to_restart(self) -> float:
        """How many updates from now the next restart is that updates reach; inf where none is."""
        return min(
            (
                schedule.next_restart(group["updates"]) - group["updates"]
                for group, schedules in zip(self._groups, self.schedules, strict=True)
                for value in schedules.values()
                for schedule in schedules_in(value)
                if schedule.unit == "updates"
            ),
            default=math.inf,
        )

    def recount(self, updates: int) -> None:
        """Correct the count of applied updates, which an accelerator knows better."""
        for index, group in enumerate(self._groups):
            if group["updates"] != updates:
                check_owners(index, group, self.schedules[index])
                group["updates"] = updates
                self._refresh(index, group)

    def _refresh(self, index: int, group: dict[str, Any]) -> None:
        for key, value in self.schedules[index].items():
            group[key] = at_counts(value, group, key)

    # -- changes by name ------------------------------------------------------------------------

    def extend(self, steps: int, hyperparameter: str = "lr") -> list[Replanned]:
        """Move the horizon out to `steps`; what is left of the curve is stretched.

        Raises InputError where nothing is scheduled, or nothing is left of the plan.
        """
        return self.change(lambda old, at: extend(old, at, steps), hyperparameter)

    def change_peak(
        self, peak: float, hyperparameter: str = "lr", old_peak: float | None = None
    ) -> list[Replanned]:
        """From here on, the values that the schedule would have with this peak in place of
        `old_peak`, by default the one that it was made with.

        Raises InputError where nothing is scheduled, or nobody can tell the old peak.
        """
        return self.change(lambda old, at: rescale_from(old, at, peak, old_peak), hyperparameter)

    def cool_down(
        self,
        steps: int,
        shape: ShapeName = "linear",
        floor: float = 0.0,
        hyperparameter: str = "lr",
    ) -> list[Replanned]:
        """From the present value down to `floor`, which is reached at `steps`, the new horizon.

        Raises InputError where nothing is scheduled, or `steps` is past.
        """
        return self.change(
            lambda old, at: cooldown_from(old, at, steps, shape, floor), hyperparameter
        )

    def change(
        self, new: Callable[[Schedule, int], Schedule], hyperparameter: str = "lr"
    ) -> list[Replanned]:
        """Put `new(old, count)` in the place of each group's schedule of a hyperparameter.

        Groups that share a schedule go on sharing one. Raises InputError where nothing is
        scheduled, and what `new` raises; nothing is changed then.
        """
        self._learn()
        self.check_ready()
        found: list[Replanned] = []
        made: dict[tuple[int, int], Schedule] = {}
        for index, old, at in self._owners(hyperparameter):
            key = (id(old), at)
            made[key] = made[key] if key in made else new(old, at)
            found.append(Replanned(index, hyperparameter, at, old, made[key]))
        for one in found:
            group = self._groups[one.group]
            self.schedules[one.group][hyperparameter] = one.new
            self._made[one.group][hyperparameter] = one.new
            group[log_key(hyperparameter)] = ()
            group["plan"] = _written(self._made[one.group])
            self._changed.add((one.group, hyperparameter))
            self._refresh(one.group, group)
        return found

    def restart(
        self,
        state: StateAction | None = None,
        factor: float = 0.5,
        hyperparameter: str = "lr",
    ) -> tuple[Restarted, ...]:
        """Begin the schedule again from its step 0 with the next update, as a criterion may ask.

        The step is kept in the group's log, so that a resumed run has the same values. `state` says
        what becomes of the optimizer's state (by default what the schedule says), `factor` what
        "decay" multiplies it by.

        Raises InputError where nothing is scheduled in updates, no update was made since the last
        start, or the plan was changed by name before: then it is not known which one to begin.
        """
        if state is not None and state not in get_args(StateAction):
            raise InputError(f"restart: state={state!r}; {nearest(state, get_args(StateAction))}")
        if not 0 <= factor <= 1:
            raise InputError(f"restart: factor={factor!r}: should be between 0 and 1")
        self._learn()
        owners = self._owners(hyperparameter)
        for index, old, at in owners:
            log = self._groups[index][log_key(hyperparameter)]
            if old.unit != "updates":
                raise InputError(f"restart: {hyperparameter} is scheduled in {old.unit}")
            if (index, hyperparameter) in self._changed:
                raise InputError(
                    f"restart: the plan of {hyperparameter} was changed in mid-run, and cannot be "
                    "begun again; plan.change(lambda old, at: …) puts another in its place"
                )
            if at <= (log[-1] if log else 0):
                raise InputError(f"restart: no update was made since the last start, at {at}")
        found: list[Restarted] = []
        for index, old, at in owners:
            group = self._groups[index]
            log = (*group[log_key(hyperparameter)], at)
            again = _begun_again(self._made[index][hyperparameter], log)
            self.schedules[index][hyperparameter] = again
            group[log_key(hyperparameter)] = log
            policy = old.at_restart if state is None else StatePolicy(state, factor)
            event = again.restart_events(before=at + 1)[-1]
            norms = begin(policy, group, self._rules[index], self._members(index))
            found.append(Restarted(index, hyperparameter, event, policy, norms))
            self._refresh(index, group)
        return tuple(found)

    def following(self, index: int, saved: Mapping[str, Any]) -> dict[str, Any]:
        """The schedules of a group, begun again where the logs in a saved one say so.

        Raises InputError for a group that was saved under another plan.
        """
        mine, theirs = self._groups[index]["plan"], saved.get("plan", "{}")
        if mine != theirs:
            raise InputError(
                f"param group {index} was saved under the plan {theirs}, and this optimizer has "
                f"{mine}; build it with the plan that it was saved with, and then change it by name"
            )
        return {
            key: _begun_again(made, tuple(log)) if (log := saved.get(log_key(key), ())) else made
            for key, made in self._made[index].items()
        }

    def follow(self, index: int, schedules: dict[str, Any]) -> None:
        """Go on with what `following` gave."""
        self.schedules[index] = schedules

    def _owners(self, hyperparameter: str) -> list[tuple[int, Schedule, int]]:
        found = [
            (index, schedule, self._count(hyperparameter, index, schedule))
            for index, schedules in enumerate(self.schedules)
            if isinstance(schedule := schedules.get(hyperparameter), Schedule)
        ]
        if not found:
            owned = sorted({key for schedules in self.schedules for key in schedules})
            there = f"; scheduled: {', '.join(owned)}" if owned else "; nothing is"
            parts = " as a whole" if hyperparameter in owned else ""
            raise InputError(f"plan: no group has a schedule of {hyperparameter!r}{parts}{there}")
        return found

    def _count(self, hyperparameter: str, index: int, schedule: Schedule) -> int:
        count = self._groups[index][schedule.unit]
        if count != int(count):
            raise InputError(
                f"plan: {hyperparameter} is at {count:g} {schedule.unit}; a plan changes at a "
                "whole count"
            )
        return int(count)


def _begun_again(made: Schedule, log: tuple[int, ...]) -> Schedule:
    own = made.at_restart
    again = triggered(made, log, state=own.action, state_factor=own.factor)
    return replace(again, base=made.base)


def _written(schedules: Mapping[str, Any]) -> str:
    """What the schedules are, as JSON; a function of Python's is only said to be one."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(part) for part in cast("tuple[Any, ...]", value)]
        if not isinstance(value, Schedule):
            return value
        try:
            return value.written()
        except InputError:
            return "a function"

    return json.dumps({key: plain(value) for key, value in schedules.items()})
