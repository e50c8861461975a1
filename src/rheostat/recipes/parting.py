"""Where two recorded runs part: the first step, the first tensor, the cause.

Looks at the records alone, without torch; `rheostat.recipes.apart` looks at the checkpoints too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rheostat.core.durable import canonical_json
from rheostat.recipes.causes import RESULTS, Cause, cause_of, lines, seeds, unlike
from rheostat.record.run import RunRecord
from rheostat.record.series import Floats


@dataclass(frozen=True)
class Parting:
    """Where two runs part. `step` is the number of the batch, from 0, or None before the first.

    `what` differs first there: "batch", a hyperparameter, one of `RESULTS`, "initial weights",
    "model", "length", "outcome" or "checkpoint"; `first` and `second` are what the runs have.
    `tensor` is the first whose weights part, then or later (or the first and last of a section of
    several), None where none is known to. `why` is the evidence for `cause`.
    """

    step: int | None
    what: str
    first: str
    second: str
    tensor: str | None
    cause: Cause
    why: str


def parting(one: RunRecord, other: RunRecord) -> Parting | None:
    """Where two runs part; None where the records are the same as far as numbers go."""
    found = _before(one, other)
    if found is not None:
        return found
    place = _first_row(one, other)
    if place is not None:
        row, what = place
        mine, theirs = _value(one, what, row), _value(other, what, row)
        cause, why = cause_of(one, other, row, what)
        tensor = _tensor(one, other, row)
        return Parting(int(one.steps[row]), what, mine, theirs, tensor, cause, why)
    return _end(one, other)


def _before(one: RunRecord, other: RunRecord) -> Parting | None:
    mine, theirs = one.header.get("tensors", {}), other.header.get("tensors", {})
    if mine.get("names") != theirs.get("names"):
        names = mine.get("names", []), theirs.get("names", [])
        told = list(lines({"parameters": names[0]}, {"parameters": names[1]}))
        first, second = (f"{len(side)} sections of parameters" for side in names)
        return Parting(None, "model", first, second, None, "model", told[0])
    weights = one.header.get("weights", ""), other.header.get("weights", "")
    if weights[0] == weights[1]:
        return None
    tensor = _section(mine.get("mark", ""), theirs.get("mark", ""), mine.get("names", []))
    noted = [*lines(seeds(one), seeds(other)), *unlike(one, other)]
    told = [line for line in noted if "seed" in line]
    why = "; ".join(["the weights differ before the first step", *told[:1]])
    return Parting(None, "initial weights", *weights, tensor, "seed", why)


def _first_row(one: RunRecord, other: RunRecord) -> tuple[int, str] | None:
    """The first row in which the runs differ, and in what first."""
    rows = min(one.steps.size, other.steps.size)
    # What one side did not measure (its regime has other signals) is no difference of the runs.
    given = sorted({*one.series} & {*other.series} - {*RESULTS})
    first: dict[str, int] = {}
    for what in ("batch", *given, *RESULTS):
        differs = _differs(one, other, what, rows)
        if differs.any():
            first[what] = int(differs.argmax())
    if not first:
        return None
    row = min(first.values())
    return row, next(what for what, at in first.items() if at == row)


def _differs(one: RunRecord, other: RunRecord, what: str, rows: int) -> Any:
    if what == "batch":
        pairs = zip(one.batches[:rows], other.batches[:rows], strict=True)
        return np.array([bool(a and b and a != b) for a, b in pairs], dtype=bool)
    if what == "weights":
        pairs = zip(one.weights[:rows], other.weights[:rows], strict=True)
        return np.array([a != b for a, b in pairs], dtype=bool)
    # By their bits: the record has one NaN, and 0.0 is not -0.0.
    sides = [_column(run, what)[:rows].view(np.int64) for run in (one, other)]
    return sides[0] != sides[1]


def _column(run: RunRecord, name: str) -> Floats:
    return run.series[name] if name in run.series else np.full(run.steps.size, math.nan)


def _value(run: RunRecord, what: str, row: int) -> str:
    if what in ("batch", "weights"):
        return (run.batches if what == "batch" else run.weights)[row] or "none"
    return repr(float(_column(run, what)[row]))


def _tensor(one: RunRecord, other: RunRecord, row: int) -> str | None:
    """The first tensor that parts, at this row or the first later one at which any does."""
    names: list[str] = one.header.get("tensors", {}).get("names", [])
    for mine, theirs in zip(one.weights[row:], other.weights[row:], strict=False):
        if mine and theirs and mine != theirs:
            return _section(mine, theirs, names)
    return None


def _section(mine: str, theirs: str, names: list[str]) -> str | None:
    digits = len(mine) // len(names) if names else 0
    for i, name in enumerate(names):
        span = slice(i * digits, (i + 1) * digits)
        if mine[span] != theirs[span]:
            return name
    return None


def _end(one: RunRecord, other: RunRecord) -> Parting | None:
    rows = min(one.steps.size, other.steps.size)
    sides = [f"{run.steps.size} steps, {run.status}" for run in (one, other)]
    if one.steps.size != other.steps.size or one.status != other.status:
        why = "as far as both go, they are the same"
        return Parting(rows, "length", sides[0], sides[1], None, "length", why)
    for name, mine, theirs in (
        ("final weights", one.fingerprint, other.fingerprint),
        ("outcome", canonical_json(one.metrics), canonical_json(other.metrics)),
    ):
        if mine != theirs:
            cause, why = cause_of(one, other, max(rows - 1, 0), "weights")
            return Parting(rows, name, mine, theirs, None, cause, why)
    return None
