"""Constraints on the weights: they hold after every step, whatever moved the parameter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.references.problems import (
    assert_resumes,
    assert_takes_odd_parameters,
    network,
    train,
    weights,
)
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.sgd import sgd

Make = Callable[[], rs.Transform]
Holds = Callable[[Tensor], bool]


def _norms(param: Tensor, dim: int | None) -> Tensor:
    param = param.double()
    if dim is None or param.ndim < 2:
        return param.flatten().norm().reshape(1)
    return param.movedim(dim, 0).flatten(1).norm(dim=1)


def _near_one(param: Tensor, dim: int | None) -> bool:
    return bool((_norms(param, dim) - 1).abs().max() < 1e-6)


CONSTRAINTS: dict[str, tuple[Make, Holds]] = {
    "non_negative": (rs.transforms.non_negative, lambda w: bool((w >= 0).all())),
    "box": (
        lambda: rs.transforms.box(-0.1, 0.05),
        lambda w: bool(((w >= -0.1) & (w <= 0.05)).all()),
    ),
    "unit_norm": (rs.transforms.unit_norm, lambda w: _near_one(w, None)),
    "unit_rows": (lambda: rs.transforms.unit_norm(dim=0), lambda w: _near_one(w, 0)),
    "unit_columns": (lambda: rs.transforms.unit_norm(dim=-1), lambda w: _near_one(w, -1)),
    "max_norm": (
        lambda: rs.transforms.max_norm(0.5),
        lambda w: bool((_norms(w, None) <= 0.5 + 1e-6).all()),
    ),
    "max_rows": (
        lambda: rs.transforms.max_norm(0.3, dim=0),
        lambda w: bool((_norms(w, 0) <= 0.3 + 1e-6).all()),
    ),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("rule", [adamw, sgd])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_holds_after_every_step(
    name: str, rule: Callable[..., rs.Transform], dtype: torch.dtype
) -> None:
    make, holds = CONSTRAINTS[name]
    model = network(dtype)
    optimizer = rs.optimizer(rs.chain(rule(lr=0.05), make()), model)
    for k in range(30):
        train(model, optimizer, 1, k)
        assert all(map(holds, weights(model)))


@pytest.mark.parametrize("name", ["non_negative", "box", "max_norm", "max_rows"])
def test_it_is_the_plain_step_projected(name: str) -> None:
    """After one step: inside, what the rule gives; outside, the nearest point of the set."""
    mine, other = network(), network()
    make, holds = CONSTRAINTS[name]
    train(mine, rs.optimizer(rs.chain(sgd(lr=0.1), make()), mine), 1)
    train(other, rs.optimizer("sgd", other, lr=0.1), 1)
    changed = 0
    for found, free in zip(weights(mine), weights(other), strict=True):
        if name == "non_negative":
            nearest = free.relu()
        elif name == "box":
            nearest = free.clip(-0.1, 0.05)
        else:
            dim, radius = (None, 0.5) if name == "max_norm" else (0, 0.3)
            sizes = _norms(free, dim).reshape([-1] + [1] * (free.ndim - 1))
            nearest = free * torch.where(sizes > radius, radius / sizes, 1.0)
        torch.testing.assert_close(found, nearest, rtol=1e-12, atol=1e-14)
        assert holds(found)
        changed += not torch.equal(found, free)
    assert changed > 0


def test_projected_descent_finds_the_constrained_minimum() -> None:
    target = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
    param = nn.Parameter(torch.full((3,), 0.5, dtype=torch.float64))
    rule = rs.chain(sgd(lr=0.2), rs.transforms.non_negative())
    optimizer = rs.optimizer(rule, [param])
    for _ in range(200):
        param.grad = param.detach() - target
        optimizer.step()
    torch.testing.assert_close(param.detach(), target.relu(), rtol=1e-9, atol=1e-12)


def test_zero_weights_have_no_direction_and_stay() -> None:
    for make in (rs.transforms.unit_norm, rs.transforms.max_norm):
        param = nn.Parameter(torch.zeros(2, 3))
        optimizer = rs.optimizer(rs.chain(sgd(lr=0.0), make()), [param])
        param.grad = torch.ones_like(param)
        optimizer.step()
        assert torch.equal(param, torch.zeros(2, 3))


def test_constraints_reach_the_master_copy_of_a_half_precision_parameter() -> None:
    param = nn.Parameter(torch.full((4,), 0.5, dtype=torch.bfloat16))
    rule = rs.chain(sgd(lr=1.0), rs.transforms.non_negative())
    optimizer = rs.optimizer(rule, [param], precision="master")
    for gradient in (2.0, -0.25):
        param.grad = torch.full_like(param, gradient)
        optimizer.step()
    # From 0, not from −1.5, where an unconstrained master would have gone.
    assert torch.equal(param, torch.full((4,), 0.25, dtype=torch.bfloat16))


def test_a_limit_can_be_scheduled() -> None:
    param = nn.Parameter(torch.full((4,), 3.0, dtype=torch.float64))
    radius = rs.schedules.cosine(2.0, steps=10)
    rule = rs.chain(sgd(lr=0.0), rs.transforms.max_norm(radius))
    optimizer = rs.optimizer(rule, [param])
    for k in range(5):
        param.grad = torch.zeros_like(param)
        optimizer.step()
        assert float(param.detach().norm()) == pytest.approx(radius(k))


def test_a_box_without_room_is_refused() -> None:
    with pytest.raises(InputError, match="box: lower=1"):
        rs.transforms.box(1.0, 0.0)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_resumes_and_takes_odd_parameters(name: str) -> None:
    def make() -> rs.Transform:
        return rs.chain(adamw(lr=0.05), CONSTRAINTS[name][0]())

    assert_resumes(make)
    assert_takes_odd_parameters(make)


@pytest.mark.parametrize("make", [rs.transforms.unit_norm, rs.transforms.max_norm])
@pytest.mark.parametrize("dim", [5, 2, -3])
def test_a_dimension_that_a_parameter_has_not_is_refused(
    make: Callable[..., rs.Transform], dim: int
) -> None:
    name = make().name
    said = rf"^w: {name}: dim={dim}: is no dimension of .* shape \(3, 4\); should be -2 to 1, or N"
    for piece in (make(dim=dim), rs.named("outer", make(dim=dim))):
        rule = rs.chain(rs.transforms.trace(), piece)
        with pytest.raises(InputError, match=said) as caught:
            rs.optimizer(rule, [("w", nn.Parameter(torch.ones(3, 4)))])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dim", [-2, -1, 0, 1, 5])
def test_vectors_and_scalars_are_one_unit_whatever_the_dimension(dim: int) -> None:
    shapes: list[tuple[int, ...]] = [(4,), ()] if dim == 5 else [(4,), (), (3, 4)]
    params = [nn.Parameter(torch.full(shape, 2.0)) for shape in shapes]
    for param in params:
        param.grad = torch.zeros_like(param)
    rs.optimizer(rs.chain(sgd(lr=0.1), rs.transforms.unit_norm(dim=dim)), params).step()
    for param in params:
        found = _norms(param.detach(), dim if dim < 2 else None)
        torch.testing.assert_close(found, torch.ones_like(found), atol=1e-6, rtol=0)
