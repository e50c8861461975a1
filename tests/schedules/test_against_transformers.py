"""The schedules of transformers, stepped as its Trainer does, and ours of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.references.schedules import torch_values
from transformers import optimization as theirs  # pyright: ignore[reportMissingTypeStubs]

import rheostat as rs
from rheostat.core.schedule import Schedule

S = rs.schedules
PEAK, STEPS, WARMUP, PAST = 0.3, 400, 40, 100
LEFT = STEPS - WARMUP


def _after_warmup(schedule: Schedule, start: float = 0.0) -> Schedule:
    """Their warm-up begins with zero, where the first update does nothing; ours above it."""
    return S.join((S.ramp(start, PEAK, steps=WARMUP), schedule))


def _optimizer() -> torch.optim.Optimizer:
    """With the peak as its default: where they want a ratio, they divide by that."""
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


SAME: dict[str, tuple[Schedule, Callable[[Any], Any]]] = {
    "constant": (S.constant(PEAK), theirs.get_constant_schedule),
    "constant_with_warmup": (
        _after_warmup(S.constant(PEAK)),
        lambda opt: theirs.get_constant_schedule_with_warmup(opt, WARMUP),
    ),
    "linear": (
        _after_warmup(S.linear_to_zero(PEAK, steps=LEFT)),
        lambda opt: theirs.get_linear_schedule_with_warmup(opt, WARMUP, STEPS),
    ),
    "cosine": (
        _after_warmup(S.cosine(PEAK, steps=LEFT)),
        lambda opt: theirs.get_cosine_schedule_with_warmup(opt, WARMUP, STEPS),
    ),
    "cosine_with_min_lr": (
        _after_warmup(S.cosine(PEAK, steps=LEFT, floor=0.03)),
        lambda opt: theirs.get_cosine_with_min_lr_schedule_with_warmup(
            opt, WARMUP, STEPS, min_lr=0.03
        ),
    ),
    "cosine_with_restarts": (
        _after_warmup(S.cosine_restarts(PEAK, period=LEFT // 4, steps=LEFT)),
        lambda opt: theirs.get_cosine_with_hard_restarts_schedule_with_warmup(
            opt, WARMUP, STEPS, num_cycles=4
        ),
    ),
    "polynomial": (
        _after_warmup(S.polynomial(PEAK, steps=LEFT, power=1.5, floor=0.03)),
        lambda opt: theirs.get_polynomial_decay_schedule_with_warmup(
            opt, WARMUP, STEPS, lr_end=0.03, power=1.5
        ),
    ),
    "inverse_sqrt": (
        _after_warmup(S.inverse_sqrt(PEAK, timescale=WARMUP)),
        lambda opt: theirs.get_inverse_sqrt_schedule(opt, WARMUP),
    ),
    "inverse_sqrt, timescale": (
        _after_warmup(S.inverse_sqrt(PEAK, timescale=120)),
        lambda opt: theirs.get_inverse_sqrt_schedule(opt, WARMUP, timescale=120),
    ),
    **{
        f"warmup_stable_decay, {kind}": (
            _after_warmup(S.wsd(PEAK, steps=LEFT, cooldown=0.25, shape=shape, floor=0.03), 0.03),
            lambda opt, kind=kind: theirs.get_wsd_schedule(
                opt, WARMUP, LEFT // 4, num_training_steps=STEPS, decay_type=kind, min_lr_ratio=0.1
            ),
        )
        for kind, shape in {
            "linear": "linear",
            "cosine": "cosine",
            "1-sqrt": "one_minus_sqrt",
        }.items()
    },
}

CLIMBS = ("cosine", "cosine_with_min_lr")
"""Past the horizon these climb again, half a cosine up; ours hold."""


@pytest.mark.parametrize("name", SAME)
def test_ours_equals_theirs_over_the_horizon_and_past_it(name: str) -> None:
    ours, make = SAME[name]
    (wanted,) = torch_values(make(_optimizer()), STEPS + PAST)
    if name in CLIMBS:
        assert wanted[STEPS + PAST - 1] > wanted[STEPS]
        wanted[STEPS:] = wanted[STEPS]
    np.testing.assert_allclose(
        ours.values(np.arange(STEPS + PAST)), wanted, rtol=0, atol=1e-12 * PEAK
    )


@pytest.mark.parametrize("name", SAME)
def test_theirs_can_be_imported(name: str) -> None:
    make = SAME[name][1]
    (wanted,) = torch_values(make(_optimizer()), STEPS)
    (imported,) = S.from_torch(make(_optimizer()))
    np.testing.assert_allclose(imported.values(np.arange(STEPS)), wanted, rtol=1e-15, atol=0)


def test_a_warm_up_of_ours_differs_from_theirs_before_the_peak_alone() -> None:
    (wanted,) = torch_values(SAME["cosine"][1](_optimizer()), STEPS)
    ours = S.cosine(PEAK, steps=STEPS, warmup=WARMUP).values(np.arange(STEPS))
    np.testing.assert_allclose(ours[WARMUP:], wanted[WARMUP:], rtol=0, atol=1e-12 * PEAK)
    assert wanted[0] == 0
    assert ours[0] == pytest.approx(PEAK / (WARMUP + 1))


def test_cosine_warmup_with_min_lr_is_one_step_ahead() -> None:
    make = theirs.get_cosine_with_min_lr_schedule_with_warmup_lr_rate
    scheduler = make(_optimizer(), WARMUP, STEPS, min_lr=0.03)
    (wanted,) = torch_values(scheduler, STEPS)
    ours = _after_warmup(S.cosine(PEAK, steps=LEFT, floor=0.03)).values(np.arange(1, STEPS + 1))
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-12 * PEAK)


def test_theirs_drive_our_optimizers() -> None:
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    optimizer = rs.optimizer("sgd", [param], lr=PEAK)
    make = SAME["cosine_with_min_lr"][1]
    (wanted,) = torch_values(make(_optimizer()), STEPS)
    assert torch_values(make(optimizer), STEPS)[0].tolist() == wanted.tolist()
