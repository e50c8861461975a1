"""A controller alone: what it asks for is done at once, without bounds."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

import rheostat as rs
from rheostat.core.controller import Controller, Decision, Grow, Move, Now, Scale


class Rig:
    """Feeds a controller and obeys it. `decisions` has all, with the steps that they came after."""

    def __init__(self, controller: Controller, **planned: float) -> None:
        self.controller = controller
        self.memory: dict[str, Any] = copy.deepcopy(dict(controller.memory))
        self.planned = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, **planned}
        self.shares: dict[str, float] = {}
        self.batch = 1.0
        self.backed_off: frozenset[str] = frozenset()
        self.steps = 0
        self.decisions: list[tuple[int, Decision]] = []

    def feed(self, loss: float = 1.0, applied: bool = True, **signals: float) -> list[Decision]:
        """One step."""
        self.steps += 1
        now = Now(
            self.steps,
            applied,
            loss,
            signals,
            frozenset(signals),
            factors={**dict.fromkeys(self.planned, 1.0), **self.shares, "batch": self.batch},
            shares=dict(self.shares),
            planned=dict(self.planned),
            backed_off=self.backed_off,
        )
        if not self.controller.due(now):
            return []
        found = list(self.controller.asked(now, self.memory))
        for one in found:
            if isinstance(one, Scale):
                share = self.shares.get(one.hyperparameter, 1.0) * one.factor
                self.shares[one.hyperparameter] = 1.0 if abs(math.log(share)) < 1e-9 else share
            elif isinstance(one, Grow):
                self.batch *= one.factor
            elif isinstance(one, Move):
                self.planned[one.hyperparameter] = one.to
        self.decisions += [(self.steps, one) for one in found]
        return found

    def run(self, stream: Iterable[Mapping[str, Any]]) -> Rig:
        """Many steps."""
        for step in stream:
            self.feed(**step)
        return self

    def share(self, hyperparameter: str = "lr") -> float:
        return self.shares.get(hyperparameter, 1.0)

    def kinds(self) -> list[str]:
        return [decision.kind for _, decision in self.decisions]

    def written(self) -> list[tuple[int, dict[str, Any]]]:
        return [(step, decision.written()) for step, decision in self.decisions]

    def through_json(self) -> Rig:
        """Another one in the same place, by way of a file."""
        other = Rig(self.controller, **self.planned)
        other.memory = json.loads(json.dumps(self.memory))
        other.shares, other.batch, other.steps = dict(self.shares), self.batch, self.steps
        other.decisions = list(self.decisions)
        return other


def make(name: str, **arguments: Any) -> Controller:
    return rs.component(name, "controller").factory(**arguments)


def noisy(level: float, seed: int, width: float = 0.05) -> float:
    return level + random.Random(seed).gauss(0, width)


def scales(rig: Rig, hyperparameter: str = "lr") -> list[tuple[int, float]]:
    return [
        (step, one.factor)
        for step, one in rig.decisions
        if isinstance(one, Scale) and one.hyperparameter == hyperparameter
    ]
