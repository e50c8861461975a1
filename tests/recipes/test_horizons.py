"""How far it is to the end of a schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import rheostat as rs
from rheostat.recipes.horizons import finish_in, left

S = rs.schedules


def made(lr: Any) -> Any:
    return rs.optimizer("sgd", [torch.nn.Parameter(torch.ones(2))], lr=lr)


def test_what_is_left_of_a_plan_can_be_kept() -> None:
    lr, decay = S.cosine(1.0, steps=100), S.linear(0.1, steps=40)
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [params[0]], "weight_decay": decay}, {"params": [params[1]]}]
    opt: Any = rs.optimizer("sgd", groups, lr=lr, weight_decay=0.0)
    for _ in range(10):
        for param in params:
            param.grad = torch.zeros(2)
        opt.step()
    assert left(opt) == {("lr", 0): 90, ("lr", 1): 90, ("weight_decay", 0): 30}
    before = opt.plan.schedules[0]["lr"]
    finish_in(opt, left(opt))
    assert opt.plan.schedules[0]["lr"] is before, "there was nothing to change"
    finish_in(opt, {("lr", 0): 45, ("lr", 1): 45, ("weight_decay", 0): 60})
    found = opt.plan.schedules
    assert found[0]["lr"] is found[1]["lr"], "they go on sharing it"
    assert [one.horizon for one in (found[0]["lr"], found[0]["weight_decay"])] == [55, 70]
    assert found[0]["lr"](32) == pytest.approx(lr(54))
    assert left(opt) == {("lr", 0): 45, ("lr", 1): 45, ("weight_decay", 0): 60}


def test_what_has_no_end_or_is_past_it_is_not_left() -> None:
    opt = made(S.cosine(1.0, steps=3))
    for _ in range(3):
        opt.param_groups[0]["params"][0].grad = torch.zeros(2)
        opt.step()
    assert left(opt) == {}
    assert left(made(S.constant(0.1))) == {}
    assert left(made(0.1)) == {}


def test_between_two_whole_counts_a_schedule_is_left_alone() -> None:
    opt = made(S.in_unit(S.cosine(1.0, steps=30), "epochs", per_update=0.25))
    opt.param_groups[0]["params"][0].grad = torch.zeros(2)
    opt.step()
    opt.consumed(epochs=0.25)
    assert left(opt) == {}
    finish_in(opt, {("lr", 0): 3})
    assert opt.plan.schedules[0]["lr"].horizon is not None
