"""The actuator: carries out decisions that were granted, exactly, live or from a record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rheostat.core.controller import (
    Anchor,
    Grow,
    Limit,
    Move,
    Restart,
    RollBack,
    Scale,
    Stop,
    scaled,
)
from rheostat.core.errors import InputError
from rheostat.regimes.account import Act, Ease, LeaveOut, Wait
from rheostat.regimes.hands import Hands
from rheostat.regimes.knobs import Bounds, Knobs
from rheostat.regimes.ring import Ring, Saved


class Actuator:
    """What a regime has changed, and the only one that has hands.

    Args:
        bounds: of factors.
        keep: good states that are kept.
        start: whether that of the start is kept beside them.
        on_time: whether the schedules of every roll back end on time; see `RollBack`.
    """

    def __init__(
        self, bounds: Bounds, keep: int, *, start: bool = False, on_time: bool = False
    ) -> None:
        self.knobs = Knobs(bounds)
        self.ring = Ring(keep, start=start)
        self.limit = math.inf
        self.waits = False
        """Whether every update is left out."""
        self.growth = 1.0
        self.segment = 0
        self.on_time = on_time
        self.level = math.nan
        """Of the loss, when the state was taken that was put back last."""
        self.anew = False
        """Whether the last roll back was asked to lead to the start."""
        self._moves: dict[str, dict[str, Any]] = {}
        self._moved: dict[str, list[tuple[int, float]]] = {}

    def carry_out(self, who: str, act: Act, at: int, hands: Hands) -> None:
        """Do it. Raises InputError, and has done nothing, where the hands cannot."""
        match act:
            case Scale():
                self.knobs.turn(who, act.hyperparameter, act.group, math.log2(act.factor))
            case Ease():
                self.knobs.ease(act.who, act.hyperparameter)
            case Move():
                self._moves[act.hyperparameter] = _begun(act, hands.planned(act.hyperparameter))
            case Limit():
                self._limit(hands, act.norm, waits=self.waits)
            case Wait():
                self._wait(act, hands)
            case Restart():
                hands.restart(act.state)
            case RollBack():
                self._roll_back(act, at, hands)
            case Grow():
                grown = self.growth * act.factor
                near = float(round(grown))  # factors come from octaves, and are rounded
                grown = near if math.isclose(grown, near, rel_tol=1e-9) else grown
                hands.grow(grown)
                self.growth = grown
            case Anchor():
                hands.anchor()
            case LeaveOut():
                hands.leave_out(act.position)
            case Stop():
                hands.stop(act.reason)

    def way(
        self,
        hyperparameter: str,
        hands: Hands,
        group: int | None = None,
        turn: float = 1.0,
    ) -> tuple[float, float] | None:
        """A hyperparameter's value now, and where its factor and a `turn` more lead once what is
        being taken back is gone, in a group or the first that has it; None where none has."""
        planned = hands.planned(hyperparameter).items()
        first, value = next(((g, v) for g, v in planned if group in (None, g)), (None, math.nan))
        if first is None:
            return None
        now = self.knobs.factor(hyperparameter, first)
        goal = 2.0 ** self.knobs.goal(hyperparameter, first, eased=True) * turn
        return scaled(hyperparameter, value, now), scaled(hyperparameter, value, goal)

    def target(self, act: RollBack, at: int) -> Saved | None:
        """The state that a roll back would put back."""
        return self.ring.start if act.start else self.ring.newest(at - act.before)

    def _wait(self, act: Wait, hands: Hands) -> None:
        self._limit(hands, self.limit, waits=act.on)
        if act.late:
            hands.catch_up(act.late)

    def _limit(self, hands: Hands, norm: float, *, waits: bool) -> None:
        hands.limit(0.0 if waits else norm)  # no gradient is as small as that
        self.limit, self.waits = norm, waits

    def _roll_back(self, act: RollBack, at: int, hands: Hands) -> None:
        state = self.ring.roll_back(hands, at - act.before)
        if state is None:
            raise InputError(f"there is no good state that is {act.before} steps old")
        if act.on_time:
            hands.catch_up(0)
        self.segment += 1
        self.anew, self.level = act.start, state.level
        # What the slot holds is older than these.
        self.knobs.apply(hands)
        if self.growth != 1:
            hands.grow(self.growth)
        self._limit(hands, self.limit, waits=self.waits)
        for name, shares in self._moved.items():
            for group, value in shares:
                hands.move(name, group, value)

    def advance(self, hands: Hands) -> None:
        """Move what is under way on by one update."""
        self.knobs.advance(hands)
        for name, way in list(self._moves.items()):
            way["done"] += 1
            part, to = way["done"] / way["over"], way["to"]
            self._moved[name] = [
                (group, to if part == 1 else start + (to - start) * part)
                for group, start in way["from"]
            ]
            for group, value in self._moved[name]:
                hands.move(name, group, value)
            if part == 1:
                del self._moves[name]

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "knobs": self.knobs.state_dict(),
            "ring": self.ring.state_dict(),
            "limit": self.limit,
            "waits": self.waits,
            "growth": self.growth,
            "segment": self.segment,
            "moves": {name: {**move} for name, move in self._moves.items()},
            "moved": {name: [[*pair] for pair in of] for name, of in self._moved.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was."""
        self.knobs.load_state_dict(state["knobs"])
        self.ring.load_state_dict(state["ring"])
        self.limit, self.growth = state["limit"], state["growth"]
        self.waits = state.get("waits", False)
        self.segment = state["segment"]
        self._moves = {name: {**move} for name, move in state["moves"].items()}
        self._moved = {name: [(g, v) for g, v in of] for name, of in state["moved"].items()}


def _begun(act: Move, planned: Mapping[int, float]) -> dict[str, Any]:
    """A move from where the share is in each group that it concerns."""
    start = [[group, value] for group, value in planned.items() if act.group in (None, group)]
    return {"from": start, "to": act.to, "over": act.over, "done": 0}
