"""Hands for regimes: on paper, and those of a small training loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from tests.references.problems import batches, loss_of, network

from rheostat.core.controller import Now, scaled
from rheostat.core.errors import InputError
from rheostat.regimes.account import Account
from rheostat.regimes.regime import Regime
from rheostat.regimes.replay import Replay


class Paper:
    """Hands that write down what they are told. `plan` maps hyperparameters to values by group."""

    def __init__(self, **plan: float | Mapping[int, float]) -> None:
        self.plan = {
            name: dict(value) if isinstance(value, Mapping) else {0: value}
            for name, value in plan.items()
        }
        self.factors: dict[tuple[str, int], float] = {}
        self.said: list[tuple[Any, ...]] = []
        self.at = -1

    def planned(self, hyperparameter: str) -> Mapping[int, float]:
        return self.plan.get(hyperparameter, {})

    def set_factor(self, hyperparameter: str, group: int, factor: float) -> None:
        self.factors[hyperparameter, group] = factor

    def factor(self, hyperparameter: str = "lr", group: int = 0) -> float:
        return self.factors.get((hyperparameter, group), 1.0)

    def check_share(self, hyperparameter: str, group: int) -> None:
        if hyperparameter != "blend":
            raise InputError(f"{hyperparameter} is no share")

    def move(self, hyperparameter: str, group: int, value: float) -> None:
        self.plan[hyperparameter][group] = value
        self.said.append(("move", value))

    def limit(self, norm: float) -> None:
        self.said.append(("limit", norm))

    def restart(self, state: str | None) -> None:
        self.said.append(("restart", state))

    def grow(self, factor: float) -> None:
        self.said.append(("grow", factor))

    def anchor(self) -> None:
        self.said.append(("anchor",))

    def stop(self, reason: str) -> None:
        self.said.append(("stop", reason))

    def remember(self, slot: int) -> None:
        self.said.append(("remember", slot))

    def roll_back(self, slot: int) -> None:
        self.said.append(("roll_back", slot))

    def catch_up(self, late: int) -> None:
        self.said.append(("catch_up", late))

    def positions(self) -> list[int]:
        self.at += 1
        return [self.at]

    def examine(self, position: int) -> tuple[float, float] | None:
        self.said.append(("examine", position))
        return None

    def leave_out(self, position: int) -> None:
        self.said.append(("leave_out", position))

    def weights_are_finite(self) -> bool:
        return True


class Loop:
    """A network trained by AdamW of torch, watched by a regime; it implements the hands itself.

    `faults` maps a call of `step` to what happens in it: "nan" spoils the weights with the update,
    "labels" exchanges what the batch should learn, and a number multiplies the learning rate.
    """

    def __init__(
        self,
        regime: Regime | Replay,
        lr: float = 0.01,
        faults: Mapping[int, str | float] | None = None,
        spoilt: frozenset[int] = frozenset(),
    ) -> None:
        self.regime = regime
        self.model = network(torch.float32)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.01)
        self.plan: dict[str, float] = {"lr": lr, "weight_decay": 0.01, "momentum": 0.9}
        self.faults = faults or {}
        self.spoilt = spoilt
        self.factors: dict[str, float] = {}
        self.left_out: set[int] = set()
        self.slots: dict[int, Any] = {}
        self.updates = self.at = 0
        self.norm_limit = math.inf
        self.losses: list[float] = []
        self.accounts: list[Account] = []

    # -- the loop -------------------------------------------------------------------------------

    def run(self, steps: int) -> Loop:
        for _ in range(steps):
            self.step()
        return self

    def step(self) -> None:
        fault = self.faults.get(self.at)
        loss, norm = self._backward(self.at)
        reason = None
        if self.at in self.left_out or not math.isfinite(norm) or norm > self.norm_limit:
            reason = "skipped"
        else:
            self._write_plan(float(fault) if isinstance(fault, float | int) else 1.0)
            self.optimizer.step()
            self.updates += 1
        if fault == "nan":
            with torch.no_grad():
                next(self.model.parameters()).fill_(math.nan)
        self.losses.append(loss)
        signals = {"gradient_norm": norm}
        now = Now(self.updates, reason is None, loss, signals, frozenset(signals), reason=reason)
        self.accounts += self.regime.after(now, self)
        self.at += 1

    def _backward(self, position: int) -> tuple[float, float]:
        (x,) = batches(1, position % 64)
        self.optimizer.zero_grad()
        loss = loss_of(self.model, x * 50 if position % 64 in self.spoilt else x)
        loss.backward()
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.model.parameters() if p.grad is not None]
        )
        return loss.item(), norm.item()

    def _write_plan(self, fault: float) -> None:
        for group in self.optimizer.param_groups:
            values = {n: scaled(n, v, self.factors.get(n, 1.0)) for n, v in self.plan.items()}
            group["lr"] = values["lr"] * fault
            group["weight_decay"] = values["weight_decay"]
            group["betas"] = (values["momentum"], 0.999)

    # -- the hands ------------------------------------------------------------------------------

    def planned(self, hyperparameter: str) -> Mapping[int, float]:
        return {0: self.plan[hyperparameter]} if hyperparameter in self.plan else {}

    def set_factor(self, hyperparameter: str, group: int, factor: float) -> None:
        self.factors[hyperparameter] = factor

    def check_share(self, hyperparameter: str, group: int) -> None:
        raise InputError(f"{hyperparameter} is no share")

    def move(self, hyperparameter: str, group: int, value: float) -> None:
        raise AssertionError("nothing here is a share")

    def limit(self, norm: float) -> None:
        self.norm_limit = norm

    def restart(self, state: str | None) -> None:
        self.optimizer.state.clear()

    def grow(self, factor: float) -> None:
        raise AssertionError("the batch has one size")

    def anchor(self) -> None:
        pass

    def stop(self, reason: str) -> None:
        self.stopped = reason

    def remember(self, slot: int) -> None:
        state = (self.model.state_dict(), self.optimizer.state_dict(), self.updates)
        self.slots[slot] = copy.deepcopy(state)

    def roll_back(self, slot: int) -> None:
        model, optimizer, self.updates = copy.deepcopy(self.slots[slot])
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)

    def catch_up(self, late: int) -> None:
        raise AssertionError("the plan here is a constant")

    def positions(self) -> list[int]:
        return [self.at]

    def examine(self, position: int) -> tuple[float, float] | None:
        found = self._backward(position)
        self.optimizer.zero_grad()
        return found

    def leave_out(self, position: int) -> None:
        self.left_out.add(position)

    def weights_are_finite(self) -> bool:
        return all(bool(param.isfinite().all()) for param in self.model.parameters())

    # -- an interruption ------------------------------------------------------------------------

    def saved(self) -> dict[str, Any]:
        parts = ("factors", "left_out", "slots", "updates", "at", "norm_limit")
        of = {name: getattr(self, name) for name in parts}
        tensors = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy({**of, **tensors})

    def restore(self, saved: dict[str, Any]) -> None:
        saved = copy.deepcopy(saved)
        self.model.load_state_dict(saved.pop("model"))
        self.optimizer.load_state_dict(saved.pop("optimizer"))
        for name, value in saved.items():
            setattr(self, name, value)
