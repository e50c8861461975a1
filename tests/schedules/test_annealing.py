"""Descents, waves and plateaus: their promises at every setting, and what their cards say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rheostat as rs

S = rs.schedules
PEAKS = st.floats(1e-6, 10.0)
HORIZONS = st.integers(2, 3000)

DESCENTS: dict[str, dict[str, Any]] = {
    "cosine": {},
    "linear": {},
    "polynomial": {"power": 0.7},
    "rex": {},
    "wsd": {"shape": "one_minus_sqrt", "cooldown": 0.01},
}
FAMILIES = pytest.mark.parametrize("name", DESCENTS)


@FAMILIES
@settings(max_examples=40)
@given(peak=PEAKS, steps=HORIZONS, share=st.floats(0, 1), data=st.data())
def test_it_rises_to_its_peak_falls_to_its_floor_and_stays(
    name: str, peak: float, steps: int, share: float, data: st.DataObject
) -> None:
    room = steps - 1 - steps // 50
    warmup = data.draw(st.integers(0, max(room, 0)))
    floor = peak * share
    schedule = getattr(S, name)(peak, steps=steps, warmup=warmup, floor=floor, **DESCENTS[name])
    values = schedule.values(np.arange(steps + 10))
    assert values[0] > 0
    assert (np.diff(values[: warmup + 1]) > 0).all()
    assert values[warmup] == values.max() == peak
    assert (np.diff(values[warmup:]) <= 0).all()
    assert (values[warmup:] >= floor).all()
    assert (values[steps:] == floor).all()


@FAMILIES
def test_a_descent_has_no_jumps(name: str) -> None:
    schedule = getattr(S, name)(1.0, steps=200, warmup=20, floor=0.1, **DESCENTS[name])
    fine = np.linspace(19, 210, 200_001)
    # A power below 1, and 1 − √, are continuous but steep at an end.
    assert np.abs(np.diff(schedule.values(fine))).max() < 0.06


@settings(max_examples=40)
@given(PEAKS, st.integers(0, 500), st.floats(0, 1))
def test_decays_without_an_end_fall_for_ever_and_keep_their_floor(
    peak: float, warmup: int, share: float
) -> None:
    steps = np.unique(np.geomspace(warmup + 1, 2**53, 400).round())
    for schedule in (
        S.inverse_sqrt(peak, warmup=warmup, floor=peak * share),
        S.exponential(peak, factor=0.5, every=100, warmup=warmup, floor=peak * share),
        S.power(peak, scale=1.0, warmup=warmup, floor=peak * share),
    ):
        assert schedule.horizon is None
        values = schedule.values(steps)
        assert values.max() <= peak
        assert (np.diff(values) <= 0).all()
        assert peak * share <= values[-1] <= max(peak * share, 2e-5)


def test_step_drops_at_fractions_of_the_horizon_whatever_its_warm_up() -> None:
    schedule = S.step(0.4, steps=99, drops=(0.5, 0.75), factor=0.5, warmup=9)
    values = schedule.values(np.arange(120))
    assert np.flatnonzero(np.diff(values) < 0).tolist() == [49, 74]
    assert values[[9, 49, 50, 75, 119]] == pytest.approx([0.4, 0.4, 0.2, 0.1, 0.1])


def test_piecewise_and_table_have_the_values_that_were_given() -> None:
    constant = S.piecewise((10, 20), (0.1, 0.3, 0.2))
    assert constant.values([0, 9, 10, 19, 20, 99]).tolist() == [0.1, 0.1, 0.3, 0.3, 0.2, 0.2]
    for shape in ("linear", "cosine", "one_minus_sqrt"):
        through = S.piecewise((10, 20), (0.1, 0.3, 0.2), interpolate=shape)
        assert through.values([0, 10, 20, 99]) == pytest.approx([0.1, 0.3, 0.2, 0.2])
        table = S.table((0.1, 0.3, 0.2), every=10, interpolate=shape)
        assert (table.values(np.arange(40)) == through.values(np.arange(40))).all()
    plain = S.table((0.1, 0.3, 0.2), every=10)
    assert plain.values([0, 9, 10, 19, 20, 99]).tolist() == [0.1, 0.1, 0.3, 0.3, 0.2, 0.2]
    assert S.table((0.1,))(7) == 0.1


def test_one_cycle_and_its_momentum_turn_in_the_same_step() -> None:
    rate = S.one_cycle(0.3, steps=500).values(np.arange(500))
    momentum = S.one_cycle_momentum(steps=500).values(np.arange(500))
    assert rate.argmax() == momentum.argmin() == 149
    assert (np.diff(rate) * np.diff(momentum) <= 0).all()
    assert rate[[0, 499]] == pytest.approx([0.3 / 25, 0.3 / 250_000])
    assert momentum[[0, 149, 499]] == pytest.approx([0.95, 0.85, 0.95])


def test_waves_are_continuous_and_stay_within_their_bounds() -> None:
    fine = np.linspace(0, 2000, 200_001)
    for schedule in (
        S.triangular(0.3, floor=0.01, rise=40, fall=70),
        S.triangular2(0.3, floor=0.01, rise=40, fall=70),
        S.exp_range(0.3, floor=0.01, rise=40, fall=70, factor=0.999),
    ):
        values = schedule.values(fine)
        assert np.abs(np.diff(values)).max() < 0.29 / 40 * 0.0101
        assert values.min() >= 0.01 - 1e-15
        assert values.max() <= 0.3
        assert schedule.restarts == ()


def test_the_power_schedule_is_the_least_of_its_three_parts() -> None:
    steps = np.arange(1, 5000)
    schedule = S.power(0.02, scale=0.5, exponent=-0.51, warmup=100)
    least = np.minimum(0.5 * steps**-0.51, 0.02 * np.minimum((steps + 1) / 101, 1))
    np.testing.assert_allclose(schedule.values(steps), least, rtol=1e-13)
