"""The Schedule shape: a pure function of progress.

It sees a count and nothing else, so that a checkpoint needs only that. The count is of applied
updates, from 0, unless the schedule declares another unit: update k runs with `schedule(k)`.
Values are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal, SupportsFloat, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rheostat.core.errors import InputError
from rheostat.core.preview import WHOLE, Preview

Array: TypeAlias = NDArray[np.float64]
Curve = Callable[[Array], Array]
Unit = Literal["updates", "samples", "tokens", "epochs", "fraction"]
"""What a schedule counts. "fraction" is that of a budget of wall-clock time, from 0 to 1."""
Past = Literal["hold", "raise"]
"""What a schedule does past its horizon: keep the value it has there, or refuse."""
BLOCK = 2**14
"""Steps that a curve is asked for at a time: what it computes on the way stays in the cache."""
Marks: TypeAlias = tuple[tuple[float, str], ...]
"""Steps, and what happens there."""
SAMPLES = 256
"""Steps at which a schedule is held against the range of a hyperparameter before it runs."""
StateAction = Literal["keep", "reset", "decay", "reset_first_moment"]
"""What becomes of the optimizer's state at a restart."""


@dataclass(frozen=True)
class Origin:
    """Which registered component made an object, and with what: enough to write it down."""

    component: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class StatePolicy:
    """What the loop does to the optimizer's state at each restart of a schedule.

    `factor` is what "decay" multiplies the moments by; the other actions do not look at it.
    """

    action: StateAction = "keep"
    factor: float = 0.5


@dataclass(frozen=True)
class Restart:
    """The beginning of a cycle: where, which one (the first, at step 0, is no restart: this counts
    from 1), how long until the next or the horizon (None: for ever), and the jump.

    `before` is the value at the step before; in a unit that is finer than an update, the limit.
    """

    step: float
    cycle: int
    length: float | None
    before: float
    after: float

    @property
    def ratio(self) -> float | None:
        """after / before; None where `before` is 0."""
        return self.after / self.before if self.before else None


def never(step: float) -> float:
    """The `starts` of a schedule without restarts."""
    del step
    return math.inf


@dataclass(frozen=True, repr=False)
class Schedule:
    """A hyperparameter's value as a function of progress.

    `curve` maps an array of steps (float64, any shape) to values of the same shape, each step by
    itself.
    `horizon` is the number of steps it was planned for, None where it has none, and `past` what it
    does beyond. `starts` gives the first step after a given one at which a cycle begins (inf where
    there is none), and `at_restart` what becomes of the optimizer's state there. `unit` is what
    steps count. `base` is the value that it multiplies, where others may write another one.
    `marks` are steps worth knowing of besides (a drop, the beginning of a cool-down). `fault` says
    what is wrong with a value, None where nothing is: of the hyperparameter that it was given to.
    Schedules of one unit add and multiply: `a + b`, `a * b`, `0.5 * a`.
    """

    curve: Curve
    horizon: int | None = None
    starts: Callable[[float], float] = never
    unit: Unit = "updates"
    past: Past = "hold"
    at_restart: StatePolicy = StatePolicy()
    base: float | None = None
    marks: Marks = ()
    fault: Callable[[float], str | None] | None = field(default=None, compare=False)
    origin: Origin | None = field(default=None, compare=False)

    def __call__(self, step: float) -> float:
        """The value at one step; the same bits as `values` gives there."""
        return float(self.values(np.array([step], dtype=np.float64))[0])

    def values(self, steps: ArrayLike) -> Array:
        """The values at an array of steps (each ≥ 0).

        Raises:
            InputError: a step that is negative or no number; one past the horizon, where `past` is
                "raise".
        """
        array = np.asarray(steps, dtype=np.float64)
        if not array.size:
            return array
        if not array.min() >= 0:
            raise InputError(f"a schedule begins at step 0; asked for step {array.min():g}")
        if self.horizon is not None:
            if self.past == "raise" and array.max() > self.horizon:
                raise InputError(
                    f"this schedule ends at {self.horizon} {self.unit} and raises beyond; asked "
                    f"for {array.max():g}"
                )
            array = np.minimum(array, self.horizon)
        if array.size <= BLOCK:
            return np.asarray(self.curve(array), dtype=np.float64)
        steps = array.ravel()
        found = np.empty_like(steps)
        for start in range(0, len(steps), BLOCK):
            found[start : start + BLOCK] = self.curve(steps[start : start + BLOCK])
        return found.reshape(array.shape)

    def extremes(self) -> tuple[tuple[float, float], ...]:
        """The steps where it is lowest and highest, each with its value: of some hundreds of steps
        up to the horizon, restarts and named steps with both their sides among them. Without a
        horizon it looks as far as steps are named, or at step 0 alone."""
        last = max((step for step, _ in self.marks), default=0.0)
        end, whole = last if self.horizon is None else float(self.horizon), self.unit in WHOLE
        grid = np.linspace(0, end, int(min(end, SAMPLES)) + 1 if whole or not end else SAMPLES)
        named = [side for step, _ in self.marks if step <= end for side in (max(step - 1, 0), step)]
        following = self.next_restart(0)
        while following <= end and len(named) < SAMPLES:
            named.append(following)
            following = self.next_restart(following)
        steps = np.concatenate([np.rint(grid) if whole else grid, np.array(named)])
        values = self.values(steps)
        lowest, highest = int(values.argmin()), int(values.argmax())
        return tuple((float(steps[i]), float(values[i])) for i in (lowest, highest))

    def next_restart(self, after: float) -> float:
        """The first restart after a step and before the horizon; inf where there is none.

        `next_restart(k - 1) == k` says that update k begins a cycle.
        """
        step = self.starts(after)
        return math.inf if self.horizon is not None and step >= self.horizon else step

    @property
    def restarts(self) -> tuple[int, ...]:
        """The steps, rounded up to whole ones, at which a cycle begins, within the horizon.

        Raises InputError where they have no end; `restart_events(before=…)` lists those up to one.
        """
        return tuple(math.ceil(step) for step in self._restarts(None))

    def restart_events(
        self, before: float | None = None, *, after: float = 0, cycle: int = 1
    ) -> tuple[Restart, ...]:
        """Every restart after one step and before another, with its cycle, length and jump.

        Args:
            before: by default the horizon.
            after: only those behind this step; who knows their number need not list the others.
            cycle: the number of the first.

        Raises:
            InputError: they have no end, and no step was given.
        """
        steps = list(self._restarts(before, after))
        whole = self.unit == "updates"
        sides = [step - 1 if whole else math.nextafter(step, 0) for step in steps]
        low, high = self.values(sides), self.values(steps)
        return tuple(
            Restart(_tidy(step), cycle + i, self._length(step), float(low[i]), float(high[i]))
            for i, step in enumerate(steps)
        )

    def _restarts(self, before: float | None, after: float = 0) -> Iterator[float]:
        if before is None and self.horizon is None and self.next_restart(0) < math.inf:
            raise InputError(
                "this schedule restarts for ever; give it a horizon (steps=…), or ask for "
                "restart_events(before=…)"
            )
        step = self.next_restart(after)
        while step < (math.inf if before is None else before):
            yield step
            step = self.next_restart(step)

    def _length(self, step: float) -> float | None:
        end = self.next_restart(step)
        if end == math.inf and self.horizon is not None:
            end = self.horizon
        return None if end == math.inf else _tidy(end - step)

    def preview(
        self,
        steps: int | None = None,
        *,
        beside: Schedule | None = None,
        usual: tuple[float, float] | None = None,
        title: str = "schedule",
    ) -> Preview:
        """What it does in a run of so many steps, to print or to draw.

        Args:
            steps: the length of the run, in the schedule's unit; by default the horizon.
            beside: another one to draw with it, such as the plan that this one changes.
            usual: the usual range of the hyperparameter; a value outside is warned of.
            title: what is scheduled.

        Raises:
            InputError: no length and no horizon; `beside` counts something else.
        """
        length = self.horizon if steps is None else steps
        if length is None or length < 1:
            raise InputError(f"preview: steps={length}: give the length of the run, from 1 on")
        if beside is not None:
            shared_unit("preview", (self, beside))
        end = math.inf if self.horizon is None else self.horizon
        return Preview(
            title=title,
            unit=self.unit,
            steps=length,
            values=self.values,
            horizon=self.horizon,
            restarts=tuple(r.step for r in self.restart_events(before=length)),
            marks=tuple(mark for mark in self.marks if mark[0] <= end),
            constant=_is_constant(self),
            beside=beside and beside.values,
            usual=usual,
        )

    def written(self) -> dict[str, Any]:
        """It as a recipe writes it: `{"schedule": "cosine@1", "peak": 0.1, …}`.

        Raises:
            InputError: it was made of a Python function, which no file can hold.
        """
        return cast("dict[str, Any]", _plain(self))

    def stamped(self, component: str, arguments: Mapping[str, Any], numbers: set[str]) -> Schedule:
        """This schedule, marked with the component that made it."""
        del numbers  # a schedule has no hyperparameters of its own to publish
        return replace(self, origin=Origin(component, arguments))

    def __repr__(self) -> str:
        if self.origin is None:
            return f"<a schedule of the function {getattr(self.curve, '__qualname__', self.curve)}>"
        given = self.origin.arguments.items()
        said = ", ".join(f"{name}={value!r}" for name, value in given if value is not None)
        return f"{self.origin.component.partition('@')[0]}({said})"

    def __add__(self, other: object) -> Schedule:
        if not isinstance(other, Schedule):
            return NotImplemented
        return total((self, other)).stamped("add@1", {"schedules": (self, other)}, set())

    def __mul__(self, other: Schedule | float) -> Schedule:
        if isinstance(other, Schedule):
            pair = (self, other)
            return product(pair).stamped("multiply@1", {"schedules": pair}, set())
        if not isinstance(cast("object", other), SupportsFloat):
            return NotImplemented
        factor = float(other)
        return scaled(self, factor).stamped("scale@1", {"of": self, "factor": factor}, set())

    __rmul__ = __mul__

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """An argument of this type takes a Schedule as it is."""
        del source, handler
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        """In a file it is a mapping that names one; the recipe's schema says which there are."""
        del schema, handler
        return {"type": "object", "required": ["schedule"]}


def total(schedules: Sequence[Schedule]) -> Schedule:
    """The sum. Raises InputError for units or restart policies that differ."""
    return _together("add", schedules, np.add)


def product(schedules: Sequence[Schedule]) -> Schedule:
    """The product. Raises InputError for units or restart policies that differ."""
    return _together("multiply", schedules, np.multiply)


def scaled(of: Schedule, factor: float) -> Schedule:
    """The schedule times a number. Raises InputError for one that is negative or not finite."""
    if not 0 <= factor < math.inf:
        raise InputError(f"scale: factor={factor:g}: should be finite and not negative")

    def curve(k: Array) -> Array:
        return factor * of.values(k)

    return replace(of, curve=curve)


def _together(
    name: str, schedules: Sequence[Schedule], operation: Callable[[Array, Array], Array]
) -> Schedule:
    horizons = [s.horizon for s in schedules if s.horizon is not None]
    return Schedule(
        lambda k: reduce(operation, (s.values(k) for s in schedules)),
        # One that goes on for ever makes the whole go on for ever.
        horizon=max(horizons) if len(horizons) == len(schedules) else None,
        starts=lambda k: min(s.next_restart(k) for s in schedules),
        unit=shared_unit(name, schedules),
        at_restart=shared_policy(name, schedules),
        marks=tuple(mark for s in schedules for mark in s.marks),
    )


def _is_constant(schedule: Schedule) -> bool:
    """Whether it was made to stay as it is, as far as its making tells."""
    if schedule.origin is None:
        return True
    inner = _within(list(schedule.origin.arguments.values()))
    return all(map(_is_constant, inner)) if inner else schedule.origin.component == "constant@1"


def _within(value: Any) -> list[Schedule]:
    if isinstance(value, tuple | list):
        return [found for part in cast("Sequence[Any]", value) for found in _within(part)]
    return [value] if isinstance(value, Schedule) else []


def shared_unit(name: str, schedules: Iterable[Schedule]) -> Unit:
    """The unit that all of them count in. Raises InputError where they differ."""
    units: list[Unit] = list(dict.fromkeys(s.unit for s in schedules))
    if len(units) > 1:
        raise InputError(
            f"{name}: schedules: one counts {units[0]}, another {units[1]}; convert one of them "
            "with in_unit"
        )
    return units[0]


def shared_policy(name: str, schedules: Iterable[Schedule]) -> StatePolicy:
    """The restart policy of those that restart. Raises InputError where they differ."""
    policies = list(dict.fromkeys(s.at_restart for s in schedules if s.starts is not never))
    if len(policies) > 1:
        actions = " and ".join(repr(policy.action) for policy in policies[:2])
        raise InputError(f"{name}: schedules: their restarts differ in `state`, {actions}")
    return policies[0] if policies else StatePolicy()


def _tidy(count: float) -> float:
    """A whole count as a whole number."""
    return int(count) if float(count).is_integer() else count


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        if value.origin is None:
            raise InputError(
                "a schedule made of a Python function cannot be written down; table(values=…) can"
            )
        given = value.origin.arguments
        plain = {name: _plain(part) for name, part in given.items() if part is not None}
        return {"schedule": value.origin.component, **plain}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in cast("Sequence[Any]", value)]
    return value
