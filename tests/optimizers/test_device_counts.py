"""What the host learns of a device that counts, and when; shown on the CPU, told to be one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.optimizers.ways import SCHEDULE, assert_same, both_ways, give, some_params
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.transform import chain
from rheostat.optimizers import device, windows
from rheostat.optimizers.loop import Optimizer


def test_a_result_is_read_when_it_is_asked_for(on_cpu: None) -> None:
    params = some_params()
    opt = rs.optimizer("adamw", params, lr=SCHEDULE)
    results = []
    for k in range(4):
        give(params, k, bad=(2,))
        opt.step()
        results.append(opt.last_step)
    # Until somebody asks, every step counts as applied.
    assert opt.param_groups[0]["updates"] == 4
    assert [result.applied for result in results] == [True, True, False, True]
    assert [result.step for result in results] == [1, 2, 2, 3]
    assert results[2].reason == "non-finite gradient in p0"
    assert results[3].reason is None
    assert results[3].grad_norm == pytest.approx(
        sum(float(p.grad.double().square().sum()) for _, p in params if p.grad is not None) ** 0.5
    )
    assert opt.param_groups[0]["updates"] == 3
    assert opt.param_groups[0]["lr"] == SCHEDULE(3)
    assert results[2] == copy.deepcopy(results[2])
    assert "reason='non-finite gradient in p0'" in repr(results[2])


def test_a_state_dict_holds_what_was_applied(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("adamw", "prodigy"):
        monkeypatch.setattr(device, "DEVICE_TYPES", {"cpu"})
        params = some_params()
        opt = rs.optimizer(name, params, lr=SCHEDULE)
        for k in range(3):
            give(params, k, bad=(0,))
            opt.step()
        saved = copy.deepcopy(opt.state_dict())
        assert saved["param_groups"][0]["updates"] == 2
        weights = [(n, nn.Parameter(p.detach().clone())) for n, p in params]
        twin = copy.deepcopy(opt)
        twin_params = [p for group in twin.param_groups for p in group["params"]]
        for k in range(3, 6):
            give(params, k)
            opt.step()
            give([(n, p) for (n, _), p in zip(params, twin_params, strict=True)], k)
            twin.step()
        # Resumed where the device counts, and where the host does.
        for types in ({"cpu"}, {"cuda"}):
            monkeypatch.setattr(device, "DEVICE_TYPES", types)
            mine = [(n, nn.Parameter(p.detach().clone())) for n, p in weights]
            resumed = rs.optimizer(name, mine, lr=SCHEDULE)
            resumed.load_state_dict(copy.deepcopy(saved))
            for k in range(3, 6):
                give(mine, k)
                resumed.step()
            assert_same(resumed, opt)
        assert_same(twin, opt)


def test_schedules_go_on_past_a_window(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW", 8)
    monkeypatch.setattr(device, "GLANCE", 3)
    lr = rs.schedules.cosine(1.0, steps=60)
    param = nn.Parameter(torch.zeros((), dtype=torch.float64))
    frozen = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    groups = [{"params": [param]}, {"params": [frozen], "lr_factor": 0.5}]
    opt = rs.optimizer("sgd", groups, lr=lr, momentum=0.0, mode="eager")
    expected, applied = 0.0, 0
    for k in range(50):
        skipped = k % 5 == 3
        param.grad = torch.tensor(float("nan") if skipped else 1.0, dtype=torch.float64)
        frozen.grad = torch.ones(2, dtype=torch.float64)
        if not skipped:
            expected -= lr(applied)
            applied += 1
        opt.step()
    assert param.item() == pytest.approx(expected, rel=1e-12)
    assert frozen[0].item() == pytest.approx(expected / 2, rel=1e-12)
    assert opt.last_step is not None
    assert opt.last_step.step == applied
    assert opt.param_groups[0]["lr"] == lr(applied)


def test_changed_hyperparameters_and_new_groups_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways: list[Optimizer] = []
    for types in ({"cuda"}, {"cpu"}):
        monkeypatch.setattr(device, "DEVICE_TYPES", types)
        params = some_params()
        opt = rs.optimizer("adamw", params[:3], mode="eager")
        for k in range(6):
            opt.param_groups[0]["lr"] = 0.01 * (k + 1)
            opt.param_groups[0]["betas"] = (0.9 - 0.1 * k, 0.99)
            if k == 3:
                opt.add_param_group({"params": params[3:]})
            give(params, k, bad=(2,))
            opt.step()
        ways.append(opt)
    assert_same(*ways)


def test_what_the_host_must_count_it_counts(on_cpu: None) -> None:
    def resident(rule: Any, **arguments: Any) -> bool:
        params = some_params()
        opt = rs.optimizer(rule, params, **arguments)
        give(params, 0)
        opt.step()
        return opt._roster.resident is not None

    assert resident("lion")
    assert not resident("soap")
    assert not resident("lion", accumulate=2)
    assert not resident("lion", precision="stochastic")
    assert not resident(chain(rs.transforms.add_noise(), rs.transforms.scale_by_adam()), lr=0.1)


# -- restarts and changes of plan ------------------------------------------------------------------


@pytest.mark.parametrize("state", ["keep", "reset", "decay", "reset_first_moment"])
@pytest.mark.parametrize(("name", "mode"), [("adamw", "fused"), ("prodigy", "eager")])
def test_a_restart_acts_after_applied_updates_alone(
    name: str, mode: Any, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every third update a cycle begins; steps 0, 2, 3 and 7 are skipped, the last of them
    with a restart in sight."""
    lr = rs.schedules.cosine_restarts(0.01, period=3, state=state)
    host, there = both_ways(monkeypatch, name, (0, 2, 3, 7), steps=12, mode=mode, lr=lr)
    assert_same(host, there)


def test_restarts_are_told_once_and_after_the_update_that_ends_a_cycle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[list[Any]] = []
    for types in ({"cuda"}, {"cpu"}):
        monkeypatch.setattr(device, "DEVICE_TYPES", types)
        params = some_params()
        opt = rs.optimizer(
            "adamw", params, lr=rs.schedules.cosine_restarts(0.01, period=3, state="reset")
        )
        found: list[Any] = []
        for k in range(10):
            give(params, k, bad=(1, 3, 7))
            opt.step()
            assert opt.last_step is not None
            found += [(k, one.restart) for one in opt.last_step.restarts]
        assert opt.last_step is not None
        told.append([*found, opt.last_step.step])
    assert told[0] == told[1]
    assert [k for k, _ in told[0][:-1]] == [4, 8]


def test_a_restart_of_one_group_leaves_the_counts_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cycles = rs.schedules.cosine_restarts(0.01, period=3, state="reset")
    ways: list[Optimizer] = []
    for types in ({"cuda"}, {"cpu"}):
        monkeypatch.setattr(device, "DEVICE_TYPES", types)
        params = some_params()
        groups = [{"params": params[:3], "lr": cycles}, {"params": params[3:]}]
        opt = rs.optimizer("adamw", groups, mode="eager")
        for k in range(8):
            give(params, k, bad=(1,))
            opt.step()
        ways.append(opt)
    assert_same(*ways)


def test_a_base_that_was_written_outlives_what_the_host_learns(on_cpu: None) -> None:
    params = some_params()
    schedule = rs.schedules.on_base(rs.schedules.cosine(1.0, steps=30), base=0.01)
    opt = rs.optimizer("adamw", params, lr=schedule)
    for k in range(2):
        give(params, k, bad=(1,))
        opt.step()
    opt.param_groups[0]["lr"] *= 3
    assert opt.last_step is not None
    assert not opt.last_step.applied
    assert opt.param_groups[0]["lr"] == pytest.approx(3 * schedule(1))


def test_what_was_consumed_restarts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[Optimizer] = []
    for types in ({"cuda"}, {"cpu"}):
        monkeypatch.setattr(device, "DEVICE_TYPES", types)
        params = some_params()
        cycles = rs.schedules.cosine_restarts(0.01, period=2, state="reset")
        opt = rs.optimizer("adamw", params, lr=rs.schedules.in_unit(cycles, "tokens", 10))
        begun = 0
        for k in range(7):
            give(params, k, bad=(1,))
            opt.step()
            opt.consumed(tokens=10)
            assert opt.last_step is not None
            begun += len(opt.last_step.restarts)
        assert begun == 3
        ways.append(opt)
    assert_same(*ways)


def test_a_plan_is_changed_where_it_really_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[Optimizer] = []
    for types in ({"cuda"}, {"cpu"}):
        monkeypatch.setattr(device, "DEVICE_TYPES", types)
        params = some_params()
        base = rs.schedules.on_base(rs.schedules.cosine(1.0, steps=30), base=0.01)
        opt = rs.optimizer("adamw", params, lr=base, weight_decay=SCHEDULE)
        for k in range(10):
            give(params, k, bad=(2, 6))
            if k == 4:
                (changed,) = opt.plan.extend(40, "weight_decay")
                assert changed.at == 3
            if k == 5:
                opt.param_groups[0]["lr"] *= 3
            if k == 7:
                (begun,) = opt.plan.restart("reset")
                assert begun.restart.step == 5
            opt.step()
        ways.append(opt)
    assert_same(*ways)


def test_the_scheduler_view_saves_what_was_applied(on_cpu: None) -> None:
    params = some_params()
    opt = rs.optimizer("adamw", params, lr=SCHEDULE)
    for k in range(3):
        give(params, k, bad=(1,))
        opt.step()
    assert opt.lr_scheduler().state_dict() == {"last_epoch": 2}


# -- captured graphs, as far as the host sees them -------------------------------------------------


def test_a_capture_that_no_replay_could_follow_is_refused(
    on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = some_params()
    opt = rs.optimizer("adamw", params, mode="fused")
    cyclic = rs.optimizer("adamw", params, lr=rs.schedules.cosine_restarts(0.01, period=5))
    for one in (opt, cyclic):
        give(params, 0)
        one.step()
    give(params, 2)
    monkeypatch.setattr(device, "_capturing", lambda where: True)
    opt.step()
    with pytest.raises(InputError, match="no replay would notice that a schedule begins again"):
        cyclic.step()
    opt.param_groups[0]["lr"] = 0.5
    with pytest.raises(InputError, match="a hyperparameter changed; take a step"):
        opt.step()
    monkeypatch.setattr(device, "_capturing", lambda where: False)
    opt.refresh()
    opt.param_groups[0]["weight_decay"] = 0.5
    with pytest.raises(
        InputError, match=r"weight_decay changed from 0\.01 to 0\.5, and the captured"
    ):
        opt.refresh()


def test_refresh_brings_the_next_window(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW", 4)
    params = some_params()
    opt = rs.optimizer("adamw", params, lr=SCHEDULE)
    for k in range(7):
        give(params, k)
        if k == 3:
            opt.refresh()
            monkeypatch.setattr(device, "_capturing", lambda where: True)
        opt.step()
    with pytest.raises(InputError, match=r"take a step, or call refresh\(\)"):
        opt.step()
