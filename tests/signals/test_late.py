"""Numbers that are read some steps late: the same ones, at a stated lag, and no step waits.

Without an accelerator both can be shown. On a fake CUDA tensor `.item()`, `bool()` and `float()`
raise, so that steps over fake parameters which end have not waited. And the way of a device runs on
the CPU where it is told to, with numbers to compare.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.references.signals import DEFINITIONS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import rheostat as rs
from rheostat.signals import late, pieces
from rheostat.signals.monitor import LAG, Monitor
from rheostat.signals.noise import two_sizes

NAMES = [*DEFINITIONS, "clip_rate", "page_hinkley", "validation_plateau", "gradient_noise_scale"]
ACTIVATIONS = [
    rs.component(name, "signal").factory(every=2)
    for name in ("dead_units", "activation_saturation")
]


def _net(device: str = "cpu") -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Linear(6, 40, device=device), nn.Linear(40, 1, device=device)
    return nn.Sequential(first, nn.ReLU(), last)


def _backward(model: nn.Module, optimizer: torch.optim.Optimizer, k: int) -> Tensor:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(k))
    optimizer.zero_grad()
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    return loss


def _train(lag: int) -> tuple[Monitor, list[dict[str, float]], list[int]]:
    """The values after each of 30 steps, some of which count as skipped, and what they are of."""
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor = Monitor(list(DEFINITIONS), model, optimizer)
    values: list[dict[str, float]] = []
    steps: list[int] = []
    for k in range(30):
        loss = _backward(model, optimizer, k)
        monitor.before_step()
        optimizer.step()
        applied = k % 6 != 5
        values.append(dict(monitor.after_step(loss, applied=torch.tensor(applied))))
        steps.append(monitor.step)
    assert monitor.lag == lag
    return monitor, values, steps


@pytest.mark.parametrize("gather", [2**20, 100])
def test_values_are_the_same_and_so_many_steps_late(
    gather: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, exact, counts = _train(lag=0)
    monkeypatch.setattr(pieces, "HOST", "none")  # the CPU is a device like any other
    monkeypatch.setattr(pieces, "GATHER_ON_DEVICE", gather)
    _, late_ones, steps = _train(lag=LAG)
    for found in late_ones[:LAG]:
        assert all(math.isnan(value) for value in found.values())
    for found, expected in zip(late_ones[LAG:], exact, strict=False):
        for name, value in found.items():
            rel = 1e-2 if name == "curvature" else 1e-4
            assert value == pytest.approx(expected[name], rel=rel, abs=1e-6, nan_ok=True), name
    assert steps == [0] * LAG + counts[:-LAG]


def test_what_is_on_its_way_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "HOST", "none")
    model = _net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = Monitor(["gradient_norm", "loss_fast"], model, optimizer)
    for k in range(6):
        loss = _backward(model, optimizer, k)
        monitor.before_step()
        optimizer.step()
        monitor.after_step(loss)
    waiting = json.loads(json.dumps(monitor.state_dict()["memory"]["waiting"]))
    assert [one["at"] for one in waiting] == [3, 4, 5, 6]
    assert all(len(one["numbers"]) == 2 + sum(map(sum, one["lengths"])) for one in waiting)


# -- no step waits ---------------------------------------------------------------------------------


class _Watch(TorchDispatchMode):
    """Refuses copies to another device that wait."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name == "_to_copy":
            target = kwargs.get("device") or args[0].device
            stays = torch.device(target).type == args[0].device.type
            assert stays or kwargs.get("non_blocking"), f"a copy to {target} waits"
        return func(*args, **kwargs)


def _looked_at(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """`copy_` asks for the device's own library before it asks a fake, and here it may be missing:
    as there is nothing to copy, it is only looked at."""
    assert target.device.type == source.device.type or non_blocking
    return target


class _Event:
    def synchronize(self) -> None:
        """Nothing is on its way."""


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(late, "mark", lambda device: _Event())
    monkeypatch.setattr(Tensor, "copy_", _looked_at)
    with FakeTensorMode(), _Watch():
        yield


def _steps(monitor: Monitor, params: list[nn.Parameter], steps: int) -> None:
    for k in range(steps):
        for param in params:
            param.grad = torch.empty_like(param)
        parts = [[param.grad for param in params] for _ in range(2)]
        monitor.before_step()
        with torch.no_grad():
            for param in params:
                param.add_(param.grad)
        loss = torch.empty((), device="cuda")
        said = {"validation": loss, **two_sizes(parts, 8)} if k % 2 else None
        monitor.after_step(loss, applied=torch.empty((), device="cuda") > 0, reported=said)


@pytest.mark.parametrize("per", ["all", "parameter"])
@pytest.mark.parametrize("gather", [2**20, 10])
def test_no_step_waits(
    per: Any, gather: int, fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "GATHER_ON_DEVICE", gather)
    shapes = [(6, 4), (7,), (), (3, 4, 2, 2)]
    params = [nn.Parameter(torch.empty(shape, device="cuda")) for shape in shapes]
    params.append(nn.Parameter(torch.empty(9, device="cuda", dtype=torch.bfloat16)))
    optimizer = torch.optim.AdamW(params)
    for param in params:
        zeros = {name: torch.empty_like(param) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[param].update(zeros)
    monitor = Monitor(NAMES, None, optimizer, per=per)
    _steps(monitor, params, LAG)
    assert monitor.lag == LAG
    with pytest.raises(DataDependentOutputException):
        _steps(monitor, params, 1)


def test_no_look_at_activations_waits(fake_cuda: None) -> None:
    model = _net("cuda")
    monitor = Monitor(ACTIVATIONS, model, torch.optim.SGD(model.parameters()), lag=LAG)
    for k in range(1, LAG + 1):
        with torch.no_grad():  # a graph of fake tensors asks for streams, which need the library
            model(torch.empty(16, 6, device="cuda"))
        monitor.before_step()
        monitor.after_step(torch.empty((), device="cuda"))
        assert len(monitor._attempts[-1].reported) == (2 if k % 2 == 0 else 0)


def test_the_proof_can_fail(fake_cuda: None) -> None:
    params = [nn.Parameter(torch.empty(5, device="cuda"))]
    optimizer = torch.optim.SGD(params)
    monitor = Monitor(["gradient_norm"], None, optimizer, lag=0)
    with pytest.raises(DataDependentOutputException):
        _steps(monitor, params, 1)
    with pytest.raises(AssertionError, match="waits"):
        torch.empty(3, device="cuda").cpu()
