"""What a batch without an update wrote into a model's buffers is taken back, under a regime."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs

RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 3e-3,
    "safeguards": {"every": 20, "survive": 10},
}
Hurt = dict[int, float]
"""Batch -> what its inputs are multiplied by."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))


def batch(number: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(number))
    return x, x[:, :1] * x[:, 1:2] + x[:, 2:3]


def train(run: Any, model: nn.Module, to: int, hurt: Hurt) -> None:
    for number in range(run.batches, to):
        x, y = batch(number)
        run.optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x * hurt.get(number, 1.0)), y)
        loss.backward()
        run.step(loss)


def trained(recipe: dict[str, Any], hurt: Hurt, steps: int = 160, **given: Any) -> nn.Module:
    model = network()
    run = rs.attach(recipe, model, **given)
    train(run, model, steps, hurt)
    run.close()
    return model


def evaluated(model: nn.Module) -> float:
    x, y = batch(10_000)
    return nn.functional.mse_loss(model.eval()(x), y).item()


@pytest.mark.parametrize(
    "hurt",
    [{100: math.nan}, dict.fromkeys(range(100, 115), math.nan)],
    ids=["one", "many"],
)
def test_a_batch_that_is_not_learnt_leaves_no_statistics(hurt: Hurt) -> None:
    assert evaluated(trained(RECIPE, hurt)) < 2 * evaluated(trained(RECIPE, {}))


def test_a_dry_run_takes_nothing_back() -> None:
    dry = {**RECIPE, "regime": {"controllers": [], "dry_run": True}}
    plain = {"optimizer": "adamw", "lr": 3e-3}
    hurt = {100: math.nan}
    watched, alone = (trained(recipe, hurt, 110).state_dict() for recipe in (dry, plain))
    for name, mine in watched.items():
        assert torch.equal(mine.nan_to_num(), alone[name].nan_to_num())
    assert watched["1.running_mean"].isnan().all()


def _values(state: dict[str, Tensor]) -> list[Tensor]:
    return [*state.values()]


def test_a_replay_and_a_resumed_run_do_so_too(tmp_path: Path) -> None:
    hurt = dict.fromkeys(range(100, 115), math.nan)
    first = trained(RECIPE, hurt, directory=tmp_path / "first")
    again = {"optimizer": "adamw", "lr": 3e-3, "regime": {"replay": str(tmp_path / "first")}}
    replayed = trained(again, hurt, directory=tmp_path / "again")
    given: dict[str, Any] = {"directory": tmp_path / "cut", "resume": "auto"}
    for at in (103, 109, 160):
        resumed = network()
        run = rs.attach(RECIPE, resumed, **given)
        train(run, resumed, at, hurt)
        run.save(wait=True)
        run.close()
    for other in replayed, resumed:
        assert all(map(torch.equal, _values(first.state_dict()), _values(other.state_dict())))


def test_a_replay_under_another_recipe_says_so(tmp_path: Path) -> None:
    trained(RECIPE, {}, 5, directory=tmp_path / "first")
    again = {"optimizer": "sgd", "lr": 3e-3, "regime": {"replay": str(tmp_path / "first")}}
    with pytest.warns(UserWarning, match=r"had another recipe \(optimizer.*mean something else"):
        trained(again, {}, 5, directory=tmp_path / "again")
    twice = {"optimizer": "sgd", "lr": 3e-3, "regime": {"replay": str(tmp_path / "again")}}
    with pytest.raises(rs.InputError, match=r"is a replay itself, of .*first: replay that one"):
        rs.attach(twice, network())
