"""Trials: a change is made, what the loss does is measured, and the change is kept or undone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from rheostat.regimes.robust import MEDIAN, Line, blocks, over


@dataclass
class Trial:
    """One change under measurement.

    The forecast is the robust line through the losses before the change (`Line`), at the middle of
    the window after it. z = (forecast − median after) / error, where the error is that of the
    forecast and of a median of as many blocks as the window has, which scatter as those before did.

    Attributes:
        number, at: of the account that began it, and when that was.
        who, hyperparameter, group, octaves: the change.
        line, length: the forecast, and the number of losses that it was made from.
        skipped: losses that came before the change was fully applied.
        after: losses since.
    """

    number: int
    at: int
    who: str
    hyperparameter: str
    group: int | None
    octaves: float
    line: Line
    length: int
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
        count = max(1, len(self.after) // self.line.length)
        found = median(blocks(self.after, count))
        expected = self.line.at(self.length + self.skipped + (len(self.after) - 1) / 2)
        error = math.hypot(expected.error, MEDIAN * self.line.width / math.sqrt(count))
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
            "after": [*state["after"]],
        }
        return cls(**fields)
