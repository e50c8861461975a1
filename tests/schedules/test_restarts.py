"""Restarts: where, how high, what for the state; without end, nested, from a log, from presets."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.registry import components
from rheostat.core.schedule import Restart, StatePolicy
from rheostat.lab.study_file import read_study
from rheostat.recipes.formats import open_document

S = rs.schedules
FAMILIES = [
    S.cosine_restarts,
    S.linear_restarts,
    S.polynomial_restarts,
    S.exponential_restarts,
]


@pytest.mark.parametrize("make", FAMILIES)
@settings(max_examples=40)
@given(
    period=st.integers(2, 50),
    multiplier=st.floats(1, 3),
    steps=st.integers(1, 2000),
    decay=st.floats(0.2, 1.0),
    floor=st.floats(0, 0.2),
    data=st.data(),
)
def test_cycles_rise_from_the_floor_fall_to_it_and_begin_at_the_restarts(
    make: Any,
    period: int,
    multiplier: float,
    steps: int,
    decay: float,
    floor: float,
    data: st.DataObject,
) -> None:
    warmup = data.draw(st.integers(0, min(period - 1, 5)))
    schedule = make(
        1.0,
        period=period,
        steps=steps,
        multiplier=multiplier,
        decay=decay,
        warmup=warmup,
        floor=floor,
    )
    values = schedule.values(np.arange(steps))
    assert (values >= floor * (1 - 1e-12)).all()
    edges = [0, *schedule.restarts, steps]
    for cycle, (start, end) in enumerate(pairwise(edges)):
        top = max(decay**cycle, floor)
        rise, fall = values[start : min(start + warmup + 1, end)], values[start + warmup : end]
        assert (np.diff(rise) >= -1e-15).all()
        assert (np.diff(fall) <= 1e-15).all()
        if len(fall):
            assert fall[0] == pytest.approx(top, rel=1e-12)
            # A cycle that is whole ends at the floor, half a step of its own early.
            length = round(period * multiplier**cycle)
            assert start + length == end or end == steps


def test_every_family_ends_a_whole_run_at_its_floor() -> None:
    for make in FAMILIES[:3]:
        assert make(1.0, period=100, steps=700, multiplier=2, floor=0.125)(700) == 0.125
    assert S.exponential_restarts(1.0, period=100, steps=700, multiplier=2, factor=0.01)(
        700
    ) == pytest.approx(0.01)


def test_a_restart_is_told_with_its_cycle_length_and_jump() -> None:
    schedule = S.linear_restarts(0.8, period=100, steps=650, multiplier=2, decay=0.5)
    assert schedule.restarts == (100, 300)
    assert schedule.restart_events() == (
        Restart(100, 1, 200, schedule(99), 0.4),
        Restart(300, 2, 350, schedule(299), 0.2),
    )
    first, second = schedule.restart_events()
    assert (first.before, first.ratio) == (pytest.approx(0.008), pytest.approx(50))
    assert second.before == pytest.approx(0.4 / 200)
    zero = S.piecewise((5,), (0.0, 1.0))
    assert S.restart(zero, period=5).restart_events(before=6)[0].ratio is None


def test_restarts_without_a_horizon_are_found_one_at_a_time() -> None:
    schedule = S.cosine_restarts(0.3, period=1000)
    assert schedule.next_restart(0) == 1000
    assert schedule.next_restart(10**15 + 1) == 10**15 + 1000
    assert [event.step for event in schedule.restart_events(before=3001)] == [1000, 2000, 3000]
    assert [event.length for event in schedule.restart_events(before=3001)] == [1000] * 3
    assert schedule(10**12 + 500) == pytest.approx(0.15, rel=1e-12)
    growing = S.cosine_restarts(0.3, period=1, multiplier=2)
    assert growing.next_restart(2**40) == 2**41 - 1
    for ask in (lambda: schedule.restarts, schedule.restart_events):
        with pytest.raises(InputError, match="restarts for ever; give it a horizon"):
            ask()


def test_absurd_periods_and_multipliers_end_in_one_line_or_in_time() -> None:
    for steps in (10**15, None):
        with pytest.raises(InputError, match="more than 100000 cycles"):
            S.cosine_restarts(0.1, steps=steps, period=1, multiplier=1 + 1e-12)
    with pytest.raises(InputError, match="more than 100000 cycles"):
        S.cosine_restarts(0.1, steps=10**15, period=1)
    wild = S.cosine_restarts(0.1, steps=100, period=3, multiplier=1e308)
    assert wild.restarts == (3,)


def test_any_schedule_restarts_as_the_families_do() -> None:
    steps = np.arange(800)
    ours = S.restart(S.cosine(0.3, steps=100), steps=700, multiplier=2, decay=0.5)
    family = S.cosine_restarts(0.3, period=100, steps=700, multiplier=2, decay=0.5)
    np.testing.assert_allclose(ours.values(steps), family.values(steps), rtol=0, atol=1e-15)
    assert ours.restarts == family.restarts
    cut = S.restart(S.inverse_sqrt(0.3, timescale=10), period=50, steps=200)
    assert cut(0) == cut(50) == cut(150) == 0.3
    assert cut.restarts == (50, 100, 150)


def test_restarts_inside_what_restarts_are_found_too() -> None:
    inner = S.cosine_restarts(0.3, period=10, steps=30)
    outer = S.restart(inner, steps=90, multiplier=2)
    assert outer.restarts == (10, 20, 30, 50, 70)
    values = outer.values(np.arange(90))
    assert [int(k) + 1 for k in np.flatnonzero(np.diff(values) > 0)] == list(outer.restarts)
    other = S.restart(S.cosine_restarts(1.0, period=7, steps=20), steps=97, multiplier=1.5)
    rises = [int(k) + 1 for k in np.flatnonzero(np.diff(other.values(np.arange(97))) > 0)]
    assert rises == list(other.restarts)


@given(st.sets(st.integers(1, 900), max_size=6), st.floats(0.1, 1.0))
def test_a_triggered_run_is_the_schedule_begun_again_at_each_step_of_the_log(
    log: set[int], decay: float
) -> None:
    at = tuple(sorted(log))
    plan = S.cosine(0.3, steps=400, warmup=5, floor=0.01)
    schedule = S.triggered(plan, at=at, decay=decay)
    starts = [0, *at]
    for k in range(0, 1500, 61):
        cycle = sum(start <= k for start in starts) - 1
        assert schedule(k) == pytest.approx(decay**cycle * plan(k - starts[cycle]), rel=1e-14)
    assert schedule.restarts == at
    assert schedule.horizon == starts[-1] + 400


def test_a_log_that_grows_changes_nothing_before_its_new_entry() -> None:
    plan = S.wsd(0.3, steps=1000)
    short, long = S.triggered(plan, at=(100,)), S.triggered(plan, at=(100, 700))
    steps = np.arange(700)
    assert (short.values(steps) == long.values(steps)).all()
    assert long.next_restart(100) == 700


def test_the_policy_for_the_optimizers_state_is_declared() -> None:
    assert S.cosine_restarts(0.1, period=5).at_restart == StatePolicy("keep")
    decays = S.restart(S.cosine(0.1, steps=5), state="decay", state_factor=0.25)
    assert decays.at_restart == StatePolicy("decay", 0.25)
    first = S.triggered(S.constant(0.1), at=(5,), state="reset_first_moment")
    assert first.at_restart.action == "reset_first_moment"
    # It survives what is made of the schedule.
    for made in (0.5 * decays, S.shift(decays, by=3), S.join((S.ramp(0.0, 0.1, 9), decays))):
        assert made.at_restart == StatePolicy("decay", 0.25)
        assert made.next_restart(0) < math.inf


PRESETS = [c.name for c in components("schedule", "restart_*")]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("steps", [100, 630, 999, 100_003])
def test_a_preset_ends_with_the_run_and_restarts_well_before(name: str, steps: int) -> None:
    schedule = getattr(S, name)(0.3, steps=steps, floor=0.003)
    assert schedule(steps) == 0.003
    assert schedule.values(np.arange(steps)).max() == pytest.approx(0.3, rel=1e-12)
    assert schedule.restarts
    assert max(schedule.restarts) <= 0.8 * steps + 1
    assert not schedule.preview().warnings


def test_presets_have_the_cadence_that_their_cards_state() -> None:
    assert S.restart_sgdr(0.3, steps=700).restarts == (100, 300)
    assert S.restart_equal(0.3, steps=500).restarts == (100, 200, 300, 400)
    assert S.restart_once(0.3, steps=500).restarts == (250,)
    decayed = S.restart_decayed(0.3, steps=700)
    assert [decayed(k) for k in (0, 100, 300)] == pytest.approx([0.3, 0.15, 0.075])
    rewarmed = S.restart_rewarmed(0.3, steps=700)
    assert [rewarmed(100 + k) for k in (0, 10)] == pytest.approx([0.3 / 11, 0.3])
    assert S.restart_fresh(0.3, steps=700).at_restart.action == "reset"
    # As a family with the same cycles, where the run divides into them.
    steps = np.arange(700)
    family = S.cosine_restarts(0.3, period=100, steps=700, multiplier=2)
    assert (S.restart_sgdr(0.3, steps=700).values(steps) == family.values(steps)).all()


@settings(max_examples=150)
@given(
    period=st.integers(1, 30),
    multiplier=st.sampled_from([1.0, 1.3]),
    per_update=st.floats(1e-4, 1e5),
    length=st.integers(1, 700),
    offset=st.integers(0, 90),
    chosen=st.sampled_from(["in_unit", "there and back", "restart", "extend", "shift", "repeat"]),
)
def test_restarts_ascend_and_are_where_the_value_jumps_in_whatever_they_are_wrapped(
    period: int, multiplier: float, per_update: float, length: int, offset: int, chosen: str
) -> None:
    # Steps are converted there and back in floats, where a restart could stay behind itself.
    inner = S.linear_restarts(1.0, period=period, steps=100, multiplier=multiplier)
    tokens = S.in_unit(inner, "tokens", per_update)
    made = {
        "in_unit": lambda: tokens,
        "there and back": lambda: S.in_unit(tokens, "updates", per_update * 0.7),
        "restart": lambda: S.restart(inner, period=length, steps=3 * length, multiplier=1.1),
        "extend": lambda: (
            S.extend(tokens, at=offset, steps=(tokens.horizon or 0) + length)
            if offset < (tokens.horizon or 0)
            else tokens
        ),
        "shift": lambda: S.join((S.shift(tokens, by=offset), tokens)),
        "repeat": lambda: S.repeat(S.shift(inner, by=offset), times=3),
    }[chosen]()
    step, whole = 0.0, made.unit == "updates"
    for _ in range(300):
        following = made.next_restart(step)
        if following == math.inf:
            break
        assert following > step
        assert not whole or following == int(following)
        before = following - 1 if whole else math.nextafter(following, 0)
        # Where several lie in one update, there may be nothing to be seen.
        assert whole or made(following) > made(before)
        step = following
    else:
        pytest.fail("they do not end")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_a_study_that_compares_it(name: str) -> None:
    said = rs.component(name).doc
    (first, *_) = re.findall(r"studies/\w+\.yaml", said)
    file = Path(__file__).parents[2] / first
    text = file.read_text(encoding="utf-8")
    assert name in str(read_study(open_document(file, "study"))["arms"])
    assert f"rheostat study run {first}" in text
