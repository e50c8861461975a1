"""Knobs: the factor on each hyperparameter, made of everybody's parts, and how it moves.

Factors are kept as octaves (log₂), so that parts add, and up is as far as down. A part is what one
controller has asked for in all; the factor's goal is the sum of the parts, between the floor and
the ceiling; the factor follows its goal by at most `rate` octaves an update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import annotated_types as at

from rheostat.core.controller import name_of
from rheostat.core.hyper import Positive, check_arguments
from rheostat.regimes.account import SAFEGUARD
from rheostat.regimes.hands import Hands

_NEAR = 1 / 64
"""Octaves; what is nearer than this to its goal arrives: an exponential never would."""
_NOTHING = 1e-9
"""Octaves; what remains of a part that was taken back is rounding."""


Floor = Annotated[float, at.Gt(0), at.Le(1)]
Ceiling = Annotated[float, at.Ge(1)]


@dataclass(frozen=True)
class Bounds:
    """How far factors go, and how fast.

    Attributes:
        floor: of every factor.
        ceiling: of every factor.
        rate: octaves that a factor moves in one update, at most.
        smoothing: part of the way to its goal that it takes in one update.
        ease: octaves an update by which a part is taken back where nobody is in a hurry.
        own: other floors and ceilings, for single hyperparameters.
    """

    floor: Floor = 1 / 64
    ceiling: Ceiling = 64.0
    rate: Positive = 0.5
    smoothing: Annotated[float, at.Gt(0), at.Le(1)] = 0.5
    ease: Positive = 1 / 32
    own: Mapping[str, tuple[Floor, Ceiling]] = field(default_factory=dict[str, tuple[float, float]])

    def __post_init__(self) -> None:
        """Raises InputError for bounds that do not hold 1, and speeds that are none."""
        check_arguments(Bounds, vars(self), "bounds", live=False)

    def clamp(self, hyperparameter: str, octaves: float) -> float:
        """The octaves nearest to these that are allowed."""
        low, high = self.own.get(hyperparameter, (self.floor, self.ceiling))
        return min(max(octaves, math.log2(low)), math.log2(high))


@dataclass
class Part:
    """What one controller has asked for of one hyperparameter, in all param groups or in one."""

    who: str
    hyperparameter: str
    group: int | None
    octaves: float
    easing: bool = False


class Knobs:
    """The factors of a run. All start at 1."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._parts: list[Part] = []
        self._present: dict[str, dict[int, float]] = {}

    # -- what is asked for ----------------------------------------------------------------------

    def turn(self, who: str, hyperparameter: str, group: int | None, octaves: float) -> None:
        """Add to somebody's part. What the parts are in all beyond a bound, since another's is
        gone, goes with it: a turn begins where the factor can be."""
        part = self._part(who, hyperparameter, group)
        if part is None:
            part = Part(who, hyperparameter, group, 0.0)
            self._parts.append(part)
        total = self._total(hyperparameter, group)
        part.octaves += octaves + self.bounds.clamp(hyperparameter, total) - total
        part.easing = False
        self._present.setdefault(hyperparameter, {})
        self._tidy()

    def ease(self, who: str | None = None, hyperparameter: str | None = None) -> None:
        """Begin to take parts back, gently: of one or of all but the safeguard, of one
        hyperparameter or of all."""
        for part in self._parts:
            whose = part.who == who if who is not None else part.who != SAFEGUARD
            part.easing |= whose and hyperparameter in (None, part.hyperparameter)

    def room(self, hyperparameter: str, group: int | None, octaves: float) -> float:
        """How much of a turn leaves every goal within its bounds."""
        for index in self._groups(hyperparameter, group):
            goal = self.goal(hyperparameter, index)
            octaves = self.bounds.clamp(hyperparameter, goal + octaves) - goal
        return octaves

    def part(self, who: str, hyperparameter: str, group: int | None = None) -> float:
        """Somebody's part, in octaves."""
        part = self._part(who, hyperparameter, group)
        return 0.0 if part is None else part.octaves

    def shares(self, who: str) -> dict[str, float]:
        """Somebody's parts, as factors: of all groups under a hyperparameter's name, of one under
        "lr[1]"; what is not there is 1."""
        return {
            name_of(part.hyperparameter, part.group): 2.0**part.octaves
            for part in self._parts
            if part.who == who
        }

    def backed_off(self) -> frozenset[str]:
        """The hyperparameters of which the safeguard asks for less."""
        return frozenset(
            part.hyperparameter
            for part in self._parts
            if part.who == SAFEGUARD and part.octaves < -_NEAR
        )

    def goal(self, hyperparameter: str, group: int | None, *, eased: bool = False) -> float:
        """Where a group's factor is going, in octaves; None is any without a part of its own.
        `eased`: once the parts that are being taken back are gone."""
        return self.bounds.clamp(hyperparameter, self._total(hyperparameter, group, eased=eased))

    def _total(self, hyperparameter: str, group: int | None, *, eased: bool = False) -> float:
        return math.fsum(
            part.octaves
            for part in self._parts
            if part.hyperparameter == hyperparameter and part.group in (None, group)
            if not (eased and part.easing)
        )

    # -- where it is ----------------------------------------------------------------------------

    def factor(self, hyperparameter: str, group: int = 0) -> float:
        """The present factor of a group."""
        return 2.0 ** self._present.get(hyperparameter, {}).get(group, 0.0)

    def factors(self) -> dict[str, float]:
        """The present factors, each of the first group that has it."""
        return {
            name: 2.0 ** next(iter(present.values()), 0.0)
            for name, present in self._present.items()
        }

    def still(self, hyperparameter: str) -> bool:
        """Whether a factor is where it should be."""
        return all(
            octaves == self.goal(hyperparameter, group)
            for group, octaves in self._present.get(hyperparameter, {}).items()
        )

    def advance(self, hands: Hands) -> None:
        """Move every factor on by one update."""
        for part in self._parts:
            if part.easing:
                left = max(0.0, abs(part.octaves) - self.bounds.ease)
                part.octaves = math.copysign(left, part.octaves)
        self._tidy()
        for name, present in self._present.items():
            for group in hands.planned(name):
                before, goal = present.setdefault(group, 0.0), self.goal(name, group)
                gap = goal - before
                step = min(abs(gap), self.bounds.rate, max(self.bounds.smoothing * abs(gap), _NEAR))
                after = goal if step == abs(gap) else before + math.copysign(step, gap)
                if after != before:
                    present[group] = after
                    hands.set_factor(name, group, 2.0**after)

    def apply(self, hands: Hands) -> None:
        """Say every present factor again."""
        for name, present in self._present.items():
            for group, octaves in present.items():
                hands.set_factor(name, group, 2.0**octaves)

    def _part(self, who: str, hyperparameter: str, group: int | None) -> Part | None:
        wanted = (who, hyperparameter, group)
        return next((p for p in self._parts if (p.who, p.hyperparameter, p.group) == wanted), None)

    def _groups(self, hyperparameter: str, group: int | None) -> list[int | None]:
        if group is not None:
            return [group]
        return [None, *self._present.get(hyperparameter, {})]

    def _tidy(self) -> None:
        self._parts = [part for part in self._parts if abs(part.octaves) > _NOTHING]

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        # JSON has no whole numbers for keys.
        present = {name: [*map(list, of.items())] for name, of in self._present.items()}
        return {"parts": [asdict(part) for part in self._parts], "present": present}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another was."""
        self._parts = [Part(**part) for part in state["parts"]]
        self._present = {
            name: {int(group): octaves for group, octaves in of}
            for name, of in state["present"].items()
        }
