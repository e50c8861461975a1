"""adagrad, adadelta, rmsprop and rmsprop_tf: equal to their peers, and what defines each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.references import rmsprop_tf
from tests.references.training import assert_same_training
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError

CASES: list[tuple[str, type[torch.optim.Optimizer], dict[str, Any]]] = [
    ("adagrad", torch.optim.Adagrad, {}),
    ("adagrad", torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.02, "weight_decay": 0.1}),
    ("adagrad", torch.optim.Adagrad, {"initial_accumulator_value": 0.5, "eps": 1e-3}),
    ("adadelta", torch.optim.Adadelta, {}),
    (
        "adadelta",
        torch.optim.Adadelta,
        {"lr": 0.5, "rho": 0.7, "eps": 1e-4, "weight_decay": 0.1},
    ),
    ("rmsprop", torch.optim.RMSprop, {}),
    (
        "rmsprop",
        torch.optim.RMSprop,
        {"lr": 1e-3, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1},
    ),
    ("rmsprop", torch.optim.RMSprop, {"lr": 1e-3, "momentum": 0.9}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 1e-3, "centered": True, "eps": 1e-4}),
    (
        "rmsprop",
        torch.optim.RMSprop,
        {"lr": 1e-3, "alpha": 0.9, "centered": True, "momentum": 0.5, "weight_decay": 0.1},
    ),
]


@pytest.mark.parametrize(("name", "peer", "arguments"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch(
    name: str, peer: type[torch.optim.Optimizer], arguments: dict[str, Any], dtype: torch.dtype
) -> None:
    assert_same_training(name, peer, dtype, arguments)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(
    ("lr", "alpha", "eps", "momentum", "weight_decay"),
    [(1e-2, 0.9, 1e-10, 0.0, 0.0), (3e-2, 0.7, 1e-3, 0.9, 0.0), (1e-2, 0.95, 1e-2, 0.5, 0.2)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rmsprop_tf_equals_the_reference(
    centered: bool,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    dtype: torch.dtype,
) -> None:
    start = [1.5, -0.5, 0.0, 2.0]

    def slope(w: Sequence[float], step: int) -> list[float]:
        return [(i + 1) * x + math.sin(step + i) for i, x in enumerate(w)]

    expected = rmsprop_tf.trajectory(
        start,
        slope,
        200,
        lr=lr,
        decay=alpha,
        epsilon=eps,
        momentum=momentum,
        centered=centered,
        weight_decay=weight_decay,
    )
    param = nn.Parameter(torch.tensor(start, dtype=dtype))
    optimizer = rs.optimizer(
        "rmsprop_tf",
        [param],
        lr=lr,
        alpha=alpha,
        eps=eps,
        momentum=momentum,
        weight_decay=weight_decay,
        centered=centered,
    )
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for step, weights in enumerate(expected):
        param.grad = torch.tensor(slope(param.tolist(), step), dtype=dtype)
        optimizer.step()
        assert param.tolist() == pytest.approx(weights, rel=tolerance, abs=tolerance)


def _run(name: str, gradients: Sequence[float], **arguments: Any) -> list[float]:
    """The moves of one float64 weight, which starts at zero."""
    param = nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = rs.optimizer(name, [param], **arguments)
    moves: list[float] = []
    for gradient in gradients:
        before = param.item()
        param.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        moves.append(before - param.item())
    return moves


def test_adagrads_steps_fall_as_the_root_of_the_count() -> None:
    moves = _run("adagrad", [3.0] * 100, lr=0.5)
    assert moves == pytest.approx([0.5 / math.sqrt(k) for k in range(1, 101)])


def test_adadeltas_steps_are_in_units_of_the_weights() -> None:
    """The scale of the gradients drops out, eps aside."""
    gradients = [math.sin(k) + 2 for k in range(200)]
    small = _run("adadelta", gradients, eps=1e-12)
    large = _run("adadelta", [1e3 * g for g in gradients], eps=1e-12)
    assert small[50:] == pytest.approx(large[50:], rel=1e-4)


def test_rmsprop_forgets_the_scale_of_old_gradients() -> None:
    moves = _run("rmsprop", [100.0] * 50 + [0.01] * 300, lr=0.1, alpha=0.9)
    assert moves[-1] == pytest.approx(0.1, rel=1e-4)


def test_a_new_lr_reaches_rmsprop_tf_through_its_momentum_and_rmsprop_at_once() -> None:
    moves: dict[str, list[float]] = {}
    for name in ("rmsprop", "rmsprop_tf"):
        param = nn.Parameter(torch.zeros((), dtype=torch.float64))
        optimizer = rs.optimizer(name, [param], lr=0.1, alpha=0.9, momentum=0.9)
        for step in range(400):
            optimizer.param_groups[0]["lr"] = 0.1 if step < 399 else 0.0
            before = param.item()
            param.grad = torch.ones((), dtype=torch.float64)
            optimizer.step()
            moves.setdefault(name, []).append(before - param.item())
    assert moves["rmsprop"][-2:] == pytest.approx([1.0, 0.0], rel=1e-6)
    assert moves["rmsprop_tf"][-2:] == pytest.approx([1.0, 0.9], rel=1e-6)


def test_rmsprop_tf_starts_slowly() -> None:
    gradients = [1e-3] * 3
    assert _run("rmsprop_tf", gradients, lr=0.1)[0] < 2e-4
    assert _run("rmsprop", gradients, lr=0.1)[0] == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("name", ["rmsprop", "rmsprop_tf"])
def test_a_variance_that_rounding_makes_negative_gives_no_nan(name: str) -> None:
    """Where torch's centered RMSprop ends in NaN: equal gradients for long."""
    param = nn.Parameter(torch.zeros(64))
    optimizer = rs.optimizer(name, [param], centered=True, alpha=0.5, lr=1e-9)
    gradient = torch.linspace(0.1, 3, 64)
    for _ in range(100):
        param.grad = gradient.clone()
        optimizer.step()
        assert param.isfinite().all()


def test_what_the_state_begins_with_cannot_be_scheduled() -> None:
    param = nn.Parameter(torch.zeros(2))
    falling = rs.schedules.cosine(1.0, steps=4)
    with pytest.raises(InputError, match="initial_accumulator_value: what the state begins with"):
        rs.optimizer("adagrad", [param], initial_accumulator_value=falling)
    optimizer = rs.optimizer("adagrad", [param], initial_accumulator_value=0.25)
    assert optimizer.state[param]["sum"].tolist() == [0.25, 0.25]
