"""On a CUDA device: no step waits for it, a step can be captured, and the numbers are the CPU's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.optimizers.ways import NAMES, STAYS
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.optimizers.loop import Optimizer

pytestmark = pytest.mark.gpu

SHAPES = [(40, 24), (7,), (), (3, 4, 2, 2)]


def _params(where: str = "cuda") -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (f"p{i}", nn.Parameter(torch.randn(shape, generator=generator).to(where)))
        for i, shape in enumerate(SHAPES)
    ]


def _give(params: list[tuple[str, nn.Parameter]], k: int, bad: bool = False) -> None:
    """Gradients of step k, written in place where there are some."""
    generator = torch.Generator().manual_seed(50 + k)
    for _, param in params:
        gradient = torch.randn(param.shape, generator=generator).to(param.device)
        gradient = gradient * float("nan") if bad else gradient
        if param.grad is None:
            param.grad = gradient
        else:
            param.grad.copy_(gradient)


@contextmanager
def _no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _trained(where: str, name: str, **arguments: Any) -> Optimizer:
    params = _params(where)
    opt = rs.optimizer(name, params, **arguments)
    for k in range(6):
        _give(params, k, bad=k in (0, 3))
        opt.step()
    return opt


@pytest.mark.parametrize("name", STAYS)
def test_no_step_waits(name: str) -> None:
    params = _params()
    opt = rs.optimizer(name, params, mode="auto")
    for k in range(3):
        _give(params, k)
        if k == 0:  # memory is pinned, and libraries load
            opt.step()
            continue
        with _no_waiting():
            opt.step()
    assert opt.last_step is not None
    assert opt.last_step.step == 3


def test_no_scheduled_step_waits_for_longer_than_a_window() -> None:
    params = _params()
    schedule = rs.schedules.cosine(0.01, steps=4000)
    opt = rs.optimizer("adamw", params, lr=schedule)
    _give(params, 0)
    opt.step()
    with _no_waiting():
        for _ in range(1500):
            opt.step()
    assert opt.last_step is not None
    assert opt.last_step.step == 1501
    assert opt.param_groups[0]["lr"] == schedule(1501)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lbfgs"])
def test_the_weights_are_those_of_the_cpu(name: str) -> None:
    here, there = _trained("cpu", name), _trained("cuda", name)
    # The eigenvectors and noise of a device are its own.
    if name in ("soap", "psgd_kron", "galore"):
        return
    half = name in ("muon", "normuon", "scion", "adafactor_bv")
    for a, b in zip(here.param_groups, there.param_groups, strict=True):
        assert a["updates"] == there.state_dict()["param_groups"][0]["updates"] == 4
        for mine, other in zip(a["params"], b["params"], strict=True):
            torch.testing.assert_close(
                other.detach().cpu(), mine.detach(), rtol=1e-4, atol=2e-3 if half else 1e-5
            )


@pytest.mark.parametrize("name", ["lion", "lamb", "prodigy"])
def test_compiled_steps_skip(name: str) -> None:
    here = _trained("cpu", name, mode="eager")
    there = _trained("cuda", name, mode="compiled")
    for a, b in zip(here.param_groups[0]["params"], there.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(b.detach().cpu(), a.detach(), rtol=1e-4, atol=1e-5)


def test_a_step_is_captured_and_replayed() -> None:
    """Steps, skips and the schedule go on in replays, which are what steps would have been."""
    schedule = rs.schedules.cosine(0.01, steps=40)
    made = [_params(), _params()]
    opts = [rs.optimizer("adamw", params, lr=schedule, mode="fused") for params in made]
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for params, opt in zip(made, opts, strict=True):
            for k in range(3):
                _give(params, k)
                opt.step()
    torch.cuda.current_stream().wait_stream(side)
    captured, plain = opts
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for k in range(3, 15):
        bad = k % 4 == 0
        for params in made:
            _give(params, k, bad=bad)
        graph.replay()
        plain.step()
    captured.refresh()
    for one, other in zip(made[0], made[1], strict=True):
        torch.testing.assert_close(one[1], other[1], rtol=0, atol=0)
    assert captured.last_step == plain.last_step
    assert captured.param_groups[0]["updates"] == 12
    assert captured.param_groups[0]["lr"] == schedule(12)


def test_a_change_in_a_capture_is_refused_and_one_between_replays_is_seen() -> None:
    param = nn.Parameter(torch.zeros(4, device="cuda"))
    param.grad = torch.ones(4, device="cuda")
    opt = rs.optimizer("sgd", [param], lr=1.0, momentum=0.0)
    opt.step()
    opt.param_groups[0]["lr"] = 2.0
    refused = pytest.raises(InputError, match="a hyperparameter changed")
    with refused, torch.cuda.graph(torch.cuda.CUDAGraph()):
        opt.step()
    opt.refresh()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    opt.param_groups[0]["lr"] = 5.0
    opt.refresh()
    before = param.detach().clone()
    graph.replay()
    assert (before - param.detach()).tolist() == [5.0] * 4
    opt.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(InputError, match="the captured graph of a fused kernel holds it"):
        opt.refresh()


@pytest.mark.parametrize("state", ["keep", "reset", "decay"])
def test_restarts_are_those_of_the_cpu_and_the_only_steps_that_wait(state: Any) -> None:
    lr = rs.schedules.cosine_restarts(0.01, period=3, state=state)
    here, there = _trained("cpu", "adamw", lr=lr), _trained("cuda", "adamw", lr=lr)
    for a, b in zip(here.param_groups[0]["params"], there.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(b.detach().cpu(), a.detach(), rtol=1e-4, atol=1e-5)
    there.refresh()
    assert there.param_groups[0]["updates"] == 4
    with _no_waiting():
        there.step()
    with pytest.raises(RuntimeError, match="synchroniz"), _no_waiting():
        there.step()
    with (
        pytest.raises(InputError, match=r"step\(\) in a CUDA graph"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        there.step()
