"""The kinds of weight decay: what one step takes off a weight, and what it does not depend on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.references.problems import (
    assert_resumes,
    assert_takes_odd_parameters,
    network,
    same_bits,
    train,
    weights,
)
from torch import Tensor, nn

import rheostat as rs

WEIGHTS = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
GRADIENT = torch.tensor([0.3, 0.3, -0.1], dtype=torch.float64)

Make = Callable[[], rs.Transform]
KINDS: dict[str, Make] = {
    "decoupled": lambda: rs.transforms.add_decayed_weights(0.1),
    "independent": lambda: rs.transforms.add_independent_decay(1e-3, peak_lr=0.02),
    "corrected": lambda: rs.transforms.add_corrected_decay(0.1, peak_lr=0.02),
    "squared": lambda: rs.transforms.add_squared_decay(1.0),
    "cautious": lambda: rs.transforms.add_cautious_decay(0.1),
}


def _taken_off(make: Make, lr: float, *, factor: float = 1.0) -> Tensor:
    """What one step of SGD takes off the weights beside lr · gradient."""
    param = nn.Parameter(WEIGHTS.clone())
    group = {"params": [param], "lr_factor": factor}
    optimizer = rs.optimizer(rs.chain(make()), [group], lr=lr)
    param.grad = GRADIENT.clone()
    optimizer.step()
    return WEIGHTS - param.detach() - lr * factor * GRADIENT


@pytest.mark.parametrize("lr", [0.02, 0.01, 0.0])
@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("decoupled", lambda lr: lr * 0.1),
        ("independent", lambda lr: lr / 0.02 * 1e-3),
        ("corrected", lambda lr: lr / 0.02 * lr * 0.1),
        ("squared", lambda lr: lr**2),
    ],
)
def test_the_fraction_that_a_step_takes_off(
    kind: str, share: Callable[[float], float], lr: float
) -> None:
    expected = share(lr) * WEIGHTS
    torch.testing.assert_close(_taken_off(KINDS[kind], lr), expected, rtol=1e-9, atol=1e-15)
    # A layer-wise factor is part of the learning rate.
    halved = share(lr / 2) * WEIGHTS
    found = _taken_off(KINDS[kind], lr, factor=0.5)
    torch.testing.assert_close(found, halved, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("peak", [1e-4, 0.02, 3.0])
def test_independent_decay_is_the_same_under_every_peak(peak: float) -> None:
    found = _taken_off(lambda: rs.transforms.add_independent_decay(1e-3, peak_lr=peak), peak)
    torch.testing.assert_close(found, 1e-3 * WEIGHTS, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "share"),
    [
        (lambda peak: rs.transforms.add_independent_decay(1e-3, peak_lr=peak), 1e-3),
        (lambda peak: rs.transforms.add_corrected_decay(0.1, peak_lr=peak), 0.02 * 0.1),
    ],
)
def test_a_factor_in_the_peak_leaves_the_decay_at_the_peak(
    make: Callable[[float], rs.Transform], share: float
) -> None:
    found = _taken_off(lambda: make(0.02 * 0.5), 0.02, factor=0.5)
    # The corrected one is per unit of the group's own learning rate.
    expected = share * (0.5 if share > 1e-3 else 1.0) * WEIGHTS
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)


def test_cautious_decay_acts_where_the_step_shrinks_the_weight() -> None:
    expected = 0.02 * 0.1 * WEIGHTS * torch.tensor([1.0, 0.0, 0.0])  # signs: + +, − +, + −
    torch.testing.assert_close(_taken_off(KINDS["cautious"], 0.02), expected, rtol=1e-9, atol=1e-15)


def test_cautious_decay_sees_the_update_not_the_gradient() -> None:
    """After momentum: a weight whose running update has the sign of the weight decays."""
    param = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    rule = rs.chain(rs.transforms.trace(0.9), rs.transforms.add_cautious_decay(0.1))
    optimizer = rs.optimizer(rule, [param], lr=0.01)
    for gradient, update in ((1.0, 1.0), (-0.1, 0.8)):
        before = param.item()
        param.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        assert before - param.item() == pytest.approx(0.01 * (update + 0.1 * before))


def test_decoupled_and_l2_are_adamw_and_adam() -> None:
    for before_the_rule, peer in ((False, torch.optim.AdamW), (True, torch.optim.Adam)):
        mine, other = network(), network()
        decay, rule = rs.transforms.add_decayed_weights(0.1), rs.transforms.scale_by_adam()
        pieces = (decay, rule) if before_the_rule else (rule, decay)
        train(mine, rs.optimizer(rs.chain(*pieces), mine, lr=1e-2), 50)
        train(other, peer(other.parameters(), lr=1e-2, weight_decay=0.1), 50)
        torch.testing.assert_close(weights(mine), weights(other), rtol=1e-11, atol=1e-12)


def test_corrected_decay_falls_with_the_square_of_a_schedule() -> None:
    param = nn.Parameter(WEIGHTS.clone())
    schedule = rs.schedules.cosine(0.02, steps=10)
    optimizer = rs.optimizer(rs.chain(KINDS["corrected"]()), [param], lr=schedule)
    expected = WEIGHTS.clone()
    for k in range(10):
        param.grad = torch.zeros_like(param)
        optimizer.step()
        expected = expected * (1 - schedule(k) ** 2 / 0.02 * 0.1)
    torch.testing.assert_close(param.detach(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_no_decay_at_lr_0_or_at_coefficient_0(kind: str) -> None:
    model = network(torch.float32)
    before = weights(model)
    rule = rs.chain(rs.transforms.scale_by_adam(), KINDS[kind]())
    optimizer = rs.optimizer(rule, model, lr=0.0)
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert same_bits(before, weights(model))
    optimizer.param_groups[0].update(lr=0.01, weight_decay=0.0)
    optimizer.step()
    assert same_bits(before, weights(model))


@pytest.mark.parametrize("kind", KINDS)
def test_resumes_and_takes_odd_parameters(kind: str) -> None:
    def make() -> rs.Transform:
        step = rs.transforms.scale_by_learning_rate(1e-2)
        return rs.chain(rs.transforms.scale_by_adam(), KINDS[kind](), step)

    assert_resumes(make)
    assert_takes_odd_parameters(make)
