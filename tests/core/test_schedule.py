"""The Schedule shape: evaluation, horizons, restarts, and what operators refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rheostat.core.errors import InputError
from rheostat.core.hyper import Argument
from rheostat.core.schedule import Restart, Schedule, StatePolicy, never


def _sawtooth(horizon: int | None = None) -> Schedule:
    return Schedule(
        lambda k: 1 - k % 10 / 10,
        horizon=horizon,
        starts=lambda after: (math.floor(after / 10) + 1) * 10.0,
    )


def test_values_have_the_shape_of_the_steps_and_float64() -> None:
    schedule = Schedule(lambda k: 2 * k)
    assert schedule(3) == 6.0
    assert isinstance(schedule(3), float)
    assert schedule.values([[1, 2], [3, 4]]).tolist() == [[2.0, 4.0], [6.0, 8.0]]
    assert schedule.values(np.arange(3, dtype=np.int32)).dtype == np.float64


@pytest.mark.parametrize("step", [-1, -0.5, math.nan])
def test_what_is_no_step_is_refused(step: float) -> None:
    with pytest.raises(InputError, match="begins at step 0"):
        Schedule(lambda k: k).values([1.0, step])


def test_past_its_horizon_it_holds_or_raises_as_declared() -> None:
    holds = Schedule(lambda k: k, horizon=10)
    assert holds.values([9, 10, 11, 1e12]).tolist() == [9, 10, 10, 10]
    raises = Schedule(lambda k: k, horizon=10, past="raise")
    assert raises(10) == 10
    with pytest.raises(InputError, match="ends at 10 updates and raises beyond; asked for 11"):
        raises(11)
    assert Schedule(lambda k: k)(1e12) == 1e12


def test_restarts_are_those_before_the_horizon() -> None:
    schedule = _sawtooth(30)
    assert schedule.restarts == (10, 20)
    assert schedule.next_restart(0) == 10
    assert schedule.next_restart(9.5) == 10
    assert schedule.next_restart(20) == math.inf
    assert Schedule(lambda k: k).restarts == ()
    assert never(5) == math.inf


def test_events_tell_the_jump_and_the_length() -> None:
    first, second = _sawtooth(25).restart_events()
    assert first == Restart(10, 1, 10, before=pytest.approx(0.1), after=1.0)
    assert first.ratio == pytest.approx(10)
    assert second.length == 5
    assert _sawtooth().restart_events(before=11)[0].length == 10


def test_operators_take_schedules_and_factors_alone() -> None:
    schedule = Schedule(lambda k: k)
    assert (schedule + schedule)(3) == 6
    assert (schedule * schedule)(3) == 9
    assert (0.5 * schedule)(3) == 1.5
    for factor in (-1, math.nan, math.inf):
        with pytest.raises(InputError, match="factor="):
            _ = schedule * factor
    with pytest.raises(TypeError):
        _ = schedule + 1


def test_a_policy_is_shared_by_those_that_restart_alone() -> None:
    reset = Schedule(
        lambda k: k,
        starts=lambda after: 5 if after < 5 else math.inf,
        at_restart=StatePolicy("reset"),
    )
    assert (reset + Schedule(lambda k: k)).at_restart == StatePolicy("reset")


def test_an_argument_may_be_a_schedule() -> None:
    argument = Argument("of", Schedule)
    schedule = Schedule(lambda k: k)
    checked, faults = argument.check(schedule)
    assert checked is schedule
    assert not faults
    assert argument.check(0.1)[1]
    assert not argument.number
    assert argument.adapter.json_schema() == {"type": "object", "required": ["schedule"]}
    several, faults = Argument("schedules", tuple[Schedule, ...]).check([schedule, schedule])
    assert several == (schedule, schedule)
    assert not faults
