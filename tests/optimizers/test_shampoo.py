"""Shampoo against its formula in float64, and the properties that make it Shampoo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.references import matrices
from tests.references.descent import Array, close, descend, ours, problem
from torch import nn

import rheostat as rs

USUAL: dict[str, Any] = {
    "lr": 0.02,
    "betas": (0.9, 0.95),
    "eps": 1e-8,
    "matrix_eps": 1e-4,
    "weight_decay": 0.0,
    "graft": "adam",
    "block_size": 512,
    "precondition_frequency": 3,
}
CASES = [
    {},
    {"lr": 0.1, "betas": (0.5, 0.99), "eps": 1e-2},
    {"graft": "sgd", "weight_decay": 0.3},
    {"graft": "rmsprop", "precondition_frequency": 1},
    {"graft": "none", "matrix_eps": 1e-2},
    {"block_size": 3},
    {"block_size": 2, "graft": "none"},
]


@pytest.mark.parametrize("shape", [(6, 4), (3, 7), (4, 2, 2)])
@pytest.mark.parametrize("changed", CASES)
def test_equals_the_formula(shape: tuple[int, ...], changed: dict[str, Any]) -> None:
    arguments = {**USUAL, **changed}
    start, gradient = problem(shape)
    expected = matrices.shampoo(start, gradient, 60, **arguments)
    close(descend(ours("shampoo", **arguments), start, gradient), expected, 1e-10)
    single = descend(ours("shampoo", **arguments), start, gradient, dtype=torch.float32)
    close(single, expected, 2e-3)


def _direction(gradients: list[Array], **arguments: Any) -> Array:
    """The last step, in units of lr."""
    param = nn.Parameter(torch.zeros(gradients[0].shape, dtype=torch.float64))
    optimizer = rs.optimizer("shampoo", [param], **{**USUAL, "lr": 1.0, **arguments})
    before = torch.zeros(0)
    for gradient in gradients:
        before = param.detach().clone()
        param.grad = torch.tensor(gradient)
        optimizer.step()
    return (before - param.detach()).numpy()


def test_the_first_step_is_orthogonal() -> None:
    """L = G Gᵀ and R = Gᵀ G whiten G itself: Gupta et al., section 1."""
    gradient = np.random.default_rng(0).normal(size=(6, 4))
    found = _direction([gradient], graft="none", matrix_eps=1e-14)
    u, _, vt = np.linalg.svd(gradient, full_matrices=False)
    close(found, u @ vt, 1e-6)


@pytest.mark.parametrize("graft", ["none", "sgd"])
def test_it_turns_with_the_gradient(graft: str) -> None:
    """Other axes for rows and columns: the same step, in those axes. No diagonal rule does this."""
    rng = np.random.default_rng(1)
    gradients = [rng.normal(size=(5, 4)) for _ in range(7)]
    rows, columns = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (5, 4))
    turned = _direction([rows @ g @ columns for g in gradients], graft=graft)
    close(turned, rows @ _direction(gradients, graft=graft) @ columns, 1e-9)


@pytest.mark.parametrize("graft", ["sgd", "adam"])
def test_a_block_steps_as_far_as_its_graft(graft: str) -> None:
    rng = np.random.default_rng(2)
    gradients = [rng.normal(size=(6, 4)) * rng.uniform(0.1, 3) for _ in range(5)]
    found = _direction(gradients, graft=graft, block_size=3, betas=(0.0, 0.9))
    wanted = gradients[-1]
    if graft == "adam":
        squares = sum(0.1 * 0.9 ** (4 - i) * g**2 for i, g in enumerate(gradients))
        wanted = wanted / np.sqrt(squares / (1 - 0.9**5))
    for rows in (slice(0, 3), slice(3, 6)):
        for columns in (slice(0, 2), slice(2, 4)):
            block = found[rows, columns]
            assert np.linalg.norm(block) == pytest.approx(np.linalg.norm(wanted[rows, columns]))


def test_blocks_know_nothing_of_each_other() -> None:
    rng = np.random.default_rng(3)
    gradients = [rng.normal(size=(6, 4)) for _ in range(5)]
    whole = _direction(gradients, block_size=3)
    alone = _direction([g[3:, 2:] for g in gradients], block_size=3)
    close(whole[3:, 2:], alone, 1e-12)


def test_a_block_without_gradient_stays_and_comes_back() -> None:
    rng = np.random.default_rng(4)
    silent = [np.zeros((6, 4)) for _ in range(4)]
    later = [*silent, *(rng.normal(size=(6, 4)) for _ in range(3))]
    assert not _direction(silent).any()
    assert np.isfinite(_direction(later)).all()
    assert _direction(later).any()


def test_the_state_is_as_large_as_the_blocks_say() -> None:
    param = nn.Parameter(torch.zeros(10, 3, 2))
    optimizer = rs.optimizer("shampoo", [param], block_size=4)
    shapes = {name: tuple(value.shape) for name, value in optimizer.state[param].items()}
    # Ten rows in three blocks of four (the last two rows of zeros), six columns in two of three.
    assert shapes["left"] == shapes["left_root"] == (6, 4, 4)
    assert shapes["right"] == shapes["right_root"] == (6, 3, 3)


def test_other_parameters_are_adamws() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    groups = rs.optimizer("shampoo", model, adamw_lr=0.5, adamw_betas=(0.1, 0.2)).param_groups
    assert [group["param_names"] for group in groups] == [
        ["1.weight"],
        ["0.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"],
    ]
    assert (groups[1]["lr"], groups[1]["betas"]) == (0.5, (0.1, 0.2))
