"""NorMuon against its formula in float64, and what its rows have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.references import matrices
from tests.references.descent import Array, close, descend, ours, problem
from torch import nn

import rheostat as rs

QUINTIC = [(3.4445, -4.7750, 2.0315)] * 5
USUAL: dict[str, Any] = {
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "nesterov": True,
    "beta2": 0.95,
}


def _quintic(matrix: Array) -> Array:
    return matrices.on_singular_values(matrix, QUINTIC, 2, 1e-7)


@pytest.mark.parametrize("shape", [(6, 4), (3, 8), (4, 3, 2)])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"nesterov": False, "weight_decay": 0.3},
        {"lr": 0.2, "momentum": 0.5, "beta2": 0.5},
        {"beta2": 0.0},
    ],
)
def test_equals_the_formula(shape: tuple[int, ...], changed: dict[str, Any]) -> None:
    arguments = {**USUAL, **changed}
    start, gradient = problem(shape)
    factor = max(1.0, shape[0] / (start.size / shape[0])) ** 0.5
    expected = matrices.muon(start, gradient, 60, factor=factor, polar=_quintic, **arguments)
    found = descend(ours("normuon", **arguments, dtype="float32"), start, gradient)
    close(found, expected, 1e-9)


def _step(gradients: list[torch.Tensor], name: str, **arguments: Any) -> torch.Tensor:
    param = nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = rs.optimizer(name, [param], lr=1.0, dtype="float32", **arguments)
    before = param.detach().clone()
    for gradient in gradients:
        before = param.detach().clone()
        param.grad = gradient
        optimizer.step()
    return before - param.detach()


def test_its_rows_move_alike_and_the_whole_as_far_as_muon() -> None:
    """At β₂ = 0 each neuron's step has one size; the Frobenius norm is Muon's at any β₂."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-2, 1, 12)[:, None]
    gradients = [sizes * torch.randn(12, 6, generator=generator) for _ in range(5)]
    muon = _step(gradients, "muon")
    for beta2 in (0.0, 0.9):
        found = _step(gradients, "normuon", beta2=beta2)
        torch.testing.assert_close(found.norm(), muon.norm(), rtol=1e-4, atol=0)
        rows = found.norm(dim=1)
        assert beta2 or float(rows.max() / rows.min()) < 1.0001
    rows = muon.norm(dim=1)
    assert float(rows.max() / rows.min()) > 10.0


def test_a_fused_matrix_is_several() -> None:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 18, bias=False), nn.Linear(18, 1))
    weight = model[0].weight
    fused = rs.optimizer("normuon", model, split={"0.weight": [4, 1, 1]}, dtype="float32")
    parts = [nn.Parameter(part.clone()) for part in weight.detach().split([12, 3, 3])]
    alone = rs.optimizer("normuon", parts, dtype="float32")
    for _ in range(4):
        weight.grad = torch.randn(18, 6, generator=generator)
        for part, gradient in zip(parts, weight.grad.split([12, 3, 3]), strict=True):
            part.grad = gradient.clone()
        fused.step()
        alone.step()
    torch.testing.assert_close(weight.detach(), torch.cat([p.detach() for p in parts]))


def test_its_state_is_a_number_a_row() -> None:
    param = nn.Parameter(torch.zeros(7, 3, 2))
    optimizer = rs.optimizer("normuon", [param])
    assert optimizer.state[param]["second_momentum_buffer"].shape == (7, 1)
    assert np.prod(optimizer.state[param]["momentum_buffer"].shape) == 42
