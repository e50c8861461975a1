"""What a run is made of, as the tensors and documents of a checkpoint, and back.

Everything is looked at before anything is changed: a checkpoint that does not fit leaves model,
optimizer, generators and the user's objects as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn

from rheostat.checkpoint.compare import values_that_differ
from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.nest import put_together, take_apart
from rheostat.checkpoint.rng import rng_state, set_rng_state
from rheostat.checkpoint.sampler import ResumableSampler
from rheostat.core.errors import InputError, closest
from rheostat.optimizers.followed import Followed
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.plan import Plan
from rheostat.optimizers.scheduled import COUNTS, at_counts, check_owners, log_key
from rheostat.recipes.buffers import Buffers
from rheostat.recipes.environments import run_environment
from rheostat.recipes.optimizer_files import document_of, state_of
from rheostat.recipes.recipe import Recipe

CHANGES = ("extend", "change_peak", "cool_down")
"""The methods of `Plan` that put another schedule in the place of one."""

_DOCUMENTS = ("run", "recipe", "model", "optimizer", "others", "rng")

Tensors = dict[str, dict[str, Tensor]]
Documents = dict[str, dict[str, Any]]
TensorsRead = Mapping[str, Mapping[str, Tensor]]
DocumentsRead = Mapping[str, Mapping[str, Any]]


class Stateful(Protocol):
    """Whatever can say its state and take it back: a sampler, a GradScaler, a loader."""

    def state_dict(self) -> dict[str, Any]:
        """The state: numbers, strings, tensors, arrays, in lists, tuples and mappings."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Take a state back."""
        ...


@dataclass
class Progress:
    """How far a run is, beside what its optimizer counts.

    `batches` is the number of batches consumed, `begun` are the restarts that the next update
    begins with, as they are recorded, `changes` the changes of plan so far (see `noted`), `changed`
    the structural ones (see `recipes.changed`).
    """

    batches: int = 0
    begun: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    changes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    changed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


@dataclass(frozen=True)
class Bundle:
    """The objects of a run that are saved as one unit."""

    recipe: Recipe
    model: nn.Module
    optimizer: Optimizer | Followed
    others: Mapping[str, Stateful]

    @cached_property
    def buffers(self) -> Buffers:
        """Of the model; copied where a regime asks for it."""
        return Buffers(self.model)

    @property
    def shown(self) -> Optimizer:
        """What the user sees: of another library, its own object."""
        loop = self.optimizer
        return cast("Optimizer", loop.theirs) if isinstance(loop, Followed) else loop

    def take(self, progress: Progress, *, handed_out: bool = False) -> tuple[Tensors, Documents]:
        """Tensors by file and name, and documents by name; the tensors are not copied.

        `handed_out`: the sampler as it is, which may be ahead of what was trained on.
        """
        tensors: Tensors = {"model": {}, "optimizer": {}, "others": {}}
        weights = self.model.state_dict()
        for name, value in weights.items():
            if isinstance(value, Tensor):
                tensors["model"][name] = value
        rest = {name: value for name, value in weights.items() if not isinstance(value, Tensor)}
        others = {
            name: other.state_dict(progress.batches)
            if isinstance(other, ResumableSampler) and not handed_out
            else other.state_dict()
            for name, other in self.others.items()
        }
        tensors["rng"], rng = rng_state()
        return tensors, {
            "run": {"progress": vars(progress), "environment": run_environment()},
            "recipe": {"hash": self.recipe.hash, "canonical": self.recipe.canonical()},
            "model": {
                "evaluating": [n for n, m in _modules(self.model) if not m.training],
                "rest": take_apart(rest, "rest", tensors["others"]),
            },
            "optimizer": self._optimizer_document(tensors["optimizer"]),
            "others": take_apart(others, "others", tensors["others"]),
            "rng": rng,
        }

    def put(
        self, tensors: TensorsRead, documents: DocumentsRead, where: Path
    ) -> tuple[Progress, list[str]]:
        """Put everything back that `take` gave and `where` holds; returns the progress and, a
        sentence each, what keeps the run from going on to the same bits.

        Raises:
            InputError: it is of another recipe, model or optimizer, or one of the others refuses
                its state; everything is as it was.
        """
        if missing := [name for name in _DOCUMENTS if name not in documents]:
            raise InputError(f"{where} is no checkpoint of a run: it has no {missing[0]}.json")
        self._check_recipe(documents["recipe"])
        weights = {
            **tensors["model"],
            **put_together(documents["model"]["rest"], tensors["others"]),
        }
        self.check_model(weights)
        progress = Progress(**documents["run"]["progress"])
        state = self._optimizer_state(documents["optimizer"], tensors["optimizer"])
        self._check_optimizer(state, progress.changes)
        others = put_together(documents["others"], tensors["others"])
        _check_names("saved with", others, "attached with", self.others)
        undo: list[Callable[[], object]] = []
        try:
            for name, other in self.others.items():
                before = copy.deepcopy(other.state_dict())
                undo.append(lambda other=other, before=before: other.load_state_dict(before))
                other.load_state_dict(others[name])
            left = set_rng_state(tensors["rng"], documents["rng"])
        except BaseException:
            for step in reversed(undo):
                step()
            raise
        # Looked at above: from here on nothing is refused.
        self._put(weights, state, progress.changes)
        for name, module in _modules(self.model):
            module.training = name not in documents["model"]["evaluating"]
        differ = values_that_differ(documents["run"]["environment"], run_environment())
        return progress, [*left, *(f"the environment is another one: {line}" for line in differ)]

    def _put(
        self, weights: Mapping[str, Any], state: dict[str, Any], changes: list[dict[str, Any]]
    ) -> None:
        change_again(self.optimizer.plan, self.optimizer.param_groups, changes)
        if isinstance(self.optimizer, Followed):
            self.optimizer.load_by_name(state)
        else:
            self.optimizer.load_state_dict(state)
        self.model.load_state_dict(weights)
        if self.buffers.watched:
            self.buffers.keep()

    # -- known-good states, in memory ----------------------------------------------------------

    def snapshot(self, progress: Progress) -> dict[str, Any]:
        """Copies of weights, optimizer and changes of plan."""
        loop = self.optimizer
        state = loop.state_by_name() if isinstance(loop, Followed) else loop.state_dict()
        weights = {name: _copied(value) for name, value in self.model.state_dict().items()}
        return {
            "weights": weights,
            "optimizer": copy.deepcopy(state),
            "changes": copy.deepcopy(progress.changes),
        }

    def put_back(self, snapshot: Mapping[str, Any], progress: Progress) -> None:
        """Put what `snapshot` gave in the place of what is here; all else goes on."""
        progress.changes = copy.deepcopy(snapshot["changes"])
        progress.begun.clear()
        self._put(snapshot["weights"], copy.deepcopy(snapshot["optimizer"]), progress.changes)

    # -- the optimizer -------------------------------------------------------------------------

    def _optimizer_document(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        if isinstance(self.optimizer, Followed):
            return take_apart(self.optimizer.state_by_name(), "state", tensors)
        return document_of(self.optimizer.state_dict(), tensors)

    def _optimizer_state(
        self, document: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        if isinstance(self.optimizer, Followed):
            return put_together(document, tensors)
        return state_of(document, tensors)

    # -- does it fit? --------------------------------------------------------------------------

    def _check_recipe(self, saved: Mapping[str, Any]) -> None:
        if saved["hash"] == self.recipe.hash:
            return
        differ = list(values_that_differ(saved["canonical"], self.recipe.canonical()))
        raise InputError(
            "the checkpoint is of another recipe (first: saved, second: here): "
            + "; ".join(differ or ["what it hashes to"])
        )

    def check_model(self, weights: Mapping[str, Any]) -> None:
        """Refuse the state dict of another model: every name, dtype and shape that differs."""
        here = self.model.state_dict()
        _check_names("of a model with", weights, "attached to one with", here)
        differ = [
            f"{name} was saved as {_kind(weights[name])}, here it is {_kind(value)}"
            for name, value in here.items()
            if isinstance(value, Tensor) and _kind(weights[name]) != _kind(value)
        ]
        if differ:
            raise InputError(f"the checkpoint is of another model: {'; '.join(differ)}")

    def _check_optimizer(self, state: Mapping[str, Any], changes: list[dict[str, Any]]) -> None:
        """Refuse what `load_state_dict` would, on a copy of the plan."""
        live = self.optimizer
        groups = [
            {**group, **planned}
            for group, planned in zip(live.param_groups, live.plan.planned, strict=True)
        ]
        live.check(state)
        if isinstance(live, Followed):
            rules = live.rules
        else:
            rules = [live.rule(i) for i in range(len(groups))]
        plan = Plan(groups, rules, lambda _: [])
        for group in groups:
            plan.join(group)
        change_again(plan, groups, changes)
        for index, saved in enumerate(state["param_groups"]):
            check_owners(index, dict(saved), plan.following(index, saved), saved=True)


def noted(
    optimizer: Optimizer | Followed, operation: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """A change of plan as it is saved: what is called, and where the groups are when it is."""
    places = [
        {
            "counts": {unit: group[unit] for unit in ("updates", *COUNTS)},
            "logs": {log_key(key): list(group[log_key(key)]) for key in optimizer.scheduled(i)},
        }
        for i, group in enumerate(optimizer.param_groups)
    ]
    return {"operation": operation, "arguments": dict(arguments), "places": places}


def change_again(plan: Plan, groups: list[dict[str, Any]], changes: list[dict[str, Any]]) -> None:
    """Change a plan as it was changed before the save, each time at the counts of that time."""
    listener, plan.listener = plan.listener, None  # who notes the changes has these
    try:
        plan.reset()
        _change_again(plan, groups, changes)
    finally:
        plan.listener = listener


def _change_again(plan: Plan, groups: list[dict[str, Any]], changes: list[dict[str, Any]]) -> None:
    for change in changes:
        for index, (group, place) in enumerate(zip(groups, change["places"], strict=True)):
            group.update(place["counts"])
            group.update({key: tuple(log) for key, log in place["logs"].items()})
            schedules = plan.following(index, group)
            plan.follow(index, schedules)
            group.update({key: at_counts(one, group, key) for key, one in schedules.items()})
        if change["operation"] not in CHANGES:  # whatever a file says, nothing else is called
            raise DamageError(f"a change of plan is one of {CHANGES}, not {change['operation']!r}")
        getattr(plan, change["operation"])(**change["arguments"])


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return cast("Iterator[tuple[str, nn.Module]]", model.named_modules())


def _check_names(
    saved: str, theirs: Mapping[str, Any], attached: str, mine: Mapping[str, Any]
) -> None:
    problems = [
        *_unmatched(f"it is not {attached} it", theirs, mine),
        *_unmatched(f"it was not {saved} it", mine, theirs),
    ]
    if problems:
        raise InputError(f"the checkpoint does not fit: {'; '.join(problems)}")


def _unmatched(said: str, names: Mapping[str, Any], others: Mapping[str, Any]) -> Iterator[str]:
    for name in names:
        if name not in others:
            near = closest(name, others)
            yield f"{name}: {said}" + (f" (nearest: {near})" if near else "")


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(cast("object", value)).__name__
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
