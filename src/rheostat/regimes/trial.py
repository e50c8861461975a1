"""Trials: a change is made, what the loss does is measured, and the change is kept or undone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from rheostat.regimes.robust import MEDIAN, Line, blocks, over

_LARGEST = 700.0
"""Of a logarithm, whose number a float still holds."""


@dataclass
class Trial:
    """One change under measurement.

    The forecast is the robust line through the losses before the change (`Line`), at the middle of
    the window after it. z = (forecast − median after) / error, where the error is that of the
    forecast and of a median of as many blocks as the window has, which scatter as those before did.
    What falls ever more slowly is forecast to fall too far, below zero at last. So where all losses
    are positive it is the line through their logarithms that decides, if it lies nearer to them, or
    if the straight one leads below zero; and a change did harm only by both.

    Attributes:
        number, at: of the account that began it, and when that was.
        who, hyperparameter, group, octaves: the change.
        part: theirs in the factor, the change included, in octaves.
        line, length: the forecast, and the number of losses that it was made from.
        logarithms: the line through their logarithms; None where they have none.
        skipped: losses that came before the change was fully applied.
        after: losses since.
    """

    number: int
    at: int
    who: str
    hyperparameter: str
    group: int | None
    octaves: float
    part: float
    line: Line
    length: int
    logarithms: Line | None = None
    skipped: int = 0
    after: list[float] = field(default_factory=list[float])

    def add(self, loss: float, still: bool) -> None:
        """Take a loss in; until the factor stands still, or for as long as the history was, it only
        counts the time."""
        if still or self.after or self.skipped >= self.length:
            self.after.append(loss)
        else:
            self.skipped += 1

    def forecast(self) -> tuple[float, float, float]:
        """What the window after was forecast to have, what it has, and z."""
        straight, logs = self._compared(self.line, self.after), self.logarithms
        bent = self._by_logarithms()
        if logs is None or bent is None:
            return straight
        nearer = logs.width * math.exp(logs.level) < self.line.width
        return bent if nearer or straight[0] <= 0 else straight

    @property
    def harm(self) -> float:
        """-z, by whichever forecast is the higher one."""
        bent = self._by_logarithms()
        z = self._compared(self.line, self.after)[2]
        return -z if bent is None else -max(z, bent[2])

    def _by_logarithms(self) -> tuple[float, float, float] | None:
        if self.logarithms is None or min(self.after) <= 0:
            return None
        expected, found, z = self._compared(self.logarithms, [math.log(x) for x in self.after])
        return math.exp(min(expected, _LARGEST)), math.exp(found), z

    def _compared(self, line: Line, after: list[float]) -> tuple[float, float, float]:
        count = max(1, len(after) // line.length)
        found = median(blocks(after, count))
        expected = line.at(self.length + self.skipped + (len(after) - 1) / 2)
        error = math.hypot(expected.error, MEDIAN * line.width / math.sqrt(count))
        return expected.value, found, over(expected.value - found, error)

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Trial:
        """The trial that `state_dict` gave."""
        fields: dict[str, Any] = {
            **state,
            "line": Line(**state["line"]),
            "logarithms": state["logarithms"] and Line(**state["logarithms"]),
            "after": [*state["after"]],
        }
        return cls(**fields)
