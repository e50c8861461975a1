"""Schedules of the same name in optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optax
import pytest
from tests.references.schedules import optax_values

import rheostat as rs
from rheostat.core.schedule import Schedule

S = rs.schedules

OPTAX: dict[str, tuple[Schedule, Callable[[], Any]]] = {
    "constant": (S.constant(0.3), lambda: optax.constant_schedule(0.3)),
    "ramp": (S.ramp(0.3, 0.1, steps=500), lambda: optax.linear_schedule(0.3, 0.1, 500)),
    "linear": (S.linear(0.3, steps=500), lambda: optax.linear_schedule(0.3, 0.0, 500)),
    "polynomial": (
        S.polynomial(0.3, steps=500, power=1.7, floor=0.01),
        lambda: optax.polynomial_schedule(0.3, 0.01, 1.7, 500),
    ),
    "cosine": (
        S.cosine(0.3, steps=500, floor=0.03),
        lambda: optax.cosine_decay_schedule(0.3, 500, alpha=0.1),
    ),
    "exponential": (
        S.exponential(0.3, factor=0.5, every=70, floor=0.01),
        lambda: optax.exponential_decay(0.3, 70, 0.5, end_value=0.01),
    ),
    "exponential, staircase": (
        S.exponential(0.3, factor=0.5, every=70, staircase=True),
        lambda: optax.exponential_decay(0.3, 70, 0.5, staircase=True),
    ),
    "multi_step": (
        S.multi_step(0.3, milestones=(100, 300), factor=0.5),
        lambda: optax.piecewise_constant_schedule(0.3, {100: 0.5, 300: 0.5}),
    ),
    "piecewise, linear": (
        S.piecewise((100, 300), (0.3, 0.15, 0.45), interpolate="linear"),
        lambda: optax.piecewise_interpolate_schedule("linear", 0.3, {100: 0.5, 300: 3.0}),
    ),
    "piecewise, cosine": (
        S.piecewise((100, 300), (0.3, 0.15, 0.45), interpolate="cosine"),
        lambda: optax.piecewise_interpolate_schedule("cosine", 0.3, {100: 0.5, 300: 3.0}),
    ),
    "join": (
        S.join((S.ramp(0.0, 0.3, steps=50), S.cosine(0.3, steps=300), S.constant(0.01))),
        lambda: optax.join_schedules(
            [
                optax.linear_schedule(0.0, 0.3, 50),
                optax.cosine_decay_schedule(0.3, 300),
                optax.constant_schedule(0.01),
            ],
            [50, 350],
        ),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_ours_equals_optax_over_the_horizon_and_past_it(name: str) -> None:
    ours, make = OPTAX[name]
    wanted = optax_values(make, 600)
    np.testing.assert_allclose(ours.values(np.arange(600)), wanted, rtol=0, atol=1e-12 * 0.3)


def test_a_warm_up_differs_from_optax_by_its_first_step_alone() -> None:
    # Theirs rises from `init_value`: with 0 the first update does nothing. Ours: peak / (n + 1).
    theirs = optax_values(lambda: optax.warmup_cosine_decay_schedule(0.0, 0.3, 50, 500), 600)
    ours = S.cosine(0.3, steps=500, warmup=50).values(np.arange(600))
    np.testing.assert_allclose(ours[50:], theirs[50:], rtol=0, atol=1e-12 * 0.3)
    np.testing.assert_allclose(ours[:50], 0.3 * np.arange(1, 51) / 51, rtol=1e-15)
    started = optax_values(lambda: optax.warmup_cosine_decay_schedule(0.3 / 51, 0.3, 50, 500), 600)
    np.testing.assert_allclose(ours, started, rtol=0, atol=1e-12 * 0.3)


def test_one_cycle_rises_as_optax_and_falls_over_one_step_less() -> None:
    theirs = optax_values(
        lambda: optax.cosine_onecycle_schedule(500, 0.3, pct_start=0.3, final_div_factor=1e4), 500
    )
    ours = S.one_cycle(0.3, steps=500).values(np.arange(500))
    assert ours[149] == theirs[150] == 0.3
    assert ours[0] == pytest.approx(theirs[0], rel=1e-15)
