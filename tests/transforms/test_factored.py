"""Factored second moments: which dimensions, which buffers, what is kept in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import rheostat as rs
from rheostat.core.transform import Hyper
from rheostat.transforms.factored import factored_dims


def _run(piece: rs.Transform, u: torch.Tensor, step: float, state: dict[str, Any]) -> torch.Tensor:
    hyper = Hyper(**piece.hyperparameters, step=step, gradient=u)
    return piece.update(u, state, torch.ones_like(u), hyper)


def _state(piece: rs.Transform, param: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: buffer.make(param) for name, buffer in piece.buffers.items()}


def test_the_two_longest_dimensions_are_factored() -> None:
    cases = {
        (64, 40): (1, 0),
        (40, 64): (0, 1),
        (64, 64): (0, 1),
        (3, 50, 40): (2, 1),
        (64, 31): None,
        (64,): None,
        (): None,
    }
    assert {shape: factored_dims(torch.Size(shape), 32) for shape in cases} == cases


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((64, 40), {"exp_avg_sq_r": (1, 40), "exp_avg_sq_c": (64, 1), "exp_avg_sq": (0,)}),
        ((3, 50, 40), {"exp_avg_sq_r": (3, 1, 40), "exp_avg_sq_c": (3, 50, 1), "exp_avg_sq": (0,)}),
        ((5, 4), {"exp_avg_sq_r": (0,), "exp_avg_sq_c": (0,), "exp_avg_sq": (5, 4)}),
        ((), {"exp_avg_sq_r": (0,), "exp_avg_sq_c": (0,), "exp_avg_sq": ()}),
    ],
)
def test_buffers_have_the_size_of_what_is_kept(
    shape: tuple[int, ...], sizes: dict[str, tuple[int, ...]]
) -> None:
    state = _state(rs.transforms.scale_by_factored_rms(), torch.zeros(shape))
    assert {name: tuple(value.shape) for name, value in state.items()} == sizes


@pytest.mark.parametrize("name", ["scale_by_factored_rms", "step_by_adafactor", "average_update"])
@pytest.mark.parametrize("shape", [(64, 40), (5, 4), (5,), (), (0, 3)])
def test_zero_gradients_and_empty_parameters(name: str, shape: tuple[int, ...]) -> None:
    piece = getattr(rs.transforms, name)()
    state = _state(piece, torch.ones(shape))
    for step in range(1, 4):
        found = _run(piece, torch.zeros(shape), step, state)
        assert torch.equal(found, torch.zeros(shape))
    u = torch.ones(shape)
    found = _run(piece, u, 4, state)
    assert found.isfinite().all()
    assert torch.equal(u, torch.ones(shape))
    assert all(found is not value for value in state.values())


@pytest.mark.parametrize("kept", ["bfloat16", "float16", "float32"])
def test_the_precision_of_the_momentum(kept: str) -> None:
    piece = rs.transforms.average_update(0.5, kept)
    state = _state(piece, torch.zeros(3))
    assert state["exp_avg"].dtype == getattr(torch, kept)
    found = _run(piece, torch.full((3,), 1.001), 1, state)
    assert found.dtype == torch.float32
    assert float(found[0]) == pytest.approx(0.5005, abs=0.0 if kept == "none" else 2e-3)
    exact = float(found[0]) == pytest.approx(0.5005, abs=1e-7)
    assert exact == (kept == "float32")


def test_a_half_precision_parameter_has_the_floor_of_its_type() -> None:
    """eps₁ is the precision of the parameter, so that a tiny gradient is not blown up."""
    for dtype in (torch.bfloat16, torch.float32):
        piece = rs.transforms.step_by_adafactor(lr=1.0, d=1e30)
        param = torch.ones(4, dtype=dtype)
        state = _state(piece, param)
        hyper = Hyper(**piece.hyperparameters, step=1.0, gradient=param)
        found = piece.update(torch.full((4,), 1e-10), state, param, hyper)
        assert float(found[0]) == pytest.approx(1e-10 / torch.finfo(dtype).eps, rel=1e-4)
