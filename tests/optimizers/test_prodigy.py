"""Prodigy against the authors' package and the paper; d never falls; no learning rate to find."""

from __future__ import annotations

from typing import Any

import prodigyopt
import pytest
import torch
from tests.references import distance as paper
from tests.references.estimators import (
    assert_equals_package,
    assert_equals_paper,
    assert_first_estimate_is_plain,
    assert_rests,
    assert_resumes,
)
from tests.references.problems import network, train
from torch import nn

import rheostat as rs

CASES: list[dict[str, Any]] = [
    {},
    {"lr": 0.5, "betas": (0.8, 0.97), "beta3": 0.9, "eps": 1e-6, "d_coef": 0.7, "d0": 1e-4},
    {"weight_decay": 0.1, "growth_rate": 1.3, "d0": 1e-3},
    {"weight_decay": 0.1, "decouple": False, "use_bias_correction": True},
    {"use_bias_correction": True, "safeguard_warmup": True, "weight_decay": 0.01},
]


def _quadratic(d0: float, steps: int, **arguments: Any) -> tuple[float, list[float]]:
    """How far from the solution a badly scaled quadratic ends, and d after every step."""
    curvature = torch.tensor([1.0, 0.5, 0.1, 0.02], dtype=torch.float64)
    target = torch.tensor([3.0, -2.0, 1.0, 5.0], dtype=torch.float64)
    param = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    schedule = rs.schedules.cosine(1.0, steps=steps)
    optimizer = rs.optimizer("prodigy", [param], d0=d0, lr=schedule, **arguments)
    estimates: list[float] = []
    for _ in range(steps):
        param.grad = curvature * (param.detach() - target)
        optimizer.step()
        estimates.append(optimizer.param_groups[0]["d"])
    return float((param.detach() - target).abs().max()), estimates


@pytest.mark.parametrize("arguments", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_authors_package(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    assert_equals_package("prodigy", prodigyopt.Prodigy, arguments, dtype)


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.0, 0.95)])
def test_equals_the_paper_under_a_schedule(betas: tuple[float, float]) -> None:
    """Also at β₁ = 0, where the package multiplies the gradient by the new d instead of the old."""
    settings: dict[str, Any] = {"betas": betas, "eps": 1e-7, "d0": 1e-5, "weight_decay": 0.01}
    assert_equals_paper("prodigy", paper.prodigy, settings)


@pytest.mark.parametrize("arguments", [*CASES, {"safeguard_warmup": True, "betas": (0.0, 0.9)}])
def test_d_never_falls(arguments: dict[str, Any]) -> None:
    model = network()
    optimizer = rs.optimizer("prodigy", model, **arguments)
    d = optimizer.param_groups[0]["d"]
    for k in range(80):
        if k % 9 == 5:  # a step of zeros, then one against the direction of the others
            for param in model.parameters():
                param.grad = torch.zeros_like(param)
            optimizer.step()
            for param in model.parameters():
                param.grad = 50 * (param.detach() + 1)
            optimizer.step()
        train(model, optimizer, 1, k)
        assert optimizer.param_groups[0]["d"] >= d
        d = optimizer.param_groups[0]["d"]
    assert d > 3 * optimizer.rule(0).scalars["d"]


@pytest.mark.parametrize("exponent", range(-9, -2))
def test_it_needs_no_learning_rate(exponent: int) -> None:
    """Six orders of magnitude of d0, all far below the distance of 5: the same solution."""
    error, estimates = _quadratic(10.0**exponent, 500)
    assert error < 1e-8
    assert 0.5 < estimates[-1] < 5.0


def test_growth_is_limited_after_the_first_jump() -> None:
    _, estimates = _quadratic(1e-3, 60, growth_rate=1.02)
    jump = next(k for k, d in enumerate(estimates) if d > 1e-3)
    ratios = [b / a for a, b in zip(estimates[jump:], estimates[jump + 1 :], strict=False)]
    assert max(ratios) == pytest.approx(1.02)
    assert estimates[-1] > 1.5 * estimates[jump]


def test_d_coef_scales_the_estimate() -> None:
    _, plain = _quadratic(1e-6, 5)
    _, halved = _quadratic(1e-6, 5, d_coef=0.5)
    first = next(k for k, d in enumerate(plain) if d > 1e-6)
    assert halved[first] == pytest.approx(max(1e-6, plain[first] / 2))


@pytest.mark.parametrize("arguments", CASES)
def test_a_resumed_run_is_the_same_run(arguments: dict[str, Any]) -> None:
    assert_resumes("prodigy", arguments)


def test_zero_gradients_and_lr_0_change_nothing() -> None:
    assert_rests("prodigy")


def test_the_first_estimate_is_a_plain_number() -> None:
    assert_first_estimate_is_plain("prodigy")
