"""Another library's optimizer, in its own loop, whose hyperparameters follow our schedules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Transform, identity
from rheostat.optimizers.factors import under_factors
from rheostat.optimizers.plan import Plan
from rheostat.optimizers.restarting import Restarted
from rheostat.optimizers.results import StepResult
from rheostat.optimizers.scheduled import START, check_owners, schedules_in

_OURS: Mapping[str, Any] = {**START, "uncounted": (), "plan": "{}", "factors": {}}
"""The keys that its groups have from us, with their starting values."""
_KEEPS_ITS_STATE = Transform(identity)
"""What stands for the library's rule where restarts ask what there is to reset: nothing of ours."""


class Followed:
    """Hooks on `theirs`, by which each of its steps moves the schedules on.

    Its param groups count their progress as ours do (`updates`, `samples` …), so that a state dict
    of the library's own holds all that a resumed run needs. Every step that the library makes
    counts as an update: it has nobody who skips one, but a GradScaler.

    Args:
        theirs: the optimizer, its scheduled hyperparameters at their first values.
        schedules: those hyperparameters, and their schedules; the same in every group.
        names: of its parameters, in the order of its groups; `param.0` and on for none.
        called: what it is called in errors.

    Raises:
        InputError: no group holds a scheduled hyperparameter; restarts that are to change state.
    """

    def __init__(
        self,
        theirs: torch.optim.Optimizer,
        schedules: Mapping[str, Any],
        names: Sequence[str],
        called: str,
    ) -> None:
        self.theirs = theirs
        count = sum(len(group["params"]) for group in theirs.param_groups)
        self.names = tuple(names) or tuple(f"param.{index}" for index in range(count))
        self.called = called
        self.last_step: StepResult | None = None
        self._bent: list[tuple[dict[str, Any], dict[str, Any]]] = []
        """Groups in a step under factors, with what the plan says in them."""
        for key, value in schedules.items():
            if key not in theirs.param_groups[0]:
                raise InputError(f"{called}: {key} cannot be scheduled: no group holds it")
            if any(each.at_restart.action != "keep" for each in schedules_in(value)):
                raise InputError(
                    f"{called}: {key}: its restarts are to change the optimizer's state, which is "
                    "the library's; choose state: keep"
                )
        self._groups = theirs.param_groups
        self.rules = [_KEEPS_ITS_STATE] * len(self._groups)
        self.plan = Plan(self._groups, self.rules, lambda _: [])
        for group in self._groups:
            if taken := sorted(set(group) & set(_OURS)):
                raise InputError(
                    f"{called}: its groups hold a key {taken[0]!r}, which is ours here"
                )
            group.update({**_OURS, **schedules})
            self.plan.join(group)
        theirs.register_step_pre_hook(self._check_ready)
        theirs.register_step_post_hook(self._stepped)
        theirs.register_load_state_dict_pre_hook(lambda _, saved: self._check(saved))
        theirs.register_load_state_dict_post_hook(lambda _: self._loaded())

    # -- what a run asks of an optimizer --------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The library's own."""
        return self.theirs.param_groups

    @property
    def state(self) -> Mapping[Tensor, Mapping[str, Any]]:
        """The library's own."""
        return self.theirs.state

    def scheduled(self, group: int) -> Mapping[str, Any]:
        """The hyperparameters of a group that a schedule owns, and their schedules."""
        return self.plan.schedules[group]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The library's step; returns what that returns."""
        return self.theirs.step() if closure is None else self.theirs.step(closure)

    def consumed(self, **counts: float) -> None:
        """As `Optimizer.consumed`."""
        self._restarted(self.plan.consumed(counts))

    # -- its state, by the names of parameters --------------------------------------------------

    def state_by_name(self) -> dict[str, Any]:
        """The library's state dict with names in the place of its indices.

        Raises InputError for state that belongs to no parameter.
        """
        saved: dict[str, Any] = self.theirs.state_dict()
        if strange := [key for key in saved["state"] if key not in range(len(self.names))]:
            raise InputError(
                f"{self.called} keeps state under {strange[0]!r}, which is no parameter: it cannot "
                "be saved here"
            )
        groups: list[dict[str, Any]] = [
            {**group, "params": [self.names[index] for index in group["params"]]}
            for group in saved["param_groups"]
        ]
        state: Mapping[int, Any] = saved["state"]
        by_name = {self.names[index]: entry for index, entry in state.items()}
        return {"by_name": by_name, "param_groups": groups}

    def check(self, saved: Mapping[str, Any]) -> None:
        """Refuse what `state_by_name` gave for other parameters. Raises InputError."""
        theirs = [name for group in saved["param_groups"] for name in group["params"]]
        if theirs != list(self.names):
            raise InputError(
                f"the saved state of {self.called} is of the parameters {', '.join(theirs)}; here "
                f"are {', '.join(self.names)}"
            )

    def load_by_name(self, saved: Mapping[str, Any]) -> None:
        """Load what `state_by_name` gave; its tensors are copied.

        Raises InputError for other parameters, or another plan.
        """
        self.check(saved)
        index = {name: place for place, name in enumerate(self.names)}
        groups = [
            {**group, "params": [index[name] for name in group["params"]]}
            for group in saved["param_groups"]
        ]
        state = {index[name]: copy.deepcopy(entry) for name, entry in saved["by_name"].items()}
        self.theirs.load_state_dict({"state": state, "param_groups": groups})

    # -- hooks ----------------------------------------------------------------------------------

    def _check_ready(self, *_: Any) -> None:
        self._show_plan()  # an error of the library may have left a step half made
        self.plan.check_ready()
        for group in self.param_groups:
            if group["factors"]:
                planned = {key: group[key] for key in group if key not in ("params", *_OURS)}
                bent = under_factors(dict(planned), group["factors"])
                self._bent.append(
                    (group, {k: planned[k] for k in bent if bent[k] is not planned[k]})
                )
                group.update(bent)

    def _show_plan(self) -> None:
        """Put back what the plan says, where factors have bent it for a step."""
        for group, planned in self._bent:
            group.update(planned)
        self._bent.clear()

    def _stepped(self, *_: Any) -> None:
        self._show_plan()
        begun = self.plan.stepped(None)
        updates = int(self.param_groups[0]["updates"])
        self.last_step = StepResult(True, updates, restarts=begun)

    def _restarted(self, begun: tuple[Restarted, ...]) -> None:
        if begun and self.last_step is not None:
            last = self.last_step
            self.last_step = StepResult(True, last.step, restarts=last.restarts + begun)

    def _check(self, saved: Mapping[str, Any]) -> None:
        """Refuse a state dict of another plan, before anything is changed."""
        for index, group in enumerate(saved["param_groups"][: len(self.param_groups)]):
            complete = {**_OURS, **group}
            check_owners(index, complete, self.plan.following(index, complete), saved=True)

    def _loaded(self) -> None:
        """Go on where the loaded groups are. torch has put another list in the place of the groups,
        and what was saved without us has no counts."""
        self._groups[:] = [{**_OURS, **group} for group in self.theirs.param_groups]
        self.theirs.param_groups = self._groups
        for index, group in enumerate(self._groups):
            self.plan.follow(index, self.plan.following(index, group))
