"""Contestants: what others offer against faults, under the same protocol as our recipes.

Each is torch's AdamW on all parameters, with decoupled decay and a clip by the global norm, and
whatever watches over it. To add one, write a factory that returns a `Contestant` and name it in
`CONTESTANTS`; its signature is what an arm of a study may say. A library is imported when a run
needs it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from rheostat.core.errors import MachineError
from rheostat.core.hyper import Fraction, NonNegative, Positive, Steps
from rheostat.schedules.annealing import cosine

Decision: TypeAlias = dict[str, Any]
"""What was done, as it is recorded: its `kind`, and numbers. `scale` has a `hyperparameter` and a
`factor`; `skip` and `spike` (which only reports) have none."""


class Watched:
    """An AdamW in training. This one is watched by nobody; subclasses add who watches."""

    def __init__(
        self, model: nn.Module, lr: Callable[[int], float] | float, decay: float, clip: float
    ) -> None:
        self._parameters = list(model.parameters())
        self._schedule = lr if callable(lr) else None
        first = lr(0) if callable(lr) else lr
        self.optimizer: Any = torch.optim.AdamW(self._parameters, first, weight_decay=decay)
        self._norm = clip
        self._steps = 0

    def step(self, loss: float) -> list[Decision]:
        """One update from the gradients that are there; returns what was decided."""
        if self._schedule is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self._schedule(self._steps)
        self._steps += 1
        return self._update(loss)

    def _update(self, loss: float) -> list[Decision]:
        del loss
        self._clip()
        self.optimizer.step()
        return []

    def _clip(self, *_: object) -> None:
        # As scripts do it: a norm that is not finite goes into every gradient.
        nn.utils.clip_grad_norm_(self._parameters, self._norm)

    def evaluated(self, value: float) -> list[Decision]:
        """Told the metric that the study judges, after a validation; lower is better."""
        del value
        return []

    def state_dict(self) -> dict[str, Any]:
        """What its libraries save."""
        return {"optimizer": self.optimizer.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what they saved."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._steps = state["steps"]

    def close(self) -> None:
        """Let go of what it holds."""


class _Scheduled(Watched):
    """A scheduler that moves the learning rate by the metric."""

    def __init__(self, make: Callable[[torch.optim.Optimizer], Any], *given: Any) -> None:
        super().__init__(*given)
        self._scheduler = make(self.optimizer)

    def evaluated(self, value: float) -> list[Decision]:
        if not math.isfinite(value):
            return []  # neither takes what is not a number
        before = self.optimizer.param_groups[0]["lr"]
        self._scheduler.step(value)
        after = self.optimizer.param_groups[0]["lr"]
        if after == before:
            return []
        return [{"kind": "scale", "hyperparameter": "lr", "factor": after / before}]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._scheduler.load_state_dict(state["scheduler"])


class _Guarded(Watched):
    """StabilityGuard: skips an update where a layer's gradient norm leaps, or is not finite."""

    def __init__(self, threshold: float, model: nn.Module, *given: Any) -> None:
        super().__init__(model, *given)
        self._scratch = tempfile.TemporaryDirectory()
        self._guard = _library("stabilityguard", "stabilityguard").GuardedOptimizer(
            self.optimizer,
            model,
            spike_threshold=threshold,
            log_dir=self._scratch.name,
            verbose=False,
        )

        # Of its hooks on a model's first layer, whose inputs need no gradient: harmless.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        # It looks before the clip would hide a leap.
        self.optimizer.register_step_pre_hook(self._clip)

    def _update(self, loss: float) -> list[Decision]:
        skips = self._guard.total_spikes
        with contextlib.redirect_stdout(io.StringIO()):  # it prints each spike
            self._guard.step(loss=loss)
        return [{"kind": "skip"}] * (self._guard.total_spikes - skips)

    def close(self) -> None:
        self._scratch.cleanup()


class _Scoped(Watched):
    """Trainscope: reports spikes of the loss, and changes nothing."""

    def __init__(self, model: nn.Module, *given: Any) -> None:
        super().__init__(model, *given)
        self._scratch = tempfile.TemporaryDirectory()
        library = _library("trainscope", "trainscope")
        logging.getLogger("trainscope").setLevel(logging.ERROR)
        config = library.TrainScopeConfig(run_dir=self._scratch.name, run_name="run")
        self._scope = library.TrainScope(model, self.optimizer, config=config).attach()

    def _update(self, loss: float) -> list[Decision]:
        self._clip()
        spike = self._scope.step(loss)
        self.optimizer.step()
        return [{"kind": "spike"}] if spike else []

    def close(self) -> None:
        self._scope.detach()
        self._scratch.cleanup()


Contestant: TypeAlias = Callable[[nn.Module, int], Watched]
"""Makes what trains a model for so many steps."""


def torch_adamw(
    lr: NonNegative, weight_decay: NonNegative = 0.01, clip: Positive = 1.0, warmup: Steps = 0
) -> Contestant:
    """AdamW under a cosine, as scripts have it."""
    return lambda model, steps: Watched(model, cosine(lr, steps, warmup), weight_decay, clip)


def torch_plateau(
    lr: NonNegative,
    weight_decay: NonNegative = 0.01,
    clip: Positive = 1.0,
    factor: Fraction = 0.1,
    patience: Steps = 10,
) -> Contestant:
    """AdamW and torch's ReduceLROnPlateau, which is told of every validation."""

    def scheduler(optimizer: torch.optim.Optimizer) -> Any:
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        return ReduceLROnPlateau(optimizer, factor=factor, patience=patience)

    return lambda model, _: _Scheduled(scheduler, model, lr, weight_decay, clip)


def greedy_lr(
    lr: NonNegative,
    weight_decay: NonNegative = 0.01,
    clip: Positive = 1.0,
    factor: Fraction = 0.95,
    patience: Steps = 10,
    min_lr: NonNegative = 1e-5,
    max_lr: NonNegative = 1.0,
) -> Contestant:
    """AdamW and GreedyLR of transformers (arXiv 2512.14527), which is told of every validation."""

    def scheduler(optimizer: torch.optim.Optimizer) -> Any:
        made = _library("transformers.optimization", "transformers").GreedyLR
        return made(optimizer, factor=factor, patience=patience, min_lr=min_lr, max_lr=max_lr)

    return lambda model, _: _Scheduled(scheduler, model, lr, weight_decay, clip)


def stability_guard(
    lr: NonNegative,
    weight_decay: NonNegative = 0.01,
    clip: Positive = 1.0,
    warmup: Steps = 0,
    threshold: Positive = 10.0,
) -> Contestant:
    """AdamW under a cosine, guarded by StabilityGuard."""
    return lambda model, steps: _Guarded(
        threshold, model, cosine(lr, steps, warmup), weight_decay, clip
    )


def trainscope(
    lr: NonNegative, weight_decay: NonNegative = 0.01, clip: Positive = 1.0, warmup: Steps = 0
) -> Contestant:
    """AdamW under a cosine, watched by trainscope with its own defaults."""
    return lambda model, steps: _Scoped(model, cosine(lr, steps, warmup), weight_decay, clip)


CONTESTANTS: Mapping[str, Callable[..., Contestant]] = {
    factory.__name__: factory
    for factory in (torch_adamw, torch_plateau, greedy_lr, stability_guard, trainscope)
}
"""What an arm of a study may name."""


def _library(module: str, distribution: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MachineError(f"this arm needs {distribution}: pip install {distribution}") from None
