"""Loading takes the saved numbers, and says so where the optimizer was made with others."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.core.errors import RheostatWarning


def _made(**arguments: Any) -> Any:
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    return rs.optimizer("adamw", [param], **arguments)


def _silently(optimizer: Any, state: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(copy.deepcopy(state))


def test_other_numbers_go_on_and_are_named() -> None:
    saved = _made(lr=0.1, betas=(0.9, 0.95)).state_dict()
    optimizer = _made(lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    with pytest.warns(RheostatWarning) as caught:
        optimizer.load_state_dict(saved)
    (warning,) = caught
    assert str(warning.message) == (
        "load_state_dict: the saved numbers go on in place of those that this optimizer was made "
        "with: betas [0.9, 0.95] of group 0 (made with [0.9, 0.99]), lr 0.1 of group 0 (made with "
        "0.05); write to param_groups after loading to change them"
    )
    assert warning.filename == __file__
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    # The same again is no news, and what was written by hand since is nobody's surprise.
    _silently(optimizer, saved)
    optimizer.param_groups[0].update(lr=0.05, betas=(0.9, 0.99))
    _silently(_made(lr=0.05, betas=(0.9, 0.99)), optimizer.state_dict())


@pytest.mark.parametrize("tensor", [False, True])
def test_numbers_that_only_moved_are_no_news(tensor: bool) -> None:
    def made() -> tuple[Any, Any]:
        optimizer = _made(lr=torch.tensor(0.1) if tensor else 0.1)
        return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 10)

    optimizer, scheduler = made()
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    saved = optimizer.state_dict()
    resumed, _ = made()
    _silently(resumed, saved)  # the scheduler had begun with another lr here
    assert float(resumed.param_groups[0]["lr"]) == pytest.approx(0.065)
    plateau = _made(lr=0.1)
    plateau.param_groups[0]["lr"] = 0.01
    _silently(_made(lr=0.1), plateau.state_dict())


def test_a_scheduled_number_and_a_frameworks_round_trip_are_no_news() -> None:
    lr = rs.schedules.cosine(0.1, steps=10)
    optimizer = _made(lr=lr)
    optimizer.step()
    _silently(_made(lr=lr), optimizer.state_dict())
    _silently(optimizer, optimizer.state_dict())  # as accelerate does when it prepares one


def test_each_group_is_held_against_its_own() -> None:
    def made(decay: float, factor: float) -> Any:
        params = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": decay}]
        groups[0]["lr_factor"] = factor
        return rs.optimizer("adamw", groups, lr=0.1)

    with pytest.warns(RheostatWarning, match=r"lr_factor 0.5 of group 0 .*weight_decay 0.0 of gro"):
        made(0.1, 1.0).load_state_dict(made(0.0, 0.5).state_dict())
