"""What defines the rules whose steps are bounded element by element: Lion, Signum, Sophia."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.transform import Hyper


def _steps(name: str, gradients: list[Tensor], **arguments: Any) -> list[Tensor]:
    """The moves of a parameter at 0 under these gradients, in units of a learning rate of 1."""
    param = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = rs.optimizer(name, [param], lr=1.0, weight_decay=0.0, **arguments)
    moves: list[Tensor] = []
    for gradient in gradients:
        before = param.detach().clone()
        param.grad = gradient.clone()
        optimizer.step()
        moves.append(param.detach() - before)
    return moves


def _gradients(count: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 5, generator=generator) * scale for _ in range(count)]


@pytest.mark.parametrize("name", ["lion", "signum"])
def test_every_weight_moves_by_exactly_lr_whatever_the_gradient(name: str) -> None:
    # Neither small gradients nor large ones change the size of a step, only its sign.
    for scale in (1e-20, 1.0, 1e18):
        for move in _steps(name, _gradients(20, scale)):
            assert torch.equal(move.abs(), torch.ones_like(move))


@pytest.mark.parametrize("name", ["lion", "signum"])
def test_a_weight_without_gradient_does_not_move(name: str) -> None:
    gradients = _gradients(5)
    for gradient in gradients:
        gradient[0] = 0
    for move in _steps(name, gradients):
        assert torch.equal(move[0], torch.zeros(5))


def test_signum_without_momentum_is_sign_descent() -> None:
    gradients = _gradients(5)
    for gradient, move in zip(gradients, _steps("signum", gradients, momentum=0.0), strict=True):
        assert torch.equal(move, -gradient.sign())


def test_lion_with_equal_betas_is_signum() -> None:
    gradients = _gradients(30)
    lion = _steps("lion", gradients, betas=(0.9, 0.9))
    signum = _steps("signum", gradients, momentum=0.9)
    assert all(torch.equal(a, b) for a, b in zip(lion, signum, strict=True))


def test_lion_counts_the_present_gradient_more_than_its_momentum_does() -> None:
    # After a long push up, one gradient of −15 outweighs β₁ m = 0.9 in the mix, not in m itself.
    pushes = [torch.ones(1)] * 1000
    up, turned = _steps("lion", [*pushes, torch.full((1,), -15.0)])[-2:]
    assert (up.item(), turned.item()) == (-1.0, 1.0)
    after = _steps("lion", [*pushes, torch.full((1,), -15.0), torch.zeros(1)])[-1]
    assert after.item() == -1.0


def _sophia(gamma: float = 0.05, **arguments: Any) -> tuple[nn.Parameter, Any]:
    param = nn.Parameter(torch.zeros(4))
    return param, rs.optimizer(
        "sophia", [param], lr=1.0, weight_decay=0.0, gamma=gamma, **arguments
    )


def _observe(optimizer: Any, param: nn.Parameter, sample: Tensor) -> None:
    piece, group = optimizer.rule(0).pieces[0], optimizer.param_groups[0]
    piece.observe(sample, optimizer.state[param], param, Hyper(**group, step=1.0))


def test_sophia_never_moves_a_weight_by_more_than_lr() -> None:
    param, optimizer = _sophia()
    for i, gradient in enumerate(_gradients(50, 100.0)):
        before = param.detach().clone()
        if i % 10 == 0:
            _observe(optimizer, param, gradient[1, :4] * 100)
        param.grad = gradient[0, :4].clone()
        optimizer.step()
        assert (param.detach() - before).abs().max() <= 1 + 1e-6


def test_sophia_is_sign_descent_where_nothing_was_observed_or_the_curvature_is_negative() -> None:
    param, optimizer = _sophia(betas=(0.0, 0.0))
    gradient = torch.tensor([3.0, -1e-3, 2.0, -5.0])
    param.grad = gradient.clone()
    optimizer.step()
    assert torch.equal(param.detach(), -gradient.sign())
    _observe(optimizer, param, torch.full((4,), -7.0))
    optimizer.step()
    assert torch.equal(param.detach(), -2 * gradient.sign())


def test_sophia_takes_newton_steps_where_the_curvature_is_large() -> None:
    # With both means without memory and γ = 1 it is a step of Newton's method, element by element.
    param, optimizer = _sophia(gamma=1.0, betas=(0.0, 0.0))
    curvature = torch.tensor([2.0, 5.0, 10.0, 20.0])
    gradient = torch.tensor([1.0, -2.0, 3.0, -4.0])
    _observe(optimizer, param, curvature)
    param.grad = gradient.clone()
    optimizer.step()
    torch.testing.assert_close(param.detach(), -gradient / curvature)


def test_sophia_keeps_what_it_observed_between_steps() -> None:
    param, optimizer = _sophia(betas=(0.9, 0.5))
    _observe(optimizer, param, torch.full((4,), 4.0))
    for _ in range(3):
        param.grad = torch.ones(4)
        optimizer.step()
    assert torch.equal(optimizer.state[param]["hessian"], torch.full((4,), 2.0))
    _observe(optimizer, param, torch.full((4,), 6.0, dtype=torch.bfloat16))
    assert torch.equal(optimizer.state[param]["hessian"], torch.full((4,), 4.0))
