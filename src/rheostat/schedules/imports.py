"""Schedules from elsewhere: torch's schedulers, a Python function, a file of values.

Plain functions, found as `rheostat.schedules.from_torch` and so on; no recipe can name them. What
`from_torch` and `from_csv` make is made of components, and can be written into one.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from rheostat.core.errors import InputError
from rheostat.core.schedule import Schedule, Unit
from rheostat.schedules.annealing import constant, cosine, polynomial, ramp
from rheostat.schedules.combinators import join, multiply, until
from rheostat.schedules.decays import exponential
from rheostat.schedules.pieces import ShapeName, multi_step, piecewise, table
from rheostat.schedules.restarts import cosine_restarts
from rheostat.schedules.shapes import Array
from rheostat.schedules.waves import exp_range, one_cycle, triangular, triangular2

_FACTORS = ("ConstantLR", "LinearLR", "StepLR", "MultiStepLR", "ExponentialLR", "PolynomialLR")
"""torch's schedulers that multiply what there is, and so commute in a chain."""


def from_torch(scheduler: Any) -> tuple[Schedule, ...]:
    """The learning rates of a torch scheduler as schedules, one a param group, from its step 0.

    Of ConstantLR, LinearLR, PolynomialLR, ExponentialLR, StepLR, MultiStepLR, CosineAnnealingLR,
    CosineAnnealingWarmRestarts, OneCycleLR, CyclicLR, LambdaLR, and SequentialLR and
    ChainedScheduler of these. Where torch's go on past their horizon (a cosine climbs again), ours
    hold; the momentum that OneCycleLR and CyclicLR move is not in it (one_cycle_momentum).

    Raises:
        InputError: a scheduler without a closed form, such as ReduceLROnPlateau, or one of a user.
    """
    groups = range(len(scheduler.optimizer.param_groups)) if _known(scheduler) else ()
    return tuple(_of_group(scheduler, i, None) for i in groups)


def _known(scheduler: Any) -> bool:
    kind = cast("type[Any]", type(scheduler))
    if kind.__module__ == "torch.optim.lr_scheduler" and kind.__name__ in _READERS:
        return True
    known = ", ".join(_READERS)
    raise InputError(
        f"from_torch: {kind.__name__} has no closed form that is known here; these have: {known}"
    )


def _of_group(scheduler: Any, group: int, base: float | None) -> Schedule:
    """One group's schedule; `base` in the place of its initial learning rate."""
    _known(scheduler)
    initial = float(scheduler.optimizer.param_groups[group]["initial_lr"])
    read = _READERS[type(scheduler).__name__]
    return read(scheduler, group, initial if base is None else base)


def _constant(s: Any, group: int, base: float) -> Schedule:
    del group
    if not s.total_iters:
        return constant(base)
    return piecewise((s.total_iters,), (base * s.factor, base))


def _one_cycle(s: Any, group: int, base: float) -> Schedule:
    del base
    given = s.optimizer.param_groups[group]
    start = float(given["initial_lr"])
    return one_cycle(
        float(given["max_lr"]),
        s.total_steps,
        rise=(s._schedule_phases[0]["end_step"] + 1) / s.total_steps,
        divisor=float(given["max_lr"]) / start,
        final_divisor=start / float(given["min_lr"]),
        shape="linear" if s._anneal_func_type == "linear" else "cosine",
        three_phase=len(s._schedule_phases) == 3,
    )


def _cyclic(s: Any, group: int, base: float) -> Schedule:
    del base
    if s._scale_fn_custom is not None:
        raise InputError("from_torch: CyclicLR with a scale_fn of its own has no form known here")
    rise = round(s.total_size * s.step_ratio)
    if abs(rise - s.total_size * s.step_ratio) > 1e-9 or s.total_size != round(s.total_size):
        raise InputError(
            "from_torch: CyclicLR with steps that are no whole numbers is not imported"
        )
    shape = (float(s.max_lrs[group]), float(s.base_lrs[group]), rise, round(s.total_size) - rise)
    if s.mode == "exp_range":
        return exp_range(*shape, factor=s.gamma)
    return {"triangular": triangular, "triangular2": triangular2}[s.mode](*shape)


def _lambda(s: Any, group: int, base: float) -> Schedule:
    function = cast("Callable[[int], float]", s.lr_lambdas[group])

    def curve(k: Array) -> Array:
        return np.array([base * function(int(step)) for step in k.ravel()]).reshape(k.shape)

    return from_function(curve)


def _sequential(s: Any, group: int, base: float) -> Schedule:
    parts = [_of_group(part, group, base) for part in s._schedulers]
    edges = [0, *s._milestones]
    for i, length in enumerate(b - a for a, b in pairwise(edges)):
        horizon = parts[i].horizon
        if horizon is not None and horizon > length:
            parts[i] = until(parts[i], length)
    return join(tuple(parts), tuple(s._milestones))


def _chained(s: Any, group: int, base: float) -> Schedule:
    for part in s._schedulers:
        name = type(part).__name__
        if name not in _FACTORS and not (name == "CosineAnnealingLR" and part.eta_min == 0):
            raise InputError(f"from_torch: {name} in a chain depends on the ones before it")
    first, *others = s._schedulers
    factors = [_of_group(part, group, 1.0) for part in others]
    return multiply((_of_group(first, group, base), *factors))


_READERS: dict[str, Callable[[Any, int, float], Schedule]] = {
    "ConstantLR": _constant,
    "LinearLR": lambda s, _, base: ramp(base * s.start_factor, base * s.end_factor, s.total_iters),
    "PolynomialLR": lambda s, _, base: polynomial(base, s.total_iters, s.power),
    "ExponentialLR": lambda s, _, base: exponential(base, s.gamma, every=1),
    "StepLR": lambda s, _, base: exponential(base, s.gamma, every=s.step_size, staircase=True),
    "MultiStepLR": lambda s, _, base: multi_step(
        base, tuple(sorted(s.milestones.elements())), s.gamma
    ),
    "CosineAnnealingLR": lambda s, _, base: cosine(base, s.T_max, floor=float(s.eta_min)),
    "CosineAnnealingWarmRestarts": lambda s, _, base: cosine_restarts(
        base, s.T_0, multiplier=s.T_mult, floor=float(s.eta_min)
    ),
    "OneCycleLR": _one_cycle,
    "CyclicLR": _cyclic,
    "LambdaLR": _lambda,
    "SequentialLR": _sequential,
    "ChainedScheduler": _chained,
}


def from_function(
    function: Callable[[Array], ArrayLike], steps: int | None = None, unit: Unit = "updates"
) -> Schedule:
    """A function of yours as a schedule: it takes an array of steps and gives as many values.

    One that can take only a single step is called for each, which is slower. It should depend on
    nothing but the steps, for a resumed run asks again. No recipe can hold it.

    Args:
        function: steps (float64, any shape) -> values of that shape, or one for all.
        steps: the horizon, past which the last value is kept; none by default.
        unit: what the steps count.

    Raises:
        InputError: no function; when evaluated, values of another shape, negative ones or ones not
            finite.
    """
    if not callable(cast("object", function)):
        raise InputError(f"from_function: {function!r}: should be a function of steps")

    def curve(k: Array) -> Array:
        with np.errstate(all="ignore"):  # what is not finite is refused
            try:
                found = function(k)
            except (TypeError, ValueError):  # such as "the truth value of an array …"
                single = cast("Callable[[float], float]", function)
                found = np.array([single(step) for step in k.ravel().tolist()]).reshape(k.shape)
            values = np.asarray(found, dtype=np.float64)
        if values.shape not in ((), k.shape):
            raise InputError(
                f"from_function: gives values of shape {values.shape} at steps of shape {k.shape}"
            )
        wrong = ~((values >= 0) & np.isfinite(values))
        if wrong.any():
            raise InputError(
                f"from_function: gives {values[wrong].flat[0]:g}; should be finite and not negative"
            )
        return np.broadcast_to(values, k.shape)

    return Schedule(curve, horizon=steps, unit=unit)


def from_csv(
    path: str | Path,
    column: str | None = None,
    every: int = 1,
    interpolate: ShapeName | str = "none",
) -> Schedule:
    """A `table` of the values in a CSV file. The schedule holds the values, not the file's name.

    Args:
        path: the file, typed by a person; a recipe holds the values.
        column: its name in the first line; by default the last column, with or without a heading.
        every: steps that one row stands for.
        interpolate: as of `table`.

    Raises:
        InputError: no such file or column, a cell that is no number, or what `table` refuses.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"from_csv: {path}: {error.strerror}") from None
    rows = [row for row in csv.reader(text.splitlines()) if row]
    position = -1
    if column is not None:
        if not rows or column not in rows[0]:
            raise InputError(f"from_csv: {path}: there is no column {column!r} in its first line")
        position = rows[0].index(column)
    headed = column is not None or (bool(rows) and _number(rows[0][-1]) is None)
    values: list[float] = []
    for line, row in list(enumerate(rows, 1))[headed:]:
        cell = row[position] if position < len(row) else ""
        number = _number(cell)
        if number is None:
            raise InputError(f"from_csv: {path}, row {line}: {cell!r} should be a number")
        values.append(number)
    return table(tuple(values), every, cast("Any", interpolate))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
