"""`attach`: a recipe bound to a model, as a `Run` that a user's loop steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn

from rheostat.core.errors import InputError
from rheostat.core.schedule import Schedule
from rheostat.optimizers.loop import Optimizer, StepResult
from rheostat.recipes.recipe import Recipe
from rheostat.record.environment import environment, facts, git_state
from rheostat.record.run import RunWriter
from rheostat.signals.fingerprint import fingerprint
from rheostat.signals.norms import total_norm

MOMENTUM_BUFFERS = ("momentum_buffer", "exp_avg")
"""First moments, whatever the rule calls them: their norm is recorded as `momentum_norm`."""


def attach(
    recipe: Recipe | str | Path | Mapping[str, Any],
    model: nn.Module,
    *,
    steps: int | None = None,
    directory: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> Run:
    """Bind a recipe to a model: its optimizer, its schedules and, with a directory, its record.

    Args:
        recipe: a file, a mapping, or a Recipe.
        model: the module to train; its parameters are known by their names.
        steps: the horizon, in updates, of schedules that do not state their own.
        directory: where to record every step; None records nothing.
        about: anything more for the record's header, such as the seed.

    Raises:
        InputError: whatever is wrong with the recipe; a schedule that needs a horizon and has none.
    """
    loaded = Recipe.load(recipe)
    bound = loaded if steps is None else loaded.bind(steps)
    optimizer = bound.build(model)
    writer = None
    if directory is not None:
        writer = RunWriter(directory, _header(bound, model, optimizer, about or {}))
    return Run(bound, model, optimizer, writer)


class Run:
    """A training run: call `step` after each backward pass, `close` at the end.

    As a context manager it closes itself; a run left by an error stays recorded as unfinished.
    """

    def __init__(
        self, recipe: Recipe, model: nn.Module, optimizer: Optimizer, writer: RunWriter | None
    ) -> None:
        self.recipe = recipe
        self.optimizer = optimizer
        self._model = model
        self._writer = writer
        self._attempts = 0
        self._started = time.perf_counter()
        self._restarts = _restarts(optimizer)

    def step(
        self,
        loss: Tensor | float | None = None,
        *,
        closure: Callable[[], Tensor] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        batch: Any = None,
    ) -> StepResult:
        """One update from the gradients that are there, recorded.

        Args:
            loss: the loss of this batch, for the record.
            closure: as torch's; its loss is recorded where `loss` is not given.
            scaler: a GradScaler that scaled this loss; it may skip the step.
            batch: the batch; the fingerprint of its content is recorded.

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
        return result

    def finish(
        self,
        metrics: Mapping[str, float],
        status: str = "done",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the outcome and close. `status` is "done" or "diverged"."""
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
                for name in MOMENTUM_BUFFERS
                if name in state
            ]
        )
        # Before the step's own row: the restart is what this update begins with.
        if result.applied and (cycle := self._restarts.get(result.step - 1)):
            writer.event("restart", {"step": self._attempts, "cycle": cycle, "lr": before["lr"]})
        writer.step(self._attempts, values, None if batch is None else fingerprint(batch))
        if not result.applied:
            writer.event("skipped", {"step": self._attempts, "reason": result.reason})


def _number(value: Any) -> float:
    """A hyperparameter as one number: of a tuple (betas) the first."""
    return float(cast("tuple[float, ...]", value)[0] if isinstance(value, tuple) else value)


def _restarts(optimizer: Optimizer) -> dict[int, int]:
    """Update -> number of the cycle that begins there, of the learning rate's schedule."""
    lr = optimizer.scheduled(0).get("lr")
    return {step: i + 1 for i, step in enumerate(lr.restarts)} if isinstance(lr, Schedule) else {}


def _header(
    recipe: Recipe, model: nn.Module, optimizer: Optimizer, about: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "recipe": recipe.canonical(),
        "recipe_hash": recipe.hash,
        "weights": fingerprint(model.state_dict()),
        "restarts": sorted(_restarts(optimizer)),
        "threads": torch.get_num_threads(),
        "environment": {
            **environment(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        **about,
        "facts": {**facts(), "git": git_state(Path.cwd()), "started": time.time()},
    }
