"""`attach`: a recipe bound to a model, as a `Run` that a user's loop steps."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn

from rheostat.core.errors import InputError
from rheostat.core.schedule import Schedule, StateAction
from rheostat.optimizers.loop import Optimizer, StepResult
from rheostat.optimizers.plan import Replanned
from rheostat.optimizers.restarting import FIRST_MOMENTS, Restarted
from rheostat.recipes.recipe import Recipe
from rheostat.record.environment import environment, facts, git_state
from rheostat.record.run import RunWriter
from rheostat.schedules.shapes import ShapeName
from rheostat.signals.fingerprint import fingerprint
from rheostat.signals.norms import total_norm


def attach(
    recipe: Recipe | str | Path | Mapping[str, Any],
    model: nn.Module,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    directory: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Bind a recipe to a model: its optimizer, its schedules and, with a directory, its record.

    Args:
        recipe: a file, a mapping, or a Recipe.
        model: the module to train; its parameters are known by their names.
        steps: the horizon, in updates, of schedules that do not state their own.
        seconds: the budget of wall-clock time, for schedules that count its fraction.
        directory: where to record every step; None records nothing.
        about: anything more for the record's header, such as the seed.
        overrides: dotted keys of the recipe and what takes their place; see `Recipe.load`.

    Warns:
        RecipeWarning: what the recipe says and might not mean; `silence` holds codes.

    Raises:
        InputError: whatever is wrong with the recipe, or does not fit the model; a schedule that
            needs a horizon and has none; a horizon in the recipe and another one in `steps`.
    """
    loaded = Recipe.load(recipe, overrides)
    bound = loaded if steps is None else loaded.bind(steps)
    for problem in (*bound.warnings, *bound.check(model)):
        warnings.warn(problem.line, RecipeWarning, stacklevel=2)
    optimizer = bound.build(model)
    writer = None
    if directory is not None:
        writer = RunWriter(directory, _header(bound, model, optimizer), about)
    return Run(bound, model, optimizer, writer, seconds)


class RecipeWarning(UserWarning):
    """Something that a recipe says and might not mean; docs/guide/validation.md explains each."""


class Run:
    """A training run: call `step` after each backward pass, `close` at the end.

    As a context manager it closes itself; a run left by an error stays recorded as unfinished.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        optimizer: Optimizer,
        writer: RunWriter | None,
        seconds: float | None = None,
    ) -> None:
        self.recipe = recipe
        self.optimizer = optimizer
        self._model = model
        self._writer = writer
        self._attempts = 0
        self._started = self._told = time.perf_counter()
        self._seconds = seconds
        self._begun: tuple[Restarted, ...] = ()

    def step(
        self,
        loss: Tensor | float | None = None,
        *,
        closure: Callable[[], Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        batch: Any = None,
        consumed: Mapping[str, float] | None = None,
    ) -> StepResult:
        """One update from the gradients that are there, recorded.

        Args:
            loss: the loss of this batch, for the record.
            closure: as torch's; its loss is recorded where `loss` is not given.
            scaler: a GradScaler that scaled this loss; it may skip the step.
            batch: the batch; the fingerprint of its content is recorded.
            consumed: what the step took of what schedules count: `{"tokens": 4096}`.

        Raises:
            InputError: both a closure and a scaler (torch's GradScaler takes no closures).
        """
        if closure is not None and scaler is not None:
            raise InputError("run.step: a GradScaler cannot take a closure; give one of the two")
        before = self._before() if self._writer is not None else {}
        if scaler is None:
            returned = self.optimizer.step(closure)
            loss = returned if loss is None else loss
            result = self.optimizer.last_step
            assert result is not None
        else:
            result = self._scaled_step(scaler)
        if self._writer is not None:
            self._record(self._writer, result, loss, before, batch)
        self._attempts += 1
        self._count(consumed or {})
        if self.optimizer.last_step is not None:
            self._begun += self.optimizer.last_step.restarts
        return result

    def _count(self, consumed: Mapping[str, float]) -> None:
        counts = dict(consumed)
        if self._seconds is not None:
            now = time.perf_counter()
            counts["fraction"] = (now - self._told) / self._seconds
            self._told = now
        if counts:
            self.optimizer.consumed(**counts)

    # -- changes of plan: each recorded with the old curve and the new ------------------------

    def extend(self, steps: int, hyperparameter: str = "lr") -> None:
        """Move the horizon out; see `Plan.extend`."""
        self._replanned("extend", self.optimizer.plan.extend(steps, hyperparameter))

    def change_peak(
        self, peak: float, hyperparameter: str = "lr", old_peak: float | None = None
    ) -> None:
        """Another peak from here on; see `Plan.change_peak`."""
        changes = self.optimizer.plan.change_peak(peak, hyperparameter, old_peak)
        self._replanned("change_peak", changes)

    def cool_down(
        self,
        steps: int,
        shape: ShapeName = "linear",
        floor: float = 0.0,
        hyperparameter: str = "lr",
    ) -> None:
        """Down to `floor` at `steps`, from here; see `Plan.cool_down`."""
        changes = self.optimizer.plan.cool_down(steps, shape, floor, hyperparameter)
        self._replanned("cool_down", changes)

    def restart(
        self, state: StateAction | None = None, factor: float = 0.5, hyperparameter: str = "lr"
    ) -> None:
        """Begin the schedule again with the next update; see `Plan.restart`."""
        self._begun += self.optimizer.plan.restart(state, factor, hyperparameter)

    def _replanned(self, operation: str, changes: list[Replanned]) -> None:
        for change in changes if self._writer is not None else []:
            assert self._writer is not None
            about = {"step": self._attempts, "operation": operation, "group": change.group}
            curves = {"old": change.old.written(), "new": change.new.written()}
            named = {"hyperparameter": change.hyperparameter, "at": change.at}
            self._writer.event("replan", {**about, **named, **curves})

    def finish(
        self,
        metrics: Mapping[str, float],
        status: str = "done",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the outcome and close. `status` is "done" or "diverged"."""
        if about and "seconds" in about:
            raise InputError(
                "finish: about: the key 'seconds' is the record's own; give yours another"
            )
        if self._writer is not None:
            seconds = time.perf_counter() - self._started
            weights = fingerprint(self._model.state_dict())
            self._writer.finish(status, metrics, weights, {"seconds": seconds, **(about or {})})

    def close(self) -> None:
        """Write out what is buffered."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _scaled_step(self, scaler: torch.amp.GradScaler) -> StepResult:
        self.optimizer.last_step = None
        scaler.step(self.optimizer)
        scaler.update()
        # The annotation undoes the narrowing: scaler.step may have called optimizer.step.
        result = cast("StepResult | None", self.optimizer.last_step)
        if result is None:
            updates = int(self.optimizer.param_groups[0]["updates"])
            result = StepResult(False, updates, "the GradScaler found a non-finite gradient")
            self.optimizer.last_step = result
        return result

    def _before(self) -> dict[str, float]:
        """The hyperparameters that the coming update runs with: lr, and whatever is scheduled."""
        group = self.optimizer.param_groups[0]
        return {name: _number(group[name]) for name in ("lr", *self.optimizer.scheduled(0))}

    def _record(
        self,
        writer: RunWriter,
        result: StepResult,
        loss: Tensor | float | None,
        before: dict[str, float],
        batch: Any,
    ) -> None:
        values = before
        number = loss.item() if isinstance(loss, Tensor) else loss
        values["loss"] = math.nan if number is None else float(number)
        values["grad_norm"] = math.nan if result.grad_norm is None else result.grad_norm
        values["momentum_norm"] = total_norm(
            [
                state[name]
                for state in self.optimizer.state.values()
                for name in FIRST_MOMENTS
                if name in state
            ]
        )
        if result.applied:
            # Before the step's own row: they are what this update begins with.
            for begun in self._begun:
                writer.event("restart", _account(self._attempts, begun))
            self._begun = ()
        writer.step(self._attempts, values, None if batch is None else fingerprint(batch))
        if not result.applied:
            writer.event("skipped", {"step": self._attempts, "reason": result.reason})


def _number(value: Any) -> float:
    """A hyperparameter as one number: of a tuple (betas) the first."""
    return float(cast("tuple[float, ...]", value)[0] if isinstance(value, tuple) else value)


def _account(step: int, begun: Restarted) -> dict[str, Any]:
    """A restart as it is recorded: where, how long, the jump, and what became of the state."""
    return {
        "step": step,
        "hyperparameter": begun.hyperparameter,
        "group": begun.group,
        "cycle": begun.restart.cycle,
        "length": begun.restart.length,
        "before": begun.restart.before,
        "after": begun.restart.after,
        "ratio": begun.restart.ratio,
        "state": begun.policy.action,
        "norms": {name: list(pair) for name, pair in begun.norms.items()},
    }


def _restarts(optimizer: Optimizer, steps: int | None) -> list[float]:
    """The planned restarts of the learning rate, in the unit of its schedule."""
    lr = optimizer.scheduled(0).get("lr")
    if not isinstance(lr, Schedule) or (lr.horizon is None and steps is None):
        return []
    end = steps if lr.unit == "updates" and steps is not None else lr.horizon
    return [restart.step for restart in lr.restart_events(before=end)]


def _header(recipe: Recipe, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    return {
        "recipe": recipe.canonical(),
        "recipe_hash": recipe.hash,
        "weights": fingerprint(model.state_dict()),
        "restarts": _restarts(optimizer, recipe.steps),
        "threads": torch.get_num_threads(),
        "environment": {
            **environment(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "facts": {**facts(), "git": git_state(Path.cwd()), "started": time.time()},
    }
