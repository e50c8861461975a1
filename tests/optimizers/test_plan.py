"""Schedules in the loop: units, base values, restarts, changes of plan, torch's view."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.transforms.anchoring import anchor

S = rs.schedules

pytestmark = pytest.mark.usefixtures("whoever_counts")


def _made(rule: str = "adamw", **arguments: Any) -> tuple[nn.Parameter, Any]:
    param = nn.Parameter(torch.linspace(-1, 1, 6))
    return param, rs.optimizer(rule, [param], **arguments)


def _steps(param: nn.Parameter, opt: Any, count: int, **consumed: float) -> list[float]:
    """The learning rates of so many steps."""
    rates: list[float] = []
    for _ in range(count):
        param.grad = param.detach().clone() + 0.1
        rates.append(float(opt.param_groups[0]["lr"]))
        opt.step()
        if consumed:
            opt.consumed(**consumed)
    return rates


# -- units -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["samples", "tokens", "epochs", "fraction"])
def test_a_schedule_follows_the_count_of_its_unit(unit: Any) -> None:
    inner = S.linear(1.0, steps=10)
    param, opt = _made("sgd", lr=S.in_unit(inner, unit, 0.5))
    assert _steps(param, opt, 8, **{unit: 0.25}) == [inner(k / 2) for k in range(8)]
    assert opt.param_groups[0][unit] == 2.0


def test_what_nobody_counted_is_asked_for() -> None:
    param, opt = _made("sgd", lr=S.in_unit(S.linear(1.0, steps=10), "tokens", 100))
    _steps(param, opt, 1)
    with pytest.raises(InputError, match=r"lr of param group 0 is scheduled in tokens.*consumed"):
        _steps(param, opt, 1)
    opt.consumed(tokens=100)
    _steps(param, opt, 1)
    with pytest.raises(InputError, match=r"unknown unit 'token'.*tokens"):
        opt.consumed(token=1)
    with pytest.raises(InputError, match=r"tokens=-1: should be finite"):
        opt.consumed(tokens=-1)


def test_a_skipped_step_consumes_but_does_not_update() -> None:
    both = {
        "lr": S.in_unit(S.linear(1.0, steps=10), "tokens", 1),
        "weight_decay": S.linear(1.0, 10),
    }
    param, opt = _made("sgd", **both)
    param.grad = torch.full_like(param, math.nan)
    opt.step()
    opt.consumed(tokens=1)
    group = opt.param_groups[0]
    assert not opt.last_step.applied
    assert (group["lr"], group["weight_decay"]) == (S.linear(1.0, steps=10)(1), 1.0)


def test_counts_are_saved_and_a_resumed_run_goes_on() -> None:
    def make() -> tuple[nn.Parameter, Any]:
        return _made(lr=S.in_unit(S.cosine(1.0, steps=20), "tokens", 64))

    param, opt = make()
    whole = _steps(param, opt, 9, tokens=64)
    first, half = make()
    rates = _steps(first, half, 4, tokens=64)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    second, resumed = make()
    with torch.no_grad():
        second.copy_(first)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert rates + _steps(second, resumed, 5, tokens=64) == whole
    assert torch.equal(second, param)


# -- owners ----------------------------------------------------------------------------------------


def test_a_stray_write_names_the_owner_and_a_base_value_may_be_written() -> None:
    param, opt = _made("sgd", lr=S.cosine(1.0, steps=10))
    opt.param_groups[0]["lr"] = 0.5
    with pytest.raises(InputError, match=r"lr of param group 0 belongs to its schedule.*on_base"):
        _steps(param, opt, 1)

    factors = S.cosine(1.0, steps=10)
    param, opt = _made("sgd", lr=S.on_base(factors, base=0.1))
    assert _steps(param, opt, 3) == pytest.approx([0.1 * factors(k) for k in range(3)])
    opt.param_groups[0]["lr"] = 0.4 * factors(3)
    saved = copy.deepcopy(opt.state_dict())
    rates = _steps(param, opt, 3)
    assert rates == pytest.approx([0.4 * factors(k) for k in range(3, 6)])
    assert saved["param_groups"][0]["lr"] == pytest.approx(0.4 * factors(3))


# -- restarts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["keep", "reset", "decay", "reset_first_moment"])
def test_a_restart_says_what_it_did(state: Any) -> None:
    schedule = S.cosine_restarts(1e-2, period=3, state=state, state_factor=0.25)
    param, opt = _made(lr=schedule)
    _steps(param, opt, 2)
    assert opt.last_step.restarts == ()
    _steps(param, opt, 1)
    (begun,) = opt.last_step.restarts
    assert (begun.hyperparameter, begun.group, begun.policy.action) == ("lr", 0, state)
    assert (begun.restart.step, begun.restart.cycle, begun.restart.length) == (3, 1, 3)
    assert (begun.restart.before, begun.restart.after) == (schedule(2), schedule(3))
    kept = {
        "keep": (1.0, 1.0, 3),
        "reset": (0.0, 0.0, 0),
        "decay": (0.25, 0.25, 3),
        "reset_first_moment": (0.0, 1.0, 3),
    }[state]
    for name, share in zip(("exp_avg", "exp_avg_sq"), kept, strict=False):
        before, after = begun.norms[name]
        assert before > 0
        assert after == pytest.approx(share * before)
        assert float(opt.state[param][name].norm()) == pytest.approx(after)
    assert float(opt.state[param]["step"]) == kept[2]


def test_after_a_reset_the_state_is_a_fresh_one() -> None:
    param, opt = _made(lr=S.cosine_restarts(1e-2, period=3, state="reset"))
    _steps(param, opt, 3)
    other = nn.Parameter(param.detach().clone())
    fresh = rs.optimizer("adamw", [other], lr=S.cosine_restarts(1e-2, period=3))
    _steps(param, opt, 3)
    _steps(other, fresh, 3)
    assert torch.equal(param, other)


@pytest.mark.parametrize("asked", [True, False])
def test_a_reset_keeps_the_masters(asked: bool) -> None:
    found: list[Tensor] = []
    for state in ("keep", "reset"):
        param = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        cycles = S.cosine_restarts(1e-3, period=2, steps=40, state=state, floor=1e-3)
        lr = S.constant(1e-3) if asked else cycles
        opt = rs.optimizer("sgd", [param], lr=lr, precision="master")
        for k in range(40):
            param.grad = torch.ones_like(param)
            opt.step()
            if asked and k % 3 == 0:
                opt.plan.restart(state)
                opt.load_state_dict(copy.deepcopy(opt.state_dict()))
        found.append(opt.state[param]["master"].clone())
    assert torch.equal(*found)
    torch.testing.assert_close(found[1], torch.full((3,), 0.96))


@pytest.mark.parametrize(
    ("piece", "name"),
    [
        (rs.transforms.ema_weights(0.9), "ema_weights"),
        (rs.transforms.swa_weights(start=2, every=2), "swa_weights"),
        (rs.transforms.lookahead(k=7), "slow_weights"),
        (rs.transforms.pull_towards(0.0), "reference"),
        (rs.transforms.pull_by_importance(0.0), "importance"),
    ],
)
def test_a_reset_keeps_what_is_a_copy_of_the_weights(piece: rs.Transform, name: str) -> None:
    param = nn.Parameter(torch.linspace(-1, 1, 6))
    rule = rs.chain(
        rs.transforms.trace(0.9), rs.transforms.scale_by_learning_rate(S.constant(0.1)), piece
    )
    opt = rs.optimizer(rule, [param])
    _steps(param, opt, 4)
    anchor(param, opt.state[param])
    _steps(param, opt, 1)
    kept = opt.state[param][name].clone()
    assert kept.count_nonzero() == kept.numel()
    opt.plan.restart("reset")
    moved = param.detach().clone()
    assert torch.equal(opt.state[param][name], kept)
    assert not opt.state[param]["momentum_buffer"].any()
    with opt.averaged():
        seen = kept if name in ("ema_weights", "swa_weights") else moved
        assert torch.equal(param, seen)
    _steps(param, opt, 1)
    share = {"ema_weights": 0.1, "swa_weights": 1 / 3}.get(name, 0.0)
    expected = kept.lerp(param.detach(), share)
    torch.testing.assert_close(opt.state[param][name], expected)
    assert not torch.equal(param, moved)


@pytest.mark.parametrize(("rule", "name"), [("madgrad", "x0"), ("prodigy", "p0")])
def test_a_reset_begins_a_distance_at_the_present_weights(rule: str, name: str) -> None:
    param, opt = _made(rule, lr=S.constant(0.1))
    _steps(param, opt, 5)
    assert not torch.equal(opt.state[param][name], param)
    opt.plan.restart("reset")
    assert torch.equal(opt.state[param][name], param)


def test_weights_that_are_loaded_before_a_first_update_count_after_a_reset_too() -> None:
    frozen, other = (nn.Parameter(torch.ones(2, dtype=torch.bfloat16)) for _ in range(2))
    opt = rs.optimizer("sgd", [frozen, other], lr=S.constant(0.5), precision="master")
    other.grad = torch.ones_like(other)
    opt.step()
    with torch.no_grad():
        frozen.fill_(3.0)
    opt.plan.restart("reset")
    frozen.grad = torch.ones_like(frozen)
    opt.step()
    assert frozen.tolist() == [2.5, 2.5]
    assert other.tolist() == [0.0, 0.0]


def test_a_group_that_is_added_later_has_the_present_plan() -> None:
    def make() -> tuple[nn.Parameter, Any]:
        return _made("sgd", lr=S.cosine(1.0, steps=20))

    changes: list[Callable[[Any], Any]] = [
        lambda plan: plan.change_peak(0.1),
        lambda plan: plan.cool_down(10),
        lambda plan: plan.extend(40),
        lambda plan: plan.restart(),
    ]
    for change in changes:
        param, opt = make()
        _steps(param, opt, 4)
        change(opt.plan)
        _steps(param, opt, 2)
        late = nn.Parameter(torch.ones(2))
        opt.add_param_group({"params": [late]})
        for _ in range(3):
            old, new = opt.param_groups
            assert (old["lr"], old["plan"], old["lr.restarts"]) == (
                *(new["lr"], new["plan"], new["lr.restarts"]),
            )
            late.grad = torch.ones(2)
            _steps(param, opt, 1)
        opt.load_state_dict(copy.deepcopy(opt.state_dict()))
        assert opt.param_groups[0]["lr"] == opt.param_groups[1]["lr"]

    param, opt = make()
    _steps(param, opt, 4)
    opt.plan.change_peak(0.1)
    opt.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    opt.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": S.cosine(1.0, steps=20)})
    assert opt.param_groups[2]["lr"] == S.cosine(1.0, steps=20)(4)
    with pytest.raises(InputError, match="restart: the plan of lr was changed"):
        opt.plan.restart(group=1)
    opt.plan.restart(group=2)


def test_prodigy_begins_again_with_its_first_distance() -> None:
    param, opt = _made("prodigy", lr=S.cosine_restarts(1.0, period=40, state="reset"))
    _steps(param, opt, 39)
    assert opt.param_groups[0]["d"] > 2e-6
    _steps(param, opt, 1)
    assert opt.param_groups[0]["d"] == 1e-6


def test_a_triggered_restart_replays_exactly() -> None:
    def make() -> tuple[nn.Parameter, Any]:
        return _made(lr=S.cosine(1e-2, steps=10))

    cosine = S.cosine(1e-2, steps=10)
    param, opt = make()
    _steps(param, opt, 4)
    (begun,) = opt.plan.restart(state="reset_first_moment")
    assert (begun.restart.step, begun.restart.cycle) == (4, 1)
    assert (begun.restart.before, begun.restart.after) == (cosine(3), cosine(0))
    with pytest.raises(InputError, match=r"no update was made since the last start, at 4"):
        opt.plan.restart()
    saved, weights = copy.deepcopy(opt.state_dict()), param.detach().clone()
    rates = _steps(param, opt, 5)
    assert rates == [cosine(k) for k in range(5)]
    second, resumed = make()
    with torch.no_grad():
        second.copy_(weights)
    resumed.load_state_dict(saved)
    assert _steps(second, resumed, 5) == rates
    assert torch.equal(second, param)


# -- changes of plan -------------------------------------------------------------------------------


def test_the_plan_is_changed_by_name() -> None:
    old = S.cosine(1.0, steps=10)
    param, opt = _made("sgd", lr=old)
    _steps(param, opt, 5)
    (one,) = opt.plan.extend(20)
    assert (one.at, one.old, one.new.horizon) == (5, old, 20)
    assert opt.param_groups[0]["lr"] == old(5)
    (two,) = opt.plan.change_peak(0.5)
    assert opt.param_groups[0]["lr"] == two.new(5) == 0.5 * old(5)
    (three,) = opt.plan.cool_down(9, shape="linear", floor=0.01)
    assert _steps(param, opt, 5)[-1] == pytest.approx(0.01)
    assert three.new.written()["schedule"] == "cooldown_from@1"
    with pytest.raises(InputError, match=r"no group has a schedule of 'momentum'; scheduled: lr"):
        opt.plan.extend(30, hyperparameter="momentum")
    with pytest.raises(InputError, match=r"should be beyond"):
        opt.plan.extend(5)


def test_loading_neither_keeps_nor_overrides_a_plan_in_silence() -> None:
    param, opt = _made("sgd", lr=S.cosine(1.0, steps=10))
    _steps(param, opt, 4)
    _, other = _made("sgd", lr=S.cosine(0.5, steps=10))
    with pytest.raises(
        InputError, match=r"was saved under the plan .*cosine@1.* build it with the plan"
    ):
        other.load_state_dict(opt.state_dict())


# -- torch -----------------------------------------------------------------------------------------


def test_torchs_view_never_advances_twice() -> None:
    schedule = S.cosine(1.0, steps=10, warmup=3)
    for stepped in (0, 1, 2):
        param, opt = _made("sgd", lr=schedule)
        view = opt.lr_scheduler()
        assert isinstance(view, torch.optim.lr_scheduler.LRScheduler)
        seen: list[float] = []
        for _ in range(8):
            seen += view.get_last_lr()
            _steps(param, opt, 1)
            for _ in range(stepped):
                view.step()
        assert seen == [schedule(k) for k in range(8)]
        assert view.last_epoch == (8 if stepped else 0)


def test_torchs_view_saves_a_count_and_compares_it() -> None:
    param, opt = _made("sgd", lr=S.cosine(1.0, steps=10))
    view = opt.lr_scheduler()
    _steps(param, opt, 3)
    saved, state = view.state_dict(), opt.state_dict()
    _, fresh = _made("sgd", lr=S.cosine(1.0, steps=10))
    again = fresh.lr_scheduler()
    again.load_state_dict(saved)  # before the optimizer, or after: either order
    fresh.load_state_dict(state)
    again.load_state_dict(saved)
    assert again.get_last_lr() == [S.cosine(1.0, steps=10)(3)]
    with pytest.raises(InputError, match=r"saved after 7 updates, and the optimizer has made 3"):
        again.load_state_dict({"last_epoch": 7})


def test_a_torch_scheduler_drives_ours_unchanged() -> None:
    param, opt = _made("sgd", lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
    seen: list[float] = []
    for _ in range(10):
        seen += _steps(param, opt, 1)
        theirs.step()
    imported = rs.schedules.from_torch(
        torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([param], lr=1.0), 10)
    )
    assert seen == pytest.approx([imported[0](k) for k in range(10)], abs=1e-12)


# -- what a careful reader tried -------------------------------------------------------------------


def test_a_changed_plan_is_not_lost_in_loading() -> None:
    param, opt = _made("sgd", lr=S.wsd(0.1, steps=100))
    _steps(param, opt, 10)
    opt.plan.extend(1000)
    _, other = _made("sgd", lr=S.wsd(0.1, steps=100))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(InputError, match=r"saved under the plan .*extend@1"):
        other.load_state_dict(opt.state_dict())
    assert other.state_dict() == before
    changed = S.extend(S.wsd(0.1, steps=100), at=10, steps=1000)
    _, right = _made("sgd", lr=changed)
    right.load_state_dict(opt.state_dict())
    assert right.param_groups[0]["lr"] == opt.param_groups[0]["lr"]


def test_a_refused_load_leaves_the_plan_alone() -> None:
    schedule = S.cosine(0.1, steps=100)
    param, opt = _made("sgd", lr=schedule)
    _steps(param, opt, 3)
    opt.plan.restart()
    saved = copy.deepcopy(opt.state_dict())
    saved["param_groups"][0]["lr"] = 0.7
    other_param, other = _made("sgd", lr=schedule)
    _steps(other_param, other, 5)
    with pytest.raises(InputError, match=r"lr was saved as 0.7"):
        other.load_state_dict(saved)
    assert _steps(other_param, other, 3) == [schedule(k) for k in (5, 6, 7)]


def test_each_hyperparameter_has_a_log_of_its_own() -> None:
    plans = {"lr": S.cosine(0.1, steps=100), "weight_decay": S.linear(0.2, steps=100)}
    param, opt = _made("adamw", **plans)
    _steps(param, opt, 3)
    opt.plan.restart(hyperparameter="weight_decay")
    opt.plan.cool_down(50, hyperparameter="lr")
    assert opt.param_groups[0]["weight_decay"] == 0.2
    _steps(param, opt, 2)
    with pytest.raises(InputError, match="plan of lr was changed in mid-run"):
        opt.plan.restart()
    right = {**plans, "lr": S.cooldown_from(plans["lr"], at=3, steps=50)}
    _, resumed = _made("adamw", **right)
    resumed.load_state_dict(opt.state_dict())
    group = resumed.param_groups[0]
    assert group["weight_decay"] == S.linear(0.2, steps=100)(2)


@pytest.mark.parametrize("own", ["reset", "decay"])
def test_a_triggered_restart_beside_planned_ones_that_do_more(own: Any) -> None:
    param, opt = _made(lr=S.cosine_restarts(0.1, period=10, state=own))
    _steps(param, opt, 4)
    (begun,) = opt.plan.restart(state="keep")
    assert begun.policy.action == "keep"
    _, resumed = _made(lr=S.cosine_restarts(0.1, period=10, state=own))
    resumed.load_state_dict(opt.state_dict())
    assert resumed.param_groups[0]["lr"] == opt.param_groups[0]["lr"]


def test_bad_requests_change_nothing() -> None:
    param, opt = _made(lr=S.cosine(0.1, steps=100))
    _steps(param, opt, 4)
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises(InputError, match="state='forget'"):
        opt.plan.restart(state="forget")
    with pytest.raises(InputError, match="factor=-5"):
        opt.plan.restart(state="decay", factor=-5)
    assert str(opt.state_dict()) == str(before)
    param, opt = _made("sgd", lr=S.in_unit(S.wsd(0.1, steps=9), "epochs", 1))
    _steps(param, opt, 1, epochs=2.9)
    with pytest.raises(InputError, match=r"at 2.9 epochs; a plan changes at a whole count"):
        opt.plan.cool_down(4)
    opt.consumed(epochs=0.1)
    opt.plan.cool_down(4)
    opt.param_groups[0]["lr"] = 0.5
    with pytest.raises(InputError, match="belongs to its schedule"):
        opt.plan.extend(20)


def test_the_count_of_another_unit_does_not_do() -> None:
    param, opt = _made("sgd", lr=S.in_unit(S.linear(1.0, steps=10), "tokens", 100))
    _steps(param, opt, 1)
    opt.consumed(samples=3)
    with pytest.raises(InputError, match="scheduled in tokens"):
        _steps(param, opt, 1)


def test_the_peak_is_found_through_what_scales_it() -> None:
    for made, peak in (
        (0.5 * S.cosine(0.1, steps=100), 0.05),
        (S.on_base(S.cosine(1.0, steps=100), base=0.1), 0.1),
    ):
        param, opt = _made("sgd", lr=made)
        _steps(param, opt, 3)
        opt.plan.change_peak(peak / 2)
        assert opt.param_groups[0]["lr"] == pytest.approx(made(3) / 2)
    param, opt = _made("sgd", lr=S.clamp(S.cosine(1.0, steps=100), upper=0.1))
    with pytest.raises(InputError, match="old_peak"):
        opt.plan.change_peak(0.05)
    opt.plan.change_peak(0.05, old_peak=0.1)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_base_value_takes_no_nonsense() -> None:
    param, opt = _made("sgd", lr=S.on_base(S.linear(1.0, steps=4), base=0.1))
    for bad in (math.nan, -0.1, math.inf):
        opt.param_groups[0]["lr"] = bad
        with pytest.raises(InputError, match="is a base value times a factor"):
            _steps(param, opt, 1)


def test_decay_is_of_moments_alone_and_refused_where_there_are_none() -> None:
    rule = S.cosine_restarts(1e-2, period=3, state="decay", state_factor=0.5)
    param, opt = _made("adan", lr=rule)
    _steps(param, opt, 3)
    norms = opt.last_step.restarts[0].norms
    for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq"):
        assert norms[name][1] == pytest.approx(0.5 * norms[name][0])
    assert norms["previous_grad"][0] == norms["previous_grad"][1]
    fresh = S.cosine_restarts(1e-2, period=3, state="reset_first_moment")
    with pytest.raises(InputError, match="rmsprop keeps no such moment"):
        _made("rmsprop", lr=fresh)


def test_lbfgs_restarts_too() -> None:
    param, opt = _made("lbfgs", lr=S.cosine_restarts(1.0, period=2))
    for _ in range(3):

        def closure() -> torch.Tensor:
            opt.zero_grad()
            loss = param.square().sum()
            loss.backward()
            return loss

        opt.step(closure)
    assert opt.param_groups[0]["updates"] == 3


def test_complex_parameters_restart_too() -> None:
    param = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    opt = rs.optimizer("adamw", [param], lr=S.cosine_restarts(0.1, period=1, state="decay"))
    param.grad = torch.full_like(param, 1 + 1j)
    opt.step()
    before, after = opt.last_step.restarts[0].norms["exp_avg"]
    assert before == pytest.approx(0.1 * math.sqrt(6))
    assert after == pytest.approx(before / 2)


# -- ranges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: rs.optimizer("adamw", p, betas=(S.ramp(0.9, 1.1, steps=1000), 0.999)),
            r"adamw: betas\.0: its schedule gives 1\.1 at step 1000; it should be less than 1",
        ),
        (
            lambda p: rs.optimizer("adamw", p, lr=S.from_function(lambda k: 0.1 - k / 1e3, 500)),
            r"adamw: lr: from_function: gives -.*; should be finite and not negative",
        ),
        (
            lambda p: rs.optimizer("adamw", p, lr=rs.Schedule(lambda k: 1 - k / 10, horizon=30)),
            r"adamw: lr: its schedule gives -2 at step 30; it should be greater than or equal to 0",
        ),
        (
            lambda p: rs.optimizer(
                "adamw", p, betas=(S.join((S.ramp(0.9, 1.2, 7), S.constant(0.9))), 0.9)
            ),
            r"betas\.0: its schedule gives 1\.",
        ),
        (
            lambda p: rs.optimizer(
                rs.chain(
                    rs.transforms.scale_by_adam(b2=S.triggered(S.ramp(0.9, 1.0, 9), (3, 500)))
                ),
                p,
            ),
            r"scale_by_adam: b2: its schedule gives 1 at",
        ),
        (
            lambda p: rs.optimizer("adamw", [{"params": p, "betas": (0.9, S.ramp(0.9, 1.0, 5))}]),
            r"param group 0: betas\.1: its schedule gives 1 at step 5",
        ),
        (
            lambda p: rs.optimizer("adamw", [{"params": p, "weight_decay": -1}]),
            r"param group 0: weight_decay=-1: should be greater than or equal to 0",
        ),
        (
            lambda p: rs.optimizer(
                rs.policy(rs.match(rs.component("adamw").factory(), lr=math.nan)), p
            ),
            r"param group 0: lr=nan: should be",
        ),
    ],
)
def test_a_schedule_is_held_against_the_range_over_its_horizon(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make([nn.Parameter(torch.ones(2))])
    assert "\n" not in str(caught.value)


def test_a_schedule_without_a_horizon_is_held_against_the_range_at_each_step() -> None:
    rising = S.from_function(lambda k: 0.95 + k / 100)
    param, opt = _made("adamw", betas=(rising, 0.999))
    _steps(param, opt, 5)  # the last of them leaves 1.0 in the group, which no update has used
    with pytest.raises(
        InputError,
        match=r"param group 0: betas\.0: its schedule gives 1 at 5 updates; it should be",
    ):
        _steps(param, opt, 1)
    param, opt = _made("sgd", lr=S.from_function(lambda k: 0.03 - k / 100))
    with pytest.raises(InputError, match=r"^lr: at 4 updates: from_function: gives -0.01; "):
        _steps(param, opt, 9)


# -- some of the groups ----------------------------------------------------------------------------


def _groups() -> tuple[list[nn.Parameter], Any]:
    params = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    shared = S.cosine(0.1, steps=10)
    lrs = [shared, shared, S.cosine(0.01, steps=10)]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, lrs, strict=True)]
    opt = rs.optimizer("sgd", groups, momentum=0.9)
    for param in params:
        param.grad = torch.ones_like(param)
    for _ in range(4):
        opt.step()
    return params, opt


def test_a_change_may_be_of_some_groups_alone() -> None:
    _, opt = _groups()
    before = [group["lr"] for group in opt.param_groups]
    assert [one.group for one in opt.plan.change_peak(0.05, group=[0, 1])] == [0, 1]
    assert opt.plan.schedules[0]["lr"] is opt.plan.schedules[1]["lr"]
    opt.plan.change_peak(0.02, group=2)
    after = [group["lr"] for group in opt.param_groups]
    assert after == pytest.approx([before[0] / 2, before[1] / 2, before[2] * 2])
    (cooled,) = opt.plan.cool_down(6, group=2)
    assert (cooled.group, opt.plan.schedules[0]["lr"].horizon, cooled.new.horizon) == (2, 10, 6)
    assert [one.group for one in opt.plan.extend(20)] == [0, 1, 2]

    _, opt = _groups()
    assert [one.group for one in opt.plan.restart(group=1)] == [1]
    assert [g["lr"] for g in opt.param_groups] == pytest.approx([before[0], 0.1, before[2]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: p.change_peak(0.05),
            "lr has several peaks, 0.01 in group 2 and 0.1 in group 0; ",
        ),
        (lambda p: p.extend(20, group=3), "group=3: there are groups 0 to 2"),
        (lambda p: p.extend(20, group=-1), "group=-1: there are groups 0 to 2"),
        (
            lambda p: p.extend(20, hyperparameter="momentum", group=[0]),
            r"not all of group=\[0\] have a schedule of 'momentum'; scheduled: lr",
        ),
        (lambda p: p.change(lambda old, at: 0.1), "gives 0.1; should be a schedule"),
    ],
)
def test_what_is_asked_of_the_wrong_groups_changes_nothing(call: Any, message: str) -> None:
    _, opt = _groups()
    before = str(opt.state_dict())
    with pytest.raises(InputError, match=message):
        call(opt.plan)
    assert str(opt.state_dict()) == before


def test_a_new_plan_is_held_against_the_range_of_the_old() -> None:
    param, opt = _made("adamw", betas=(0.9, 0.999), lr=S.cosine(0.1, steps=10))
    _steps(param, opt, 2)
    opt.plan.change(lambda old, at: rs.Schedule(lambda k: 0.03 - k / 100))
    _steps(param, opt, 2)
    with pytest.raises(InputError, match=r"lr: its schedule gives -0.01 at 4 updates; it should"):
        _steps(param, opt, 1)


def test_a_number_that_the_caller_reads_follows_the_optimizers_counts() -> None:
    smoothing, temperature = (
        S.linear(0.1, steps=10),
        S.in_unit(S.linear(2.0, steps=10), "tokens", 64),
    )
    param, opt = _made("sgd", lr=0.1)
    assert opt.plan.value(smoothing) == 0.1
    _steps(param, opt, 3, tokens=128)
    assert opt.plan.value(smoothing) == smoothing(3)
    assert opt.plan.value(temperature) == temperature(384)
    _, resumed = _made("sgd", lr=0.1)
    resumed.load_state_dict(opt.state_dict())
    assert resumed.plan.value(smoothing) == smoothing(3)


# -- what a stranger tried -------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [torch.tensor(0.5), torch.ones(2), "0.5", None])
def test_a_stray_write_of_any_kind_names_the_owner(wrong: Any) -> None:
    for lr, message in (
        (S.cosine(0.1, steps=9), "lr of param group 0 belongs to its schedule"),
        (S.on_base(S.cosine(1.0, steps=9), base=0.1), "lr of param group 0 "),
    ):
        _, opt = _made("adamw", lr=lr)
        opt.param_groups[0]["lr"] = wrong
        if lr.base is None or not isinstance(wrong, torch.Tensor) or wrong.numel() > 1:
            with pytest.raises(InputError, match=message):
                opt.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_may_hold_what_is_there_and_may_be_a_base(dtype: torch.dtype) -> None:
    param, opt = _made("sgd", lr=S.cosine(0.1, steps=9))
    opt.param_groups[0]["lr"] = torch.tensor(0.1, dtype=dtype)
    assert len(_steps(param, opt, 2)) == 2
    assert opt.param_groups[0]["lr"] == S.cosine(0.1, steps=9)(2)
    param, opt = _made("sgd", lr=S.on_base(S.cosine(1.0, steps=9), base=0.1))
    opt.param_groups[0]["lr"] = torch.tensor(0.05, dtype=dtype)
    _steps(param, opt, 1)
    assert type(opt.param_groups[0]["lr"]) is float
    assert opt.param_groups[0]["lr.base"] == pytest.approx(0.05, rel=1e-7)


def test_a_schedule_written_to_a_plain_number_is_refused() -> None:
    _, opt = _made("adamw", lr=0.1)
    opt.param_groups[0]["lr"] = S.constant(0.2)
    with pytest.raises(InputError, match=r"lr of param group 0: constant\(peak=0.2, .* are given"):
        opt.step()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schedule": "cosine", "peak": 0.1}, r"a call, such as schedules\.cosine"),
        (S.cosine, "call it if it makes a schedule"),
        (lambda k: 0.1, r"give it to schedules\.from_function"),
        ("cosine", "should be a number, not text"),
    ],
)
def test_what_is_near_to_a_schedule_is_told_how_to_become_one(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _made("adamw", lr=given)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(InputError, match=r"schedules\.from_torch\(…\) makes schedules of it"):
        _made("adamw", lr=torch.optim.lr_scheduler.ConstantLR(optimizer))


def test_a_schedules_own_numbers_are_plain() -> None:
    for peak in (torch.tensor(0.5), np.float32(0.5), np.float64(0.5)):
        schedule = S.cosine(peak, steps=np.int64(10))
        assert repr(schedule) == "cosine(peak=0.5, steps=10, warmup=0, floor=0.0)"
        _made("sgd", lr=schedule)  # which writes its plan down as JSON
    with pytest.raises(InputError, match=r"cosine: peak=constant\(.*\): should be a number"):
        S.cosine(S.constant(0.1), steps=10)


def test_who_listens_is_told_before_a_change_and_may_refuse_it() -> None:
    param, opt = _made("sgd", lr=S.cosine(1.0, steps=10))
    planned, told = opt.scheduled(0)["lr"], []

    def listen(operation: str, arguments: Any, changes: Any) -> None:
        assert opt.scheduled(0)["lr"] is changes[0].old
        told.append((operation, arguments["hyperparameter"], changes[0].at))
        if operation == "change":
            raise InputError("no")

    opt.plan.listener = listen
    _steps(param, opt, 2)
    opt.plan.extend(20)
    with pytest.raises(InputError, match="no"):
        opt.plan.change(lambda old, at: planned)
    assert told == [("extend", "lr", 2), ("change", "lr", 2)]
    assert opt.scheduled(0)["lr"].horizon == 20
    assert copy.deepcopy(opt).plan.listener is None
    opt.plan.reset()
    assert opt.scheduled(0)["lr"] is planned
    assert opt.param_groups[0]["plan"] == _made("sgd", lr=planned)[1].param_groups[0]["plan"]
