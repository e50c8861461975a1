"""A rule in a param group: closed and refused as one that is given to `optimizer`."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat import transforms
from rheostat.core.errors import InputError

SGD = rs.component("sgd", "optimizer").factory


def _weight(value: float = 0.0) -> nn.Parameter:
    weight = nn.Parameter(torch.full((3,), value))
    weight.grad = torch.ones(3)
    return weight


@pytest.mark.parametrize("lr", [None, 0.25, rs.schedules.cosine(0.5, 10)])
def test_a_rule_without_a_step_size_is_closed_as_by_the_constructor(lr: Any) -> None:
    given = {} if lr is None else {"lr": lr}
    added, alone = _weight(), _weight()
    mixed = rs.optimizer("adamw", [("first", _weight())])
    mixed.add_param_group({"params": [("w", added)], "rule": transforms.scale_by_adam(), **given})
    single = rs.optimizer(transforms.scale_by_adam(), [("w", alone)], **given)
    for _ in range(3):
        mixed.step()
        single.step()
    assert torch.equal(added, alone)
    assert mixed.param_groups[1]["lr"] == single.param_groups[0]["lr"]
    assert mixed.param_groups[1]["algorithm"] == single.param_groups[0]["algorithm"]


def test_an_lr_of_the_rule_itself_becomes_the_step_size() -> None:
    rule = rs.Transform(lambda u, state, param, hyper: u, hyperparameters={"lr": 0.5})
    weight = _weight()
    optimizer = rs.optimizer("adamw", [("first", _weight())])
    optimizer.add_param_group({"params": [("w", weight)], "rule": rule})
    optimizer.step()
    assert weight.tolist() == [-0.5] * 3


def test_a_rule_of_a_policy_serves_a_group_that_is_added_and_resumes() -> None:
    lines = rs.policy(rs.match(transforms.trace(0.9), role="vector"), rs.match(SGD(lr=0.1)))

    def made() -> tuple[Any, list[nn.Parameter]]:
        first, second, third = _weight(1.0), _weight(2.0), nn.Parameter(torch.ones(2, 2))
        third.grad = torch.ones(2, 2)
        optimizer = rs.optimizer(lines, [("a", first), ("c", third)])
        optimizer.add_param_group({"params": [("b", second)], "rule": lines.lines[0].rule})
        return optimizer, [first, second, third]

    optimizer, params = made()
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == optimizer.param_groups[2]["lr"] == 1e-3
    resumed, others = made()
    for mine, theirs in zip(others, params, strict=True):
        mine.data.copy_(theirs.data)
    resumed.load_state_dict(optimizer.state_dict())
    optimizer.step()
    resumed.step()
    assert all(map(torch.equal, params, others))
    assert params[1][0].item() == pytest.approx(params[0][0].item() + 1.0)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("lion", "not text; component('lion', 'optimizer').factory() makes one of a name"),
        (rs.component("muon", "optimizer").factory(), "not the policy muon, which serves all"),
        (3, "not an object of type int"),
        (0, "not an object of type int"),
        (transforms.trace, "not a function; call it: trace(…)"),
    ],
)
def test_a_rule_that_is_none_is_refused_in_one_line(rule: Any, said: str) -> None:
    optimizer = rs.optimizer("adamw", [("first", _weight())])
    before = str(optimizer.state_dict())
    whole = f"param group 1: 'rule': should be a transform, {said}"
    with pytest.raises(InputError, match=re.escape(whole)) as caught:
        optimizer.add_param_group({"params": [("w", _weight())], "rule": rule})
    assert "\n" not in str(caught.value)
    assert str(optimizer.state_dict()) == before


@pytest.mark.parametrize("rule", ["adamw", SGD(lr=0.1), transforms.scale_by_adam()])
def test_a_rule_in_a_group_beside_the_rule_of_all_is_refused(rule: Any) -> None:
    groups = [
        {"params": [("a", _weight())]},
        {"params": [("b", _weight())], "rule": SGD(lr=5.0)},
    ]
    said = r"param group 1: has a 'rule', but \w+ is to run on all groups; .* policy\(match\("
    with pytest.raises(InputError, match=said) as caught:
        rs.optimizer(rule, groups)
    assert "\n" not in str(caught.value)
