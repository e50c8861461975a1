"""The plan of a run: which schedules own which hyperparameters, and their changes by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsFloat, TypeAlias, get_args

from torch import Tensor

from rheostat.core.errors import InputError, nearest
from rheostat.core.schedule import Schedule, StateAction, StatePolicy
from rheostat.core.transform import Transform
from rheostat.optimizers.overrides import Written
from rheostat.optimizers.restarting import CycleCounts, Restarted, begin, begin_all, reached
from rheostat.optimizers.results import left_out
from rheostat.optimizers.scheduled import (
    COUNTS,
    at_counts,
    bases,
    check_counted,
    check_owners,
    has_schedule,
    log_key,
    schedules_in,
    whole_count,
    written_plan,
)
from rheostat.schedules.changes import cooldown_from, extend, peak_of, rescale_from
from rheostat.schedules.restarts import begun_again
from rheostat.schedules.shapes import ShapeName

Members = Callable[[int], Sequence[tuple[Tensor, dict[str, Tensor]]]]
"""Index of a group -> its parameters that have state, with it."""

Listener = Callable[[str, Mapping[str, Any], "Sequence[Replanned]"], None]
"""Told of each change of plan before it is made, and may refuse it by an error: the method that is
called, what with, and what it will change."""


Groups: TypeAlias = int | Sequence[int] | None
"""The param groups that a change is about, by index; None: all that have such a schedule."""


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
    `schedules` are those that hold now, `planned` those that each group was made with. `learn`
    makes sure of the count of updates, which may have been taken on trust; see `recount`.
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
        self.planned: list[Mapping[str, Any]] = []
        self.listener: Listener | None = None
        self.begun: Callable[[Sequence[Restarted]], None] | None = None
        """Told of each restart that somebody asked for, once it is made."""
        self._made: list[dict[str, Any]] = []
        self._changed: set[tuple[int, str]] = set()
        self._cycles = CycleCounts()
        self.schedules: list[dict[str, Any]] = []
        self._written: list[Written] = []

    def join(self, group: dict[str, Any]) -> None:
        """Take the schedules out of a new group, and put what they say in their place; one that it
        was given as the group before was goes on as that does now, changes and restarts too."""
        found = {key: value for key, value in group.items() if has_schedule(value)}
        index = len(self.planned)
        same = [k for last in self.planned[-1:] for k in found if last.get(k) is found[k]]
        self.planned.append(found)
        self._made.append(found | {key: self._made[-1][key] for key in same})
        self.schedules.append(found | {key: self.schedules[-1][key] for key in same})
        self._changed |= {(index, key) for key in same if (index - 1, key) in self._changed}
        group.update(bases(self.schedules[-1]))
        group.update({log_key(key): () for key in found})
        group.update({log_key(key): self._groups[index - 1][log_key(key)] for key in same})
        group["plan"] = written_plan(self._made[-1])
        self._written.append(Written(self._rules[index], group, found))
        self._refresh(index, group)

    def reset(self) -> None:
        """Go back to what was planned. Counts and values stay: whoever calls sets them."""
        self._made = [dict(planned) for planned in self.planned]
        self.schedules = [dict(planned) for planned in self.planned]
        self._changed.clear()
        for group, planned in zip(self._groups, self.planned, strict=True):
            group.update({log_key(key): () for key in planned})
            group["plan"] = written_plan(planned)

    def check_ready(self) -> None:
        """Refuse a step where a scheduled hyperparameter was overwritten, a value out of range was
        written to another, or nobody has said what the last step consumed of what a schedule
        counts. Raises InputError."""
        for index, (group, schedules) in enumerate(zip(self._groups, self.schedules, strict=True)):
            self._written[index].check(index, group)
            check_owners(index, group, schedules)
            check_counted(index, group, schedules)

    def stepped(self, reason: str | None) -> tuple[Restarted, ...]:
        """Count a step, and its update without a reason; returns the restarts that it reached."""
        for group in self._groups:
            group["uncounted"] = COUNTS
            if left_out(reason):
                group["skipped"] += 1
        return () if reason else self._move({"updates": 1})

    def consumed(self, counts: Mapping[str, float]) -> tuple[Restarted, ...]:
        """Count what the last step consumed. Raises InputError; see `Optimizer.consumed`."""
        for unit, count in counts.items():
            if unit not in COUNTS:
                raise InputError(f"consumed: unknown unit {unit!r}; {nearest(unit, COUNTS)}")
            number = isinstance(count, SupportsFloat)  # pyright: ignore[reportUnnecessaryIsInstance]
            if not number or not 0 <= count < math.inf:
                raise InputError(f"consumed: {unit}={count!r}: should be finite and not negative")
        begun = self._move(counts)
        for group in self._groups:
            group["uncounted"] = tuple(unit for unit in group["uncounted"] if unit not in counts)
        return begun

    def _move(self, counts: Mapping[str, float]) -> tuple[Restarted, ...]:
        # All are looked at before any is moved: what is refused changes nothing.
        found = [
            reached(index, group, self.schedules[index], counts, self._cycles)
            for index, group in enumerate(self._groups)
        ]
        told: list[Restarted] = []
        for index, (group, rule) in enumerate(zip(self._groups, self._rules, strict=True)):
            for unit, more in counts.items():
                group[unit] += more
            if found[index]:
                told += begin_all(index, group, rule, self._members(index), found[index])
            self._refresh(index, group)
        return tuple(told)

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
        """Correct the count of applied updates, and of skipped ones: an accelerator knows."""
        for index, group in enumerate(self._groups):
            if group["updates"] != updates:
                check_owners(index, group, self.schedules[index])
                group["skipped"] += max(0, int(group["updates"]) - updates)
                group["updates"] = updates
                self._refresh(index, group)

    def _refresh(self, index: int, group: dict[str, Any]) -> None:
        for key, value in self.schedules[index].items():
            group[key] = at_counts(value, group, key)

    def value(self, schedule: Schedule) -> float:
        """What a schedule says now, at the optimizer's own count of its unit: for a number that the
        caller reads, such as label smoothing. It goes on with the counts when they are loaded."""
        return at_counts(schedule, self._groups[0], "plan.value")

    # -- changes by name ------------------------------------------------------------------------

    # Each takes the groups that it is about, by default all in which the hyperparameter has a
    # schedule, and raises InputError where none of them has.

    def extend(
        self, steps: int, hyperparameter: str = "lr", *, group: Groups = None
    ) -> list[Replanned]:
        """Move the horizon to `steps`; what is left of the curve is stretched, or compressed.

        Raises InputError where nothing is left of the plan, or `steps` is past.
        """
        arguments = {"steps": steps, "hyperparameter": hyperparameter, "group": group}
        return self._change(lambda old, at: extend(old, at, steps), "extend", arguments)

    def change_peak(
        self,
        peak: float,
        hyperparameter: str = "lr",
        old_peak: float | None = None,
        *,
        group: Groups = None,
    ) -> list[Replanned]:
        """From here on, the values that the schedule would have with this peak in place of
        `old_peak`, by default the one that it was made with.

        Raises InputError where nobody can tell the old peak, or the groups have several.
        """
        owners = self._owners(hyperparameter, group)
        peaks = {old_peak or peak_of(old): index for index, old, _ in reversed(owners)}
        if len(peaks) > 1:
            said = " and ".join(f"{one or math.nan:g} in group {i}" for one, i in peaks.items())
            raise InputError(
                f"plan: {hyperparameter} has several peaks, {said}; say which with group=…"
            )
        about = {"hyperparameter": hyperparameter, "group": group}
        return self._change(
            lambda old, at: rescale_from(old, at, peak, old_peak),
            "change_peak",
            {"peak": peak, "old_peak": old_peak, **about},
        )

    def cool_down(
        self,
        steps: int,
        shape: ShapeName = "linear",
        floor: float = 0.0,
        hyperparameter: str = "lr",
        *,
        group: Groups = None,
    ) -> list[Replanned]:
        """From the present value down to `floor`, which is reached at `steps`, the new horizon.

        Raises InputError where `steps` is past, or `floor` above the present value.
        """
        about = {"hyperparameter": hyperparameter, "group": group}
        return self._change(
            lambda old, at: cooldown_from(old, at, steps, shape, floor),
            "cool_down",
            {"steps": steps, "shape": shape, "floor": floor, **about},
        )

    def change(
        self,
        new: Callable[[Schedule, int], Schedule],
        hyperparameter: str = "lr",
        *,
        group: Groups = None,
    ) -> list[Replanned]:
        """Put `new(old, count)` in the place of each group's schedule of a hyperparameter.

        Groups that share a schedule go on sharing one. Raises InputError where `new` does, or gives
        no schedule; nothing is changed then.
        """
        return self._change(new, "change", {"hyperparameter": hyperparameter, "group": group})

    def _change(
        self,
        new: Callable[[Schedule, int], Schedule],
        operation: str,
        arguments: Mapping[str, Any],
    ) -> list[Replanned]:
        hyperparameter, group = arguments["hyperparameter"], arguments["group"]
        self._learn()
        self.check_ready()
        found: list[Replanned] = []
        made: dict[tuple[Schedule, int], Schedule] = {}
        for index, old, at in self._owners(hyperparameter, group):
            key = (old, at)
            if key not in made:
                made[key] = _schedule(new(old, at), old)
            found.append(Replanned(index, hyperparameter, at, old, made[key]))
        if self.listener is not None:
            self.listener(operation, arguments, found)
        for one in found:
            changed = self._groups[one.group]
            self.schedules[one.group][hyperparameter] = one.new
            self._made[one.group][hyperparameter] = one.new
            changed[log_key(hyperparameter)] = ()
            changed["plan"] = written_plan(self._made[one.group])
            self._changed.add((one.group, hyperparameter))
            self._cycles.forget(one.group)
            self._refresh(one.group, changed)
        return found

    def restart(
        self,
        state: StateAction | None = None,
        factor: float = 0.5,
        hyperparameter: str = "lr",
        *,
        group: Groups = None,
    ) -> tuple[Restarted, ...]:
        """Begin the schedule again from its step 0 with the next update, as a criterion may ask.

        The step is kept in the group's log, so that a resumed run has the same values. `state` says
        what becomes of the optimizer's state (by default what the schedule says), `factor` what
        "decay" multiplies it by.

        Raises InputError where it is not scheduled in updates, no update was made since the last
        start, or the plan was changed by name before: then it is not known which one to begin.
        """
        if state is not None and state not in get_args(StateAction):
            raise InputError(f"restart: state={state!r}; {nearest(state, get_args(StateAction))}")
        if not 0 <= factor <= 1:
            raise InputError(f"restart: factor={factor!r}: should be between 0 and 1")
        self._learn()
        owners = self._owners(hyperparameter, group)
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
            begun = self._groups[index]
            log = (*begun[log_key(hyperparameter)], at)
            again = begun_again(self._made[index][hyperparameter], log)
            self.schedules[index][hyperparameter] = again
            begun[log_key(hyperparameter)] = log
            policy = old.at_restart if state is None else StatePolicy(state, factor)
            place = (index, hyperparameter, 0)
            cycle = self._cycles.up_to(place, old, at) + (old.next_restart(at - 1) != at)
            self._cycles.begun(place, at, cycle)
            (event,) = again.restart_events(before=at + 1, after=at - 1, cycle=cycle)
            norms = begin(policy, begun, self._rules[index], self._members(index))
            found.append(Restarted(index, hyperparameter, event, policy, norms))
            self._refresh(index, begun)
        if self.begun is not None:
            self.begun(found)
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
            key: begun_again(made, tuple(log)) if (log := saved.get(log_key(key), ())) else made
            for key, made in self._made[index].items()
        }

    def follow(self, index: int, schedules: dict[str, Any]) -> None:
        """Go on with what `following` gave."""
        self.schedules[index] = schedules
        self._cycles.forget(index)

    def __getstate__(self) -> dict[str, Any]:
        """For `copy.deepcopy`: who listens to this plan does not listen to its copy."""
        return {**self.__dict__, "listener": None, "begun": None}

    def _owners(self, hyperparameter: str, group: Groups) -> list[tuple[int, Schedule, int]]:
        """The groups that a change is about: index, schedule, and where it is."""
        every = range(len(self.schedules))
        asked = every if group is None else [group] if isinstance(group, int) else group
        for index in asked:
            if index not in every:
                raise InputError(f"plan: group={index!r}: there are groups 0 to {every[-1]}")
        found = [
            (index, schedule, whole_count(self._groups[index], schedule, hyperparameter))
            for index in dict.fromkeys(asked)
            if isinstance(schedule := self.schedules[index].get(hyperparameter), Schedule)
        ]
        if found and (group is None or len(found) == len({*asked})):
            return found
        owned = sorted({key for index in asked for key in self.schedules[index]})
        there = f"; scheduled: {', '.join(owned)}" if owned else "; nothing is"
        parts = " as a whole" if hyperparameter in owned else ""
        who = "no group has" if group is None else f"not all of group={group!r} have"
        raise InputError(f"plan: {who} a schedule of {hyperparameter!r}{parts}{there}")


def _schedule(made: object, old: Schedule) -> Schedule:
    """What a change gave, for the hyperparameter that the old schedule has."""
    if not isinstance(made, Schedule):
        raise InputError(f"plan.change: gives {made!r}; should be a schedule, such as constant(…)")
    return replace(made, fault=old.fault)
