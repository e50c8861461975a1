"""The strong Wolfe search: what it returns satisfies the conditions, wherever that can be had."""

from __future__ import annotations

import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from rheostat.transforms.line_search import Point, strong_wolfe

Line = tuple[Callable[[float], float], Callable[[float], float]]
"""A loss along the line, and its slope."""

LINES: list[Line] = [
    (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1)),
    (lambda t: t**4 - 3 * t**2 - t, lambda t: 4 * t**3 - 6 * t - 1),
    (lambda t: math.cos(3 * t) - t / 5 + t**2 / 50, lambda t: -3 * math.sin(3 * t) - 0.2 + t / 25),
    (lambda t: math.exp(min(t, 700)) - 5 * t, lambda t: math.exp(min(t, 700)) - 5),
    (lambda t: abs(t - 2.5), lambda t: math.copysign(1.0, t - 2.5)),
    (lambda t: math.inf if t > 1 else t**2 - t, lambda t: math.nan if t > 1 else 2 * t - 1),
]


def _search(line: Line, t: float, limit: int) -> tuple[Point, int, Point, list[float]]:
    loss, slope = line
    seen: list[float] = []

    def at(t: float) -> Point:
        seen.append(t)
        return Point(t, loss(t), slope(t), [])

    start = Point(0.0, loss(0.0), slope(0.0), [])
    found, used = strong_wolfe(at, start, t, reach=1.0, tolerance_change=1e-12, limit=limit)
    return found, used, start, seen


@given(st.sampled_from(LINES), st.floats(1e-4, 1e4))
def test_the_point_satisfies_the_conditions(line: Line, t: float) -> None:
    found, used, start, seen = _search(line, t, limit=100)
    assert used == len(seen)
    assert found.t in seen
    assert found.loss <= start.loss + 1e-4 * found.t * start.slope + 1e-12
    if line is not LINES[4]:  # at a kink there is no flat slope
        assert abs(found.slope) <= 0.9 * abs(start.slope)


@given(st.sampled_from(LINES), st.floats(1e-4, 1e4), st.integers(0, 5))
def test_it_looks_no_further_than_it_may_and_never_returns_worse(
    line: Line, t: float, limit: int
) -> None:
    found, used, start, seen = _search(line, t, limit)
    assert used == len(seen) <= limit + 1
    assert found.loss <= start.loss


def test_a_line_that_falls_for_ever_is_followed_by_tenfold_steps() -> None:
    found, _, _, seen = _search((lambda t: -t, lambda t: -1.0), 1.0, limit=4)
    assert seen == [1.0, 10.0, 100.0, 1e3, 1e4]
    assert found.t == 1e4
