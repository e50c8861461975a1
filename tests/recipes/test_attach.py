"""attach: a recipe bound to a model, stepped by the user's loop, every step recorded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.record.run import RunRecord
from rheostat.signals.fingerprint import fingerprint

RECIPE: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "lr": {"schedule": "cosine_restarts", "peak": 0.1, "period": 4},
}


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def _batch(k: int) -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(k))


def test_every_step_is_recorded(tmp_path: Path) -> None:
    model = _model()
    start = fingerprint(model.state_dict())
    with rs.attach(RECIPE, model, steps=10, directory=tmp_path / "run", about={"seed": 7}) as run:
        norms: list[float] = []
        for k in range(10):
            run.optimizer.zero_grad()
            loss = model(_batch(k)).square().mean()
            loss.backward()
            result = run.step(loss, batch=_batch(k))
            assert result.applied
            buffers = [run.optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
            norms.append(torch.cat([b.flatten() for b in buffers]).norm().item())
        run.finish({"loss": 0.5})
    record = RunRecord.read(tmp_path / "run")
    assert record.status == "done"
    assert record.header["seed"] == 7
    assert record.header["weights"] == start
    assert record.header["parameters"] == sum(p.numel() for p in model.parameters())
    assert record.fingerprint == fingerprint(model.state_dict())
    assert record.header["recipe_hash"] == rs.Recipe.load(RECIPE).bind(10).hash
    schedule = rs.schedules.cosine_restarts(0.1, steps=10, period=4)
    assert record.series["lr"].tolist() == [schedule(k) for k in range(10)]
    assert record.series["momentum_norm"].tolist() == pytest.approx(norms, rel=1e-6)
    assert record.batches == tuple(fingerprint(_batch(k)) for k in range(10))
    assert set(record.series) == {"lr", "loss", "grad_norm", "momentum_norm"}
    restarts = [event.fields["step"] for event in record.events if event.kind == "restart"]
    assert restarts == record.header["restarts"] == [4, 8]


def test_scheduled_hyperparameters_are_recorded_too(tmp_path: Path) -> None:
    model = _model()
    decay = {"schedule": "cosine", "peak": 0.1}
    recipe = {"optimizer": "adamw", "lr": 0.01, "weight_decay": decay}
    with rs.attach(recipe, model, steps=5, directory=tmp_path / "run") as run:
        for k in range(5):
            model(_batch(k)).sum().backward()
            run.step()
    record = RunRecord.read(tmp_path / "run")
    wanted = rs.schedules.cosine(0.1, steps=5).values(range(5)).tolist()
    assert record.series["weight_decay"].tolist() == wanted
    assert all(math.isnan(loss) for loss in record.series["loss"])
    assert record.status == "running", "a run that nobody finished says so"


def test_skipped_steps_are_told(tmp_path: Path) -> None:
    model = _model()
    with rs.attach(RECIPE, model, steps=5, directory=tmp_path / "run") as run:
        (model(_batch(0)).sum() * math.nan).backward()
        result = run.step(math.nan)
        assert not result.applied
    record = RunRecord.read(tmp_path / "run")
    (event,) = [event for event in record.events if event.kind == "skipped"]
    assert event.fields["step"] == 0
    assert "non-finite gradient in" in event.fields["reason"]


def test_closure_and_scaler() -> None:
    model = _model()
    run = rs.attach(RECIPE, model, steps=5)

    def closure() -> Tensor:
        run.optimizer.zero_grad()
        loss = model(_batch(0)).square().mean()
        loss.backward()
        return loss

    assert run.step(closure=closure).applied
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    run.optimizer.zero_grad()
    scaler.scale(model(_batch(1)).square().mean()).backward()
    assert run.step(scaler=scaler).step == 2
    run.optimizer.zero_grad()
    scaler.scale(model(_batch(1)).square().mean() * math.inf).backward()
    result = run.step(scaler=scaler)
    assert (result.applied, result.step) == (False, 2)
    assert result.reason is not None
    assert "GradScaler" in result.reason
    with pytest.raises(InputError, match="GradScaler cannot take a closure"):
        run.step(closure=closure, scaler=scaler)


def test_bad_recipes_and_used_directories(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="horizon"):
        rs.attach({"optimizer": "sgd", "lr": {"schedule": "cosine", "peak": 0.1}}, _model())
    with pytest.raises(InputError, match="did you mean 'momentum'"):
        rs.attach({"optimizer": "sgd", "momentun": 0.9}, _model())
    rs.attach(RECIPE, _model(), steps=5, directory=tmp_path / "run").close()
    with pytest.raises(InputError, match="run"):
        rs.attach(RECIPE, _model(), steps=5, directory=tmp_path / "run")
