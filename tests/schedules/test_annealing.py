"""The schedules against closed forms, torch's schedulers, and their own promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.schedule import Schedule

PEAKS = st.floats(1e-6, 10.0)
HORIZONS = st.integers(2, 5000)


def _torch_values(make: type, steps: int, **arguments: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = make(optimizer, **arguments)
    values: list[float] = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_cosine_equals_torch_and_the_formula() -> None:
    ours = rs.schedules.cosine(0.3, steps=500, floor=0.01).values(np.arange(501))
    lr_scheduler = torch.optim.lr_scheduler
    theirs = _torch_values(lr_scheduler.CosineAnnealingLR, 501, T_max=500, eta_min=0.01)
    formula = [0.01 + 0.29 * (1 + math.cos(math.pi * k / 500)) / 2 for k in range(501)]
    np.testing.assert_allclose(ours, formula, rtol=0, atol=0.3e-12)
    # torch's is a recursion, which drifts (pytorch #20086): 1e-12 of the peak is out of its reach.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)


def test_restarts_equal_torch() -> None:
    ours = rs.schedules.cosine_restarts(0.3, steps=700, period=100, multiplier=2, floor=0.01)
    lr_scheduler = torch.optim.lr_scheduler
    theirs = _torch_values(
        lr_scheduler.CosineAnnealingWarmRestarts, 700, T_0=100, T_mult=2, eta_min=0.01
    )
    np.testing.assert_allclose(ours.values(np.arange(700)), theirs, rtol=0, atol=1e-12)
    assert ours.restarts == (100, 300)


def test_step_equals_torch() -> None:
    ours = rs.schedules.step(0.3, steps=100, drops=(0.5, 0.75), factor=0.1)
    theirs = _torch_values(
        torch.optim.lr_scheduler.MultiStepLR, 100, milestones=[50, 75], gamma=0.1
    )
    np.testing.assert_allclose(ours.values(np.arange(100)), theirs, rtol=1e-14)


@given(PEAKS, HORIZONS, st.floats(0, 1))
def test_cosine_falls_from_its_peak_to_its_floor_and_stays(
    peak: float, steps: int, share: float
) -> None:
    schedule = rs.schedules.cosine(peak, steps=steps, floor=peak * share)
    values = schedule.values(np.arange(steps + 10))
    assert values[0] == pytest.approx(peak, rel=1e-15)
    assert (np.diff(values) <= 0).all()
    assert (values[steps:] == peak * share).all()


@given(PEAKS, HORIZONS, st.data())
def test_warmup_rises_from_above_zero_and_meets_the_curve(
    peak: float, steps: int, data: st.DataObject
) -> None:
    warmup = data.draw(st.integers(0, steps - 1))
    for schedule in (
        rs.schedules.cosine(peak, steps=steps, warmup=warmup),
        rs.schedules.constant(peak, warmup=warmup),
    ):
        values = schedule.values(np.arange(steps))
        assert values[0] > 0
        assert (np.diff(values[: warmup + 1]) > 0).all()
        assert values[warmup] == pytest.approx(peak, rel=1e-15)
        assert values.max() <= peak * (1 + 1e-15)


@given(st.integers(1, 50), st.floats(1, 3), st.integers(1, 2000), st.floats(0.2, 1.0))
def test_restarts_begin_at_their_peaks_and_nowhere_else(
    period: int, multiplier: float, steps: int, decay: float
) -> None:
    schedule = rs.schedules.cosine_restarts(
        1.0, steps=steps, period=period, multiplier=multiplier, decay=decay
    )
    values = schedule.values(np.arange(steps))
    rises = [int(k) + 1 for k in np.flatnonzero(np.diff(values) > 0)]
    assert set(rises) <= set(schedule.restarts)
    for cycle, start in enumerate(schedule.restarts, 1):
        assert values[start] == pytest.approx(decay**cycle, rel=1e-12)


SAMPLES: list[Schedule] = [
    rs.schedules.constant(0.3, warmup=7),
    rs.schedules.step(0.3, steps=1000, warmup=10),
    rs.schedules.cosine(0.3, steps=1000, warmup=10, floor=0.001),
    rs.schedules.cosine_restarts(0.3, steps=1000, period=37, multiplier=1.7, decay=0.8),
]


@pytest.mark.parametrize("schedule", SAMPLES)
def test_one_step_and_a_batch_of_steps_are_the_same_bits(schedule: Schedule) -> None:
    steps = np.arange(2000)
    together = schedule.values(steps)
    assert together.dtype == np.float64
    assert [schedule(int(k)) for k in steps] == together.tolist()
    shuffled = np.random.default_rng(0).permutation(steps)
    assert (schedule.values(shuffled) == together[shuffled]).all()
    assert schedule.values(steps.reshape(40, 50)).shape == (40, 50)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rs.schedules.cosine(-0.1, steps=10), "greater than or equal to 0"),
        (lambda: rs.schedules.cosine(0.1, steps=0), "greater than or equal to 1"),
        (lambda: rs.schedules.cosine(0.1, steps=10, warmup=10), "leaves nothing"),
        (lambda: rs.schedules.cosine(0.1, steps=10, floor=0.2), "above peak"),
        (lambda: rs.schedules.cosine(math.nan, steps=10), "finite"),
        (
            lambda: rs.schedules.cosine_restarts(0.1, steps=10, period=0),
            "greater than or equal to 1",
        ),
        (lambda: rs.schedules.step(0.1, steps=10, drops=(0.7, 0.5)), "ascend"),
        (lambda: rs.schedules.constant(0.1)(-1), "begins at step 0"),
        (lambda: rs.schedules.cosin, "did you mean 'cosine'"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(make: object, message: str) -> None:
    with pytest.raises((InputError, AttributeError), match=message) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_absurd_periods_and_multipliers_end_in_one_line_or_in_time() -> None:
    with pytest.raises(InputError, match="more than 100000 cycles"):
        rs.schedules.cosine_restarts(0.1, steps=10**15, period=1)
    wild = rs.schedules.cosine_restarts(0.1, steps=100, period=3, multiplier=1e308)
    assert wild.restarts == (3,)
