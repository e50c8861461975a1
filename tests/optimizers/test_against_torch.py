"""sgd and adamw against torch.optim, over 200 steps, to float32 rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs

CASES: list[tuple[str, type[torch.optim.Optimizer], dict[str, Any]]] = [
    ("sgd", torch.optim.SGD, {"lr": 0.05}),
    ("sgd", torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.01}),
    ("sgd", torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
    ("sgd", torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("sgd", torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
    ("adamw", torch.optim.AdamW, {}),
    (
        "adamw",
        torch.optim.AdamW,
        {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3},
    ),
    ("adamw", torch.optim.AdamW, {"lr": 3e-3, "weight_decay": 0.0}),
]


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 3))


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 200) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 12, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        (model(x) - x[:, :3].sin()).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(("name", "peer", "arguments"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch(
    name: str, peer: type[torch.optim.Optimizer], arguments: dict[str, Any], dtype: torch.dtype
) -> None:
    ours, theirs = _model().to(dtype), _model().to(dtype)
    _train(ours, rs.optimizer(name, ours, **arguments))
    _train(theirs, peer(theirs.parameters(), **arguments))
    # Two hundred steps of single roundings; float64 shows that nothing but rounding differs.
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "peer", "arguments"), CASES)
def test_a_late_first_gradient_counts_from_one(
    name: str, peer: type[torch.optim.Optimizer], arguments: dict[str, Any]
) -> None:
    """A parameter whose first gradient comes after 100 steps moves as a fresh one does."""
    late = nn.Parameter(torch.linspace(-1, 1, 7))
    early = nn.Parameter(torch.ones(5))
    fresh = nn.Parameter(late.detach().clone())
    ours = rs.optimizer(name, [late, early], **arguments)
    theirs = peer([fresh], **arguments)
    for _ in range(100):
        early.grad = torch.full_like(early, 0.3)
        ours.step()
    torch.testing.assert_close(late, fresh, rtol=0, atol=0)
    for _ in range(3):
        late.grad = fresh.grad = torch.linspace(0.5, 2, 7)
        ours.step()
        theirs.step()
    torch.testing.assert_close(late, fresh, rtol=1e-6, atol=1e-6)


def test_weights_and_state_after_a_resume_are_the_same_bits() -> None:
    for name, _, arguments in CASES:
        whole = _model()
        straight = rs.optimizer(name, whole, **arguments)
        _train(whole, straight, 10)
        model = copy.deepcopy(whole)
        again = rs.optimizer(name, model, **arguments)
        again.load_state_dict(straight.state_dict())
        _train(whole, straight, 10)
        _train(model, again, 10)
        for mine, other in zip(whole.parameters(), model.parameters(), strict=True):
            assert torch.equal(mine, other)
            for key, value in straight.state[mine].items():
                assert torch.equal(value, again.state[other][key])
