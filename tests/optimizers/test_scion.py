"""Scion against its formulas in float64, pytorch-optimizer's, and the balls it stays in."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tests.references import matrices
from tests.references.descent import Array, Gradient, close, descend, ours, problem
from torch import nn

import rheostat as rs

QUINTIC = [(3.4445, -4.7750, 2.0315)] * 5


def _scion(
    start: Array,
    gradient: Gradient,
    kind: str,
    *,
    lr: float,
    momentum: float,
    radius: float,
    constrained: bool,
    eps: float = 1e-8,
) -> Array:
    """Sixty steps of Algorithm 1 or 2 with one of the norms."""
    w, b = start.copy(), np.zeros_like(start)
    for t in range(1, 61):
        b = momentum * b + (1 - momentum) * gradient(t, w)
        if kind == "sign":
            d = np.sign(b) / b.shape[1]
        elif kind == "rms":
            d = b / (np.sqrt((b**2).mean()) + eps)
        else:
            d = matrices.on_singular_values(matrices.flat(b), QUINTIC, 2, eps).reshape(b.shape)
            d = d * math.sqrt(b.shape[0] / b.shape[1]) / math.prod(b.shape[2:])
        w = (1 - lr) * w - lr * radius * d if constrained else w - lr * radius * d
    return w


class _Model(nn.Module):
    """One parameter of the shape and role that is wanted."""

    def __init__(self, kind: str, start: Array) -> None:
        super().__init__()
        if kind == "sign":
            self.embed = nn.Embedding(*start.shape)
        else:
            self.weight = nn.Parameter(torch.zeros(start.shape))
        self.to(torch.float64)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("spectral", (6, 4)),
        ("spectral", (3, 8)),
        ("spectral", (4, 3, 2, 2)),
        ("spectral", (4, 3, 5)),
        ("sign", (5, 4)),
        ("rms", (6,)),
        ("rms", ()),
    ],
)
@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_equals_the_formula(
    kind: str, shape: tuple[int, ...], constrained: bool, momentum: float
) -> None:
    start, gradient = problem(shape)
    radius, sign_radius = (7.0, 3.0) if kind == "sign" else (3.0, 7.0)
    arguments = {"lr": 0.03, "momentum": momentum, "constrained": constrained}
    model = _Model(kind, start)
    param = next(model.parameters())
    optimizer = rs.optimizer(
        "scion", model, radius=radius, sign_radius=sign_radius, dtype="float32", **arguments
    )
    with torch.no_grad():
        param.copy_(torch.tensor(start))
    for t in range(1, 61):
        param.grad = torch.tensor(gradient(t, param.detach().numpy()))
        optimizer.step()
    expected = _scion(start, gradient, kind, radius=3.0, **arguments)
    close(param.detach().numpy(), expected, 1e-9)


@pytest.mark.parametrize("shape", [(48, 16), (7,)])
@pytest.mark.parametrize("constraint", [True, False])
def test_equals_pytorch_optimizer(shape: tuple[int, ...], constraint: bool) -> None:
    """To bfloat16 rounding for matrices; its momentum is the share that is new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_optimizer import SCION
    start, gradient = problem(shape)
    peer: dict[str, Any] = {"momentum": 0.1, "constraint": constraint, "scale": 3.0}
    theirs = descend(
        lambda params: SCION(params, lr=0.02, **peer), start, gradient, dtype=torch.float32
    )
    mine = descend(
        ours("scion", lr=0.02, momentum=0.9, radius=3.0, constrained=constraint),
        start,
        gradient,
        dtype=torch.float32,
    )
    parted = np.linalg.norm(mine - theirs) / np.linalg.norm(theirs - start)
    assert parted < (0.02 if len(shape) > 1 else 1e-5)


def _norms(model: nn.Module) -> dict[str, float]:
    """Each parameter in its norm, as a multiple of its radius."""
    embed, conv, hidden, bias = (
        model.get_parameter(name).detach()
        for name in ("0.weight", "1.weight", "2.weight", "2.bias")
    )
    spectral = float(torch.linalg.matrix_norm(hidden, 2)) / math.sqrt(9 / 6) / 2.0
    kernel = float(torch.linalg.matrix_norm(conv.flatten(1), 2)) * 3 / math.sqrt(6 / 4) / 2.0
    return {
        "embedding": float(embed.abs().max()) * 4 / 5.0,
        "convolution": kernel,
        "hidden": spectral,
        "bias": float(bias.square().mean().sqrt()) / 2.0,
    }


@pytest.mark.parametrize("constrained", [True, False])
def test_balls(constrained: bool) -> None:
    """Constrained weights enter the ball of each norm and stay; unconstrained ones walk out of it,
    each step as long as lr times the radius."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.Conv1d(4, 6, 3), nn.Linear(6, 9), nn.Linear(9, 2)
    ).double()
    optimizer = rs.optimizer(
        "scion",
        model,
        lr=0.1,
        radius=2.0,
        sign_radius=5.0,
        constrained=constrained,
        coefficients="polar_express",
        ns_steps=8,
        dtype="float32",
    )
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()
    for step in range(60):
        before = _norms(model)
        for param in model.parameters():
            param.grad = torch.ones_like(param) + 0.1 * torch.randn_like(param)
        optimizer.step()
        if step == 0:
            assert _norms(model) == pytest.approx(dict.fromkeys(before, 0.1), rel=1e-6)
        if constrained:
            assert max(_norms(model).values()) <= 1 + 1e-6
    final = _norms(model)
    assert all(0.9 < x <= 1 + 1e-6 for x in final.values()) == constrained
    assert all(x > 1.5 for x in final.values()) != constrained


def test_who_gets_which_norm() -> None:
    model = nn.Sequential(
        nn.Embedding(5, 4), nn.Conv1d(4, 6, 3), nn.LayerNorm(6), nn.Linear(6, 9), nn.Linear(9, 2)
    )
    groups = rs.optimizer("scion", model).param_groups
    assert [group["param_names"] for group in groups] == [
        ["1.weight", "3.weight"],
        ["0.weight", "4.weight"],
        ["1.bias", "2.weight", "2.bias", "3.bias", "4.bias"],
    ]
    assert [group["radius"] for group in groups] == [50.0, 3000.0, 50.0]
