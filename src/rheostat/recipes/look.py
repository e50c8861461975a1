"""A rule of a recipe as the checks of `fit` look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rheostat.core.schedule import Schedule
from rheostat.core.transform import Transform
from rheostat.optimizers.policy import Match
from rheostat.recipes.document import KeyPath
from rheostat.recipes.parts import Parts, Rule

SAMPLES = 1000
"""At how many steps of a run a schedule is looked at."""

Found: TypeAlias = Iterator[tuple[KeyPath, str]]
"""The path to what is at fault, and what is wrong, in a sentence that ends with what would be
right."""
Check: TypeAlias = Callable[["Look"], Found]


@dataclass(frozen=True)
class Look:
    """One rule of a recipe; `places` says where each of its pieces stands. With a model, `params`
    are the parameters that it serves: name, parameter, and whether its gradient is sparse."""

    match: Match
    rule: Rule
    places: Sequence[KeyPath]
    parts: Parts
    params: Sequence[tuple[str, Tensor, bool]] = field(default=())

    @property
    def pieces(self) -> tuple[Transform, ...]:
        """The primitive pieces of the rule, in order."""
        return self.match.rule.pieces

    @property
    def placed(self) -> list[tuple[KeyPath, Transform]]:
        """The same, each with where it stands."""
        return list(zip(self.places, self.pieces, strict=True))

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [piece.name for piece in self.pieces]

    def at(self, key: str) -> KeyPath:
        """Where a key of the rule stands."""
        return (*self.rule.path, key)

    def first(self, some: set[str]) -> tuple[KeyPath, str] | None:
        """The first piece of one of these names: where it stands, and what to call it; the whole
        optimizer, where the piece is a part of one."""
        for place, outer in self.placed:
            for piece in (outer, *_within(outer)):
                if piece.name in some:
                    whole = self.rule.optimizer is not None and place == self.at("optimizer")
                    return place, self.match.rule.name if whole else piece.name
        return None

    @property
    def factor(self) -> float:
        """What the learning rate is multiplied by."""
        return float(self.match.overrides.get("lr_factor", 1.0))

    def setting(self, name: str) -> Any:
        """A setting of the loop; None where the loop is another library's."""
        return self.parts.settings.get(name)

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """The hyperparameters that follow a schedule, those in tuples too."""
        found: dict[str, Schedule] = {}
        for name, value in self.match.rule.hyperparameters.items():
            parts = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
            found.update((name, part) for part in parts if isinstance(part, Schedule))
        return found

    def curve(self, name: str) -> NDArray[np.float64]:
        """A hyperparameter over the run: one value where it is a number, none if it is absent."""
        value = self.match.rule.hyperparameters.get(name)
        if isinstance(value, Schedule):
            last = self.parts.end(value.unit) or value.horizon or SAMPLES
            return value.values(np.unique(np.linspace(0, last, SAMPLES).round()))
        return np.array([] if value is None else [float(value)])


def _within(piece: Transform) -> Iterator[Transform]:
    """The pieces of the rules that a piece is made of, as a blend is."""
    for value in piece.origin.arguments.values() if piece.origin else ():
        if isinstance(value, Transform):
            for inner in value.pieces:
                yield inner
                yield from _within(inner)


def several(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def verb(names: Sequence[str], one: str, more: str) -> str:
    """The verb that goes with `several` of these."""
    return one if len(names) == 1 else more
