"""Hooks that look at activations: what is flat, what is dead, when they look, and that they go."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.signals.activations import FLAT, SAMPLE
from rheostat.signals.monitor import Monitor

BOTH = ["activation_saturation", "dead_units"]


def _monitor(model: nn.Module, every: int = 1) -> Monitor:
    signals = [rs.component(name, "signal").factory(every=every) for name in BOTH]
    return Monitor(signals, model, torch.optim.SGD(model.parameters(), lr=0.0))


def _values(monitor: Monitor) -> tuple[float, float]:
    monitor.before_step()
    values = monitor.after_step()
    return values["activation_saturation"], values["dead_units"]


def test_zeros_and_dead_units_are_counted() -> None:
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    model.weight = nn.Parameter(torch.zeros(1))
    monitor = _monitor(model)
    x = torch.ones(4, 5)
    x[:, 0] = -1.0  # dead for the whole batch
    x[1, 3] = 0.0
    model(x)
    assert _values(monitor) == pytest.approx((5 / 20, 1 / 5))


def test_units_of_a_convolution_are_its_channels() -> None:
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    model.weight = nn.Parameter(torch.zeros(1))
    monitor = _monitor(model)
    x = torch.ones(2, 3, 4, 4)
    x[:, 1] = -1.0
    x[0, 2] = -1.0
    model(x)
    assert _values(monitor) == pytest.approx((0.5, 1 / 3))
    model(x.movedim(1, -1).flatten(1, 2))  # tokens: the last dimension
    assert _values(monitor) == pytest.approx((0.5, 1 / 3))


def test_only_so_many_rows_are_looked_at_and_modules_count_alike() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sigmoid())
    model.weight = nn.Parameter(torch.zeros(1))
    monitor = _monitor(model)
    x = torch.zeros(SAMPLE + 10, 3)
    x[SAMPLE:] = 1.0
    model(x)
    assert _values(monitor) == (0.5, 0.5)


@pytest.mark.parametrize("kind", FLAT, ids=lambda kind: kind.__name__)
def test_flat_is_where_the_slope_is_below_a_twentieth_of_its_largest(kind: type[nn.Module]) -> None:
    x = torch.linspace(-12, 12, 4801, dtype=torch.float64, requires_grad=True)
    out = kind()(x)
    (slope,) = torch.autograd.grad(out.sum(), x)
    slope = slope.abs()
    small = slope < 0.05 * (1.0 if kind in (nn.GELU, nn.SiLU) else slope.max())
    flat = FLAT[kind](x.detach(), out.detach())
    if kind in (nn.GELU, nn.SiLU):  # they have a minimum, where no gradient is lost for long
        small &= x < -2
    differing = (small != flat).sum()
    assert differing <= 6, "but for the grid at the edges"
    assert flat.any()
    assert not flat[x.detach().abs() < 0.2][1:-1].all()


def test_hooks_look_on_due_steps_in_training_alone_and_go_on_close() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    monitor = _monitor(model, every=4)
    assert monitor._activations is not None
    looks: list[int] = []
    for _ in range(8):
        model(torch.randn(2, 3))
        looks.append(len(monitor._activations._seen))
        monitor.before_step()
        monitor.after_step()
    assert looks == [0, 0, 0, 1, 0, 0, 0, 1]
    for _ in range(3):
        _values(monitor)
    model.eval()
    model(torch.randn(2, 3))
    assert not monitor._activations._seen
    assert monitor.fresh == frozenset()
    monitor.close()
    assert not any(module._forward_hooks for module in model.modules())


def test_what_was_never_seen_is_nan_and_odd_shapes_are_passed_over() -> None:
    model = nn.Sequential(nn.ReLU())
    model.weight = nn.Parameter(torch.zeros(1))
    monitor = _monitor(model)
    for x in (torch.zeros(3), torch.zeros(()), torch.zeros(0, 4)):
        model(x)
        assert all(map(math.isnan, _values(monitor)))
