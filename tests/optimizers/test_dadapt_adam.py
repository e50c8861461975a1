"""D-Adapted Adam against the authors' package and the paper; its d is a bound that only rises."""

from __future__ import annotations

from typing import Any

import dadaptation
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
from torch import nn

import rheostat as rs

CASES: list[dict[str, Any]] = [
    {},
    {"lr": 0.5, "betas": (0.8, 0.97), "eps": 1e-6, "weight_decay": 0.1, "d0": 1e-4},
    {"growth_rate": 1.3, "d0": 1e-3},
    {"weight_decay": 0.1, "decouple": True, "use_bias_correction": True},
]


@pytest.mark.parametrize("arguments", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_authors_package(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    assert_equals_package("dadapt_adam", dadaptation.DAdaptAdam, arguments, dtype)


def test_equals_the_paper_under_a_schedule() -> None:
    settings: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-7, "d0": 1e-5}
    assert_equals_paper("dadapt_adam", paper.dadapt_adam, settings)


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


@pytest.mark.parametrize("arguments", CASES)
def test_a_resumed_run_is_the_same_run(arguments: dict[str, Any]) -> None:
    assert_resumes("dadapt_adam", arguments)


def test_zero_gradients_and_lr_0_change_nothing() -> None:
    assert_rests("dadapt_adam")


def test_the_first_estimate_is_a_plain_number() -> None:
    assert_first_estimate_is_plain("dadapt_adam")
