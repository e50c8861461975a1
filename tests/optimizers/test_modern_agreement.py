"""The modern first-order family against the papers, in float64 and float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.references import modern
from tests.references.descent import Array, close, descend, ours, problem
from torch import nn

from rheostat.core.transform import Hyper

SHAPE = (5, 4)

CASES: list[tuple[str, dict[str, Any]]] = [
    ("lion", {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.0}),
    ("lion", {"lr": 0.02, "betas": (0.7, 0.95), "weight_decay": 0.3}),
    ("signum", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}),
    ("signum", {"lr": 0.02, "momentum": 0.0, "weight_decay": 0.3}),
    ("adabelief", {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-16, "weight_decay": 0.0}),
    ("adabelief", {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2}),
    (
        "adan",
        {
            "lr": 0.01,
            "betas": (0.98, 0.92, 0.99),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "proximal": True,
        },
    ),
    (
        "adan",
        {
            "lr": 0.02,
            "betas": (0.8, 0.6, 0.9),
            "eps": 1e-2,
            "weight_decay": 0.4,
            "proximal": True,
        },
    ),
    (
        "adan",
        {
            "lr": 0.02,
            "betas": (0.8, 0.6, 0.9),
            "eps": 1e-2,
            "weight_decay": 0.4,
            "proximal": False,
        },
    ),
    ("adopt", {"lr": 0.01, "betas": (0.9, 0.9999), "eps": 1e-6, "weight_decay": 0.0}),
    ("adopt", {"lr": 0.02, "betas": (0.7, 0.9), "eps": 0.5, "weight_decay": 0.3}),
    (
        "ademamix",
        {
            "lr": 0.01,
            "betas": (0.9, 0.999, 0.9999),
            "alpha": 5.0,
            "eps": 1e-8,
            "weight_decay": 0.0,
        },
    ),
    (
        "ademamix",
        {
            "lr": 0.01,
            "betas": (0.8, 0.95, 0.999),
            "alpha": 8.0,
            "eps": 1e-3,
            "weight_decay": 0.3,
            "alpha_warmup": 30,
            "beta3_warmup": 80,
        },
    ),
    (
        "ademamix",
        {
            "lr": 0.01,
            "betas": (0.8, 0.95, 0.99),
            "alpha": 8.0,
            "eps": 1e-3,
            "weight_decay": 0.3,
            "alpha_warmup": 80,
            "beta3_warmup": 30,
        },
    ),
    ("laprop", {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-15, "weight_decay": 0.0}),
    ("laprop", {"lr": 0.02, "betas": (0.95, 0.7), "eps": 1e-2, "weight_decay": 0.3}),
    ("mars", {"lr": 0.01, "betas": (0.95, 0.99), "eps": 1e-8, "gamma": 0.025, "weight_decay": 0.0}),
    ("mars", {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-2, "gamma": 0.5, "weight_decay": 0.3}),
    ("stable_adamw", {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01}),
    ("stable_adamw", {"lr": 0.02, "betas": (0.8, 0.999), "eps": 0.5, "weight_decay": 0.3}),
    ("novograd", {"lr": 0.01, "betas": (0.95, 0.98), "eps": 1e-8, "weight_decay": 0.0}),
    ("novograd", {"lr": 0.02, "betas": (0.8, 0.5), "eps": 0.1, "weight_decay": 0.1}),
    ("madgrad", {"lr": 0.01, "momentum": 0.9, "eps": 1e-6, "weight_decay": 0.0}),
    ("madgrad", {"lr": 0.02, "momentum": 0.0, "eps": 0.1, "weight_decay": 0.1}),
    ("lamb", {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}),
    ("lamb", {"lr": 0.02, "betas": (0.7, 0.9), "eps": 0.1, "weight_decay": 0.5}),
    (
        "lars",
        {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.0, "trust_coefficient": 1e-3},
    ),
    (
        "lars",
        {
            "lr": 2.0,
            "momentum": 0.8,
            "weight_decay": 0.3,
            "trust_coefficient": 0.01,
            "dampening": 0.4,
        },
    ),
    (
        "lars",
        {
            "lr": 2.0,
            "momentum": 0.8,
            "weight_decay": 0.3,
            "trust_coefficient": 0.01,
            "nesterov": True,
        },
    ),
    ("lars", {"lr": 2.0, "momentum": 0.0, "weight_decay": 0.1, "trust_coefficient": 0.01}),
]
"""Settings in which every hyperparameter has more than one value, and does something."""


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_equals_the_paper(name: str, arguments: dict[str, Any]) -> None:
    start, gradient = problem(SHAPE)
    expected = getattr(modern, name)(start, gradient, 60, **arguments)
    assert np.abs(expected - start).max() > 0.01, "nothing moved: the case shows nothing"
    close(descend(ours(name, **arguments), start, gradient), expected, 1e-10)
    single = descend(ours(name, **arguments), start, gradient, dtype=torch.float32)
    close(single, expected, 2e-4)


def test_mars_equals_the_paper_where_the_gradient_is_too_small_to_be_scaled_down() -> None:
    arguments: dict[str, Any] = {"lr": 0.01, "betas": (0.95, 0.99), "gamma": 0.025}
    arguments |= {"eps": 1e-8, "weight_decay": 0.1}
    start, gradient = problem(SHAPE, scale=0.01)
    expected = modern.mars(start, gradient, 60, **arguments)
    close(descend(ours("mars", **arguments), start, gradient), expected, 1e-10)


@pytest.mark.parametrize(
    ("shape", "blocks", "heads"),
    [
        ((4, 3), [(slice(i, i + 1), slice(None)) for i in range(4)], {}),
        (
            (4, 3),
            [(slice(i, i + 2), slice(None)) for i in (0, 2)],
            {"heads": ("*",), "head_dim": 2},
        ),
        ((7,), [(slice(None),)], {}),
        ((3, 2, 2), [(slice(None), slice(None), slice(None))], {}),
    ],
    ids=["rows", "heads", "vector", "convolution"],
)
@pytest.mark.parametrize(
    "arguments",
    [
        {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
        {"lr": 0.02, "betas": (0.7, 0.9), "eps": 0.1, "weight_decay": 0.3},
    ],
)
def test_adam_mini_equals_the_paper(
    shape: tuple[int, ...],
    blocks: list[tuple[slice, ...]],
    heads: dict[str, Any],
    arguments: dict[str, Any],
) -> None:
    start, gradient = problem(shape)
    expected = modern.adam_mini(start, gradient, 60, **arguments, blocks=blocks)
    make = ours("adam_mini", **arguments, **heads)
    close(descend(make, start, gradient), expected, 1e-10)
    close(descend(make, start, gradient, dtype=torch.float32), expected, 2e-4)


def observe(optimizer: Any, param: nn.Parameter, sample: Array) -> None:
    """Fold a sample of the Hessian's diagonal into what the rule keeps of a parameter."""
    piece = optimizer.rule(0).pieces[0]
    group = optimizer.param_groups[0]
    hyper = Hyper(**{name: group[name] for name in piece.hyperparameters}, step=1.0)
    with torch.no_grad():
        piece.observe(torch.tensor(sample), optimizer.state[param], param, hyper)


SAMPLES = {
    t: np.random.default_rng([7, t]).normal(2.0, 2.0, size=SHAPE) for t in (1, 11, 21, 31, 41, 51)
}
"""Estimates of the diagonal, some of them negative, by the step that they come ahead of."""


@pytest.mark.parametrize(
    "arguments",
    [
        {"lr": 0.01, "betas": (0.96, 0.99), "gamma": 0.05, "eps": 1e-12, "weight_decay": 0.1},
        {"lr": 0.02, "betas": (0.8, 0.5), "gamma": 0.6, "eps": 1e-1, "weight_decay": 0.3},
    ],
)
def test_sophia_equals_the_paper_and_pytorch_optimizer(arguments: dict[str, Any]) -> None:
    import pytorch_optimizer

    start, gradient = problem(SHAPE)
    expected = modern.sophia(start, gradient, 60, **arguments, samples=SAMPLES)

    def before(t: int, optimizer: torch.optim.Optimizer, param: nn.Parameter) -> None:
        if t in SAMPLES:
            observe(optimizer, param, SAMPLES[t])

    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-4)):
        mine = descend(ours("sophia", **arguments), start, gradient, dtype=dtype, before=before)
        close(mine, expected, tolerance)

    # Theirs clips m / max(h, eps) at p, and multiplies by lr: ours in other units.
    gamma = arguments["gamma"]
    param = nn.Parameter(torch.tensor(start))
    peer = pytorch_optimizer.SophiaH(
        [param],
        lr=arguments["lr"] / gamma,
        betas=arguments["betas"],
        weight_decay=arguments["weight_decay"] * gamma,
        p=gamma,
        eps=arguments["eps"] / gamma,
        update_period=1000,
        foreach=False,
    )
    for t in range(1, 61):
        param.grad = torch.tensor(gradient(t, param.detach().numpy()))
        peer.step(hessian=[torch.tensor(SAMPLES[t])] if t in SAMPLES else None)
    close(param.detach().numpy(), expected, 1e-10)
