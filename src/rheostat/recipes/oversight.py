"""What looks at a run's steps and decides: signals, the regime, and the hands that carry it out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from rheostat.core.controller import Now
from rheostat.core.errors import InputError
from rheostat.optimizers.factors import under_factors
from rheostat.optimizers.followed import Followed
from rheostat.optimizers.results import StepResult
from rheostat.recipes.bundle import Bundle, Progress
from rheostat.recipes.hands import LossOf, RunHands
from rheostat.regimes.account import Account
from rheostat.regimes.regime import Regime
from rheostat.regimes.replay import Replay
from rheostat.signals.monitor import Monitor
from rheostat.signals.noise import REPORTED
from rheostat.signals.norms import squares
from rheostat.signals.observation import Per
from rheostat.signals.order import Signals, base_name


class Oversight:
    """Around each step of a run: `watched` before it, `measure` after it, and then `decide`.

    It is saved with the run, as one of its others: signals, regime and known-good states.

    Args:
        bundle: of the run.
        regime: what decides; None only measures.
        signals: to measure beside those that the regime needs.
        loss_of: see `RunHands`.
        per: see `Monitor`.

    Raises:
        InputError: as `Monitor`.
    """

    def __init__(
        self,
        bundle: Bundle,
        regime: Regime | Replay | None,
        signals: Signals = (),
        loss_of: LossOf | None = None,
        per: Per = "all",
    ) -> None:
        self.regime = regime
        self.hands = RunHands(bundle, loss_of)
        self._loop = bundle.optimizer
        self._reported: dict[str, float] = {}
        """What the loop has said since the last step."""
        self._squares: list[float] = []
        """Squared norms of the gradients that the coming update averages; `_losses`: of these."""
        self._losses: list[Tensor | float] = []
        self._loss: Tensor | float = math.nan
        self._phase = 0
        self._looked = self._warned = False
        self._waits = False
        """Whether the last step only added to an average."""
        self._acts = regime is not None and not regime.dry_run
        if self._acts:
            self.hands.learnt_batch()
        needs = () if regime is None else regime.needs
        self.monitor = Monitor(_with(needs, signals), bundle.model, bundle.shown, per=per)
        reported = {name for one in self.monitor.signals.values() for name in one.reported}
        self._noise, self._clips = bool(reported & {*REPORTED}), "clipped" in reported
        self._mark: float | None = None
        """The norm above which the coming update's gradients are clipped, where the run can say."""
        bundle.shown.register_step_pre_hook(self._before)

    # -- before the update ----------------------------------------------------------------------

    def _before(self, optimizer: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called by the optimizer, once gradients are unscaled; with a closure there are none."""
        del optimizer
        if all(given is None for given in (*args[1:], *kwargs.values())):
            self._look()

    def watched(self, closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The closure; the gradients of its first evaluation in a step are looked at."""
        first = True

        def evaluate() -> Tensor:
            nonlocal first
            loss = closure()
            if first:
                first = False
                self._look()
            return loss

        return evaluate

    @torch.no_grad()
    def _look(self) -> None:
        loop, count = self._loop, self._averaged
        self._mark = self._clip_mark() if self._clips else None
        if isinstance(loop, Followed) or count == 1:
            self._looked = True
            self.monitor.before_step()
            return
        params = [param for group in loop.param_groups for param in group["params"]]
        grads = [param.grad for param in params]
        if self._noise:
            own = [grad for grad in grads if grad is not None]
            self._squares.append(squares(own).sum().item())
        if loop.param_groups[0]["phase"] + 1 < count:
            return
        # What the update will be made of; the loop adds this last gradient to the average itself.
        names = (name for group in loop.param_groups for name in group["param_names"])
        received = {name for group in loop.param_groups for name in group["received"]}
        for name, param, grad in zip(names, params, grads, strict=True):
            if param in loop.state and (grad is not None or name in received):
                so_far = loop.state[param]["accumulated"]
                mean = so_far if grad is None else so_far + grad / count
                param.grad = mean.to(param.dtype)
        self._looked = True
        self.monitor.before_step()
        if self._noise:
            averages = [param.grad for param in params if param.grad is not None]
            self._reported["large_square"] = squares(averages).sum().item()
            self._reported["small_square"] = sum(self._squares) / count
            self._squares = []
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad

    @property
    def _averaged(self) -> int:
        """The gradients that are averaged for an update."""
        return 1 if isinstance(self._loop, Followed) else self._loop.options.averaged

    def _clip_mark(self) -> float | None:
        """Of a clip by the global norm that every rule begins with; others clip something else."""
        loop = self._loop
        if isinstance(loop, Followed):
            return None
        groups = enumerate(loop.param_groups)
        if any(loop.rule(at).pieces[0].name != "clip_by_global_norm" for at, _ in groups):
            return None
        first = loop.param_groups[0]
        numbers = under_factors({"max_norm": first["max_norm"]}, first["factors"])
        return float(numbers["max_norm"])

    # -- after it -------------------------------------------------------------------------------

    def check_no_loss(self) -> None:
        """Raises InputError where a step without a loss would be taken for a broken one."""
        if isinstance(self.regime, Regime):
            raise InputError("run.step: the regime judges by the loss: run.step(loss)")

    def report(self, values: Mapping[str, float]) -> None:
        """Take what the loop says of the coming step: {"validation": 0.31}."""
        self._reported |= {name: float(value) for name, value in values.items()}

    def measure(
        self, result: StepResult, loss: Tensor | float | None, consumed: Mapping[str, float]
    ) -> dict[str, float]:
        """Measure what is due; returns the series of the step: NaN for what is not measured now."""
        value = loss.detach() if isinstance(loss, Tensor) else loss
        self._losses.append(math.nan if value is None else value)
        before, self._phase = self._phase, int(self._loop.param_groups[0].get("phase", 0))
        self._waits = self._phase > before
        if self._waits:
            return self._series({})
        said, self._reported = self._reported, {}
        if "samples" in consumed and "small_square" in said and "small_size" not in said:
            size = float(consumed["samples"])
            said |= {"small_size": size, "large_size": size * self._averaged}
        elif "small_square" in said and "small_size" not in said and not self._warned:
            self._warned = True
            warnings.warn(
                "run.step: the gradient noise scale needs the number of samples in a batch: "
                'run.step(loss, consumed={"samples": 32})',
                stacklevel=3,
            )
        if self._mark is not None and result.grad_norm is not None and result.applied:
            said.setdefault("clipped", float(result.grad_norm > self._mark))
        self._loss, self._losses = sum(self._losses) / len(self._losses), []
        if not self._looked:  # skipped before it was due: by a scaler, or within an average
            self.monitor.before_step()
        self._looked = False
        self.monitor.after_step(self._loss, applied=result.applied, reported=said)
        fresh = self.monitor.fresh
        values = self.monitor.values.items()
        return self._series({n: value for n, value in values if n.partition("[")[0] in fresh})

    def decide(self, result: StepResult, progress: Progress) -> list[Account]:
        """What the regime decides after this step, carried out."""
        if self.regime is None or self._waits:
            return []
        self.hands.progress = progress
        if self._acts and not result.applied:
            self.hands.forget_batch()
        now = Now(
            step=int(self._loop.param_groups[0]["updates"]),
            applied=result.applied,
            loss=float(self._loss),
            signals=self.monitor.values,
            fresh=self.monitor.fresh,
            reason=result.reason,
        )
        found = self.regime.after(now, self.hands)
        if self._acts:
            self.hands.learnt_batch()
        return found

    def finish(self) -> list[Account]:
        """What the regime still has to tell when the run ends."""
        return [] if self.regime is None else self.regime.finish()

    def _series(self, values: Mapping[str, float]) -> dict[str, float]:
        series = {name: values.get(name, math.nan) for name in self.monitor.values}
        if self.regime is not None:
            back = 0 if self.regime.dry_run else self.regime.actuator.segment
            series["segment"] = float(back)
            series["update"] = float(self._loop.param_groups[0]["updates"])
        return series

    # -- saving ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the next decision depends on, and the states to go back to."""
        return {
            "regime": None if self.regime is None else self.regime.state_dict(),
            "monitor": self.monitor.state_dict(),
            "slots": {str(slot): saved for slot, saved in self.hands.slots.items()},
            "stop_reason": self.hands.stop_reason,
            "reported": dict(self._reported),
            "squares": list(self._squares),
            "losses": [float(loss) for loss in self._losses],
            "phase": self._phase,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was. Raises InputError for another regime, or other signals."""
        if self.regime is not None:
            self.regime.load_state_dict(state["regime"])
        self.monitor.load_state_dict(state["monitor"])
        self.hands.slots = {int(slot): saved for slot, saved in state["slots"].items()}
        self.hands.stop_reason = state["stop_reason"]
        self._reported, self._squares = dict(state["reported"]), list(state["squares"])
        self._losses, self._phase = list(state["losses"]), state["phase"]


def _with(needs: Iterable[str], signals: Signals) -> Signals:
    """These signals, and those of the needs that are not among them."""
    if isinstance(signals, Mapping):
        return {**{name: name for name in needs}, **signals}
    known = {*map(base_name, signals)}
    return [*signals, *(name for name in needs if name not in known)]
