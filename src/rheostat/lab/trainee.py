"""What a run of a study steps: a recipe that is attached, or a contestant, in one shape."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import nn

from rheostat.checkpoint.generations import FOLDER, Keep, prune
from rheostat.checkpoint.load import newest
from rheostat.checkpoint.nest import put_together, take_apart
from rheostat.checkpoint.save import write
from rheostat.core.hyper import check_arguments
from rheostat.lab.contestants import CONTESTANTS
from rheostat.recipes.attach import RecipeWarning, attach
from rheostat.recipes.recipe import Recipe
from rheostat.recipes.run import Run
from rheostat.record.environment import environment, facts, git_state
from rheostat.record.run import LOG_NAME
from rheostat.record.writer import RunWriter
from rheostat.signals.fingerprint import fingerprint


class Trainee(Protocol):
    """What is stepped, evaluated and recorded; `batches` counts the steps done, those before a
    resumption too."""

    optimizer: torch.optim.Optimizer

    @property
    def batches(self) -> int: ...

    def step(self, loss: float, batch: Any) -> None:
        """One update from the gradients that are there, recorded."""
        ...

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """A validation before the next step: recorded, and told to whoever wants to know."""
        ...

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        """Record the outcome and close."""
        ...

    def __enter__(self) -> Trainee: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True)
class Start:
    """Where a run is kept, and what its header says of it; `save_every` updates there is a
    checkpoint, from which it goes on where it was killed (None: it keeps none)."""

    directory: Path
    about: Mapping[str, Any]
    save_every: int | None = None


def of_recipe(recipe: Recipe, model: nn.Module, judged: tuple[str, int], start: Start) -> Trainee:
    """The trainee that a recipe makes; its regime is told what a contestant is. Raises what
    `attach` raises; its warnings are told of the study, once."""
    resume = "never" if start.save_every is None else "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecipeWarning)
        run = attach(
            recipe,
            model,
            directory=start.directory,
            about=start.about,
            resume=resume,
            save_every=start.save_every,
        )
    return _Attached(run, judged)


class _Attached(Trainee):
    def __init__(self, run: Run, judged: tuple[str, int]) -> None:
        self._run = run
        self._judged = judged
        self.optimizer = run.optimizer

    @property
    def batches(self) -> int:
        return self._run.batches

    def step(self, loss: float, batch: Any) -> None:
        self._run.step(loss, batch=batch)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        self._run.note("evaluation", {"metrics": metrics})
        name, sign = self._judged
        self._run.report(validation=sign * metrics[name])

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        self._run.finish(metrics, status)

    def __enter__(self) -> Trainee:
        self._run.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._run.__exit__(*error)


def of_contestant(
    arm: Mapping[str, Any], model: nn.Module, steps: int, judged: tuple[str, int], start: Start
) -> Trainee:
    """The trainee that a contestant is.

    Args:
        arm: its key under "contestant", and its arguments.
        model: the module to train.
        steps: the horizon.
        judged: the metric that it is told of, and 1 where lower is better, else −1.
        start: where and how it is recorded.

    Raises:
        MachineError: its library is not installed, or the disk failed.
    """
    return _Contest(arm, model, steps, judged, start)


class _Contest(Trainee):
    """A contestant with the record and the checkpoints that `attach` gives a recipe."""

    def __init__(
        self,
        arm: Mapping[str, Any],
        model: nn.Module,
        steps: int,
        judged: tuple[str, int],
        start: Start,
    ) -> None:
        factory = CONTESTANTS[arm["contestant"]]
        given = {key: value for key, value in arm.items() if key != "contestant"}
        made = factory(**check_arguments(factory, given, arm["contestant"]))
        weights = fingerprint(model.state_dict())
        self._model = model
        self._watched = made(model, steps)
        self._judged = judged
        self._start = start
        self._began = time.perf_counter()
        self.optimizer = self._watched.optimizer
        self._batches = self._resume() if start.save_every is not None else 0
        if (start.directory / LOG_NAME).exists():
            self._writer = RunWriter.resume(start.directory, self._batches, {}, {})
        else:
            header = {
                "recipe": dict(arm),
                "weights": weights,
                "threads": torch.get_num_threads(),
                "environment": {
                    **environment(),
                    "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                },
                "facts": {**facts(), "git": git_state(Path.cwd()), "started": time.time()},
            }
            self._writer = RunWriter(start.directory, header, start.about)

    @property
    def batches(self) -> int:
        return self._batches

    def step(self, loss: float, batch: Any) -> None:
        group = self.optimizer.param_groups[0]
        decided = self._watched.step(loss)
        # The rate of this update; who moves it does so after a validation.
        values = {"lr": float(group["lr"]), "loss": loss}
        self._writer.step(self._batches, values, fingerprint(batch))
        self._note(decided)
        self._batches += 1
        if self._start.save_every and self._batches % self._start.save_every == 0:
            self._save()

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        self._writer.event("evaluation", {"step": self._batches, "metrics": metrics})
        name, sign = self._judged
        self._note(self._watched.evaluated(sign * metrics[name]))

    def finish(self, metrics: Mapping[str, float], status: str) -> None:
        seconds = time.perf_counter() - self._began
        weights = fingerprint(self._model.state_dict())
        self._writer.finish(status, metrics, weights, {"seconds": seconds})

    def __enter__(self) -> Trainee:
        return self

    def __exit__(self, *error: Any) -> None:
        self._watched.close()
        self._writer.__exit__(*error)

    def _note(self, decisions: list[dict[str, Any]]) -> None:
        for decision in decisions:
            self._writer.event("decision", {"step": self._batches, **decision})

    def _save(self) -> None:
        self._writer.flush()  # first: no checkpoint is ahead of its record
        state = {"model": self._model.state_dict(), "watched": self._watched.state_dict()}
        tensors: dict[str, torch.Tensor] = {}
        document = {"batches": self._batches, "state": take_apart(state, "state", tensors)}
        folder = self._start.directory / FOLDER
        write(folder, self._batches, {"state": tensors}, {"run": document})
        prune(folder, Keep(last=2))

    def _resume(self) -> int:
        saved = newest(self._start.directory / FOLDER)
        if saved is None:
            return 0
        document = saved.documents["run"]
        state = put_together(document["state"], saved.tensors["state"])
        self._model.load_state_dict(state["model"])
        self._watched.load_state_dict(state["watched"])
        return int(document["batches"])
