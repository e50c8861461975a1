"""The Schedule shape: a pure function of progress.

It sees a step and nothing else, so that a checkpoint needs only the count. Steps count
applied updates from 0: update k runs with `schedule(k)`. Values are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rheostat.core.errors import InputError

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Origin:
    """Which registered component made an object, and with what: enough to write it down."""

    component: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Schedule:
    """A hyperparameter's value as a function of the step.

    `curve` maps an array of steps (float64, any shape) to values of the same shape.
    `restarts` are the steps at which a new cycle begins, within the horizon.
    `horizon` is the number of steps it was planned for, None where it has none; past it the
    curve holds its last value unless its card says otherwise.
    """

    curve: Curve
    horizon: int | None = None
    restarts: tuple[int, ...] = ()
    origin: Origin | None = field(default=None, compare=False)

    def __call__(self, step: float) -> float:
        """The value at one step; the same bits as `values` gives there."""
        return float(self.values(np.array([step], dtype=np.float64))[0])

    def values(self, steps: ArrayLike) -> NDArray[np.float64]:
        """The values at an array of steps (each ≥ 0). Raises InputError for a negative step."""
        array = np.asarray(steps, dtype=np.float64)
        if array.size and not array.min() >= 0:
            raise InputError(f"a schedule begins at step 0; asked for step {array.min():g}")
        return np.asarray(self.curve(array), dtype=np.float64)

    def stamped(self, component: str, arguments: Mapping[str, Any], numbers: set[str]) -> Schedule:
        """This schedule, marked with the component that made it."""
        del numbers  # a schedule has no hyperparameters of its own to publish
        return replace(self, origin=Origin(component, arguments))
