"""Modules that are cast after their optimizer was made, and masters of half precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.optimizers.loop import Optimizer

pytestmark = pytest.mark.usefixtures("whoever_counts")


def _ones(dtype: torch.dtype = torch.float32) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.ones_(model.weight)
    return model


def _step(optimizer: Optimizer, model: nn.Linear) -> None:
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()


@pytest.mark.parametrize("rule", ["sgd", "adamw", "lion"])
@pytest.mark.parametrize("when", [0, 5])
def test_a_master_begins_where_a_module_is_cast(rule: str, when: int) -> None:
    model = _ones()
    optimizer = rs.optimizer(rule, model, lr=1e-4, precision="master")
    for k in range(100):
        if k == when:
            model.bfloat16()
        _step(optimizer, model)
    assert optimizer.state[model.weight]["master"].item() == pytest.approx(0.99, abs=1e-3)
    assert model.weight.item() == pytest.approx(0.99, abs=4e-3)
    model.float()
    _step(optimizer, model)
    assert "master" not in optimizer.state[model.weight]


@pytest.mark.parametrize("when", [0, 1])
def test_a_cast_to_float64_is_refused_where_there_is_state(when: int) -> None:
    model, plain = _ones(), _ones()
    adamw, sgd = rs.optimizer("adamw", model), rs.optimizer("sgd", plain, lr=0.5)
    for _ in range(when):
        _step(adamw, model)
        _step(sgd, plain)
    model.double()
    plain.double()
    for _ in range(2):
        with pytest.raises(InputError, match=r"weight is float64, and its state 'exp_avg' was"):
            _step(adamw, model)
    _step(sgd, plain)
    assert plain.weight.item() == 1 - 0.5 * (when + 1)


def test_weights_that_are_written_hold_where_they_are_written_into_the_master_too() -> None:
    model = _ones(torch.bfloat16)
    optimizer = rs.optimizer("sgd", model, lr=0.5, precision="master")
    _step(optimizer, model)
    with torch.no_grad():
        model.weight.fill_(3.0)
        for param, state in optimizer.state.items():
            state["master"].copy_(param)
    _step(optimizer, model)
    assert model.weight.item() == 2.5
