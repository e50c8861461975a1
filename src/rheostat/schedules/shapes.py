"""What the schedules share: the shapes of a descent, the warm-up, the arithmetic of cycles."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rheostat.core.errors import InputError
from rheostat.core.schedule import Curve, Schedule, Unit

Array: TypeAlias = NDArray[np.float64]
Shape = Callable[[Array], Array]
"""Of a descent, the part of the way that is left -> the part of the height that is left: 1 at 1,
0 at 0, never falling. Written in what is left, a shape loses no digits as it nears its end."""

MOST_CYCLES = 100_000
"""More cycles than this are a mistyped period, and would only fill the memory."""


def cosine_shape(left: Array) -> Array:
    """sin²(π left / 2), which is (1 + cos(π · part done)) / 2 without its cancellation."""
    return np.square(np.sin(0.5 * np.pi * left))


def linear_shape(left: Array) -> Array:
    """A straight line."""
    return left


def sqrt_shape(left: Array) -> Array:
    """1 − √(part done): steep at first, then flat."""
    return left / (1 + np.sqrt(1 - left))


def power_shape(power: float) -> Shape:
    """leftᵖ."""
    return linear_shape if power == 1 else lambda left: np.power(left, power)


ShapeName = Literal["linear", "cosine", "one_minus_sqrt"]
SHAPES: Mapping[str, Shape] = {
    "linear": linear_shape,
    "cosine": cosine_shape,
    "one_minus_sqrt": sqrt_shape,
}


def between(share: Array, top: float | Array, floor: float | Array) -> Array:
    """floor + (top − floor) · share: exactly `floor` at 0 and exactly `top` at 1, and never beyond
    one of them by rounding."""
    if isinstance(floor, float) and not floor:
        return top * share
    height = top - floor
    inside = floor + height * share
    # Where the floor is above the top, the way is up.
    if isinstance(height, float):
        inside = np.minimum(inside, top) if height >= 0 else np.maximum(inside, top)
    else:
        inside = np.clip(inside, np.minimum(top, floor), np.maximum(top, floor))
    return np.where(share < 1, inside, top)


def warmed(curve: Curve, peak: float, warmup: int) -> Curve:
    """`curve` after a linear rise: step k < warmup has peak · (k + 1) / (warmup + 1).

    The rise begins above zero, so that the first update does something, and meets the curve's
    start at step `warmup`.
    """
    if not warmup:
        return curve

    def rising(steps: Array) -> Array:
        rise = peak * (steps + 1) / (warmup + 1)
        return np.where(steps < warmup, rise, curve(np.maximum(steps - warmup, 0)))

    return rising


def annealed(
    name: str, shape: Shape, peak: float, steps: int, warmup: int = 0, floor: float = 0.0
) -> Schedule:
    """One descent of a shape from `peak` to `floor`, over what the warm-up leaves of the horizon.

    Raises InputError for a floor above the peak, or a warm-up that leaves nothing.
    """
    check_warmup(name, warmup, steps)
    check_floor(name, floor, peak)
    length = steps - warmup

    def curve(k: Array) -> Array:
        return between(shape((length - k) / length), peak, floor)

    return Schedule(warmed(curve, peak, warmup), horizon=steps)


@dataclass(frozen=True)
class Cycles:
    """Where cycles begin: at `edges` (ascending, from 0; the last ends the last cycle), or, where
    there are none, every `period` steps. `last` is the number of the last cycle."""

    period: float
    edges: tuple[float, ...] = ()
    last: float = math.inf

    @classmethod
    def growing(
        cls, name: str, period: int, multiplier: float = 1.0, steps: int | None = None
    ) -> Cycles:
        """Cycle i takes period · multiplierⁱ steps, rounded; those that begin before `steps`.

        Raises InputError for more than `MOST_CYCLES` of them.
        """
        end = 2**53 if steps is None else steps
        if steps is not None and steps / period > MOST_CYCLES and multiplier == 1:
            raise _too_many(name, period, steps)
        if multiplier == 1:
            return cls(period, last=math.inf if steps is None else math.ceil(steps / period) - 1)
        edges = [0.0]
        length = float(period)
        while edges[-1] < end:
            if len(edges) > MOST_CYCLES:
                raise _too_many(name, period, end)
            edges.append(edges[-1] + round(length))
            length = min(length * multiplier, float(end))
        return cls.at(edges)

    @classmethod
    def at(cls, edges: list[float]) -> Cycles:
        """Cycles that begin at all edges but the last, where the last of them ends."""
        return cls(edges[1], tuple(edges), len(edges) - 2)

    def locate(self, k: Array) -> tuple[Array, Array, Array | float]:
        """The number, start and length of the cycle that each step is in; beyond the last, that."""
        if not self.edges:
            number = np.minimum(np.floor(k / self.period), self.last)
            return number, number * self.period, self.period
        starts, lengths = self._arrays
        number = np.searchsorted(starts, k, side="right") - 1
        return number.astype(np.float64), starts[number], lengths[number]

    @cached_property
    def _arrays(self) -> tuple[Array, Array]:
        """Starts and lengths."""
        edges = np.array(self.edges)
        return edges[:-1], np.diff(edges)

    def start_after(self, step: float) -> float:
        """The first start of a cycle after a step; inf where there is none."""
        if not self.edges:
            number = math.floor(step / self.period) + 1
            return number * self.period if number <= self.last else math.inf
        number = bisect.bisect_right(self.edges, step)
        return self.edges[number] if number <= self.last else math.inf

    @property
    def shortest(self) -> float:
        """The length of the shortest cycle."""
        return float(np.diff(self.edges).min()) if self.edges else self.period


def first_reaching(
    target: float, near: float, unit: Unit, inner: Callable[[float], float]
) -> float:
    """The first step at which a rising `inner` has reached `target`, exactly as it is computed.

    `near` is that step but for rounding; in updates it is a whole one.
    """
    if math.inf in (target, near):
        return math.inf
    if unit == "updates":
        step = max(math.floor(near) - 1, 0)
        while inner(step) < target:
            step += 1
        return step
    while inner(near) < target:
        near = math.nextafter(near, math.inf)
    while near > 0 and inner(before := math.nextafter(near, 0)) >= target:
        near = before
    return near


def powers(base: float, exponents: Array) -> Array | float:
    """base ^ exponents for whole exponents ≥ 0 and 0 < base ≤ 1."""
    if base == 1:
        return 1.0
    low, high = float(exponents.min()), float(exponents.max())
    if high - low < len(exponents):
        return np.power(base, np.arange(low, high + 1))[(exponents - low).astype(np.intp)]
    return np.power(base, exponents)


def by_piece(edges: Array, k: Array, value: Callable[[int, Array], Array]) -> Array:
    """`value(i, steps)` for the steps from edges[i] on and before the next; for a few pieces."""
    piece = np.searchsorted(edges, k, side="right") - 1
    first, last = int(piece.min()), int(piece.max())
    if first == last:
        return value(first, k)
    values = np.empty_like(k)
    for i in range(first, last + 1):
        here = piece == i
        values[here] = value(i, k[here])
    return values


def check_warmup(name: str, warmup: int, steps: int) -> None:
    """Raise InputError where the warm-up leaves nothing of the horizon."""
    if warmup >= steps:
        raise InputError(f"{name}: warmup={warmup} leaves nothing of the horizon of {steps} steps")


def check_floor(name: str, floor: float, peak: float) -> None:
    """Raise InputError for a floor above the peak."""
    if floor > peak:
        raise InputError(f"{name}: floor={floor:g} is above peak={peak:g}")


def _too_many(name: str, period: int, steps: int) -> InputError:
    return InputError(
        f"{name}: period={period} gives more than {MOST_CYCLES} cycles in {steps} steps; a longer "
        "period or a larger multiplier is needed"
    )
