"""Rules that take the gradient elsewhere, and what goes wrong there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.references.problems import same_bits
from torch import Tensor, nn

import rheostat as rs
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.lbfgs import lbfgs
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.sgd import sgd

RULES: dict[str, Callable[[], rs.Transform]] = {
    "sam": lambda: rs.chain(rs.transforms.sam(0.5), adamw(lr=0.01)),
    "asam": lambda: rs.chain(rs.transforms.asam(0.5), sgd(lr=0.01)),
    "lbfgs": lambda: lbfgs(lr=0.1, max_iter=3),
}


class _Task:
    """A line through points, whose closure does something at one of its calls in a step."""

    def __init__(self, name: str, **settings: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        self.model = nn.Linear(3, 1, dtype=torch.float64)
        with torch.no_grad():
            for param in self.model.parameters():
                param.copy_(torch.randn(param.shape, generator=generator))
        self.optimizer: Optimizer = rs.optimizer(RULES[name](), self.model, **settings)
        self.calls = 0

    def step(self, at: int = 0, act: Callable[[Tensor], Tensor] | None = None) -> None:
        self.calls = 0

        def closure() -> Tensor:
            self.calls += 1
            self.optimizer.zero_grad()
            loss = (self.model(self.x) - self.x.sum(1, keepdim=True)).square().mean()
            if self.calls == at and act is not None:
                loss = act(loss)
            loss.backward()
            return loss

        self.optimizer.step(closure)

    def weights(self) -> list[Tensor]:
        return [param.detach().clone() for param in self.model.parameters()]

    def counts(self) -> list[float]:
        return [self.optimizer.state[p]["step"].item() for p in self.model.parameters()]


class _BrokenError(Exception):
    pass


def _broken(loss: Tensor) -> Tensor:
    raise _BrokenError


@pytest.mark.parametrize("name", RULES)
def test_a_closure_that_raises_elsewhere_leaves_weights_and_gradients(name: str) -> None:
    task = _Task(name)
    task.step()
    before = task.weights()
    with pytest.raises(_BrokenError):
        task.step(2, _broken)
    assert task.calls == 2
    assert same_bits(task.weights(), before)
    assert task.counts() == [1, 1]
    assert all(param.grad is not None for param in task.model.parameters())
    task.step()
    assert not same_bits(task.weights(), before)
