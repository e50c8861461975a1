"""adam, amsgrad, nadam, nadamw, radam and adamax: equal to torch's, and what defines each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.references.training import assert_same_training
from torch import Tensor, nn

import rheostat as rs

OTHER: dict[str, Any] = {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": 0.1}
AMS = {"amsgrad": True}
DECOUPLED = {"decoupled_weight_decay": True}
CASES: list[tuple[str, type[torch.optim.Optimizer], dict[str, Any], dict[str, Any]]] = [
    ("adam", torch.optim.Adam, {}, {}),
    ("adam", torch.optim.Adam, OTHER, {}),
    ("amsgrad", torch.optim.Adam, {}, AMS),
    ("amsgrad", torch.optim.Adam, OTHER, AMS),
    ("amsgrad", torch.optim.Adam, {"betas": (0.5, 0.5)}, AMS),
    ("nadam", torch.optim.NAdam, {}, {}),
    ("nadam", torch.optim.NAdam, {**OTHER, "momentum_decay": 0.05}, {}),
    ("nadamw", torch.optim.NAdam, {}, {"weight_decay": 1e-2, **DECOUPLED}),
    ("nadamw", torch.optim.NAdam, {**OTHER, "momentum_decay": 0.0}, DECOUPLED),
    ("radam", torch.optim.RAdam, {}, {}),
    ("radam", torch.optim.RAdam, OTHER, {}),
    ("radam", torch.optim.RAdam, {**OTHER, **DECOUPLED}, {}),
    # Never rectified; and ρ∞ = 4, where the formula divides by zero.
    ("radam", torch.optim.RAdam, {"betas": (0.9, 0.6)}, {}),
    ("adamax", torch.optim.Adamax, {}, {}),
    ("adamax", torch.optim.Adamax, OTHER, {}),
    ("adamax", torch.optim.Adamax, {"eps": 0.1}, {}),
]


@pytest.mark.parametrize(("name", "peer", "arguments", "peer_arguments"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch(
    name: str,
    peer: type[torch.optim.Optimizer],
    arguments: dict[str, Any],
    peer_arguments: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    assert_same_training(name, peer, dtype, arguments, peer_arguments)


def _moves(name: str, gradients: list[Tensor], **arguments: Any) -> list[Tensor]:
    """What the optimizer subtracts from a parameter of zeros, step by step, in float64."""
    param = nn.Parameter(torch.zeros_like(gradients[0], dtype=torch.float64))
    optimizer = rs.optimizer(name, [param], **arguments)
    moves: list[Tensor] = []
    for gradient in gradients:
        before = param.detach().clone()
        param.grad = gradient.double()
        optimizer.step()
        moves.append(before - param.detach())
    return moves


def _gradients(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(7, generator=generator) * (1 + k % 5) for k in range(count)]


def test_amsgrads_mean_square_never_falls_and_keeps_steps_small_after_a_spike() -> None:
    spike = [torch.full((1,), 100.0), *[torch.ones(1)] * 60]
    arguments: dict[str, Any] = {"lr": 1.0, "betas": (0.0, 0.5)}
    assert _moves("adam", spike, **arguments)[-1] == pytest.approx(1, rel=1e-6)
    assert _moves("amsgrad", spike, **arguments)[-1] < 0.02
    param = nn.Parameter(torch.zeros(7))
    optimizer = rs.optimizer("amsgrad", [param], betas=(0.9, 0.5))
    largest = torch.zeros(7)
    for gradient in _gradients(50):
        param.grad = gradient
        optimizer.step()
        assert (optimizer.state[param]["max_exp_avg_sq"] >= largest).all()
        largest = torch.maximum(largest, optimizer.state[param]["exp_avg_sq"])
        torch.testing.assert_close(optimizer.state[param]["max_exp_avg_sq"], largest)


def test_without_momentum_nadam_is_adam() -> None:
    arguments: dict[str, Any] = {"lr": 0.1, "betas": (0.0, 0.9)}
    pairs = zip(
        _moves("nadam", _gradients(30), **arguments),
        _moves("adam", _gradients(30), **arguments),
        strict=True,
    )
    for ours, adam in pairs:
        torch.testing.assert_close(ours, adam, rtol=1e-12, atol=1e-14)


def test_radam_is_momentum_until_the_variance_can_be_known_then_nears_adam() -> None:
    gradients = [torch.tensor([1e-3, 1.0, 1e3])] * 4000
    moves = _moves("radam", gradients, lr=0.1, betas=(0.9, 0.99))
    # ρ ≤ 5 for the first five: the corrected mean itself, without any normalisation.
    for move in moves[:5]:
        torch.testing.assert_close(move, 0.1 * gradients[0].double(), rtol=1e-12, atol=0)
    sizes = torch.stack(moves[5:]) / 0.1
    assert (sizes[0] < 0.2).all()
    assert (sizes.diff(dim=0) > -1e-6).all(), "the rectification only lets go"
    torch.testing.assert_close(sizes[-1], torch.ones(3).double(), rtol=2e-5, atol=0)


def test_adamax_divides_by_the_largest_gradient_of_late() -> None:
    gradients = _gradients(40)
    moves = _moves("adamax", gradients, lr=1.0, betas=(0.0, 0.9), eps=0.0)
    for k, move in enumerate(moves):
        largest = torch.stack(
            [g.abs().double() * 0.9 ** (k - i) for i, g in enumerate(gradients[: k + 1])]
        )
        torch.testing.assert_close(
            move, gradients[k].double() / largest.amax(0), rtol=1e-10, atol=0
        )
        assert (move.abs() <= 1 + 1e-12).all()
