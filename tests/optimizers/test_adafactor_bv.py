"""big_vision's Adafactor against its formula in float64, and optax's factored second moment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.references.adafactor_bv import adafactor_bv
from tests.references.descent import close, descend, descend_optax, ours, problem
from torch import nn

import rheostat as rs

EXACT = {"momentum_dtype": "float32"}
CASES: list[dict[str, Any]] = [
    {"lr": 0.02},
    {"lr": 0.1, "decay_rate": 0.3, "beta2_cap": 0.6, "momentum": 0.5},
    {"lr": 0.02, "decay_offset": 10, "momentum": 0.0},
    {"lr": 0.02, "clipping_threshold": 0.7, "weight_decay": 0.3},
    {"lr": 0.02, "weight_decay": 0.01, "unscaled_wd": True, "eps": 1e-3},
    {"lr": 0.02, "min_dim_size_to_factor": 5},
]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5,), (), (4, 3, 5), (5, 5)])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_formula(shape: tuple[int, ...], case: dict[str, Any]) -> None:
    arguments = {"min_dim_size_to_factor": 3, **case}
    start, gradient = problem(shape)
    expected = adafactor_bv(start, gradient, 60, half=False, **arguments)
    close(descend(ours("adafactor_bv", **arguments, **EXACT), start, gradient), expected, 1e-10)
    single = descend(
        ours("adafactor_bv", **arguments, **EXACT), start, gradient, dtype=torch.float32
    )
    close(single, expected, 2e-5)


def test_momentum_is_kept_in_half_precision() -> None:
    start, gradient = problem((6, 4))
    expected = adafactor_bv(start, gradient, 60, lr=0.02, min_dim_size_to_factor=3)
    found = descend(ours("adafactor_bv", lr=0.02, min_dim_size_to_factor=3), start, gradient)
    close(found, expected, 1e-10)
    optimizer = rs.optimizer("adafactor_bv", [nn.Parameter(torch.zeros(6, 4))])
    (state,) = optimizer.state.values()
    assert state["exp_avg"].dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (4, 3, 5), (5,)])
def test_equals_optax(shape: tuple[int, ...]) -> None:
    """scale_by_factored_rms has no cap of its decay rate, and needs no momentum."""
    optax = pytest.importorskip("optax")
    start, gradient = problem(shape)
    rule = optax.chain(
        optax.scale_by_factored_rms(decay_rate=0.7, min_dim_size_to_factor=3), optax.scale(-0.02)
    )
    theirs = descend_optax(rule, start, gradient)
    arguments = {"decay_rate": 0.7, "beta2_cap": 1.0, "momentum": 0.0, "min_dim_size_to_factor": 3}
    mine = descend(ours("adafactor_bv", lr=0.02, **arguments), start, gradient, dtype=torch.float32)
    close(mine, theirs, 1e-4)


def test_the_second_moment_of_an_outer_product_is_exact() -> None:
    """Tall or wide: each element of the first step has the size lr. (timm's tall ones have not.)"""
    rng = np.random.default_rng(0)
    for shape in ((40, 33), (33, 40), (33, 2, 40)):
        row, column = rng.uniform(0.1, 3, size=(shape[0], 1)), rng.uniform(0.1, 3, size=shape[-1])
        gradient = (row * column).reshape(shape[0], 1, -1) if len(shape) == 3 else row * column
        param = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        optimizer = rs.optimizer("adafactor_bv", [param], lr=0.1, momentum=0.0)
        param.grad = torch.tensor(np.broadcast_to(gradient, shape).copy())
        optimizer.step()
        close(param.detach().numpy(), np.full(shape, -0.1), 1e-12)
        state = optimizer.state[param]
        assert state["exp_avg_sq"].numel() == 0
        assert "exp_avg" not in state
