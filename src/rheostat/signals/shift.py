"""Shifts of a distribution: a level that has moved, and two stretches that differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal
from rheostat.signals.averages import empty, follow, keep

Direction = Literal["up", "down", "both"]
REPORT = "reported."


def _look(of: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a signal of this quantity needs, and wants reported."""
    if not of or of == REPORT:
        raise InputError(f"of={of!r}: should be 'loss', the name of a signal, or 'reported.NAME'")
    if of.startswith(REPORT):
        return (), (of.removeprefix(REPORT),)
    return (() if of == "loss" else (of,)), ()


def _value(of: str, reading: Reading) -> float:
    if of == "loss":
        return reading.loss
    if of.startswith(REPORT):
        return reading.reported[of.removeprefix(REPORT)]
    return reading.signals[of]


@register("signal", "page_hinkley", version=1)
def page_hinkley(
    of: str = "loss",
    direction: Direction = "up",
    slack: NonNegative = 0.5,
    span: Positive = 200.0,
    least: Count = 30,
    every: Count = 1,
) -> Signal:
    """How much evidence has gathered that a level has moved: the Page–Hinkley statistic.

    S ← max(0, S + z − slack), z = (x − mean) / deviation, with mean and deviation averaged over the
    values before, weights falling by e in `span` updates; downwards with −z, "both" is the larger
    of the two. A single value counts for at most 4 deviations, so that it takes more than a spike.
    It is 0 for most of the time while nothing changes; above 20 or so is a shift. It begins anew by
    itself, once the average has followed. NaN for the first `least` values; values that are not
    finite are left out. Unit: standard deviations.
    Source: Page 1954; Hinkley 1971.
    of: "loss", the name of a signal with the same `every`, or "reported.NAME".
    direction: which way it looks.
    slack: deviations that a value may be off without counting.
    span: updates in which weights fall by e.
    least: values before it says anything.
    every: updates from one measurement to the next.
    """
    needs, reported = _look(of)
    factor = keep(span, every)

    def measure(reading: Reading, memory: Memory) -> float:
        value = _value(of, reading)
        if not math.isfinite(value):
            return math.nan
        level, seen = memory["level"], memory["seen"]
        memory["seen"] = seen + 1
        if seen >= least:
            spread = math.sqrt(level["variance"])
            off = value - level["mean"]
            z = max(-4.0, min(4.0, off / spread)) if spread else math.copysign(4.0 * bool(off), off)
            memory["up"] = max(0.0, memory["up"] + z - slack)
            memory["down"] = max(0.0, memory["down"] - z - slack)
        follow(level, value, factor)
        if seen < least:
            return math.nan
        both = max(memory["up"], memory["down"])
        return both if direction == "both" else memory[direction]

    start = {"level": empty(), "seen": 0, "up": 0.0, "down": 0.0}
    return Signal(
        measure,
        unit="standard deviations",
        cost="arithmetic",
        needs=needs,
        reported=reported,
        every=every,
        memory=start,
    )


@register("signal", "kolmogorov_smirnov", version=1)
def kolmogorov_smirnov(
    of: str = "loss", window: Count = 50, stride: Count = 10, every: Count = 1
) -> Signal:
    """The probability that the last values would differ this much from those before by chance.

    The two-sample Kolmogorov–Smirnov test of the newest `window` values against the `window` before
    them: D = max |F − G|, and its exact p-value without ties, after Gnedenko and Korolyuk:
    p = 2 Σₖ (−1)^(k+1) C(2n, n − kh) / C(2n, n), h = nD (with ties it is on the safe side). What
    has a trend differs from its own past, and so does what resembles its neighbours: ask it of
    windows in which training moves little. NaN until both windows are full; values that are not
    finite are left out. Unit: probability.
    Source: Gnedenko & Korolyuk 1951.
    of: "loss", the name of a signal with the same `every`, or "reported.NAME".
    window: values on either side.
    stride: values from one test to the next; in between the value stays.
    every: updates from one measurement to the next.
    """
    needs, reported = _look(of)

    def measure(reading: Reading, memory: Memory) -> float:
        value = _value(of, reading)
        if not math.isfinite(value):
            return math.nan
        values: list[float] = memory["values"]
        values.append(value)
        memory["seen"] += 1
        if len(values) > 2 * window:
            del values[0]
        if len(values) == 2 * window and (memory["p"] is None or memory["seen"] % stride == 0):
            memory["p"] = p_value(distance(values[:window], values[window:]), window)
        return math.nan if memory["p"] is None else memory["p"]

    return Signal(
        measure,
        unit="probability",
        cost="arithmetic; a sort of both windows for each test",
        needs=needs,
        reported=reported,
        every=every,
        memory={"values": [], "seen": 0, "p": None},
    )


def distance(first: Sequence[float], second: Sequence[float]) -> int:
    """n · D of two samples of n: the largest distance of their distributions, in values."""
    marked = sorted([*((x, 1) for x in first), *((x, -1) for x in second)])
    height = largest = 0
    for at, (value, side) in enumerate(marked):
        height += side
        if at + 1 == len(marked) or marked[at + 1][0] != value:
            largest = max(largest, abs(height))
    return largest


def p_value(h: int, n: int) -> float:
    """The probability that nD ≥ h for two samples of n from one continuous distribution."""
    if h == 0:
        return 1.0
    whole = math.comb(2 * n, n)
    terms = sum((-1) ** (k + 1) * math.comb(2 * n, n - k * h) for k in range(1, n // h + 1))
    return min(1.0, 2 * terms / whole)
