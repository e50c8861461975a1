"""What every registered schedule keeps: one value a step, however and in whatever order asked."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.references.schedules import SAMPLES

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.registry import component, components
from rheostat.core.schedule import Schedule

NAMED = pytest.mark.parametrize("name", SAMPLES)


def test_every_schedule_is_sampled() -> None:
    ours = {c.name for c in components("schedule") if c.module.startswith("rheostat.")}
    assert set(SAMPLES) == ours
    for name, schedule in SAMPLES.items():
        assert schedule.origin is not None
        assert schedule.origin.component == f"{name}@1"


def test_no_file_has_the_name_of_a_component() -> None:
    # Importing the file would put the module where `rheostat.schedules.<name>` finds the factory.
    room = Path(rs.schedules.__file__ or "").parent
    assert not {path.stem for path in room.glob("*.py")} & set(SAMPLES)


@NAMED
def test_one_step_and_a_batch_of_steps_are_the_same_bits(name: str) -> None:
    schedule = SAMPLES[name]
    steps = np.arange(1600)
    together = schedule.values(steps)
    assert together.dtype == np.float64
    assert [schedule(int(k)) for k in steps[::7]] == together[::7].tolist()
    shuffled = np.random.default_rng(0).permutation(steps)
    assert (schedule.values(shuffled) == together[shuffled]).all()
    assert schedule.values(steps.reshape(40, 40)).shape == (40, 40)
    assert schedule.values(np.array([])).shape == (0,)


@NAMED
def test_values_are_finite_and_never_negative_as_far_as_counts_go(name: str) -> None:
    steps = np.unique(np.concatenate([np.arange(2000), np.geomspace(1, 2**53, 500).round()]))
    values = SAMPLES[name].values(steps)
    assert np.isfinite(values).all()
    assert (values >= 0).all()


@pytest.mark.parametrize("name", [name for name, s in SAMPLES.items() if s.horizon is not None])
def test_past_the_horizon_it_holds(name: str) -> None:
    schedule = SAMPLES[name]
    assert schedule.horizon is not None
    last = schedule(schedule.horizon)
    assert (schedule.values(schedule.horizon + np.array([0.0, 1, 7, 1e9])) == last).all()


@NAMED
def test_past_the_horizon_it_raises_where_that_is_declared(name: str) -> None:
    steps = SAMPLES[name].horizon or 777
    strict = rs.schedules.until(SAMPLES[name], steps=steps, past="raise")
    assert (
        strict.values(np.arange(0, steps, 3)) == SAMPLES[name].values(np.arange(0, steps, 3))
    ).all()
    strict(steps)  # after the last update the group already holds this
    with pytest.raises(InputError, match=f"ends at {steps} {strict.unit} and raises beyond"):
        strict(steps + 1)


@NAMED
def test_what_is_written_makes_the_same_schedule_again(name: str) -> None:
    schedule = SAMPLES[name]
    again = _read(schedule.written())
    steps = np.arange(1600)
    assert (again.values(steps) == schedule.values(steps)).all()
    assert again.written() == schedule.written()
    assert again.restart_events(before=500) == schedule.restart_events(before=500)


def _read(written: Any) -> Any:
    """A schedule out of what a recipe would hold: lists, texts, numbers, mappings."""
    if isinstance(written, list):
        return tuple(map(_read, written))
    if isinstance(written, dict):
        arguments = {key: _read(value) for key, value in written.items() if key != "schedule"}
        return component(written["schedule"], "schedule").factory(**arguments)
    return written


@NAMED
def test_restarts_are_where_the_value_jumps(name: str) -> None:
    schedule = SAMPLES[name]
    whole = schedule.unit == "updates"
    for i, event in enumerate(schedule.restart_events(before=1500), 1):
        assert event.cycle == i
        before = event.step - 1 if whole else math.nextafter(event.step, 0)
        assert (event.before, event.after) == (schedule(before), schedule(event.step))
        assert schedule.next_restart(event.step - 1) == event.step
        following = schedule.next_restart(event.step)
        if event.length is not None:
            assert event.step + event.length == min(following, schedule.horizon or math.inf)


def test_importing_every_schedule_leaves_torch_out() -> None:
    code = """
import importlib, sys
from rheostat.core.registry import components
for module in {c.module for c in components("schedule")} | {"rheostat.schedules.imports"}:
    importlib.import_module(module)
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: s.cosine(-0.1, steps=10), "cosine: peak=-0.1: .*greater than or equal to 0"),
        (lambda s: s.cosine(0.1, steps=0), "steps=0: .*greater than or equal to 1"),
        (lambda s: s.cosine(0.1, steps=10, warmup=10), "warmup=10 leaves nothing"),
        (lambda s: s.cosine(0.1, steps=10, floor=0.2), "floor=0.2 is above peak=0.1"),
        (lambda s: s.cosine(math.nan, steps=10), "peak=nan: .*finite"),
        (lambda s: s.linear(math.inf, steps=10), "peak=inf: .*finite"),
        (lambda s: s.tanh(0.1, steps=10, begin=3.0, end=3.0), "begin=3 should be below end=3"),
        (lambda s: s.exponential(0.1), "every: is required"),
        (lambda s: s.exponential(0.1, steps=9, floor=0.2), "floor=0.2 is above"),
        (lambda s: s.exponential(0.1, factor=1.5, every=9), "factor=1.5"),
        (lambda s: s.power(0.1, scale=1.0, exponent=0.5), "exponent=0.5: .*less than 0"),
        (lambda s: s.step(0.1, steps=10, drops=(0.7, 0.5)), "drops=.*ascend"),
        (lambda s: s.multi_step(0.1, milestones=(7, 5)), "milestones=.*ascend"),
        (lambda s: s.multi_step(0.1, milestones=()), "milestones=.*at least 1"),
        (lambda s: s.piecewise((5, 5), (1.0, 2.0, 3.0)), "boundaries=.*without repeats"),
        (lambda s: s.piecewise((5, 9), (1.0, 2.0)), "values: there are 2 for 2 boundaries"),
        (lambda s: s.table((0.1, -0.2)), r"values.1=-0.2: .*greater than or equal to 0"),
        (lambda s: s.table(()), "values=.*at least 1"),
        (lambda s: s.wsd(0.1, steps=10, warmup=9, cooldown=0.5), "do not fit into 10 steps"),
        (lambda s: s.wsd(0.1, steps=10, shape="sine"), "shape='sine'"),
        (lambda s: s.one_cycle(0.1, steps=3), "leaves a phase"),
        (lambda s: s.one_cycle_momentum(steps=99, high=0.8, low=0.9), "low=0.9 is above high=0.8"),
        (lambda s: s.triangular(0.1, rise=0), "rise=0"),
        (lambda s: s.triangular(0.1, floor=0.2), "floor=0.2 is above"),
        (lambda s: s.cosine_restarts(0.1, period=0), "period=0: .*greater than or equal to 1"),
        (lambda s: s.cosine_restarts(0.1, period=9, warmup=9), "leaves nothing of a cycle of 9"),
        (lambda s: s.cosine_restarts(0.1, period=9, multiplier=0.5), "multiplier=0.5"),
        (lambda s: s.cosine_restarts(0.1, period=9, state="forget"), "state='forget'"),
        (lambda s: s.cosine_restarts(0.1, period=9, floor=0.2), "floor=0.2 is above"),
        (lambda s: s.restart(s.constant(0.1)), "period: is required"),
        (lambda s: s.restart(0.1), "of=0.1: .*Schedule"),
        (lambda s: s.triggered(s.constant(0.1), at=(9, 3)), "at=.*ascend"),
        (lambda s: s.restart_equal(0.1, steps=7), "steps=7: too few for 5 cycles"),
        (lambda s: s.join((s.cosine(1.0, steps=9), s.constant(1.0)), (5,)), "overlaps the next"),
        (lambda s: s.join((s.constant(1.0), s.constant(1.0))), "boundaries: is required"),
        (lambda s: s.join((s.constant(1.0), s.constant(1.0)), (5, 9)), "should be 1 for 2"),
        (lambda s: s.join((s.constant(1.0),) * 3, (9, 5)), "boundaries=.*ascend"),
        (lambda s: s.join(()), "schedules=.*at least 1"),
        (lambda s: s.repeat(s.constant(0.1)), "should have a horizon"),
        (lambda s: s.scale(s.constant(0.1), factor=-1.0), "factor=-1"),
        (lambda s: -1 * s.constant(0.1), "factor=-1"),
        (lambda s: s.clamp(s.constant(0.1), lower=2.0, upper=1.0), "lower=2 is above upper=1"),
        (lambda s: s.in_unit(s.constant(0.1), "tokens", per_update=0.0), "per_update=0.0"),
        (lambda s: s.in_unit(s.constant(0.1), "tokns", per_update=1.0), "unit='tokns'"),
        (lambda s: s.in_unit(s.constant(0.1), "updates", per_update=1.0), "`of` counts updates"),
        (lambda s: s.extend(s.constant(0.1), at=5, steps=9), "no horizon"),
        (lambda s: s.extend(s.cosine(0.1, steps=9), at=9, steps=12), "nothing is left"),
        (lambda s: s.extend(s.cosine(0.1, steps=9), at=5, steps=5), "beyond at=5"),
        (lambda s: s.rescale_from(s.ramp(0.1, 0.2, 9), at=5, peak=1.0), "old_peak: is required"),
        (lambda s: s.cooldown_from(s.constant(0.1), at=5, steps=5), "should be beyond at=5"),
        (lambda s: s.cooldown_from(s.constant(0.1), at=5, steps=9, floor=1.0), "floor=1 is above"),
        (lambda s: s.constant(0.1)(-1), "begins at step 0"),
        (lambda s: s.constant(0.1)(math.nan), "begins at step 0"),
        (lambda s: s.cosin, "did you mean 'cosine'"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises((InputError, AttributeError), match=message) as caught:
        make(rs.schedules)
    assert "\n" not in str(caught.value)


def test_units_do_not_mix() -> None:
    updates = rs.schedules.cosine(0.1, steps=10)
    tokens = rs.schedules.in_unit(updates, "tokens", per_update=4096)
    for make in (
        lambda: updates + tokens,
        lambda: updates * tokens,
        lambda: rs.schedules.join((updates, tokens)),
        lambda: updates.preview(beside=tokens),
    ):
        with pytest.raises(InputError, match=r"one counts updates, another tokens; .* in_unit"):
            make()


def test_restart_policies_do_not_mix() -> None:
    keeps = rs.schedules.cosine_restarts(0.1, period=10, steps=100)
    resets = rs.schedules.cosine_restarts(0.1, period=10, steps=100, state="reset")
    assert (keeps + rs.schedules.constant(0.1)).at_restart.action == "keep"
    with pytest.raises(InputError, match="'keep' and 'reset'"):
        _ = keeps + resets
    with pytest.raises(InputError, match="state: should be that of"):
        rs.schedules.triggered(resets, at=(5,))


def test_a_schedule_of_a_function_is_not_written() -> None:
    schedule = Schedule(lambda k: k) + rs.schedules.constant(0.1)
    with pytest.raises(InputError, match="made of a Python function"):
        schedule.written()
