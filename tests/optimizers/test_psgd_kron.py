"""PSGD Kron against the whole Kronecker product, pytorch-optimizer's, and its aim: white noise."""

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
from rheostat.optimizers.items import noise

USUAL: dict[str, Any] = {
    "lr": 0.02,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "precond_lr": 0.1,
    "precondition_frequency": 4,
    "precondition_warmup": 20,
    "max_size_triangular": 6,
}
CASES = [
    {},
    {"lr": 0.1, "momentum": 0.5, "precond_lr": 0.3},
    {"weight_decay": 0.3},
    {"precondition_frequency": 7, "precondition_warmup": 0},
    {"max_size_triangular": 3},
    {"max_size_triangular": 2},
]


def _draw(step: int, shape: tuple[int, ...]) -> Array:
    """What the loop's counter draws for the only parameter of a list, in that step."""
    return noise(0, float(step), "param.0")(torch.zeros(shape, dtype=torch.float64)).numpy()


@pytest.mark.parametrize("shape", [(6, 4), (3, 7), (4, 2, 2), (5,)])
@pytest.mark.parametrize("changed", CASES)
def test_equals_the_formula(shape: tuple[int, ...], changed: dict[str, Any]) -> None:
    arguments = {**USUAL, **changed}
    start, gradient = problem(shape)
    sides = (shape[0], int(np.prod(shape[1:])))
    longest = arguments["max_size_triangular"] if len(shape) > 1 else 0
    expected = matrices.kron(
        start,
        gradient,
        60,
        noise=lambda t: _draw(t, sides),
        due=lambda t: (
            t <= arguments["precondition_warmup"] or t % arguments["precondition_frequency"] == 0
        ),
        triangular=(sides[0] <= longest, sides[1] <= longest),
        **{k: arguments[k] for k in ("lr", "momentum", "weight_decay", "precond_lr")},
    )
    close(descend(ours("psgd_kron", **arguments), start, gradient), expected, 1e-9)


def test_equals_pytorch_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same draws, an update of the preconditioner at every step, and none balanced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_optimizer import Kron
    start, gradient = problem((6, 4))
    count = iter(range(1, 1000))

    def draw(like: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.tensor(_draw(next(count), tuple(like.shape)), dtype=like.dtype)

    peer = {"pre_conditioner_update_probability": 1.0, "balance_prob": 0.0, "weight_decay": 0.3}

    def make(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        return Kron(params, lr=0.02, precondition_dtype=torch.float64, **peer)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn_like", draw)
        theirs = descend(make, start, gradient)
    mine = descend(ours("psgd_kron", lr=0.02, weight_decay=0.3), start, gradient)
    # It solves its triangular systems in float32.
    close(mine, theirs, 2e-4)


def test_the_factors_are_balanced_and_their_product_stays() -> None:
    """Over 100 steps, where the loop balances once, the formula's steps go on."""
    start, gradient = problem((4, 3))
    arguments = {**USUAL, "lr": 0.002}
    expected = matrices.kron(
        start,
        gradient,
        130,
        noise=lambda t: _draw(t, (4, 3)),
        due=lambda t: t <= 20 or t % 4 == 0,
        triangular=(True, True),
        **{k: arguments[k] for k in ("lr", "momentum", "weight_decay", "precond_lr")},
    )
    close(descend(ours("psgd_kron", **arguments), start, gradient, steps=130), expected, 1e-8)


def test_it_whitens() -> None:
    """Gradients with a Kronecker covariance come out with the covariance of white noise."""
    torch.manual_seed(0)
    sizes = [torch.logspace(-1, 1, n, dtype=torch.float64) for n in (6, 4)]
    axes = [torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0] for n in (6, 4)]
    left, right = (a @ torch.diag(s) for a, s in zip(axes, sizes, strict=True))
    param = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = rs.optimizer("psgd_kron", [param], lr=1.0, momentum=0.0, precondition_warmup=9999)
    whitened: list[torch.Tensor] = []
    for step in range(4000):
        raw = left @ torch.randn(6, 4, dtype=torch.float64) @ right.T
        param.grad = raw
        optimizer.step()
        if step >= 2000:
            state = optimizer.state[param]
            ql, qr = state["left"], state["right"]
            whitened.append((ql.T @ ql @ raw @ qr.T @ qr).reshape(-1))
    covariance = torch.stack(whitened).T.cov()
    spread = torch.linalg.eigvalsh(covariance)
    raw_spread = float((sizes[0][-1] * sizes[1][-1] / sizes[0][0] / sizes[1][0]) ** 2)
    assert raw_spread == pytest.approx(1e8)
    assert 0.3 < float(spread[0]) < 1.0 < float(spread[-1]) < 3.0
    assert float(covariance.diagonal().mean()) == pytest.approx(1.0, abs=0.2)


def test_the_step_is_limited() -> None:
    """P m̂ has a root mean square of at most 1.1, whatever the gradient's size."""
    param = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = rs.optimizer("psgd_kron", [param], lr=1.0)
    param.grad = torch.full_like(param, 1e6)
    optimizer.step()
    assert float(param.detach().square().mean().sqrt()) == pytest.approx(1.1)


def test_zero_gradients_leave_the_preconditioner_alone() -> None:
    """In kron_torch it grows without bound, and the product with zero ends in NaN."""
    param = nn.Parameter(torch.ones(6, 4))
    optimizer = rs.optimizer("psgd_kron", [param], precondition_warmup=9999)
    param.grad = torch.zeros_like(param)
    for _ in range(300):
        optimizer.step()
    assert torch.equal(optimizer.state[param]["left"], torch.eye(6))
    assert torch.equal(param.detach(), torch.ones(6, 4))
