"""Finite gradients so large that float32 cannot square them."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from tests.optimizers.ways import NAMES
from tests.references.problems import same_bits
from torch import nn

import rheostat as rs
from rheostat.core.errors import RheostatError

pytestmark = pytest.mark.filterwarnings("ignore:.*without the model an embedding")

BEYOND = "is beyond what float32 can square, in "


def _params(dtype: torch.dtype = torch.float32) -> list[tuple[str, nn.Parameter]]:
    shapes = [(4, 3), (3,), (2, 3, 2, 2)]
    return [(f"p{i}", nn.Parameter(torch.ones(s, dtype=dtype))) for i, s in enumerate(shapes)]


def _give(params: list[tuple[str, nn.Parameter]], *sizes: float) -> None:
    for (_, param), size in zip(params, sizes, strict=True):
        values = torch.linspace(-size, size, param.numel(), dtype=torch.float64)
        param.grad = values.view_as(param).to(param.dtype)


@pytest.mark.usefixtures("whoever_counts")
def test_a_step_that_float32_cannot_compute_is_skipped() -> None:
    params = _params()
    opt = rs.optimizer("adamw", params)
    for sizes, where in (((1e20, 1, 1e25), "p0 and 1 more"), ((1, 3e19, 1), "p1")):
        _give(params, *sizes)
        opt.step()
        assert opt.last_step is not None
        found = [p.grad.double() for _, p in params if p.grad is not None]
        norm = math.sqrt(sum(g.square().sum().item() for g in found))
        assert opt.last_step.grad_norm == pytest.approx(norm, rel=1e-6)
        assert not opt.last_step.applied
        assert opt.last_step.reason == f"the gradient's norm, {norm:.4g}, {BEYOND}{where}"
        assert opt.param_groups[0]["skipped"] > 0
    assert all(param.eq(1).all() for _, param in params)
    assert not any(opt.state[param]["exp_avg_sq"].any() for _, param in params)
    _give(params, 1e18, 1, 1)
    opt.step()
    assert opt.last_step.applied
    assert opt.last_step.step == 1


@pytest.mark.usefixtures("whoever_counts")
def test_only_what_is_not_finite_is_named_beside_what_is_large() -> None:
    params = _params()
    opt = rs.optimizer("adamw", params)
    _give(params, 1e20, math.nan, 1)
    opt.step()
    assert opt.last_step is not None
    assert opt.last_step.reason == "non-finite gradient in p1"


@pytest.mark.usefixtures("whoever_counts")
def test_a_limit_of_the_norm_comes_first() -> None:
    params = _params()
    opt = rs.optimizer("adamw", params)
    for limit, said in ((5.0, "is above the limit"), (0.0, "updates are left out for now")):
        opt.param_groups[0]["limit"] = limit
        _give(params, 1e20, 1, 1)
        opt.step()
        assert opt.last_step is not None
        assert opt.last_step.reason is not None
        assert opt.last_step.reason.endswith(said)


def test_raise_says_so_and_propagate_reports_the_norm_under_a_limit() -> None:
    params = _params()
    _give(params, 1e20, 1, 1)
    with pytest.raises(RheostatError, match=rf"norm, \S+, {BEYOND}p0; nothing was updated"):
        rs.optimizer("adamw", params, nonfinite="raise").step()
    opt = rs.optimizer("signum", params, nonfinite="propagate")
    opt.param_groups[0]["limit"] = 1e30
    opt.step()
    assert opt.last_step is not None
    assert opt.last_step.applied
    assert 1e20 < (opt.last_step.grad_norm or 0) < 1e21


@pytest.mark.usefixtures("whoever_counts")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.complex128])
def test_what_float32_can_square_or_float64_holds_is_applied(dtype: torch.dtype) -> None:
    """The norm of a float16 gradient may lie above what float16 holds."""
    params = _params(dtype)
    opt = rs.optimizer("signum", params, lr=0.25)
    size = 6e4 if dtype is torch.float16 else 1e100
    _give(params, size, size, size)
    opt.step()
    assert opt.last_step is not None
    assert opt.last_step.applied
    assert size < (opt.last_step.grad_norm or 0) < 1e3 * size


@pytest.mark.usefixtures("whoever_counts")
def test_complex_gradients_are_seen_too() -> None:
    params = _params(torch.complex64)
    opt = rs.optimizer("adamw", params)
    _give(params, 1, 1e20, 1)
    opt.step()
    assert opt.last_step is not None
    assert (opt.last_step.reason or "").endswith(f"{BEYOND}p1")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lbfgs"])
@pytest.mark.parametrize("size", [1e18, 1e20, 1e25, 1e38])
def test_no_rule_becomes_nan(name: str, size: float) -> None:
    params = _params()
    opt = rs.optimizer(name, params)
    for _ in range(3):
        _give(params, size, size, size)
        opt.step()
    assert all(param.isfinite().all() for _, param in params)


@pytest.mark.parametrize("kind", ["sam", "asam"])
def test_where_sam_finds_such_a_gradient_the_step_is_left_out(kind: Literal["sam", "asam"]) -> None:
    param = nn.Parameter(torch.ones(3))
    rule: Any = rs.chain(getattr(rs.transforms, kind)(0.5), rs.transforms.scale_by_adam())
    opt = rs.optimizer(rule, [("w", param)])
    calls = 0

    def closure() -> float:
        nonlocal calls
        calls += 1
        param.grad = torch.full((3,), 1e20 if calls == 2 else 1.0)
        return 1.0

    before = param.detach().clone()
    opt.step(closure)
    assert opt.last_step is not None
    assert opt.last_step.reason is not None
    assert opt.last_step.reason.endswith(f"{BEYOND}w, where {kind} evaluated the loss again")
    assert same_bits([param.detach()], [before])
