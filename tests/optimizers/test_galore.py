"""GaLore against its formula in float64, pytorch-optimizer's, and Adam in a fixed space."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tests.references import matrices
from tests.references.descent import Array, close, descend, ours, problem
from torch import nn

import rheostat as rs

USUAL: dict[str, Any] = {
    "lr": 0.05,
    "betas": (0.9, 0.95),
    "eps": 1e-6,
    "weight_decay": 0.0,
    "rank": 2,
    "update_proj_gap": 7,
    "galore_scale": 0.25,
}
CASES = [
    {},
    {"lr": 0.2, "betas": (0.5, 0.99), "eps": 1e-2},
    {"weight_decay": 0.3, "galore_scale": 1.0},
    {"rank": 1, "update_proj_gap": 1},
    {"rank": 50},
]


@pytest.mark.parametrize("shape", [(6, 4), (3, 7), (4, 4), (4, 3, 2)])
@pytest.mark.parametrize("changed", CASES)
def test_equals_the_formula(shape: tuple[int, ...], changed: dict[str, Any]) -> None:
    arguments = {**USUAL, **changed}
    start, gradient = problem(shape)
    expected = matrices.galore(start, gradient, 60, **arguments)
    close(descend(ours("galore", **arguments), start, gradient), expected, 1e-9)


def test_equals_the_formula_in_single_precision() -> None:
    """With one projection: singular values that come near each other may change places."""
    start, gradient = problem((6, 4))
    arguments = {**USUAL, "update_proj_gap": 100}
    expected = matrices.galore(start, gradient, 60, **arguments)
    close(
        descend(ours("galore", **arguments), start, gradient, dtype=torch.float32), expected, 1e-4
    )


def test_the_signs_of_a_decomposition_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another LAPACK may return any of them."""
    start, gradient = problem((6, 4))
    plain = descend(ours("galore", **USUAL), start, gradient)
    svd = torch.linalg.svd
    flips = np.random.default_rng(0)

    def flipped(matrix: torch.Tensor, **arguments: Any) -> tuple[torch.Tensor, ...]:
        u, s, vt = svd(matrix, **arguments)
        signs = torch.tensor(flips.choice([-1.0, 1.0], size=len(s)))
        return u * signs, s, signs[:, None] * vt

    monkeypatch.setattr(torch.linalg, "svd", flipped)
    close(descend(ours("galore", **USUAL), start, gradient), plain, 1e-10)


@pytest.mark.parametrize("shape", [(6, 4), (3, 7)])
def test_equals_pytorch_optimizer(shape: tuple[int, ...]) -> None:
    """Until its second projection, which comes a step early: it counts from 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_optimizer import GaLore
    start, gradient = problem(shape)

    def make(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        low = {"rank": 2, "update_proj_gap": 100, "scale": 0.25, "projection_type": "std"}
        return GaLore([{"params": params, **low}], lr=0.05, betas=(0.9, 0.95), eps=1e-6)

    theirs = descend(make, start, gradient, steps=99, dtype=torch.float32)
    arguments = {**USUAL, "update_proj_gap": 100}
    mine = descend(ours("galore", **arguments), start, gradient, steps=99, dtype=torch.float32)
    close(mine, theirs, 1e-4)


def test_in_its_space_it_is_adam_and_outside_it_stands_still() -> None:
    start, gradient = problem((4, 7))
    arguments = {**USUAL, "update_proj_gap": 1000, "galore_scale": 1.0, "eps": 1e-12}
    found = descend(ours("galore", **arguments), start, gradient, steps=40)
    basis = np.linalg.svd(gradient(1, start))[0][:, :2]
    rest = start - basis @ basis.T @ start

    def low(t: int, w: Array) -> Array:
        return basis.T @ gradient(t, basis @ w + rest)

    adam = descend(
        lambda params: torch.optim.Adam(params, lr=0.05, betas=(0.9, 0.95), eps=1e-12),
        basis.T @ start,
        low,
        steps=40,
    )
    close(basis.T @ found, adam, 1e-8)
    close(found - basis @ basis.T @ found, rest, 1e-12)


def test_the_state_is_as_small_as_the_rank() -> None:
    param = nn.Parameter(torch.zeros(64, 3, 8))
    optimizer = rs.optimizer("galore", [param], rank=5)
    sizes = {name: tuple(value.shape) for name, value in optimizer.state[param].items()}
    assert sizes["exp_avg"] == sizes["exp_avg_sq"] == (64, 5)
    assert sizes["projector"] == (24, 5)


def test_other_parameters_get_adamw_with_the_same_arguments() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    first, second = rs.optimizer("galore", model, lr=0.3, weight_decay=0.1).param_groups
    assert first["param_names"] == ["0.weight"]
    assert (second["lr"], second["weight_decay"], second["eps"]) == (0.3, 0.1, 1e-6)
