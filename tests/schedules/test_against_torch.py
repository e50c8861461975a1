"""Imported torch schedulers give what torch gives, in every step of the horizon.

To 1e-12 of the peak. torch computes several of its curves by a recursion, whose rounding errors
grow (pytorch #20086, for the cosine): against the peak they stay small, against the last values
they do not, and there ours are held to mpmath's (test_closed_forms.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from tests.references.schedules import torch_optimizer, torch_values
from torch.optim import lr_scheduler as torch_

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.schedules.imports import from_torch

CASES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "ConstantLR": (lambda o: torch_.ConstantLR(o, 0.3, 7), 20),
    "LinearLR": (lambda o: torch_.LinearLR(o, 0.1, 0.9, 50), 80),
    "PolynomialLR": (lambda o: torch_.PolynomialLR(o, 300, 1.7), 320),
    "ExponentialLR": (lambda o: torch_.ExponentialLR(o, 0.99), 500),
    "StepLR": (lambda o: torch_.StepLR(o, 30, 0.5), 200),
    "MultiStepLR": (lambda o: torch_.MultiStepLR(o, [10, 40, 40, 90], 0.3), 120),
    # Past T_max torch's climbs again; ours holds, so the comparison ends there.
    "CosineAnnealingLR": (lambda o: torch_.CosineAnnealingLR(o, 500, 0.001), 501),
    "CosineAnnealingWarmRestarts": (
        lambda o: torch_.CosineAnnealingWarmRestarts(o, 50, 2, 0.001),
        700,
    ),
    "OneCycleLR": (lambda o: torch_.OneCycleLR(o, [0.3, 0.7], 500), 500),
    "OneCycleLR linear, three phases": (
        lambda o: torch_.OneCycleLR(
            o, [0.3, 0.7], 503, pct_start=0.41, anneal_strategy="linear", three_phase=True
        ),
        503,
    ),
    "CyclicLR": (lambda o: torch_.CyclicLR(o, 0.01, 0.3, 30, 50), 500),
    "CyclicLR 2": (lambda o: torch_.CyclicLR(o, 0.01, 0.3, 30, mode="triangular2"), 500),
    "CyclicLR exp": (
        lambda o: torch_.CyclicLR(o, 0.01, 0.3, 30, mode="exp_range", gamma=0.999),
        500,
    ),
    "LambdaLR": (lambda o: torch_.LambdaLR(o, [lambda k: 1 / (k + 1), lambda k: 0.9**k]), 90),
    "SequentialLR": (
        lambda o: torch_.SequentialLR(
            o,
            [torch_.LinearLR(o, 0.1, 1.0, 50), torch_.CosineAnnealingLR(o, 400)],
            [50],
        ),
        450,
    ),
    "SequentialLR, the first cut off": (
        lambda o: torch_.SequentialLR(
            o, [torch_.LinearLR(o, 0.1, 1.0, 50), torch_.ExponentialLR(o, 0.9)], [20]
        ),
        60,
    ),
    "ChainedScheduler": (
        lambda o: torch_.ChainedScheduler(
            [torch_.ConstantLR(o, 0.1, 20), torch_.ExponentialLR(o, 0.9), torch_.StepLR(o, 7, 0.5)]
        ),
        60,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_imported_scheduler_gives_what_torch_gives(name: str) -> None:
    make, steps = CASES[name]
    scheduler = make(torch_optimizer(0.3, 0.02))
    ours = from_torch(scheduler)
    theirs = torch_values(scheduler, steps)
    assert len(ours) == 2
    for schedule, wanted in zip(ours, theirs, strict=True):
        found = schedule.values(np.arange(steps))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * wanted.max())


def test_imports_can_be_written_down_and_restarts_come_along() -> None:
    scheduler = torch_.CosineAnnealingWarmRestarts(torch_optimizer(0.3), 50, 2)
    (schedule,) = from_torch(scheduler)
    assert schedule.written()["schedule"] == "cosine_restarts@1"
    assert [event.step for event in schedule.restart_events(before=400)] == [50, 150, 350]


def test_a_scheduler_in_mid_run_gives_the_whole_curve() -> None:
    scheduler = torch_.StepLR(torch_optimizer(0.3), 3, 0.5)
    wanted = torch_values(scheduler, 20)[0]
    (schedule,) = from_torch(scheduler)
    np.testing.assert_allclose(schedule.values(np.arange(20)), wanted, rtol=1e-12)


class _Own(torch_.LambdaLR):
    """A user's subclass, which may compute anything."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (torch_.ReduceLROnPlateau, "ReduceLROnPlateau has no closed form"),
        (lambda o: torch_.MultiplicativeLR(o, lambda k: 0.9), "MultiplicativeLR has no closed"),
        (lambda o: _Own(o, lambda k: 1.0), "_Own has no closed form"),
        (
            lambda o: torch_.CyclicLR(o, 0.1, 0.2, scale_fn=lambda x: 1.0),
            "CyclicLR with a scale_fn",
        ),
        (
            lambda o: torch_.ChainedScheduler(
                [torch_.ExponentialLR(o, 0.9), torch_.CosineAnnealingLR(o, 9, 0.01)]
            ),
            "CosineAnnealingLR in a chain depends",
        ),
        (
            lambda o: torch_.SequentialLR(
                o, [torch_.ExponentialLR(o, 0.9), torch_.MultiplicativeLR(o, lambda k: 0.9)], [5]
            ),
            "MultiplicativeLR has no closed form",
        ),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_torch(make(torch_optimizer(0.1)))
    assert "\n" not in str(caught.value)


def test_one_cycle_moves_momentum_as_torch_does() -> None:
    for three_phase in (False, True):
        scheduler = torch_.OneCycleLR(torch_optimizer(0.1), 0.3, 500, three_phase=three_phase)
        wanted = torch_values(scheduler, 500, "momentum")[0]
        ours = rs.schedules.one_cycle_momentum(steps=500, three_phase=three_phase)
        np.testing.assert_allclose(ours.values(np.arange(500)), wanted, rtol=0, atol=1e-12)


def test_the_last_values_of_a_cosine_are_exact_where_torch_drifts() -> None:
    # pytorch #20086: CosineAnnealingLR is a recursion, whose error grows towards its end.
    steps = 5000
    theirs = torch_values(torch_.CosineAnnealingLR(torch_optimizer(0.3), steps), steps)[0]
    ours = rs.schedules.cosine(0.3, steps=steps).values(np.arange(steps))
    exact = [
        float(0.3 * mpmath.sin(mpmath.pi * (steps - k) / (2 * steps)) ** 2) for k in range(steps)
    ]
    np.testing.assert_allclose(ours, exact, rtol=1e-14)
    assert 1e-11 < np.abs(theirs / exact - 1).max() < 1e-6
