"""The account of restarts: every cycle of a step, numbered alike however many went before."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.schedule import Schedule
from rheostat.optimizers.restarting import CycleCounts

S = rs.schedules


def _made(**arguments: Any) -> tuple[nn.Parameter, Any]:
    param = nn.Parameter(torch.linspace(-1, 1, 6))
    param.grad = torch.ones_like(param)
    return param, rs.optimizer("adamw", [param], **arguments)


def _in_tokens(**arguments: Any) -> Schedule:
    return S.in_unit(S.cosine_restarts(0.1, period=100, **arguments), "tokens", per_update=1)


def test_every_cycle_that_a_step_passes_is_told() -> None:
    lr = _in_tokens(multiplier=2, state="decay", state_factor=0.5)
    param, opt = _made(lr=lr, weight_decay=_in_tokens(state="decay", state_factor=0.5))
    opt.step()
    opt.consumed(tokens=350)
    told = opt.last_step.restarts
    assert [(r.restart.step, r.hyperparameter, r.restart.cycle) for r in told] == [
        (100, "weight_decay", 1),
        (100, "lr", 1),
        (200, "weight_decay", 2),
        (300, "weight_decay", 3),
        (300, "lr", 2),
    ]
    assert [r.restart for r in told if r.hyperparameter == "lr"] == list(
        lr.restart_events(before=351)
    )
    # Each halves the moments; those that begin together do so once.
    norms = [r.norms["exp_avg"] for r in told]
    assert [after / before for before, after in norms] == pytest.approx([0.5] * 5)
    assert norms[0] == norms[1]
    assert norms[3] == norms[4]
    assert float(opt.state[param]["exp_avg"].norm()) == pytest.approx(norms[0][0] / 8)


def test_a_period_in_the_wrong_unit_is_refused_and_changes_nothing() -> None:
    _, opt = _made(lr=_in_tokens(), weight_decay=S.in_unit(S.linear(0.1, 10), "tokens", 1e6))
    opt.step()
    before = str(opt.state_dict())
    with pytest.raises(
        InputError, match=r"lr of param group 0: from 0 to 524288 tokens .* more than 1000 times"
    ):
        opt.consumed(tokens=524_288)
    assert str(opt.state_dict()) == before


def test_the_account_of_a_restart_does_not_ask_for_those_before_it() -> None:
    asked: list[float] = []
    made = S.cosine_restarts(0.1, period=2)

    def starts(after: float) -> float:
        asked.append(after)
        return made.starts(after)

    _, opt = _made(lr=Schedule(made.curve, starts=starts))
    spent: list[int] = []
    for _ in range(200):
        asked.clear()
        opt.step()
        spent.append(len(asked))
    assert opt.last_step.restarts[0].restart.cycle == 100
    assert max(spent[:20]) == max(spent[180:])


def test_a_resumed_run_numbers_its_cycles_as_the_whole_one() -> None:
    lr = S.cosine_restarts(0.1, period=3)
    _, whole = _made(lr=lr)
    for _ in range(10):
        whole.step()
    _, resumed = _made(lr=lr)
    resumed.load_state_dict(whole.state_dict())
    for opt in (whole, resumed):
        opt.step()
        opt.step()
        assert opt.last_step.restarts[0].restart.cycle == 4


def test_planned_and_triggered_cycles_share_their_numbers() -> None:
    _, opt = _made(lr=S.cosine_restarts(0.1, period=4))
    told: list[tuple[float, int]] = []
    for k in range(1, 12):
        opt.step()
        told += [(r.restart.step, r.restart.cycle) for r in opt.last_step.restarts]
        if k in (2, 6, 8):  # at 6 a planned one begins too
            told += [(r.restart.step, r.restart.cycle) for r in opt.plan.restart()]
    assert told == [(2, 1), (6, 2), (6, 2), (8, 3)]
    (again,) = [opt.plan.schedules[0]["lr"]]
    assert [(e.step, e.cycle) for e in again.restart_events(before=11)] == [(2, 1), (6, 2), (8, 3)]


@settings(max_examples=50)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_counting_on_is_counting_anew(counts: list[int]) -> None:
    schedule, known = S.linear_restarts(1.0, period=3, multiplier=1.3), CycleCounts()
    for count in counts:
        events = schedule.restart_events(before=math.nextafter(count, math.inf))
        assert known.up_to((0, "lr", 0), schedule, count) == len(events)
        later = schedule.restart_events(before=200, after=count, cycle=len(events) + 1)
        assert events + later == schedule.restart_events(before=200)
