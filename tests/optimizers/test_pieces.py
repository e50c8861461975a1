"""Pieces run one after the other: what they may give, and what is said of what they may not."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.transform import Buffer, Hyper, State, Transform, identity
from rheostat.optimizers.state import ALGORITHM, LABELS, SHARED


def _mean(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u.mean()


@pytest.mark.parametrize("mode", ["auto", "eager"])
@pytest.mark.parametrize("place", [0, 1])
def test_an_update_of_another_shape_is_refused_with_the_piece_and_both(
    mode: Any, place: int
) -> None:
    piece = Transform(_mean, scope="whole", name="one_for_all")
    pieces = [rs.transforms.trace(0.9)]
    pieces.insert(place, piece)
    weight = nn.Parameter(torch.ones(1024, 1024))
    weight.grad = torch.ones_like(weight)
    opt = rs.optimizer(rs.chain(*pieces), [("layer.weight", weight)], lr=0.1, mode=mode)
    said = r"one_for_all gave an update of shape \(\) for layer.weight, which has \(1024, 1024\)"
    with pytest.raises(InputError, match=said):
        opt.step()
    assert torch.equal(weight, torch.ones_like(weight))


def _forgets(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> None:
    u.mul(0.5)


@pytest.mark.parametrize("scope", ["element", "tensor"])
def test_a_piece_that_returns_nothing_is_named(scope: Any) -> None:
    forgets: Any = _forgets
    weight = nn.Parameter(torch.ones(1024, 1024))
    weight.grad = torch.ones_like(weight)
    rule = rs.chain(Transform(forgets, scope=scope, name="forgets"))
    with pytest.raises(InputError, match=r"forgets gave None for layer.weight; it should return"):
        rs.optimizer(rule, [("layer.weight", weight)], lr=0.1).step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_buffer_of_momentum_is_written_where_the_momentum_is_zero(
    dtype: torch.dtype, nesterov: bool
) -> None:
    ways: list[list[Tensor]] = []
    for mode in ("eager", "fused"):
        param = nn.Parameter(torch.ones(40, dtype=dtype))
        rule = rs.chain(rs.transforms.trace(0.0, nesterov=nesterov))
        opt = rs.optimizer(rule, [param], lr=0.1, mode=mode)
        for k in range(3):
            param.grad = torch.full_like(param, k + 1.0)
            opt.step()
        ways.append([param.detach(), opt.state[param]["momentum_buffer"]])
    assert all(map(torch.equal, *ways))
    assert ways[1][1].tolist() == [3.0] * 40


def test_an_optimizer_is_copied_whole_and_pickled_by_its_state() -> None:
    opt = rs.optimizer("adamw", nn.Linear(3, 3))
    copied = copy.deepcopy(opt)
    assert copied.rule(0) is opt.rule(0)
    with pytest.raises(InputError, match=r"adamw is code .* save the optimizer's state_dict\(\)"):
        pickle.dumps(opt)


def test_names_that_belong_to_the_loop_are_refused() -> None:
    for name in ("step", "master", "accumulated", "parked"):
        with pytest.raises(InputError, match=f"declares a buffer '{name}', a name that belongs"):
            Transform(identity, buffers={name: Buffer()})
    for name in (*SHARED, *LABELS, ALGORITHM, "step", "gradient", "measured", "noise", "rule"):
        with pytest.raises(InputError, match=f"declares a number '{name}', a name that belongs"):
            Transform(identity, hyperparameters={name: 1.0})
    with pytest.raises(InputError, match="number 'seed'"):
        Transform(identity, scalars={"seed": 1.0})
    with pytest.raises(InputError, match="with_a_mode declares a number 'mode'"):
        Transform(identity).stamped("with_a_mode@1", {"mode": 3.0}, {"mode"})
