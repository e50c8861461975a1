"""Controllers that ask for what a script says, and a drive for the arbiter that hears them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.references.hands import Paper

from rheostat.core.controller import Controller, Decision, Now, Scale
from rheostat.regimes.account import Account
from rheostat.regimes.regime import Regime

Script = dict[int, Decision | Sequence[Decision]]


def scripted(name: str, script: Script, priority: int = 10, needs: tuple[str, ...] = ()) -> Any:
    """A controller that asks for what is written, by the steps that it has seen."""

    def decide(now: Now, memory: dict[str, Any]) -> Decision | Sequence[Decision] | None:
        memory["seen"] = memory.get("seen", 0) + 1
        return script.get(memory["seen"])

    acts_on = ("lr", "momentum", "weight_decay", "blend", "nothing")
    return Controller(decide, needs, acts_on, priority=priority, name=name)


def scale(factor: float, name: str = "lr", **more: Any) -> Scale:
    return Scale(hyperparameter=name, factor=factor, reason="told to", **more)


def flat(step: int) -> float:
    """A loss with a little noise, always the same."""
    return 1.0 + 0.01 * random.Random(step).gauss(0, 1)


def drive(
    regime: Regime,
    hands: Paper,
    steps: int,
    loss: Callable[[int], float] = flat,
    signals: Callable[[int], dict[str, float]] = lambda step: {},
) -> list[Account]:
    accounts: list[Account] = []
    for _ in range(steps):
        step = regime.at + 1
        found = signals(step)
        accounts += regime.after(Now(step, True, loss(step), found, frozenset(found)), hands)
    return accounts


def verdicts(accounts: Sequence[Account]) -> list[tuple[int, str]]:
    return [(a.at, a.verdict) for a in accounts if a.outcome is None]
