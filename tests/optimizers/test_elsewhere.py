"""Rules that take the gradient elsewhere, and what goes wrong there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from tests.references.problems import same_bits
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError, RheostatError
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
            loss: Tensor = (self.model(self.x) - self.x.sum(1, keepdim=True)).square().mean()
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


@pytest.mark.parametrize("name", ["sam", "asam"])
def test_a_first_gradient_elsewhere_is_not_left_behind(name: str) -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = rs.optimizer(RULES[name](), [first, second])
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = (first if calls == 1 else second).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls == 2
    assert first.grad is not None
    assert second.grad is None


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


def _nan(loss: Tensor) -> Tensor:
    return loss * math.nan


def _infinite(loss: Tensor) -> Tensor:
    return loss * math.inf


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("act", [_nan, _infinite])
def test_a_gradient_elsewhere_that_is_not_finite_skips_the_step(
    name: str, act: Callable[[Tensor], Tensor]
) -> None:
    task = _Task(name)
    task.step()
    before, saved = task.weights(), copy.deepcopy(task.optimizer.state_dict())
    task.step(2, act)
    assert task.calls == 2
    assert same_bits(task.weights(), before)
    assert task.optimizer.last_step is not None
    assert (task.optimizer.last_step.applied, task.optimizer.last_step.step) == (False, 1)
    reason = task.optimizer.last_step.reason
    assert (
        reason == f"non-finite gradient in weight and 1 more, where {name} evaluated the loss again"
    )
    now = task.optimizer.state_dict()
    assert task.counts() == [1, 1]
    groups = [{**g, "uncounted": (), "skipped": 0} for s in (now, saved) for g in s["param_groups"]]
    assert groups[0] == groups[1]
    if name != "lbfgs":  # that one forgets its pairs
        for mine, old in zip(now["state"].values(), saved["state"].values(), strict=True):
            assert same_bits(list(mine.values()), list(old.values()))
    task.step()
    assert task.counts() == [2, 2]
    assert all(weight.isfinite().all() for weight in task.weights())
    assert not same_bits(task.weights(), before)


@pytest.mark.parametrize("name", RULES)
def test_raise_names_the_parameter_and_propagate_looks_at_nothing(name: str) -> None:
    task = _Task(name, nonfinite="raise")
    before = task.weights()
    with pytest.raises(RheostatError, match=f"in weight and 1 more, where {name} evaluated"):
        task.step(2, _nan)
    assert same_bits(task.weights(), before)
    assert task.counts() == [0, 0]
    task = _Task(name, nonfinite="propagate")
    task.step(2, _nan)
    assert task.optimizer.last_step is not None
    assert task.optimizer.last_step.applied
    assert all(weight.isnan().all() for weight in task.weights())


@pytest.mark.parametrize("line_search", ["strong_wolfe", None])
def test_lbfgs_does_not_go_where_there_is_no_gradient(
    line_search: Literal["strong_wolfe"] | None,
) -> None:
    """At the last evaluation of a step, too, after which nothing would be computed from it."""
    param = nn.Parameter(torch.tensor([3.0]))
    rule = lbfgs(lr=1.0, max_iter=3, max_eval=2, line_search_fn=line_search)
    optimizer = rs.optimizer(rule, [param])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        if param.item() != 3:
            param.grad = torch.full_like(param, math.nan)
        return loss

    optimizer.step(closure)
    assert optimizer.last_step is not None
    assert not optimizer.last_step.applied
    assert param.item() == 3


def test_lbfgs_keeps_no_pair_of_a_move_that_another_rule_prevented() -> None:
    moved, other = (nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2)))
    lines = (
        rs.match(lbfgs(lr=0.1, max_iter=1), role="matrix"),
        rs.match(rs.chain(rs.transforms.sam(0.5), sgd(lr=0.1))),
    )
    optimizer = rs.optimizer(rs.policy(*lines), [moved, other])
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = moved.square().sum() + other.square().sum() * (math.nan if calls == 2 else 1)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.last_step is not None
    assert not optimizer.last_step.applied
    assert moved.tolist() == [[1.0, 1.0]] * 2
    assert optimizer.param_groups[0]["n_iter"] == 0
    optimizer.step(closure)
    assert optimizer.last_step.applied
    assert optimizer.param_groups[0]["n_iter"] == 1


@pytest.mark.parametrize("name", RULES)
def test_gradients_are_not_averaged_for_rules_that_look_elsewhere(name: str) -> None:
    message = f"accumulate: {name} would take the gradient elsewhere for the last of 2 batches"
    with pytest.raises(InputError, match=message):
        _Task(name, accumulate=2)
    task = _Task(name)
    with pytest.raises(InputError, match=message):
        task.optimizer.grow(2.0)
    before = task.weights()
    task.step()
    assert task.optimizer.last_step is not None
    assert task.optimizer.last_step.applied
    assert not same_bits(task.weights(), before)
    other = nn.Parameter(torch.zeros(1))
    averaging = rs.optimizer("sgd", [nn.Parameter(torch.zeros(1))], accumulate=2)
    with pytest.raises(InputError, match=message):
        averaging.add_param_group({"params": [other], "rule": RULES[name]()})
    assert len(averaging.param_groups) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["sam", "asam"])
@pytest.mark.parametrize("rule", ["adamw", "lion"])
def test_a_gradient_elsewhere_in_half_precision_comes_to_float32_state(
    rule: str, kind: Literal["sam", "asam"], dtype: torch.dtype
) -> None:
    param = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=dtype))
    probe = getattr(rs.transforms, kind)(0.5)
    made: rs.Transform = rs.component(rule, "optimizer").factory(lr=0.01)
    optimizer = rs.optimizer(rs.chain(probe, made), [param])
    seen: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = param.float().pow(3).sum()
        loss.backward()
        assert param.grad is not None
        seen.append(param.grad.clone())
        return loss

    optimizer.step(closure)
    assert param.dtype == dtype
    assert not torch.equal(*seen)
    kept = optimizer.state[param]["exp_avg"]
    assert kept.dtype == torch.float32
    share = 1 - optimizer.param_groups[0]["betas"][rule == "lion"]
    torch.testing.assert_close(kept, share * seen[1].float())
