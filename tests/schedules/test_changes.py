"""Changes of plan: the old plan before the step, the promised one from it on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.references.schedules import SAMPLES

import rheostat as rs

S = rs.schedules


@given(st.sampled_from(sorted(SAMPLES)), st.integers(0, 400))
def test_every_change_is_the_old_plan_before_its_step(name: str, at: int) -> None:
    plan = SAMPLES[name]
    changes = [S.cooldown_from(plan, at=at, steps=at + 200)]
    changes += [S.rescale_from(plan, at=at, peak=0.1, old_peak=0.3)]
    if plan.horizon is not None:
        changes += [S.extend(plan, at=at, steps=plan.horizon + 500)]
    steps = np.arange(at)
    for changed in changes:
        assert (changed.values(steps) == plan.values(steps)).all()
        if steps.size:
            old = [e.step for e in plan.restart_events(before=at)]
            assert [e.step for e in changed.restart_events(before=at)] == old


def test_extending_stretches_what_was_left() -> None:
    plan = S.cosine(0.3, steps=1000, warmup=50, floor=0.01)
    longer = S.extend(plan, at=600, steps=2000)
    assert longer.horizon == 2000
    for k in (0, 1, 500, 1400):
        assert longer(600 + k) == pytest.approx(plan(600 + k * 400 / 1400), rel=1e-14)
    assert longer(2000) == plan(1000) == 0.01
    assert (np.diff(longer.values(np.arange(50, 2000))) <= 0).all()


def test_a_nearer_horizon_compresses_what_was_left() -> None:
    plan = S.cosine(0.3, steps=1000, warmup=50, floor=0.01)
    shorter = S.extend(plan, at=600, steps=700)
    assert shorter.horizon == 700
    for k in (0, 1, 37, 99):
        assert shorter(600 + k) == pytest.approx(plan(600 + k * 4), rel=1e-14)
    assert shorter(700) == plan(1000) == 0.01
    cycles = S.cosine_restarts(0.3, period=100, steps=1000)
    assert S.extend(cycles, at=450, steps=725).restarts == (
        100,
        200,
        300,
        400,
        475,
        525,
        575,
        625,
        675,
    )
    # And back: the plan as it was, but for rounding.
    back = S.extend(shorter, at=600, steps=1000)
    steps = np.arange(1001)
    np.testing.assert_allclose(back.values(steps), plan.values(steps), rtol=1e-12)


def test_extending_moves_the_restarts_that_were_left() -> None:
    plan = S.cosine_restarts(0.3, period=100, steps=1000)
    longer = S.extend(plan, at=450, steps=1333)
    assert longer.restarts[:4] == (100, 200, 300, 400)
    assert len(longer.restarts) == len(plan.restarts)
    rises = np.flatnonzero(np.diff(longer.values(np.arange(1333))) > 0) + 1
    assert tuple(rises.tolist()) == longer.restarts


def test_another_peak_scales_what_follows() -> None:
    plan = S.wsd(0.3, steps=1000, floor=0.03)
    lower = S.rescale_from(plan, at=400, peak=0.1)
    assert lower(399) == 0.3
    assert lower(400) == pytest.approx(0.1)
    assert lower(1000) == pytest.approx(0.01)
    sum_ = S.constant(0.1) + plan
    assert S.rescale_from(sum_, at=400, peak=0.2, old_peak=0.4)(500) == pytest.approx(0.2)


@pytest.mark.parametrize("shape", ["linear", "cosine", "one_minus_sqrt"])
def test_cooling_down_goes_from_where_it_is_to_the_floor(shape: str) -> None:
    plan = S.inverse_sqrt(0.3, warmup=50)
    cooled = S.cooldown_from(plan, at=400, steps=500, shape=shape, floor=0.002)
    values = cooled.values(np.arange(400, 520))
    assert values[0] == plan(400)
    assert (np.diff(values[:101]) < 0).all()
    assert (values[100:] == 0.002).all()
    assert cooled.horizon == 500


def test_cooling_down_is_wsds_own_cool_down_where_they_meet() -> None:
    steps = np.arange(1100)
    for shape in ("linear", "cosine", "one_minus_sqrt"):
        planned = S.wsd(0.3, steps=1000, warmup=10, cooldown=0.2, shape=shape)
        decided = S.cooldown_from(S.constant(0.3, warmup=10), at=800, steps=1000, shape=shape)
        np.testing.assert_allclose(decided.values(steps), planned.values(steps), rtol=1e-14)


def test_restarts_after_a_cool_down_began_are_gone() -> None:
    plan = S.cosine_restarts(0.3, period=100, steps=1000)
    assert S.cooldown_from(plan, at=250, steps=400).restarts == (100, 200)


def test_a_change_is_written_down_with_the_plan_that_it_changes() -> None:
    plan = S.cosine(0.3, steps=1000)
    changed = S.cooldown_from(S.extend(plan, at=600, steps=2000), at=1500, steps=1600)
    written = changed.written()
    assert written["schedule"] == "cooldown_from@1"
    assert written["of"]["schedule"] == "extend@1"
    assert written["of"]["of"] == plan.written()


def test_old_and_new_curves_are_shown_together() -> None:
    plan = S.wsd(0.3, steps=1000)
    preview = S.cooldown_from(plan, at=400, steps=600).preview(1000, beside=plan)
    assert "before the change" in str(preview)
    assert preview.svg().count("<polyline") == 2
    assert math.isclose(preview.milestones[-1].step, 1000)
