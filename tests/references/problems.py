"""Small problems that every comparison with an oracle runs on: the same data for both sides."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import rheostat as rs


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """A regression network of four parameters; the same weights at every call."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 3)).to(dtype)
    with torch.no_grad():
        for param in model.parameters():
            values = torch.rand(param.shape, generator=generator, dtype=torch.float64)
            param.copy_((values - 0.5) * 0.6)
    return model


def batches(steps: int, first: int = 0) -> list[Tensor]:
    """Inputs number `first` and on, float64."""
    return [
        torch.randn(16, 12, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        for k in range(first, first + steps)
    ]


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    """The mean squared error of the network on one batch."""
    x = x.to(next(model.parameters()).dtype)
    return (model(x) - 2 * x[:, :3].sin()).square().mean()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 60, first: int = 0
) -> None:
    """Steps of an optimizer on the batches from number `first` on."""
    for x in batches(steps, first):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()


def train_by_closure(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 60, first: int = 0
) -> None:
    """The same by `step(closure)`."""
    for x in batches(steps, first):

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, x)
            loss.backward()
            return loss

        optimizer.step(closure)


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of the parameters."""
    return [param.detach().clone() for param in model.parameters()]


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two lists of tensors hold the same numbers, exactly."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def assert_resumes(make: Callable[[], rs.Transform], *, closure: bool = False) -> None:
    """A run that is saved and loaded half-way ends at the same bits, its evaluation view too."""
    run = train_by_closure if closure else train
    whole = network(torch.float32)
    straight = rs.optimizer(make(), whole)
    run(whole, straight, 13)
    model = copy.deepcopy(whole)
    again = rs.optimizer(make(), model)
    again.load_state_dict(copy.deepcopy(straight.state_dict()))
    run(whole, straight, 13, 13)
    run(model, again, 13, 13)
    assert same_bits(weights(whole), weights(model))
    with straight.averaged(), again.averaged():
        assert same_bits(weights(whole), weights(model))


def assert_takes_odd_parameters(make: Callable[[], rs.Transform]) -> None:
    """Scalars, empty and half-precision parameters, gradients of zero: all stays finite."""
    shapes: list[tuple[int, ...]] = [(), (0,), (1,), (3, 0), (2, 3), (2, 1, 3, 3)]
    params = [nn.Parameter(torch.full(shape, 0.5)) for shape in shapes]
    params.append(nn.Parameter(torch.full((2, 3), 0.5, dtype=torch.bfloat16)))
    params.append(nn.Parameter(torch.zeros(2, 3)))
    optimizer = rs.optimizer(make(), params)
    for k in range(12):
        for i, param in enumerate(params):
            scale = 0.0 if k % 4 == 0 else 1.0
            param.grad = torch.full_like(param, scale * (i - 3) * 0.1)
        optimizer.step()
        assert optimizer.last_step is not None
        assert optimizer.last_step.applied
        assert all(param.isfinite().all() for param in params)
        with optimizer.averaged():
            assert all(param.isfinite().all() for param in params)
    states = [value for param in params for value in optimizer.state[param].values()]
    assert not any(value.isnan().any() for value in states)
