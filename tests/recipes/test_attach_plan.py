"""Restarts, units and changes of plan in a run, as they are recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.record.run import RunRecord


def _run(directory: Path, lr: Any, steps: int = 12, **arguments: Any) -> Any:
    torch.manual_seed(0)
    recipe = {"optimizer": "adamw", "lr": lr, "silence": ["RH019"]}
    return rs.attach(recipe, nn.Linear(4, 2), steps=steps, directory=directory, **arguments)


def _steps(run: Any, count: int, **arguments: Any) -> list[float]:
    rates: list[float] = []
    for _ in range(count):
        for param in run.optimizer.param_groups[0]["params"]:
            param.grad = torch.ones_like(param)
        rates.append(run.optimizer.param_groups[0]["lr"])
        run.step(1.0, **arguments)
    return rates


def _events(directory: Path, kind: str) -> list[dict[str, Any]]:
    return [event.fields for event in RunRecord.read(directory).events if event.kind == kind]


def test_a_restart_is_recorded_with_its_jump_and_what_became_of_the_state(tmp_path: Path) -> None:
    lr = {"schedule": "cosine_restarts", "peak": 0.1, "period": 4, "state": "reset_first_moment"}
    with _run(tmp_path / "a", lr) as run:
        _steps(run, 12)
    first, second = _events(tmp_path / "a", "restart")
    assert (first["step"], first["cycle"], first["length"]) == (4, 1, 4)
    assert (second["step"], second["cycle"]) == (8, 2)
    schedule = rs.schedules.cosine_restarts(0.1, period=4)
    assert (first["before"], first["after"]) == (schedule(3), schedule(4))
    assert first["ratio"] == schedule(4) / schedule(3)
    assert first["state"] == "reset_first_moment"
    before, after = first["norms"]["exp_avg"]
    assert before > 0 == after
    assert first["norms"]["exp_avg_sq"][0] == first["norms"]["exp_avg_sq"][1] > 0


def test_changes_of_plan_are_recorded_with_both_curves(tmp_path: Path) -> None:
    with _run(tmp_path / "a", {"schedule": "cosine", "peak": 0.1}) as run:
        _steps(run, 4)
        run.extend(24)
        run.change_peak(0.05, group=0)
        _steps(run, 2)
        run.cool_down(10, shape="linear")
        _steps(run, 2)
    changes = _events(tmp_path / "a", "replan")
    assert [(c["operation"], c["at"]) for c in changes] == [
        ("extend", 4),
        ("change_peak", 4),
        ("cool_down", 6),
    ]
    assert changes[1]["old"] == changes[0]["new"]
    assert changes[2]["new"]["schedule"] == "cooldown_from@1"
    with _run(tmp_path / "b", {"schedule": "cosine", "peak": 0.1}) as run:
        _steps(run, 8)
        run.restart(state="reset")
        assert _steps(run, 2)[0] == rs.schedules.cosine(0.1, steps=12)(0)
    (restart,) = _events(tmp_path / "b", "restart")
    assert (restart["step"], restart["state"]) == (8, "reset")


def test_units_are_counted_step_by_step(tmp_path: Path) -> None:
    inner = {"schedule": "linear", "peak": 0.1, "steps": 10}
    lr = {"schedule": "in_unit", "of": inner, "unit": "tokens", "per_update": 64}
    with _run(tmp_path / "a", lr) as run:
        rates = _steps(run, 4, consumed={"tokens": 128})
        assert rates == [rs.schedules.linear(0.1, steps=10)(2 * k) for k in range(4)]
        run.step(1.0)
        with pytest.raises(InputError, match=r"scheduled in tokens.*consumed"):
            run.step(1.0)


def test_the_fraction_of_a_budget_is_counted_by_the_clock(tmp_path: Path) -> None:
    inner = {"schedule": "linear", "peak": 0.1, "steps": 1000}
    lr = {"schedule": "in_unit", "of": inner, "unit": "fraction", "per_update": 0.001}
    with _run(tmp_path / "a", lr, seconds=3600.0) as run:
        rates = _steps(run, 5)
        fraction = run.optimizer.param_groups[0]["fraction"]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 5
    assert 0 < fraction < 0.1
