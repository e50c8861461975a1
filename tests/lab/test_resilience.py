"""Faults survived and ranges covered, from courses that are written down by hand."""

from __future__ import annotations

import math

import pytest

from rheostat.lab.courses import Course, course, is_level
from rheostat.lab.ranges import search_cost, steps_to, width
from rheostat.lab.resilience import resilience, steps_lost
from rheostat.lab.scores import judged, reference
from rheostat.record.run import RunRecord
from rheostat.record.writer import RunWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*RH019")  # a large lr, on purpose

NEVER = math.nan


def run(
    condition: str = "undisturbed",
    value: float = 0.9,
    *,
    arm: str = "a",
    seed: int = 0,
    evaluations: dict[int, float] | None = None,
    alarms: tuple[int, ...] = (),
    resumed: tuple[int, ...] = (),
) -> Course:
    found = {20: 0.5, 40: 0.7, 60: 0.8, 80: 0.85} if evaluations is None else evaluations
    return Course(arm, condition, seed, value, {**found, 100: value}, alarms, 100, resumed)


def test_level_is_within_five_per_cent_on_the_worse_side() -> None:
    assert is_level(0.951, 1.0, "maximize")
    assert not is_level(0.949, 1.0, "maximize")
    assert is_level(2.0, 1.0, "maximize")
    assert is_level(1.049, 1.0, "minimize")
    assert not is_level(1.051, 1.0, "minimize")
    assert is_level(0.1, 1.0, "minimize")
    assert is_level(-1.04, -1.0, "maximize"), "the share is of the size, not of the sign"
    assert not is_level(NEVER, 1.0, "maximize")


def test_steps_are_lost_until_the_run_stays_level() -> None:
    clean = run()
    back = run("f", evaluations={20: 0.5, 40: 0.7, 60: 0.2, 80: 0.84})
    assert steps_lost(back, clean, 40, "maximize") == 80 - 40
    relapsed = run("f", evaluations={20: 0.5, 40: 0.7, 60: 0.8, 80: 0.3})
    assert steps_lost(relapsed, clean, 40, "maximize") == 100 - 40
    assert steps_lost(run("f"), clean, 40, "maximize") == 0
    assert steps_lost(run("f", 0.5), clean, 40, "maximize") == 60
    assert steps_lost(run("f", NEVER), clean, 40, "maximize") == 60
    assert steps_lost(run("f", resumed=(33,)), clean, 40, "maximize") == 7


def test_what_is_noticed_what_recovers_and_who_cries_wolf() -> None:
    courses = [
        run(seed=0, alarms=(10,)),
        run(seed=1),
        run("f", seed=0, alarms=(39, 45, 60)),
        run("f", 0.6, seed=1, alarms=(95,)),
        run(arm="b", seed=0),
        run(arm="b", seed=1, value=NEVER),
        run("f", arm="b", seed=0, value=0.86),
        run("f", arm="b", seed=1),
    ]
    found = resilience(courses, ("a", "b"), {"f": 40}, "maximize")
    a, b = found.ordeals
    assert (a.arm, a.fault, a.runs, a.noticed, a.delay, a.recovered, a.lost) == (
        "a",
        "f",
        2,
        1,
        5,
        1,
        30,
    )
    assert (b.noticed, b.delay, b.recovered) == (0, None, 1), (
        "what fails undisturbed proves nothing"
    )
    assert (a.recovery.low, a.recovery.high) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert [(x.alarms, x.steps, x.rate) for x in found.alarms] == [(1, 200, 50), (0, 200, 0)]
    late = resilience(courses, ("a",), {"f": 46}, "maximize").ordeals[0]
    assert (late.noticed, late.delay) == (2, (14 + 49) / 2)


def test_a_record_tells_its_course(tmp_path: object) -> None:
    header = {"arm": "a", "seed": 3, "condition": "f"}
    events = [
        ("evaluation", {"step": 1, "metrics": {"m": 0.5, "n": 9.0}}),
        ("decision", {"step": 1, "kind": "scale", "hyperparameter": "lr", "factor": 0.5}),
        ("decision", {"step": 1, "kind": "scale", "hyperparameter": "lr", "factor": 2.0}),
        ("decision", {"step": 1, "kind": "scale", "hyperparameter": "momentum", "factor": 0.5}),
        ("decision", {"step": 2, "kind": "roll_back"}),
        ("decision", {"step": 2, "kind": "grow"}),
        ("skipped", {"step": 3, "reason": "…"}),
        ("restart", {"step": 3}),
    ]
    with RunWriter("run", header) as writer:
        for step in range(4):
            writer.step(step, {"loss": 1.0})
            for kind, fields in events:
                if fields["step"] == step:
                    writer.event(kind, fields)
        writer.finish("done", {"m": 0.75}, "f")
    found = course(RunRecord.read("run"), "m")
    assert found == Course("a", "f", 3, 0.75, {1: 0.5, 4: 0.75}, (1, 2, 3), 4)


def test_the_width_ends_where_the_metric_crosses_the_bar() -> None:
    # By hand: from 0.9 at 1e-3 down to 0.8 at 1e-4 the bar 0.855 is crossed after 0.45 of a decade.
    values = {1e-5: 0.1, 1e-4: 0.8, 1e-3: 0.9, 1e-2: 0.9, 1e-1: 0.45}
    assert width(values, 0.9, "maximize") == pytest.approx(0.45 + 1 + 0.1)
    losses = {key: 1 - value for key, value in values.items()}
    assert width(losses, 0.1, "minimize") == pytest.approx(0.05 + 1 + 0.005 / 0.45, abs=1e-9)
    assert width(values, 1.0, "maximize") == 0, "the best arm sets the bar"
    assert width({1e-2: 0.9, 1e-1: 0.9, 1.0: 0.9}, 0.9, "maximize") == pytest.approx(2)
    hole = {1e-4: 0.9, 1e-3: 0.0, 1e-2: 0.91}
    assert width(hole, 0.91, "maximize") < 0.1, "what lies beyond a hole is not reached"


def test_a_search_pays_for_every_trial() -> None:
    good, bad = run(value=0.9), run(value=0.6, evaluations={})
    assert steps_to(0.8, good, "maximize") == 60
    assert steps_to(0.95, good, "maximize") is None
    assert steps_to(0.6, run(evaluations={20: 0.7, 40: 0.5}), "minimize") == 40
    assert search_cost([good, bad], 0.8, "maximize", 100) == 60
    assert search_cost([bad, bad, good], 0.8, "maximize", 100) == 260
    assert search_cost([bad, bad], 0.8, "maximize", 100) == 300


METRIC = {"name": "m", "goal": "maximize", "margin": 0.1, "worst": 0.0, "unit": "%"}
SWEEP = {"key": "lr", "values": [0.1, 0.001, 0.01]}


def test_what_is_judged() -> None:
    faults = {"metric": METRIC, "faults": {"f": {}, "g": {}}, "baseline": "a"}
    courses = [run(), run("f"), run("g", 0.5), run(seed=1), run("f", seed=1), run("g", seed=1)]
    plain = judged(faults, courses)
    assert (plain.name, [s.value for s in plain.scores]) == ("m", [0.9, 0.9])
    recovery = judged({**faults, "judge": "recovery"}, courses)
    assert [(s.seed, s.value) for s in recovery.scores] == [(0, 0.5), (1, 1.0)]
    assert (recovery.goal, recovery.worst) == ("maximize", 0.0)


def test_what_is_judged_of_a_sweep() -> None:
    sweep = {"metric": METRIC, "sweep": SWEEP, "baseline": "a", "steps": 100, "target": 0.8}
    values = {"lr=0.1": NEVER, "lr=0.001": 0.9, "lr=0.01": 0.9}
    courses = [
        run(name, value, seed=seed, evaluations={60: 0.8} if value == value else {})
        for name, value in values.items()
        for seed in (0, 1)
    ]
    assert reference(sweep, courses) == "lr=0.001"
    assert [s.value for s in judged(sweep, courses).scores] == [0.9, 0.9]
    widths = judged({**sweep, "judge": "width"}, courses)
    assert widths.unit == "decades"
    # A failure counts as 0: from 0.9 the bar 0.855 is crossed after a twentieth of a decade.
    assert [s.value for s in widths.scores] == pytest.approx([1.05, 1.05])
    search = judged({**sweep, "judge": "search"}, courses)
    assert [s.value for s in search.scores] == [160, 60], "seed 1 begins with the second trial"
    assert (search.goal, search.worst) == ("minimize", 400)
