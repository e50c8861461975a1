"""asgd: equal to torch's, average and all, and its average is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.references import problems, training
from torch import nn

import rheostat as rs


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """A precision, which is also the default: torch keeps ASGD's η and μ in the default one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 20.0, "weight_decay": 0.05},
        {"lr": 0.1, "lambd": 0.0, "t0": 0.0},
    ],
)
def test_equals_torch(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    training.assert_same_training("asgd", torch.optim.ASGD, dtype, arguments)
    ours, theirs = problems.network(dtype), problems.network(dtype)
    mine = rs.optimizer("asgd", ours, **arguments)
    other = torch.optim.ASGD(theirs.parameters(), **arguments)
    training.train(ours, mine, 60)
    training.train(theirs, other, 60)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-10
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        average = other.state[two]["ax"]
        torch.testing.assert_close(mine.state[one]["ax"], average, rtol=tolerance, atol=tolerance)
        with mine.averaged():
            torch.testing.assert_close(one, average, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


def test_the_average_is_the_mean_of_the_weights_after_t0() -> None:
    param = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = rs.optimizer("asgd", [param], lr=0.3, t0=10.0)
    seen: list[torch.Tensor] = []
    for k in range(50):
        param.grad = param.detach() - torch.tensor([1.0, -2.0, 0.5]) * (k % 3)
        optimizer.step()
        seen.append(param.detach().clone())
        with optimizer.averaged():
            # Updates count from 1: the first in the average is update t0 + 2, as in torch.
            expected = torch.stack(seen[11:]).mean(0) if k >= 11 else seen[-1]
            torch.testing.assert_close(param.detach(), expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(param, seen[-1])


def test_before_any_update_the_average_shows_the_weights() -> None:
    param = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = rs.optimizer("asgd", [param])
    with optimizer.averaged():
        assert param.tolist() == [1.0, 2.0]


def test_the_step_size_falls_with_alpha() -> None:
    param = nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = rs.optimizer("asgd", [param], lr=0.5, lambd=1.0, alpha=1.0)
    for step in range(1, 30):
        before = param.item()
        param.grad = torch.ones((), dtype=torch.float64)
        optimizer.step()
        assert before - param.item() == pytest.approx(0.5 / (1 + 0.5 * (step - 1)) * (1 + before))
