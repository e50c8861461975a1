"""lbfgs: equal to torch's, a quasi-Newton method, and the same after a resume."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tests.references.problems import network
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.optimizers.loop import Optimizer

WOLFE: dict[str, Any] = {"line_search_fn": "strong_wolfe"}
CASES: list[dict[str, Any]] = [
    {},
    {"lr": 0.05, "max_iter": 1},
    {"lr": 0.02, "max_iter": 3, "history_size": 4, "tolerance_grad": 1e-3},
    {"lr": 0.5, "max_iter": 6, "max_eval": 3, "history_size": 5},
    {"lr": 0.1, "tolerance_change": 1e-3},
    WOLFE,
    {**WOLFE, "max_iter": 5, "max_eval": 8, "history_size": 3},
    {**WOLFE, "max_iter": 2, "lr": 20.0},
    {**WOLFE, "max_iter": 1, "max_eval": 1, "lr": 0.05},
    {**WOLFE, "tolerance_change": 1e-3},
]


class TwoTables(nn.Module):
    """A convex problem over four parameters, one of them of no dimension: rounding does not grow
    on the way to its minimum, as it would without convexity."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        self.left, self.right = nn.Parameter(draw(6, 3)), nn.Parameter(draw(4, 3))
        self.bias, self.scale = nn.Parameter(draw(3)), nn.Parameter(draw())
        self.x, self.z = draw(40, 6), draw(40, 4)
        self.target = (self.x[:, 0] > 0).long() + (self.z[:, 0] > 0.3).long()

    def loss(self) -> Tensor:
        scores = self.x @ self.left + self.z @ self.right + self.bias
        scores = scores + self.scale * self.x[:, :1] * torch.tensor([1, 0, -1])
        decay = sum(param.square().sum() for param in self.parameters())
        return nn.functional.cross_entropy(scores, self.target) + 0.01 * decay


def _closure(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def _descend(model: TwoTables, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    closure = _closure(model, optimizer, model.loss)
    return [optimizer.step(closure).item() for _ in range(steps)]


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_the_closure_is_called_as_often_as_by_torch(arguments: dict[str, Any]) -> None:
    calls: list[int] = []
    for ours in (True, False):
        model = TwoTables(torch.float64)
        optimizer = (
            rs.optimizer("lbfgs", model, **arguments)
            if ours
            else torch.optim.LBFGS(model.parameters(), **arguments)
        )
        closure = Mock(side_effect=_closure(model, optimizer, model.loss))
        for _ in range(5):
            optimizer.step(closure)
        calls.append(closure.call_count)
    assert calls[0] == calls[1]


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_equals_torch_over_200_steps(arguments: dict[str, Any]) -> None:
    ours, theirs = TwoTables(torch.float64), TwoTables(torch.float64)
    mine = _descend(ours, rs.optimizer("lbfgs", ours, **arguments), 200)
    other = _descend(theirs, torch.optim.LBFGS(theirs.parameters(), **arguments), 200)
    assert mine == pytest.approx(other, rel=1e-10, abs=1e-10)
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_equals_torch_in_float32(arguments: dict[str, Any]) -> None:
    """Over a few steps: near the minimum, float32 losses are ties and every rounding decides."""
    ours, theirs = TwoTables(torch.float32), TwoTables(torch.float32)
    mine = _descend(ours, rs.optimizer("lbfgs", ours, **arguments), 3)
    other = _descend(theirs, torch.optim.LBFGS(theirs.parameters(), **arguments), 3)
    assert mine == pytest.approx(other, rel=1e-5)
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("arguments", [{}, WOLFE, {**WOLFE, "lr": 1e-3}, {**WOLFE, "lr": 1e3}])
def test_equals_torch_on_a_network_while_rounding_is_small(arguments: dict[str, Any]) -> None:
    x = torch.randn(16, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    after: list[list[Tensor]] = []
    for ours in (True, False):
        model = network(torch.float64)
        optimizer = (
            rs.optimizer("lbfgs", model, **arguments)
            if ours
            else torch.optim.LBFGS(model.parameters(), **arguments)
        )

        def loss(model: nn.Module = model) -> Tensor:
            return (model(x) - 2 * x[:, :3].sin()).square().mean()

        optimizer.step(_closure(model, optimizer, loss))
        after.append(list(model.parameters()))
    for one, two in zip(*after, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8)


def _dense_inverse_hessian(optimizer: Optimizer, params: list[Tensor]) -> Tensor:
    """BFGS's matrix from the pairs in the state: (I − s y'/ys) H (I − y s'/ys) + s s'/ys each."""
    group = optimizer.param_groups[0]
    size = optimizer.state[params[0]]["old_dirs"].shape[0]
    pairs = int(group["pairs"])

    def flat(name: str, row: int) -> Tensor:
        return torch.cat([optimizer.state[p][name][row].flatten() for p in params])

    matrix: Tensor | None = None
    for k in range(max(0, pairs - size), pairs):
        y, s = flat("old_dirs", k % size), flat("old_stps", k % size)
        unit = torch.eye(len(y), dtype=y.dtype)
        if matrix is None:
            last = (pairs - 1) % size
            newest, step = flat("old_dirs", last), flat("old_stps", last)
            matrix = unit * (newest @ step) / (newest @ newest)
        left = unit - torch.outer(s, y) / (y @ s)
        matrix = left @ matrix @ left.T + torch.outer(s, s) / (y @ s)
    assert matrix is not None
    return matrix


@pytest.mark.parametrize("steps", [3, 5, 12])
def test_its_direction_is_that_of_the_bfgs_matrix_of_its_latest_pairs(steps: int) -> None:
    model = TwoTables(torch.float64)
    optimizer = rs.optimizer("lbfgs", model, max_iter=1, history_size=4, lr=0.7)
    params = list(model.parameters())
    _descend(model, optimizer, steps)
    before = torch.cat([p.detach().flatten() for p in params])
    _descend(model, optimizer, 1)
    gradient = torch.cat([p.grad.flatten() for p in params if p.grad is not None])
    # The last step has taken its pair in first, so the matrix is the one that it used.
    matrix = _dense_inverse_hessian(optimizer, params)
    moved = before - torch.cat([p.detach().flatten() for p in params])
    torch.testing.assert_close(moved, 0.7 * matrix @ gradient, rtol=1e-9, atol=1e-12)
    # What makes it a quasi-Newton method: H maps the newest change of gradient to its step.
    last = (int(optimizer.param_groups[0]["pairs"]) - 1) % 4
    y = torch.cat([optimizer.state[p]["old_dirs"][last].flatten() for p in params])
    s = torch.cat([optimizer.state[p]["old_stps"][last].flatten() for p in params])
    torch.testing.assert_close(matrix @ y, s, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("arguments", [{"max_iter": 2, "lr": 0.1}, {**WOLFE, "max_iter": 2}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_resumed_run_is_the_same_run(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    whole = TwoTables(dtype)
    straight = rs.optimizer("lbfgs", whole, history_size=3, **arguments)
    _descend(whole, straight, 5)
    model = copy.deepcopy(whole)
    again = rs.optimizer("lbfgs", model, history_size=3, **arguments)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert _descend(whole, straight, 5) == _descend(model, again, 5)
    for one, two in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, two)
        for key, value in straight.state[one].items():
            assert torch.equal(value, again.state[two][key])


def test_it_needs_a_closure() -> None:
    param = nn.Parameter(torch.ones(2))
    optimizer = rs.optimizer("lbfgs", [param])
    param.grad = torch.ones(2)
    with pytest.raises(InputError, match=r"lbfgs evaluates the loss .* call step\(closure\)"):
        optimizer.step()


def test_a_closure_must_return_its_loss() -> None:
    param = nn.Parameter(torch.ones(2))
    optimizer = rs.optimizer("lbfgs", [param])

    def closure() -> None:
        param.grad = torch.ones(2)

    with pytest.raises(InputError, match="the closure returned None; it should return the loss"):
        optimizer.step(closure)


def _bowl(params: list[nn.Parameter], optimizer: Optimizer, steps: int) -> None:
    """A quadratic over those parameters alone."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(
            (((p - 3) ** 2) * torch.arange(1, p.numel() + 1)).sum() + (p[0] * p[-1]) for p in params
        )
        assert isinstance(loss, Tensor)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def test_a_late_parameter_begins_as_a_fresh_one_would() -> None:
    early = nn.Parameter(torch.ones(3, dtype=torch.float64))
    late = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    fresh = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    ours = rs.optimizer("lbfgs", [early, late], max_iter=2, lr=0.1)
    alone = rs.optimizer("lbfgs", [fresh], max_iter=2, lr=0.1)
    _bowl([early], ours, 20)
    assert late.tolist() == [0.0] * 4
    _bowl([late], ours, 5)
    _bowl([fresh], alone, 5)
    assert torch.equal(late, fresh)


def test_pairs_are_forgotten_where_other_parameters_have_gradients() -> None:
    """Else a parameter's row would hold a pair of another time than its neighbours'."""
    a, b = (nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    optimizer = rs.optimizer("lbfgs", [a, b], max_iter=1, lr=0.05)
    for params, pairs in (([a, b], 3), ([a], 2), ([a, b], 2), ([b], 1), ([a], 1)):
        _bowl(params, optimizer, pairs + 1)
        assert optimizer.param_groups[0]["pairs"] == pairs
    assert (a.isfinite() & b.isfinite()).all()


def test_several_groups_move_as_one() -> None:
    both = [nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2)]
    single = [nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2)]
    split = rs.optimizer("lbfgs", [{"params": [p]} for p in both], max_iter=3, lr=0.3)
    joined = rs.optimizer("lbfgs", single, max_iter=3, lr=0.3)
    _bowl(both, split, 4)
    _bowl(single, joined, 4)
    for one, two in zip(both, single, strict=True):
        assert torch.equal(one, two)


def test_it_stops_at_a_minimum_and_half_precision_and_empty_parameters_pass() -> None:
    half = nn.Parameter(torch.full((3,), 4.0, dtype=torch.bfloat16))
    empty = nn.Parameter(torch.zeros(0, 2))
    optimizer = rs.optimizer("lbfgs", [half, empty], line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (half.float() - 2).square().sum() + empty.sum()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert half.tolist() == [2.0] * 3
    assert optimizer.state[half]["old_dirs"].dtype == torch.float32


def test_a_line_search_steps_back_from_where_the_loss_does_not_exist() -> None:
    """Beyond 1 the loss is NaN; torch's line search accepts it."""
    param = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    optimizer = rs.optimizer("lbfgs", [param], lr=10.0, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -(1 - param).log().sum() - 3 * param.sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert param.item() == pytest.approx(1 - 1 / 3, abs=1e-6)
    assert math.isfinite(closure().item())
