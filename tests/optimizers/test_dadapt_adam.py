"""D-Adapted Adam against the authors' package and the paper; its d is a bound that only rises."""

from __future__ import annotations

import copy
from typing import Any

import dadaptation
import numpy as np
import pytest
import torch
from tests.references import distance as paper
from tests.references.problems import network, same_bits, train, weights
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError

CASES: list[dict[str, Any]] = [
    {},
    {"lr": 0.5, "betas": (0.8, 0.97), "eps": 1e-6, "weight_decay": 0.1, "d0": 1e-4},
    {"growth_rate": 1.3, "d0": 1e-3},
    {"weight_decay": 0.1, "decouple": True, "use_bias_correction": True},
]


@pytest.mark.parametrize("arguments", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_authors_package(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    mine, other = network(dtype), network(dtype)
    ours = rs.optimizer("dadapt_adam", mine, **arguments)
    limit = {"growth_rate": float("inf"), **arguments}
    theirs = dadaptation.DAdaptAdam(other.parameters(), **limit)
    # The estimate starts from the last bits of differences of weights, and feeds back into itself:
    # what one more rounding does in float32 grows. float64 shows that nothing else differs.
    steps, tolerance = (60, 1e-10) if dtype == torch.float64 else (30, 1e-3)
    for k in range(steps):
        train(mine, ours, 1, k)
        train(other, theirs, 1, k)
        estimate, expected = ours.param_groups[0]["d"], theirs.param_groups[0]["d"]
        assert estimate == pytest.approx(expected, rel=tolerance)
    torch.testing.assert_close(weights(mine), weights(other), rtol=tolerance, atol=tolerance)


def test_equals_the_paper_under_a_schedule() -> None:
    curvature = np.array([1.0, 0.3, 0.05])
    start, target = np.array([1.0, -2.0, 0.5]), np.array([0.2, 0.4, -0.1])
    rates = [0.6 + 0.4 * np.cos(t / 20) for t in range(100)]

    def gradient(w: paper.Array, t: int) -> paper.Array:
        return curvature * (w - target) + 0.1 * np.cos(t)

    settings: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-7, "d0": 1e-5}
    expected, estimates = paper.dadapt_adam(start, gradient, rates, **settings)
    params = [nn.Parameter(torch.tensor([value], dtype=torch.float64)) for value in start]
    optimizer = rs.optimizer("dadapt_adam", params, **settings)
    for t, (rate, estimate) in enumerate(zip(rates, estimates, strict=True), 1):
        optimizer.param_groups[0]["lr"] = rate
        slope = gradient(np.array([param.item() for param in params]), t)
        for param, value in zip(params, slope, strict=True):
            param.grad = torch.tensor([value], dtype=torch.float64)
        optimizer.step()
        assert optimizer.param_groups[0]["d"] == pytest.approx(estimate, rel=1e-9)
    assert estimates[-1] > 1e3 * estimates[0], "the problem lets d grow"
    np.testing.assert_allclose([param.item() for param in params], expected, rtol=1e-9)


@pytest.mark.parametrize("distance", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("d0", [1e-8, 1e-5])
def test_d_is_a_rising_estimate_of_the_distance(distance: float, d0: float) -> None:
    """|w − t| in each coordinate: d grows from d0 to the order of |t|, and w comes to t."""
    param = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    target = distance * torch.tensor([1.0, -1.0, 0.5, 0.2, -0.7, 0.9], dtype=torch.float64)
    steps = 400
    schedule = rs.schedules.cosine(1.0, steps=steps)
    optimizer = rs.optimizer("dadapt_adam", [param], lr=schedule, d0=d0)
    last = d0
    for _ in range(steps):
        param.grad = (param.detach() - target).sign()
        optimizer.step()
        assert optimizer.param_groups[0]["d"] >= last
        last = optimizer.param_groups[0]["d"]
    assert 0.1 * distance < last < 3 * distance
    assert float((param.detach() - target).abs().max()) < 0.05 * distance


def test_a_resumed_run_is_the_same_run() -> None:
    for arguments in CASES:
        whole = network(torch.float32)
        straight = rs.optimizer("dadapt_adam", whole, **arguments)
        train(whole, straight, 12)
        model = copy.deepcopy(whole)
        again = rs.optimizer("dadapt_adam", model, **arguments)
        again.load_state_dict(copy.deepcopy(straight.state_dict()))
        train(whole, straight, 12, 12)
        train(model, again, 12, 12)
        assert same_bits(weights(whole), weights(model))
        assert straight.param_groups[0]["d"] == again.param_groups[0]["d"] > 1e-6


def test_zero_gradients_and_lr_0_change_nothing() -> None:
    param = nn.Parameter(torch.tensor([1.0, -0.0, 3e38]))
    before = param.detach().clone()
    optimizer = rs.optimizer("dadapt_adam", [param], lr=0.0, use_bias_correction=True)
    for gradient in (torch.zeros(3), torch.tensor([0.5, 1.0, 2.0])):
        param.grad = gradient
        optimizer.step()
        assert torch.equal(param.view(torch.int32), before.view(torch.int32))
    assert optimizer.param_groups[0]["d"] == 1e-6


def test_the_first_estimate_is_a_plain_number() -> None:
    with pytest.raises(InputError, match="dadapt_adam: d0=Sched"):
        rs.optimizer("dadapt_adam", [nn.Parameter(torch.ones(2))], d0=rs.schedules.constant(1e-6))
