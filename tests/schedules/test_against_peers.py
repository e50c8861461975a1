"""Schedules of the same name in optax, run; and in transformers, by the formulas it documents."""

from __future__ import annotations

import math
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


def _hf_cosine(k: int, n: int) -> float:
    # Up to the horizon, for theirs climbs again after it.
    return max(0.0, 0.5 * (1 + math.cos(math.pi * k / n)))


def _hf_hard_restarts(k: int, n: int, cycles: int) -> float:
    part = k / n
    return 0.0 if part >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * (cycles * part % 1))))


def _hf_wsd(k: int, n: int, decay: int, shape: str) -> float:
    if k < n - decay:
        return 1.0
    part = (k - n + decay) / decay
    if part >= 1:
        return 0.0
    if shape == "linear":
        return 1 - part
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * part))
    return 1 - math.sqrt(part)


TRANSFORMERS: dict[str, tuple[Schedule, Callable[[int], float]]] = {
    "linear": (S.linear_to_zero(0.3, steps=400), lambda k: max(0.0, (400 - k) / 400)),
    "cosine": (S.cosine(0.3, steps=400), lambda k: _hf_cosine(min(k, 400), 400)),
    "cosine_with_hard_restarts": (
        S.cosine_restarts(0.3, period=100, steps=400),
        lambda k: _hf_hard_restarts(k, 400, 4),
    ),
    "polynomial": (
        S.polynomial(0.3, steps=400, power=1.5, floor=0.03),
        lambda k: 0.9 * (1 - min(k, 400) / 400) ** 1.5 + 0.1,
    ),
    "inverse_sqrt": (
        S.inverse_sqrt(0.3, timescale=120),
        lambda k: 1 / math.sqrt((k + 120) / 120),
    ),
    **{
        f"warmup_stable_decay, {theirs}": (
            S.wsd(0.3, steps=400, cooldown=0.25, shape=ours),
            lambda k, theirs=theirs: _hf_wsd(k, 400, 100, theirs),
        )
        for theirs, ours in {
            "linear": "linear",
            "cosine": "cosine",
            "1-sqrt": "one_minus_sqrt",
        }.items()
    },
}
"""After their warm-ups, which rise from zero, where ours begin above it."""


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_ours_equals_the_formula_of_transformers(name: str) -> None:
    ours, factor = TRANSFORMERS[name]
    wanted = [0.3 * factor(k) for k in range(500)]
    np.testing.assert_allclose(ours.values(np.arange(500)), wanted, rtol=0, atol=1e-12 * 0.3)
