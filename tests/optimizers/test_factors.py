"""The group keys by which a regime acts: factors on hyperparameters, a limit of the norm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from tests.optimizers.ways import NAMES, runs
from torch import Tensor, nn

import rheostat as rs
from rheostat.optimizers import compiled, device
from rheostat.optimizers.loop import Optimizer

Change = Callable[[Optimizer], None]

FACTORS = {"lr": 0.5, "weight_decay": 3.0, "momentum": 2.0}
WAYS = [("host", "eager"), ("host", "fused"), ("host", "compiled"), ("device", "eager")]


def _made(name: str, mode: Any = "eager") -> Optimizer:
    draw = torch.Generator().manual_seed(0)
    shapes = {"a": (6, 4), "b": (5,)}
    params = [(k, nn.Parameter(torch.randn(s, generator=draw))) for k, s in shapes.items()]
    return rs.optimizer(name, params, mode=mode)


def _train(opt: Optimizer, steps: int = 4, scale: float = 1.0) -> None:
    """Towards 1, from wherever the parameters are."""
    params = [p for group in opt.param_groups for p in group["params"]]

    def closure() -> Tensor:
        opt.zero_grad()
        loss = scale * sum((p - 1).square().sum() for p in params)
        assert isinstance(loss, Tensor)
        loss.backward()
        return loss

    for _ in range(steps):
        opt.step(closure)


def _under(factors: Mapping[str, float]) -> Change:
    def change(opt: Optimizer) -> None:
        for group in opt.param_groups:
            group["factors"] = dict(factors)

    return change


def _by_hand(opt: Optimizer) -> None:
    """What `FACTORS` come to."""

    def slower(beta: float) -> float:
        return max(0.0, 1.0 - (1.0 - beta) * FACTORS["momentum"])

    for group in opt.param_groups:
        for name in ("lr", "weight_decay"):
            if name in group:
                group[name] *= FACTORS[name]
        if "momentum" in group:
            group["momentum"] = slower(group["momentum"])
        elif "betas" in group:
            group["betas"] = (slower(group["betas"][0]), *group["betas"][1:])


def _after(opt: Optimizer, change: Change | None = None) -> list[Tensor]:
    """Everything that seven steps make of it: some rules stand still in the first ones."""
    if change is not None:
        change(opt)
    _train(opt, 7)
    states = [opt.state[p] for p in _params(opt)]
    weights = [p.detach() for p in _params(opt)]
    return weights + [value for state in states for value in state.values()]


@pytest.mark.parametrize(
    ("name", "counter", "mode"), [(n, *way) for n in NAMES for way in WAYS if runs(n, way[1])]
)
def test_a_rule_sees_the_plan_times_the_factor(
    name: str, counter: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_compiled", lambda graph: graph.forward)
    monkeypatch.setattr(device, "DEVICE_TYPES", {"cpu"} if counter == "device" else {"cuda"})
    bent, free = _made(name, mode), _made(name, mode)
    found, left_alone = _after(bent, _under(FACTORS)), _after(free)
    assert all(map(torch.equal, found, _after(_made(name, mode), _by_hand)))
    assert not all(map(torch.equal, found, left_alone))
    ones = dict.fromkeys(FACTORS, 1.0)
    assert all(map(torch.equal, left_alone, _after(_made(name, mode), _under(ones))))
    shown = ("lr", "weight_decay", "momentum", "betas")
    for group, plan in zip(bent.param_groups, _made(name).param_groups, strict=True):
        assert {k: group.get(k) for k in shown} == {k: plan.get(k) for k in shown}


@pytest.mark.usefixtures("whoever_counts")
def test_a_factor_multiplies_what_the_schedule_says() -> None:
    schedule = rs.schedules.cosine(0.1, steps=10)
    half = rs.schedules.cosine(0.05, steps=10)
    bent, plain = (
        rs.optimizer("sgd", [nn.Parameter(torch.zeros(3))], lr=lr) for lr in (schedule, half)
    )
    _under({"lr": 0.5})(bent)
    for opt in (bent, plain):
        _train(opt, 5)
    torch.testing.assert_close(_weight(bent), _weight(plain), rtol=1e-6, atol=0)
    assert bent.param_groups[0]["lr"] == schedule(5)


@pytest.mark.usefixtures("whoever_counts")
def test_another_factor_is_seen_at_the_next_step() -> None:
    opt = rs.optimizer("sgd", [nn.Parameter(torch.zeros(3))], lr=0.1)
    for factor, moved in ((1.0, 0.2), (0.5, 0.28), (0.0, 0.28)):
        _under({"lr": factor})(opt)
        _train(opt, 1)
        torch.testing.assert_close(_weight(opt), torch.full((3,), moved))


@pytest.mark.usefixtures("whoever_counts")
def test_factors_and_the_limit_are_saved_and_loaded() -> None:
    opt = _made("adamw")
    _under(FACTORS)(opt)
    opt.param_groups[0]["limit"] = 1e6
    _train(opt, 2)
    again = _made("adamw")
    with torch.no_grad():
        for mine, saved in zip(_params(again), _params(opt), strict=True):
            mine.copy_(saved)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert again.param_groups[0]["factors"] == FACTORS
    assert again.param_groups[0]["limit"] == 1e6
    for one in (opt, again):
        _train(one, 2)
    assert all(map(torch.equal, _params(opt), _params(again)))


@pytest.mark.usefixtures("whoever_counts")
@pytest.mark.parametrize("nonfinite", ["skip", "raise", "propagate"])
def test_a_gradient_above_the_limit_is_skipped(nonfinite: Any) -> None:
    param = nn.Parameter(torch.zeros(4))
    opt = rs.optimizer("adamw", [param], lr=0.1, nonfinite=nonfinite)
    opt.param_groups[0]["limit"] = 10.0
    norms = (4.0, 12.0, 10.0, float("inf"))
    told: list[tuple[bool, int, str | None]] = []
    for norm in norms[: 3 if nonfinite == "raise" else 4]:
        before = [param.detach().clone(), *(v.clone() for v in opt.state[param].values())]
        param.grad = torch.full((4,), norm / 2)
        opt.step()
        assert opt.last_step is not None
        applied, step, reason = opt.last_step.applied, opt.last_step.step, opt.last_step.reason
        told.append((applied, step, reason))
        after = [param.detach(), *opt.state[param].values()]
        assert all(map(torch.equal, before, after)) != applied
    assert told[:3] == [
        (True, 1, None),
        (False, 1, "the gradient's norm, 12, is above the limit"),
        (True, 2, None),
    ]
    assert all(not applied and step == 2 for applied, step, _ in told[3:])
    assert opt.param_groups[0]["updates"] == 2


@pytest.mark.parametrize("policy", ["skip", "propagate"])
def test_where_updates_are_left_out_a_nan_is_too(policy: Any) -> None:
    param = nn.Parameter(torch.ones(4))
    opt = rs.optimizer("adamw", [param], lr=0.1, nonfinite=policy)
    opt.param_groups[0]["limit"] = 0.0
    before = param.detach().clone()
    for value in (1.0, float("nan")):
        param.grad = torch.full((4,), value)
        opt.step()
        assert opt.last_step is not None
        assert not opt.last_step.applied
        plain = value == 1.0 or policy == "propagate"
        assert ("left out for now" in (opt.last_step.reason or "")) is plain
    assert torch.equal(param.detach(), before)


def _params(opt: Optimizer) -> list[Tensor]:
    return [p for group in opt.param_groups for p in group["params"]]


def _weight(opt: Optimizer) -> Tensor:
    return _params(opt)[0].detach()
