"""Keys that somebody writes into a param group: what its rule has not, and torch's own."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

import rheostat as rs
from rheostat.core.errors import InputError

Scheduler = Callable[[Any], Any]
CYCLING: dict[str, Scheduler] = {
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
}
SGD = rs.component("sgd", "optimizer").factory(momentum=0.9)
BY_ROLE = rs.policy(
    rs.match(rs.component("adagrad", "optimizer").factory(), role="bias"), rs.match(SGD)
)
RULES: dict[str, Any] = {"adamw": "adamw", "sgd": SGD, "muon": "muon", "by_role": BY_ROLE}


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))


def _train(model: nn.Module, optimizer: Any, scheduler: Any, steps: int) -> None:
    for k in range(steps):
        optimizer.zero_grad()
        model(torch.full((5, 3), 0.1 * k + 0.1)).square().mean().backward()
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CYCLING)
def test_torchs_cycles_of_the_momentum_run_and_resume(name: str, rule: str) -> None:
    """What has a momentum gets theirs, what has none is left alone."""
    model = _model()
    optimizer = rs.optimizer(RULES[rule], model)
    before = [dict(group) for group in optimizer.param_groups]
    scheduler = CYCLING[name](optimizer)
    _train(model, optimizer, scheduler, 2)
    for group, was in zip(optimizer.param_groups, before, strict=True):
        alone = rule == "muon" or "betas" not in was
        assert not alone or group.get("betas") == was.get("betas")
        assert rule != "adamw" or group["betas"][0] < 0.95
        assert "momentum" not in was or 0.8 < group["momentum"] < 0.95
    saved = copy.deepcopy([x.state_dict() for x in (model, optimizer, scheduler)])
    other = _model()
    resumed = rs.optimizer(RULES[rule], other)
    following = CYCLING[name](resumed)
    fresh = rs.optimizer(RULES[rule], _model())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.load_state_dict(copy.deepcopy(saved[1]))  # before a scheduler is made
        for one, state in zip((other, resumed, following), saved, strict=True):
            one.load_state_dict(state)
    for one, its, schedule in ((model, optimizer, scheduler), (other, resumed, following)):
        _train(one, its, schedule, 3)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_cycle_needs_a_momentum_somewhere() -> None:
    adam, adagrad = (rs.component(n, "optimizer").factory() for n in ("adamw", "adagrad"))
    optimizer = rs.optimizer(rs.policy(rs.match(adagrad, role="bias"), rs.match(adam)), _model())
    with pytest.raises(ValueError, match="cycle_momentum"):
        CYCLING["OneCycleLR"](optimizer)


def test_torch_finds_what_a_group_that_is_added_later_has() -> None:
    optimizer = rs.optimizer("adamw", [nn.Parameter(torch.ones(2))])
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "rule": SGD})
    assert "betas" not in optimizer.defaults
    assert optimizer.defaults["momentum"] == 0.9
    assert "betas" not in optimizer.param_groups[1]
    assert "momentum" not in optimizer.param_groups[0]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("weigth_decay", "which adamw does not have; did you mean 'weight_decay'"),
        ("momentum", "'momentum' was written to it, which adamw does not have; known are: betas"),
        ("learning_rate", "did you mean 'lr'"),
        ("sead", "did you mean 'seed'"),
    ],
)
def test_a_key_that_the_rule_has_not_is_refused_at_the_next_step(key: str, said: str) -> None:
    param = nn.Parameter(torch.ones(2))
    optimizer = rs.optimizer("adamw", [param])
    param.grad = torch.ones(2)
    optimizer.step()
    before = param.clone()
    optimizer.param_groups[0][key] = 0.5
    for _ in range(2):
        with pytest.raises(InputError, match=f"param group 0: .*{said}") as caught:
            optimizer.step()
        assert "\n" not in str(caught.value)
        assert torch.equal(param, before)
    del optimizer.param_groups[0][key]
    optimizer.step()
    del optimizer.param_groups[0]["eps"]
    with pytest.raises(InputError, match="param group 0: 'eps' was taken out of it; put it back"):
        optimizer.step()


def test_a_factor_needs_a_learning_rate_to_multiply() -> None:
    def made(**given: Any) -> Any:
        rule = rs.chain(rs.named("a", rs.component("sgd").factory(lr=0.1)))
        return rs.optimizer(rule, [{"params": [nn.Parameter(torch.ones(2))], **given}])

    said = r"param group 0: lr_factor=0\.5: .* has no lr to multiply; write to a\.lr$"
    with pytest.raises(InputError, match=said):
        made(lr_factor=0.5)
    optimizer = made(lr_factor=1.0)
    (param,) = optimizer.param_groups[0]["params"]
    param.grad = torch.ones(2)
    optimizer.step()
    optimizer.param_groups[0]["lr_factor"] = 0.5
    for _ in range(2):
        with pytest.raises(InputError, match=said):
            optimizer.step()
    assert optimizer.state[param]["step"].item() == 1
    optimizer.param_groups[0]["lr_factor"] = 1.0
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((2,), 0.8))


def test_a_number_that_fails_is_no_update() -> None:
    param = nn.Parameter(torch.ones(2))
    optimizer = rs.optimizer("lion", [param], lr=0.1, mode="eager")
    param.grad = torch.ones(2)
    optimizer.step()
    optimizer.param_groups[0]["factors"] = {"lr": None}
    with pytest.raises(TypeError):
        optimizer.step()
    assert optimizer.state[param]["step"].item() == 1


def test_labels_and_what_torch_writes_are_left_alone() -> None:
    param = nn.Parameter(torch.ones(2))
    optimizer = rs.optimizer("sgd", [{"params": [param], "name": "all", "initial_lr": 0.1}], lr=0.1)
    SWALR(optimizer, swa_lr=0.05)
    optimizer.param_groups[0]["_mine"] = 1
    param.grad = torch.ones(2)
    optimizer.step()
    fresh = rs.optimizer("sgd", [nn.Parameter(torch.ones(2))], lr=0.1)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups[0]["swa_lr"] == 0.05


@pytest.mark.parametrize(
    ("mode", "rule", "lr", "said"),
    [
        ("fused", "lion", 0.1, "torch has no fused kernel for lion"),
        (
            "auto",
            "adagrad",
            rs.schedules.cosine_restarts(0.1, period=10, state="reset_first_moment"),
            "adagrad keeps no such moment",
        ),
    ],
)
def test_a_group_that_is_refused_is_not_there(mode: Any, rule: str, lr: Any, said: str) -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = rs.optimizer("adamw", [first], lr=0.1, mode=mode)
    before = str(optimizer.state_dict())
    made = rs.component(rule, "optimizer").factory()
    with pytest.raises(InputError, match=said):
        optimizer.add_param_group({"params": [second], "rule": made, "lr": lr})
    assert str(optimizer.state_dict()) == before
    first.grad = second.grad = torch.ones(2)
    optimizer.step()
    optimizer.add_param_group({"params": [second]})
    optimizer.step()
    assert len(optimizer.param_groups) == 2
    assert [state["step"].item() for state in optimizer.state.values()] == [2, 1]
