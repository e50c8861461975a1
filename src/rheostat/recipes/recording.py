"""What a run records of each step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from torch import Tensor

from rheostat.optimizers.factors import under_factors
from rheostat.optimizers.followed import Followed
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.plan import Replanned
from rheostat.optimizers.restarting import FIRST_MOMENTS, Restarted
from rheostat.optimizers.results import ACCUMULATING, StepResult
from rheostat.regimes.account import Account
from rheostat.signals.fingerprint import fingerprint, mark, rng_mark
from rheostat.signals.norms import total_norm


class Sink(Protocol):
    """Where it goes: to the run's log (`RunWriter`), or to a comparison with it (`Replay`)."""

    def step(
        self,
        step: int,
        values: Mapping[str, float],
        batch: str | None = None,
        weights: str = "",
        rng: str = "",
    ) -> None:
        """As `RunWriter.step`."""
        ...

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """As `RunWriter.event`."""
        ...


class Recorder:
    """Records the steps of an optimizer into `sink`."""

    def __init__(self, sink: Sink, optimizer: Optimizer | Followed) -> None:
        self._sink = sink
        self._optimizer = optimizer

    def before(self) -> dict[str, float]:
        """The hyperparameters that the coming update runs with: lr, and whatever is scheduled, both
        under the factors of a regime."""
        group = self._optimizer.param_groups[0]
        planned = {name: group[name] for name in ("lr", *self._optimizer.scheduled(0))}
        bent = under_factors(planned, group["factors"]) if group["factors"] else planned
        return {name: _number(value) for name, value in bent.items()}

    def step(
        self,
        number: int,
        result: StepResult,
        loss: Tensor | float | None,
        series: Mapping[str, float],
        batch: Any,
        begun: Sequence[Mapping[str, Any]],
    ) -> None:
        """Record batch `number` with these `series` beside its own, and ahead of it the restarts
        that its update begins with."""
        value = loss.item() if isinstance(loss, Tensor) else loss
        moments = [
            state[name]
            for state in self._optimizer.state.values()
            for name in FIRST_MOMENTS
            if isinstance(state.get(name), Tensor)  # another library's may hold None
        ]
        values = {
            **series,
            "loss": math.nan if value is None else float(value),
            "grad_norm": math.nan if result.grad_norm is None else result.grad_norm,
            "momentum_norm": total_norm(moments),
        }
        for one in begun if result.applied else ():
            self._sink.event("restart", {"step": number, **one})
        # Of a step that left the weights alone there is nothing to mark.
        weights = mark(trained(self._optimizer)) if result.applied else ""
        seen = None if batch is None else fingerprint(batch)
        self._sink.step(number, values, seen, weights, rng_mark())
        if not result.applied and not str(result.reason).startswith(ACCUMULATING):
            self._sink.event("skipped", {"step": number, "reason": result.reason})

    def replanned(self, number: int, operation: str, changes: Sequence[Replanned]) -> None:
        """Record a change of plan after `number` batches, with the old curves and the new."""
        for change in changes:
            about = {"step": number, "operation": operation, "group": change.group}
            named = {"hyperparameter": change.hyperparameter, "at": change.at}
            curves = {"old": change.old.written(), "new": change.new.written()}
            self._sink.event("replan", {**about, **named, **curves})

    def decided(self, number: int, accounts: Sequence[Account]) -> None:
        """Record what a regime decided after batch `number`: each account with that number for its
        step, and the updates that there had been as "update"."""
        for one in accounts:
            about = {**one.written(), "update": one.step}
            self._sink.event("decision", {**about, "step": number})

    def stepped_aside(self, number: int, updates: int) -> None:
        """Record that others made updates: so many since the last step of the run."""
        self._sink.event("unrecorded", {"step": number, "updates": updates})


def trained(optimizer: Optimizer | Followed) -> list[Tensor]:
    """The parameters, in the order of their groups."""
    return [param for group in optimizer.param_groups for param in group["params"]]


def trained_names(optimizer: Optimizer | Followed) -> list[str]:
    """Their names."""
    if isinstance(optimizer, Followed):
        return list(optimizer.names)
    return [name for group in optimizer.param_groups for name in group["param_names"]]


def account(begun: Restarted) -> dict[str, Any]:
    """A restart as it is recorded: where, how long, the jump, and what became of the state."""
    return {
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


def _number(value: Any) -> float:
    """A hyperparameter as one number: of a tuple (betas) the first."""
    return float(cast("tuple[float, ...]", value)[0] if isinstance(value, tuple) else value)
