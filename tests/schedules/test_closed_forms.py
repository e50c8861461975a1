"""Values against mpmath at 50 digits: tails, and steps far out that nothing led up to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

import rheostat as rs
from rheostat.core.schedule import Schedule

S = rs.schedules
N = 10_000_000
M = mpmath.mpf


def _cosine(k: int, n: int = N) -> Any:
    return (1 + mpmath.cos(mpmath.pi * k / n)) / 2


FORMS: dict[str, tuple[Schedule, Callable[[int], Any]]] = {
    "cosine": (S.cosine(1.0, steps=N), _cosine),
    "linear": (S.linear(1.0, steps=N), lambda k: 1 - M(k) / N),
    "polynomial": (S.polynomial(1.0, steps=N, power=1.5), lambda k: (1 - M(k) / N) ** M("1.5")),
    "rex": (S.rex(1.0, steps=N), lambda k: (1 - M(k) / N) / (M(1) / 2 + (1 - M(k) / N) / 2)),
    "tanh": (S.tanh(1.0, steps=N), lambda k: (1 - mpmath.tanh(-6 + 9 * M(k) / N)) / 2),
    "exponential": (
        S.exponential(1.0, factor=1e-6, steps=N),
        lambda k: M(1e-6) ** (M(k) / N),
    ),
    "inverse_sqrt": (
        S.inverse_sqrt(1.0, timescale=1000),
        lambda k: mpmath.sqrt(M(1000) / (1000 + k)),
    ),
    "power": (
        S.power(1.0, scale=100.0),
        lambda k: min(M(1), 100 * M(max(k, 1)) ** M(-0.51)),
    ),
    "wsd": (
        S.wsd(1.0, steps=N, cooldown=0.5, shape="one_minus_sqrt"),
        lambda k: M(1) if k < N // 2 else 1 - mpmath.sqrt(M(k - N // 2) / (N // 2)),
    ),
    "cosine_restarts": (
        S.cosine_restarts(1.0, period=1000, decay=0.999),
        lambda k: M(0.999) ** (k // 1000) * _cosine(k % 1000, 1000),
    ),
    "cosine_restarts, growing": (
        S.cosine_restarts(1.0, period=1, multiplier=2, steps=2**24 - 1),
        # Cycle i has 2ⁱ steps and begins at 2ⁱ − 1.
        lambda k: _cosine(k + 1 - 2 ** ((k + 1).bit_length() - 1), 2 ** ((k + 1).bit_length() - 1)),
    ),
    "triangular2": (
        S.triangular2(1.0, rise=250),
        lambda k: (1 - abs(M(k % 500) / 250 - 1)) / 2 ** (k // 500),
    ),
}


def _steps() -> list[int]:
    random = np.random.default_rng(0).integers(0, N, 300).tolist()
    return [*range(12), *random, *(N - k for k in (1, 2, 3, 10, 1000))]


@pytest.mark.parametrize("name", FORMS)
def test_the_value_at_any_step_is_that_of_the_closed_form(name: str) -> None:
    schedule, form = FORMS[name]
    steps = _steps()
    with mpmath.workdps(50):
        exact = np.array([float(form(k)) for k in steps])
    found = schedule.values(steps)
    # Relative to the value itself, in the tails too, until it is too small for float64.
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-290)


def test_the_ends_are_exact() -> None:
    for make in (S.cosine, S.linear, S.polynomial, S.rex, S.wsd):
        schedule = make(0.3, steps=N, floor=0.003)
        assert schedule(N) == 0.003
        assert schedule(0) == pytest.approx(0.3, rel=1e-15)
        assert make(0.3, steps=N)(N) == 0.0
