"""Faults: each does what it says, when it says, the same for everyone, and nothing else."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.registry import component
from rheostat.lab.faults import FAULTS, Disturbance

STEPS = 100
FIRST = 40


@functools.cache
def task() -> Any:
    return component("digits_mlp").factory(hidden=8).load()


def disturbance(name: str, seed: int = 3, **given: Any) -> Disturbance:
    return Disturbance(FAULTS[name](**given), STEPS, seed, task())


def batch() -> Any:
    return next(task().batches(0))


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_without_a_fault_nothing_happens() -> None:
    calm = Disturbance(None, STEPS, 3, task())
    loss, model = torch.ones(()), task().model(0)
    assert calm.batch(50, (seen := batch())) is seen
    assert calm.loss(50, loss) is loss
    assert not calm.kills
    assert calm.evaluate(50, model) == task().evaluate(model)


@pytest.mark.parametrize(("name", "part"), [("corrupted_labels", 1), ("corrupted_inputs", 0)])
def test_corruption_mixes_one_part_while_it_lasts(name: str, part: int) -> None:
    fault, clean = disturbance(name, steps=5), batch()
    for step in (0, FIRST - 1, FIRST + 5, STEPS - 1):
        assert fault.batch(step, clean) is clean
    for step in range(FIRST, FIRST + 5):
        spoilt = fault.batch(step, clean)
        assert not torch.equal(spoilt[part], clean[part])
        assert torch.equal(spoilt[1 - part], clean[1 - part])
        assert torch.equal(spoilt[part].flatten().sort()[0], clean[part].flatten().sort()[0])
        assert same(spoilt, disturbance(name, steps=5).batch(step, clean)), "the same for every arm"
    assert not same(fault.batch(FIRST, clean), fault.batch(FIRST + 1, clean))
    assert not same(fault.batch(FIRST, clean), disturbance(name, seed=4).batch(FIRST, clean))


@pytest.mark.parametrize(
    ("name", "test"), [("nan_gradients", math.isnan), ("inf_gradients", math.isinf)]
)
def test_one_number_of_the_gradient_is_spoilt(name: str, test: Callable[[float], bool]) -> None:
    fault, model = disturbance(name, steps=2), task().model(0)
    for step, count in ((FIRST - 1, 0), (FIRST, 1), (FIRST + 1, 1), (FIRST + 2, 0)):
        model.zero_grad()
        task().loss(model, batch()).backward()
        fault.gradients(step, model)
        numbers = [x for p in model.parameters() for x in p.grad.flatten().tolist()]
        assert sum(map(test, numbers)) == count
        assert sum(not math.isfinite(x) for x in numbers) == count


def test_an_exploding_batch_scales_loss_and_gradient() -> None:
    fault = disturbance("exploding_batch", factor=1e4)
    x = torch.ones((), requires_grad=True)
    fault.loss(FIRST, 2 * x).backward()
    assert x.grad is not None
    assert x.grad.item() == 2e4
    assert fault.loss(FIRST + 1, x) is x


def test_dead_units_answer_nothing_any_more() -> None:
    fault, model = disturbance("dead_units", share=0.5), task().model(0)
    before = [p.clone() for p in model.parameters()]
    fault.weights(FIRST - 1, model)
    assert same(before, model.parameters())
    fault.weights(FIRST, model)
    hidden = model[1](model[0](task().held_out[0]))
    assert int((hidden.amax(0) == 0).sum()) >= 4  # of 8
    assert torch.equal(before[-1], model[4].bias), "what is read out is left alone"
    fault.weights(FIRST + 1, model)
    assert model[0].bias.detach().min().item() > -1.5e4, "once"
    with pytest.raises(InputError, match="no layer with a bias"):
        disturbance("dead_units").weights(FIRST, nn.Linear(2, 2))


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("ours", [False, True])
def test_the_learning_rate_is_thirty_times_what_it_should_be(ours: bool, scheduled: bool) -> None:
    """Of SGD the step is the gradient times the rate; afterwards the groups are as they were."""
    lr: Any = rs.schedules.constant(0.1) if scheduled and ours else 0.1
    x = nn.Parameter(torch.zeros(3))
    made = rs.optimizer("sgd", [x], lr=lr) if ours else torch.optim.SGD([x], lr=lr)
    if scheduled and not ours:
        torch.optim.lr_scheduler.LambdaLR(made, lambda _: 1.0)
    steps = iter(range(FIRST - 1, FIRST + 4))
    now = {"step": 0}
    disturbance("lr_spike", steps=2, factor=30.0).follow(made, lambda: now["step"])
    moved: list[float] = []
    for step in steps:
        now["step"] = step
        x.grad = torch.ones(3)
        before = x[0].item()
        made.step()
        moved.append(before - x[0].item())
        assert made.param_groups[0]["lr"] == pytest.approx(0.1)
    assert moved == pytest.approx([0.1, 3.0, 3.0, 0.1, 0.1], rel=1e-5)


def test_an_abrupt_shift_changes_every_image_for_good() -> None:
    fault, clean, model = disturbance("abrupt_shift"), batch(), task().model(0)
    assert fault.batch(FIRST - 1, clean) is clean
    for step in (FIRST, STEPS - 1):
        assert same(fault.batch(step, clean), task().shifted(clean))
    assert fault.evaluate(FIRST - 1, model) == task().evaluate(model)
    assert fault.evaluate(STEPS, model) == task().evaluate(model, task().shifted(task().held_out))


def test_a_gradual_shift_grows() -> None:
    fault, clean = disturbance("gradual_shift", steps=20), batch()
    shares = [
        (fault.batch(step, clean)[0] != clean[0]).flatten(1).any(1).float().mean().item()
        for step in (FIRST - 1, FIRST + 4, FIRST + 14, FIRST + 19, STEPS - 1)
    ]
    assert shares[0] == 0
    assert 0.05 < shares[1] < 0.5 < shares[2] < 0.95
    assert shares[3:] == [1, 1]


def test_a_shift_needs_a_task_that_has_one() -> None:
    with pytest.raises(InputError, match="ShiftingTask"):
        Disturbance(FAULTS["abrupt_shift"](), STEPS, 0, object())


def test_every_fault_has_a_first_line_and_a_begin() -> None:
    for name, factory in FAULTS.items():
        assert factory.__name__ == name
        assert (factory.__doc__ or "").strip()
        assert factory(at=0.25).at == 0.25
