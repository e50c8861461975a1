"""Combinators: what is made of schedules is what its parts say, step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rheostat as rs

S = rs.schedules
STEPS = np.arange(0, 1200)


def test_warmup_meets_what_follows_and_moves_its_horizon() -> None:
    for plan in (S.cosine(0.3, steps=500), S.table((0.2, 0.1), every=10), S.constant(0.3)):
        schedule = S.warmup(plan, length=40)
        values = schedule.values(STEPS)
        np.testing.assert_allclose(values[:40], plan(0) * np.arange(1, 41) / 41, rtol=1e-15)
        assert (values[40:] == plan.values(STEPS[40:] - 40)).all()
        assert schedule.horizon == (plan.horizon and plan.horizon + 40)
    built_in = S.cosine(0.3, steps=540, warmup=40)
    outside = S.warmup(S.cosine(0.3, steps=500), length=40)
    assert (built_in.values(STEPS) == outside.values(STEPS)).all()


def test_shift_waits_with_the_first_value() -> None:
    plan = S.cosine_restarts(0.3, period=100, steps=300)
    schedule = S.shift(plan, by=50)
    assert (schedule.values(np.arange(51)) == 0.3).all()
    assert (schedule.values(STEPS[50:]) == plan.values(STEPS[50:] - 50)).all()
    assert schedule.restarts == (150, 250)
    assert schedule.horizon == 350


@settings(max_examples=40)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.data())
def test_joins_give_each_part_from_its_own_beginning(
    lengths: list[int], data: st.DataObject
) -> None:
    parts = [
        S.ramp(data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1)), steps=length)
        for length in lengths
    ]
    schedule = S.join((*parts, S.constant(0.5)))
    edges = np.cumsum([0, *lengths])
    for part, start, end in zip(parts, edges, edges[1:], strict=False):
        inside = np.arange(start, end)
        assert (schedule.values(inside) == part.values(inside - start)).all()
    assert (schedule.values(edges[-1] + STEPS) == 0.5).all()
    assert schedule.horizon is None


def test_joins_meet_where_the_parts_do() -> None:
    parts = (S.ramp(0.0, 0.3, steps=50), S.cosine(0.3, steps=200, floor=0.1), S.constant(0.1))
    fine = np.linspace(0, 400, 40_001)
    jumps = np.abs(np.diff(S.join(parts).values(fine)))
    assert jumps.max() < 0.3 / 50 * 0.011


def test_joined_restarts_count_from_their_part() -> None:
    plan = S.cosine_restarts(0.3, period=100, steps=250)
    schedule = S.join((plan, S.constant(0.1), plan), boundaries=(250, 400))
    assert schedule.restarts == (100, 200, 500, 600)
    assert schedule.next_restart(600) == math.inf


def test_repeat_plays_on_and_its_turns_are_no_restarts() -> None:
    plan = S.ramp(0.1, 0.3, steps=30)
    schedule = S.repeat(plan, times=3)
    assert (schedule.values(np.arange(90)) == plan.values(np.arange(90) % 30)).all()
    assert schedule(90) == schedule(1000) == plan(30)
    assert schedule.restarts == ()
    assert S.repeat(plan)(30_000_007) == plan(7)
    inner = S.repeat(S.cosine_restarts(0.3, period=10, steps=25), times=3)
    assert inner.restarts == (10, 20, 35, 45, 60, 70)


def test_arithmetic_is_that_of_the_values() -> None:
    a, b = S.cosine(0.3, steps=500), S.triangular(0.2, floor=0.1, rise=30)
    x, y = a.values(STEPS), b.values(STEPS)
    assert ((a + b).values(STEPS) == x + y).all()
    assert ((a * b).values(STEPS) == x * y).all()
    assert ((0.5 * a).values(STEPS) == (a * 0.5).values(STEPS)).all()
    assert ((0.5 * a).values(STEPS) == 0.5 * x).all()
    assert (S.clamp(a, lower=0.05, upper=0.2).values(STEPS) == np.clip(x, 0.05, 0.2)).all()


def test_operators_and_components_are_the_same_thing() -> None:
    a, b = S.cosine(0.3, steps=500), S.linear(0.2, steps=700)
    for operator, made in (
        (a + b, S.add((a, b))),
        (a * b, S.multiply((a, b))),
        (0.5 * a, S.scale(a, factor=0.5)),
    ):
        assert operator.origin == made.origin
        assert operator.horizon == made.horizon
        assert (operator.values(STEPS) == made.values(STEPS)).all()
    assert (a + b).horizon == 700
    assert (a + S.constant(0.1)).horizon is None


def test_sums_restart_with_their_parts() -> None:
    both = S.cosine_restarts(0.3, period=100, steps=300) + S.linear_restarts(
        0.3, period=150, steps=400
    )
    assert both.restarts == (100, 150, 200, 300)


def test_until_gives_an_end_to_what_has_none() -> None:
    schedule = S.until(S.inverse_sqrt(0.3), steps=500)
    assert schedule.horizon == 500
    assert schedule(500) == schedule(10_000) == S.inverse_sqrt(0.3)(500)
    assert S.until(S.cosine_restarts(0.3, period=100), steps=450).restarts == (100, 200, 300, 400)


@pytest.mark.parametrize("unit", ["samples", "tokens", "epochs", "fraction"])
@given(per_update=st.sampled_from([1.0, 64.0, 4096.0, 1 / 3, 1 / 49, 1e-3, 0.37]))
def test_units_convert_there_and_back(unit: str, per_update: float) -> None:
    plan = S.cosine_restarts(0.3, period=100, steps=1000, multiplier=1.5)
    other = S.in_unit(plan, unit, per_update=per_update)
    assert other.unit == unit
    assert other.horizon == math.ceil(round(1000 * per_update, 9))
    for k in (0, 1, 137, 999):
        assert other(k * per_update) == pytest.approx(plan(k), rel=1e-9)
    back = S.in_unit(other, "updates", per_update=per_update)
    assert back.unit == "updates"
    np.testing.assert_allclose(
        back.values(STEPS + 0.5), plan.values(STEPS + 0.5), rtol=0, atol=1e-9
    )


def test_a_plan_in_tokens_holds_at_any_batch_size() -> None:
    plan = S.in_unit(S.cosine_restarts(0.3, period=10_000, steps=40_000), "tokens", per_update=1)
    small = S.in_unit(plan, "updates", per_update=64)
    large = S.in_unit(plan, "updates", per_update=4096)
    assert small(640) == large(10) == plan(40_960) == plan(40_000)
    # A restart comes with the first update whose count has reached it.
    assert large.restarts == (3, 5, 8)
    assert [large(k - 1) < large(k) for k in large.restarts] == [True] * 3
    assert large.horizon == 10


def test_a_fraction_of_a_budget_runs_from_zero_to_one() -> None:
    budget = S.in_unit(S.cosine(0.3, steps=49), "fraction", per_update=1 / 49)
    assert budget.horizon == 1
    assert budget(0.5) == pytest.approx(0.15)
    assert budget(1.0) == budget(1.7) == pytest.approx(0, abs=1e-15)
