"""What controllers are told of hyperparameters: the plan's values, and the regime's factors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rheostat.regimes.hands import Hands


class Planned(Mapping[str, float]):
    """The plan's value of any hyperparameter that is there, that of the first param group which the
    hands name.

    It is asked for when it is looked up: a controller may read what it does not act on.

    Args:
        hands: who knows the plan.
        named: those that an iteration goes through, as far as they are there.
    """

    def __init__(self, hands: Hands, named: Iterable[str]) -> None:
        self._hands, self._named = hands, tuple(named)

    def __getitem__(self, hyperparameter: str) -> float:
        for value in self._hands.planned(hyperparameter).values():
            return value
        raise KeyError(hyperparameter)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._named if self._hands.planned(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Factors(dict[str, float]):
    """The regime's factors; 1 for what it leaves alone."""

    def __missing__(self, hyperparameter: str) -> float:
        return 1.0
