"""What both optimizers that estimate their own step size, Prodigy and D-Adapted Adam, must do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.references.distance import Array
from tests.references.problems import network, same_bits, train, weights
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError


def assert_equals_package(
    name: str, package: type[torch.optim.Optimizer], arguments: dict[str, Any], dtype: torch.dtype
) -> None:
    """Weights, and d after every step, are those of the authors' optimizer."""
    mine, other = network(dtype), network(dtype)
    ours = rs.optimizer(name, mine, **arguments)
    limit = {"growth_rate": float("inf"), **arguments}
    theirs = package(other.parameters(), **limit)
    # The estimate starts from the last bits of differences of weights, and feeds back into itself:
    # what one more rounding does in float32 grows. float64 shows that nothing else differs.
    steps, tolerance = (60, 1e-10) if dtype == torch.float64 else (30, 1e-3)
    for k in range(steps):
        train(mine, ours, 1, k)
        train(other, theirs, 1, k)
        estimate, expected = ours.param_groups[0]["d"], theirs.param_groups[0]["d"]
        assert estimate == pytest.approx(expected, rel=tolerance)
    torch.testing.assert_close(weights(mine), weights(other), rtol=tolerance, atol=tolerance)


def assert_equals_paper(
    name: str, paper: Callable[..., tuple[Array, list[float]]], settings: dict[str, Any]
) -> None:
    """Weights and d are those of the printed algorithm, under a learning rate that changes."""
    curvature = np.array([1.0, 0.3, 0.05])
    start, target = np.array([1.0, -2.0, 0.5]), np.array([0.2, 0.4, -0.1])
    rates = [0.6 + 0.4 * np.cos(t / 20) for t in range(100)]

    def gradient(w: Array, t: int) -> Array:
        return curvature * (w - target) + 0.1 * np.cos(t)

    expected, estimates = paper(start, gradient, rates, **settings)
    # Three parameters, so that what the paper sums over elements is summed over parameters here.
    params = [nn.Parameter(torch.tensor([value], dtype=torch.float64)) for value in start]
    optimizer = rs.optimizer(name, params, **settings)
    for t, (rate, estimate) in enumerate(zip(rates, estimates, strict=True), 1):
        optimizer.param_groups[0]["lr"] = rate
        slope = gradient(np.array([param.item() for param in params]), t)
        for param, value in zip(params, slope, strict=True):
            param.grad = torch.tensor([value], dtype=torch.float64)
        optimizer.step()
        assert optimizer.param_groups[0]["d"] == pytest.approx(estimate, rel=1e-9)
    assert estimates[-1] > 1e3 * estimates[0], "the problem lets d grow"
    np.testing.assert_allclose([param.item() for param in params], expected, rtol=1e-9)


def assert_resumes(name: str, arguments: dict[str, Any]) -> None:
    """A run that is saved and loaded half-way ends at the same bits and the same d."""
    whole = network(torch.float32)
    straight = rs.optimizer(name, whole, **arguments)
    train(whole, straight, 12)
    model = copy.deepcopy(whole)
    again = rs.optimizer(name, model, **arguments)
    again.load_state_dict(copy.deepcopy(straight.state_dict()))
    train(whole, straight, 12, 12)
    train(model, again, 12, 12)
    assert same_bits(weights(whole), weights(model))
    assert straight.param_groups[0]["d"] == again.param_groups[0]["d"] > 1e-6


def assert_rests(name: str) -> None:
    """Zero gradients, and a learning rate of 0, change neither a bit of the weights nor d."""
    param = nn.Parameter(torch.tensor([1.0, -0.0, 3e38]))
    before = param.detach().clone()
    optimizer = rs.optimizer(name, [param], lr=0.0, use_bias_correction=True)
    for gradient in (torch.zeros(3), torch.tensor([0.5, 1.0, 2.0])):
        param.grad = gradient
        optimizer.step()
        assert torch.equal(param.view(torch.int32), before.view(torch.int32))
    assert optimizer.param_groups[0]["d"] == 1e-6


def assert_first_estimate_is_plain(name: str) -> None:
    """d0 takes no schedule: it is read once."""
    with pytest.raises(InputError, match=f"{name}: d0=constant"):
        rs.optimizer(name, [nn.Parameter(torch.ones(2))], d0=rs.schedules.constant(1e-6))
