"""Adafactor against torch.optim, and what makes it Adafactor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.references.descent import close, descend, ours, problem
from torch import nn

import rheostat as rs

CASES: list[dict[str, Any]] = [
    {},
    {"lr": 0.5},
    {"lr": 0.1, "beta2_decay": -0.3, "d": 2.0},
    {"lr": 0.1, "eps": (1e-2, 0.5)},
    {"lr": 0.1, "eps": (None, 10.0), "weight_decay": 0.4},
]


@pytest.mark.parametrize("shape", [(6, 4), (5,), (), (3, 4, 2), (2, 3, 3, 2), (1, 5)])
@pytest.mark.parametrize("arguments", CASES)
def test_equals_torch(shape: tuple[int, ...], arguments: dict[str, Any]) -> None:
    start, gradient = problem(shape)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        theirs = descend(
            lambda params: torch.optim.Adafactor(params, **arguments), start, gradient, dtype=dtype
        )
        mine = descend(ours("adafactor", **arguments), start, gradient, dtype=dtype)
        close(mine, theirs, tolerance)


def test_the_step_is_relative_to_the_weights_and_limited() -> None:
    """RMS of a step ≤ d · min(lr, 1/√t) · max(eps₂, RMS(w)), whatever the gradient's size."""
    rng = np.random.default_rng(0)
    for size in (1e-6, 3.0, 1e4):
        param = nn.Parameter(torch.tensor(size * rng.normal(size=(8, 6))))
        optimizer = rs.optimizer("adafactor", [param], lr=0.3, d=1.5)
        for t in range(1, 30):
            before = param.detach().clone()
            param.grad = torch.tensor(10.0 ** rng.uniform(-8, 8) * rng.normal(size=(8, 6)))
            optimizer.step()
            reach = min(0.3, t**-0.5) * max(1e-3, float(before.square().mean().sqrt()))
            step = float((param.detach() - before).square().mean().sqrt())
            assert step <= 1.5 * reach * (1 + 1e-9)


def test_the_state_is_two_vectors() -> None:
    """And they give the exact second moment of a gradient whose square is an outer product."""
    param = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = rs.optimizer("adafactor", [param], lr=1.0)
    state = optimizer.state[param]
    assert {name: value.numel() for name, value in state.items()} == {
        "step": 1,
        "row_var": 6,
        "col_var": 4,
        "variance": 0,
    }
    rng = np.random.default_rng(1)
    row, column = rng.uniform(0.1, 3, size=(6, 1)), rng.uniform(0.1, 3, size=(1, 4))
    param.grad = torch.tensor(row * column)
    optimizer.step()
    v = state["row_var"] @ state["col_var"] / state["row_var"].mean()
    close(v.numpy(), (row * column) ** 2, 1e-12)
    # So every element moves by the same: û is a sign.
    close(param.detach().numpy(), np.full((6, 4), -1e-3), 1e-12)
