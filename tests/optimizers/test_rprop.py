"""rprop: equal to torch's, and a rule of signs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.references.training import assert_same_training
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"lr": 1e-3, "etas": (0.7, 1.1), "step_sizes": (1e-4, 0.02)},
        {"lr": 1.0, "step_sizes": (1e-5, 0.1)},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    assert_same_training("rprop", torch.optim.Rprop, dtype, arguments)


def _walk(gradients: list[list[float]], **arguments: Any) -> list[list[float]]:
    param = nn.Parameter(torch.zeros(len(gradients[0]), dtype=torch.float64))
    optimizer = rs.optimizer("rprop", [param], **arguments)
    moves: list[list[float]] = []
    for gradient in gradients:
        before = param.detach().clone()
        param.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        moves.append((before - param.detach()).tolist())
    return moves


def test_step_sizes_grow_while_the_sign_holds_shrink_and_rest_where_it_turns() -> None:
    moves = _walk([[1], [5], [1], [-2], [-1], [-1], [0], [3]], lr=0.1)
    sizes = [0.1, 0.12, 0.144, 0.0, -0.072, -0.0864, 0.0, 0.0864]
    assert [move[0] for move in moves] == pytest.approx(sizes)


def test_only_signs_matter_even_of_the_smallest_gradients() -> None:
    signs = [[1, -1, 1], [1, 1, -1], [1, 1, 1], [1, -1, 1]]
    plain = _walk([[float(s) for s in row] for row in signs])
    scaled = _walk([[s * 1e-200 for s in row] for row in signs])
    assert plain == scaled


def test_step_sizes_stay_within_their_bounds() -> None:
    moves = _walk([[1.0, (-1.0) ** (k // 2)] for k in range(60)], step_sizes=(1e-3, 0.5))
    assert moves[-1][0] == 0.5
    turning = {round(abs(move[1]), 9) for move in moves[-8:]}
    assert turning <= {0.0, 1e-3, 1.2e-3}


def test_factors_on_the_wrong_side_of_one_are_refused() -> None:
    param = nn.Parameter(torch.zeros(2))
    with pytest.raises(InputError, match=r"etas\.0=1\.5: should be less than 1"):
        rs.optimizer("rprop", [param], etas=(1.5, 1.2))
    with pytest.raises(InputError, match=r"etas\.1=0\.9: should be greater than 1"):
        rs.optimizer("rprop", [param], etas=(0.5, 0.9))
