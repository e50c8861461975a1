"""An optimizer whose host counts and one whose device does, on the CPU, to be compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.transform import Transform
from rheostat.optimizers import device
from rheostat.optimizers.compiled import CompiledKernel
from rheostat.optimizers.fused import FusedKernel
from rheostat.optimizers.loop import Optimizer

WAITS = {
    "lbfgs": "a line search reads losses and slopes",
    "soap": "its bases are refreshed by the parameter's own count, and eigh checks itself",
    "shampoo": "its roots are taken by the parameter's own count, and eigh checks itself",
    "psgd_kron": "its factors move by the parameter's own count, and noise is drawn by it",
    "galore": "its spaces change by the parameter's own count, and svd checks itself",
}
"""Rules whose steps wait for an accelerator, and why."""

NAMES = [c.name for c in rs.components("optimizer") if c.module.startswith("rheostat.")]
STAYS = [name for name in NAMES if name not in WAITS]
SCHEDULE = rs.schedules.cosine(0.01, steps=20)


def rules_of(name: str) -> list[Transform]:
    """The rules of an optimizer, one a group."""
    made = rs.optimizer(name, nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), mode="eager")
    return [made.rule(index) for index in range(len(made.param_groups))]


def runs(name: str, mode: str) -> bool:
    """Whether an optimizer can run in a mode."""
    can = {"fused": FusedKernel.can_run, "compiled": CompiledKernel.can_run}
    return mode == "eager" or all(can[mode](rule) for rule in rules_of(name))


def some_params() -> list[tuple[str, nn.Parameter]]:
    """Parameters of several shapes, the same every time."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(20, 12), (7,), (), (0, 3), (3, 4, 2, 2)]
    return [
        (f"p{i}", nn.Parameter(torch.randn(shape, generator=generator)))
        for i, shape in enumerate(shapes)
    ]


def give(params: list[tuple[str, nn.Parameter]], k: int, bad: tuple[int, ...] = ()) -> None:
    """Gradients of step k, with a NaN in the `bad` steps: those of the second parameter are missing
    at times."""
    generator = torch.Generator().manual_seed(50 + k)
    for i, (_, param) in enumerate(params):
        gradient = torch.randn(param.shape, generator=generator)
        if k in bad and i == 0:
            gradient.view(-1)[3] = float("nan")
        param.grad = None if i == 1 and k in (1, 4) else gradient


def both_ways(
    monkeypatch: pytest.MonkeyPatch,
    rule: Any,
    bad: tuple[int, ...] = (),
    steps: int = 8,
    **arguments: Any,
) -> tuple[Optimizer, Optimizer]:
    """An optimizer whose host counts, and one whose device does, after the same steps."""
    ways: list[Optimizer] = []
    for types in ({"cuda"}, {"cpu"}):
        monkeypatch.setattr(device, "DEVICE_TYPES", types)
        mine = some_params()
        opt = rs.optimizer(rule() if callable(rule) else rule, mine, **arguments)
        for k in range(steps):
            give(mine, k, bad)
            opt.step()
        ways.append(opt)
    return ways[0], ways[1]


def weights(opt: Optimizer) -> list[Tensor]:
    """All parameters, without their graphs."""
    return [p.detach() for group in opt.param_groups for p in group["params"]]


def assert_same(host: Optimizer, there: Optimizer) -> None:
    """Results, weights, state and groups agree."""
    mine, other = host.last_step, there.last_step
    assert mine is not None
    assert other is not None
    assert (mine.applied, mine.step, mine.reason) == (other.applied, other.step, other.reason)
    if mine.grad_norm is not None:  # the host's is summed in the gradients' own precision
        assert mine.grad_norm == pytest.approx(other.grad_norm, rel=2e-3)
    for weight, same in zip(weights(host), weights(there), strict=True):
        torch.testing.assert_close(weight, same, rtol=2e-6, atol=2e-7)
    for a, b in zip(host.state.values(), there.state.values(), strict=True):
        assert a.keys() == b.keys()
        assert a["step"].dtype == b["step"].dtype
        for key, value in a.items():
            torch.testing.assert_close(value, b[key], rtol=2e-5, atol=1e-6)
    saved = there.state_dict()["param_groups"]
    for a, b in zip(host.state_dict()["param_groups"], saved, strict=True):
        assert {k: type(v) for k, v in a.items()} == {k: type(v) for k, v in b.items()}
        for key, value in a.items():
            if isinstance(value, float):
                assert b[key] == pytest.approx(value, rel=1e-6), key
        assert a["updates"] == b["updates"]
