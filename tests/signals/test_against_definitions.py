"""Every signal of losses and inner products, step by step, beside its definition in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.references.signals import DEFINITIONS, Step, flat, look
from torch import nn

import rheostat as rs
from rheostat.core.signal import Memory, Product, Reading, Signal
from rheostat.signals import pieces
from rheostat.signals.monitor import Monitor

pytestmark = pytest.mark.usefixtures("either_way")

Make = Callable[[nn.Module], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "torch adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
    "torch momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
    "torch rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01),
    "adamw": lambda model: rs.optimizer("adamw", model, lr=0.01),
    "lion": lambda model: rs.optimizer("lion", model, lr=0.003),
    "sgd": lambda model: rs.optimizer("sgd", model, lr=0.01),
}


class Net(nn.Module):
    """An embedding whose rows are used in turn, a large and a small layer, and one that is idle."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.wide = nn.Linear(8, 40)
        self.head = nn.Linear(40, 1)
        self.idle = nn.Linear(3, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.wide(self.embedding(tokens))))


def _data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(20, (16,), generator=generator)
    return tokens, (tokens.float()[:, None] / 10 - 1).sin()


def _train(
    monitor: Monitor,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    history: list[Step] | None = None,
) -> list[dict[str, float]]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    values: list[dict[str, float]] = []
    for k in range(steps):
        tokens, wanted = _data(k)
        optimizer.zero_grad()
        loss = (model(tokens) - wanted.to(params[0].dtype)).square().mean()
        loss.backward()
        seen = look(optimizer, params, loss.item())
        monitor.before_step()
        optimizer.step()
        seen.u = seen.w - flat(params)
        if history is not None:
            history.append(seen)
        values.append(dict(monitor.after_step(loss)))
    return values


@pytest.mark.parametrize(
    ("name", "dtype", "large"),
    [
        *((name, torch.float32, False) for name in OPTIMIZERS),
        ("adamw", torch.float32, True),
        ("adamw", torch.float64, False),
        ("torch adamw", torch.float64, True),
    ],
)
def test_values_are_those_of_the_definitions(
    name: str, dtype: torch.dtype, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(pieces, "GATHER", 20)
        monkeypatch.setattr(pieces, "NUMPY", 300)
    torch.manual_seed(1)
    model = Net().to(dtype)
    optimizer = OPTIMIZERS[name](model)
    monitor = Monitor(list(DEFINITIONS), model, optimizer)
    history: list[Step] = []
    values = _train(monitor, model, optimizer, 45, history)
    exact = dtype == torch.float64
    for k, found in [*enumerate(values, start=1)][::4]:
        for signal, define in DEFINITIONS.items():
            expected = define(history[:k])
            # A secant is a difference of nearly equal numbers: it loses what they share.
            rel = 1e-8 if exact else 2e-3 if signal == "curvature" else 2e-5
            assert found[signal] == pytest.approx(expected, rel=rel, abs=rel / 10, nan_ok=True), (
                signal,
                k,
            )
    known = {s for s in ("momentum_cosine", "second_moment_mean") if not math.isnan(values[-1][s])}
    assert bool(known) is (name != "sgd")


def _products(
    products: tuple[Product, ...], model: nn.Module, optimizer: torch.optim.Optimizer
) -> Monitor:
    def measure(reading: Reading, memory: Memory) -> float:
        return 0.0

    return Monitor([Signal(measure, unit="1", cost="", products=products)], model, optimizer)


class Odd(nn.Module):
    """What is not contiguous, of another type, complex, empty, large."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Parameter(torch.randn(7, 40).t())
        self.image = nn.Parameter(torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last))
        self.short = nn.Parameter(torch.randn(50).bfloat16())
        self.long = nn.Parameter(torch.randn(60).double())
        self.whirl = nn.Parameter(torch.randn(9, dtype=torch.complex64))
        self.scalar = nn.Parameter(torch.randn(()))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.large = nn.Parameter(torch.randn(50, 10))


def _plain(tensors: list[torch.Tensor]) -> np.ndarray:
    return flat([torch.view_as_real(t.detach()) if t.is_complex() else t for t in tensors])


@pytest.mark.parametrize("large", [2**15, 100, 0], ids=["gathered", "mixed", "in pieces"])
def test_any_tensor_counts(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "GATHER", large)
    torch.manual_seed(0)
    model = Odd()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    products: tuple[Product, ...] = (
        *(("gradient", "gradient"), ("weights", "weights"), ("update", "update"), ("one", "one")),
        *(("update", "weights"), ("update", "gradient"), ("update", "last_update")),
        *(("gradient", "last_update"), ("last_gradient", "gradient"), ("one", "weights")),
        *(
            ("last_update", "last_update"),
            ("last_gradient", "last_update"),
            ("weights", "gradient"),
        ),
        *(("weights", "last_gradient"), ("one", "gradient_zeros"), ("update", "last_gradient")),
    )
    monitor = _products(products, model, optimizer)
    params = list(model.parameters())
    vectors: dict[str, np.ndarray] = {"one": np.ones(len(_plain(params)))}
    for k in range(4):
        for at, param in enumerate(params):
            param.grad = None if (at + k) % 5 == 0 else torch.randn_like(param)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        vectors["gradient"], vectors["weights"] = _plain(grads), _plain(params)
        vectors["gradient_zeros"] = (vectors["gradient"] == 0) * 1.0
        monitor.before_step()
        optimizer.step()
        vectors["update"] = vectors["weights"] - _plain(params)
        monitor.after_step()
        assert monitor.reading.size == len(vectors["one"])
        for a, b in products:
            found = monitor.reading.dot(b, a)
            expected = vectors[a] @ vectors[b] if a in vectors and b in vectors else math.nan
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-4, nan_ok=True), (a, b, k)
        vectors["last_gradient"], vectors["last_update"] = vectors["gradient"], vectors["update"]


def test_sparse_gradients_count() -> None:
    model = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(["gradient_norm", "gradient_sparsity"], model, optimizer)
    model(torch.tensor([3, 3, 7])).sum().backward()
    monitor.before_step()
    optimizer.step()
    values = monitor.after_step()
    assert values["gradient_norm"] == pytest.approx(math.sqrt(4 * (4 + 1)))
    assert values["gradient_sparsity"] == 0.8


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e30, 3e37])
def test_norms_beyond_the_squares_of_float32(scale: float) -> None:
    model = nn.Linear(30, 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = Monitor(["gradient_norm"], model, optimizer)
    for param in model.parameters():
        param.grad = torch.full_like(param, scale)
    monitor.before_step()
    optimizer.step()
    norm = monitor.after_step()["gradient_norm"]
    assert norm == pytest.approx(scale * math.sqrt(620), rel=1e-6)


def test_signals_do_not_change_training() -> None:
    weights: list[Any] = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = Net()
        optimizer = OPTIMIZERS["adamw"](model)
        monitor = Monitor(list(DEFINITIONS) if watched else [], model, optimizer)
        _train(monitor, model, optimizer, 5)
        weights.append(flat(list(model.parameters())))
    assert (weights[0] == weights[1]).all()


@pytest.mark.parametrize("factor", [0.25, 2.0, 1024.0])
def test_what_has_no_unit_does_not_see_the_scale_of_the_loss(factor: float) -> None:
    """Scaling the loss by a power of two changes nothing but the exponents."""
    found: list[dict[str, float]] = []
    for scale in (1.0, factor):
        torch.manual_seed(0)
        model = nn.Linear(8, 1)
        # Adam's direction has no scale where eps is 0.
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, eps=0.0)
        monitor = Monitor(list(DEFINITIONS), model, optimizer)
        for k in range(40):
            x = torch.randn(16, 8, generator=torch.Generator().manual_seed(k))
            optimizer.zero_grad()
            loss = scale * (model(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            monitor.before_step()
            optimizer.step()
            monitor.after_step(loss)
        found.append(dict(monitor.values))
    powers = {
        **dict.fromkeys(("loss_fast", "loss_slow", "loss_slope", "gradient_norm", "curvature"), 1),
        **dict.fromkeys(("gradient_variance", "second_moment_mean"), 2),
    }
    for name, value in found[0].items():
        expected = value * factor ** powers.get(name, 0)
        assert found[1][name] == pytest.approx(expected, rel=1e-6, abs=1e-12, nan_ok=True), name
