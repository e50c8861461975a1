"""Series of many runs thinned to what a figure can show, without hiding what happened.

Noisy series (loss, norms) become means over blocks of steps; exact ones (learning rates) keep
every jump and corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rheostat.lab.results import Run
from rheostat.record.series import Floats, Ints

POINTS = 600
"""Most points of a curve in a figure."""


@dataclass(frozen=True, eq=False)
class Band:
    """A series over the seeds of one arm: at each point the mean, lowest and highest seed.

    `steps` are the middles of the blocks; a point is NaN where no seed has a finite value.
    """

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats


def block_length(runs: Sequence[Run]) -> int:
    """Steps per point, the same for all runs of a figure, so that none has over `POINTS`."""
    longest = max((run.record.steps.size for run in runs), default=0)
    return max(1, -(-longest // POINTS))


def block_means(values: Floats, length: int) -> Floats:
    """The mean of each `length` consecutive values, NaN left out; NaN where nothing is finite.

    A last block may be shorter. An infinity counts as missing too: it has no place on an axis.
    """
    finite = np.isfinite(values)
    starts = np.arange(0, values.size, length)
    if not starts.size:
        return np.zeros(0)
    counts = np.add.reduceat(finite.astype(np.float64), starts)
    # Divided before they are summed: losses on their way to overflow still have a mean.
    sums = np.add.reduceat(np.where(finite, values, 0.0) / length, starts)
    return _ratio(sums, counts) * length


def band(runs: Sequence[Run], name: str, length: int) -> Band | None:
    """The named series over these runs; None where none of them recorded it."""
    rows = [block_means(run.record.series[name], length) for run in runs if _has(run, name)]
    if not rows:
        return None
    width = max(row.size for row in rows)
    longest = max((run for run in runs if _has(run, name)), key=lambda run: run.record.steps.size)
    table = np.full((len(rows), width), np.nan)
    for index, row in enumerate(rows):
        table[index, : row.size] = row
    present = np.isfinite(table)
    counts = present.sum(axis=0).astype(np.float64)
    empty = counts == 0
    mean = _ratio(np.where(present, table, 0.0).sum(axis=0), counts)
    low = np.where(present, table, np.inf).min(axis=0)
    high = np.where(present, table, -np.inf).max(axis=0)
    low[empty] = high[empty] = np.nan
    return Band(block_means(longest.record.steps.astype(np.float64), length), mean, low, high)


def corners(steps: Ints, values: Floats) -> Ints:
    """Indices of at most `POINTS` rows that draw the curve: its ends, its sharpest turns (the
    largest second differences, so every jump) and evenly spread ones between."""
    if steps.size <= POINTS:
        return np.arange(steps.size)
    turns = np.abs(np.diff(values, n=2))
    turns[~np.isfinite(turns)] = np.inf  # the edge of a gap
    sharpest = np.argsort(-turns, kind="stable")[: POINTS // 3] + 1
    spread = np.linspace(0, steps.size - 1, POINTS - POINTS // 3).round().astype(np.int64)
    return np.union1d(sharpest, spread)


def _has(run: Run, name: str) -> bool:
    return name in run.record.series and run.record.steps.size > 0


def _ratio(sums: Floats, counts: Floats) -> Floats:
    """sums / counts, NaN where there is nothing to divide by."""
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
