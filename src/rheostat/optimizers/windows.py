"""What schedules say of the next updates, on the device that counts them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.schedule import Schedule
from rheostat.optimizers.scheduled import base_key

WINDOW = 1024
"""Updates for which the device knows what schedules say: a captured graph follows them so far."""


class Row(NamedTuple):
    """A schedule of updates, where its values belong, and what they are multiplied by.

    `path` is the index of a group and a hyperparameter, then the place in a tuple.
    """

    path: tuple[Any, ...]
    schedule: Schedule
    factor: float


def rows_of(
    groups: Sequence[Mapping[str, Any]], schedules: Sequence[Mapping[str, Any]]
) -> list[Row]:
    """The schedules that count updates; of the others the host knows where they are."""
    return [
        Row(path, schedule, _factor(group, name, schedule))
        for index, (group, owned) in enumerate(zip(groups, schedules, strict=True))
        for name, value in owned.items()
        for path, schedule in _schedules_in(value, index, name)
        if schedule.unit == "updates"
    ]


def _schedules_in(value: Any, *path: Any) -> Iterator[tuple[tuple[Any, ...], Schedule]]:
    if isinstance(value, Schedule):
        yield path, value
    elif isinstance(value, tuple):
        for i, part in enumerate(cast("tuple[Any, ...]", value)):
            yield from _schedules_in(part, *path, i)


def _factor(group: Mapping[str, Any], name: str, schedule: Schedule) -> float:
    factor: float = group["lr_factor"] if name == "lr" else 1.0
    if schedule.base is None or base_key(name) not in group:
        return factor
    return factor * (group[base_key(name)] / schedule.base)


def _values(schedule: Schedule, steps: np.ndarray) -> np.ndarray:
    """Its values; NaN from where on a function of the user's gives none that is allowed: the host
    refuses the update that would run with it."""
    try:
        return schedule.values(steps)
    except InputError:
        return np.array([_value(schedule, step) for step in steps.tolist()])


def _value(schedule: Schedule, step: float) -> float:
    try:
        return schedule(step)
    except InputError:
        return math.nan


@dataclass
class Window:
    """The values of rows from update `start` on (`first`, on the device): float64, a row each."""

    rows: list[Row]
    start: int
    first: Tensor
    values: Tensor

    @classmethod
    def make(cls, like: Tensor, start: int, rows: list[Row], before: Window | None) -> Window:
        """The window on the device of `like`, by a copy that nobody waits for.

        A captured graph reads the tensors of the one before, so that the values come into those
        where they have as many rows.
        """
        steps = np.arange(start, start + WINDOW, dtype=np.float64)
        found = torch.from_numpy(np.stack([_values(r.schedule, steps) * r.factor for r in rows]))
        if before is not None and before.values.shape == found.shape:
            first, values = before.first.fill_(start), before.values
        else:
            first = like.new_full((), start, dtype=torch.float64, requires_grad=False)
            values = like.new_empty(found.shape, dtype=torch.float64, requires_grad=False)
        # Pinned memory stays untouched until a copy that nobody waits for has read it.
        values.copy_(found.pin_memory() if torch.cuda.is_available() else found, non_blocking=True)
        return cls(rows, start, first, values)

    def at(self, count: Tensor) -> dict[tuple[Any, ...], Tensor]:
        """What the schedules say at a count that is on the device, by path: 0-dim float64."""
        column = (count - self.first).clamp_(0, WINDOW - 1).long().reshape(1)
        found = self.values.index_select(1, column).unbind()
        return {row.path: one.reshape(()) for row, one in zip(self.rows, found, strict=True)}
