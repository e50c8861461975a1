"""Rules whose middle needs a parameter in its shape: what stands around it, compiled, does what it
does eagerly."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.optimizers.training import Named, named, train
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.transform import Hyper, State, Transform
from rheostat.optimizers import flanked, native
from rheostat.optimizers.flanked import FlankedKernel

FLANKED = ["muon", "normuon", "scion", "soap", "shampoo", "galore", "psgd_kron"]


def _named(dtype: torch.dtype = torch.float32) -> Named:
    return named([(40, 24), (16, 16), (3, 70), (6, 4, 3)], dtype)


def _trained(rule: Any, mode: Any, dtype: torch.dtype, **arguments: Any) -> list[Tensor]:
    params = _named(dtype)
    opt = rs.optimizer(rule, params, mode=mode, **arguments)
    assert opt.param_groups[0]["mode"] == mode
    return train(opt, params, range(8))


@pytest.mark.parametrize("name", FLANKED)
def test_the_same_as_eagerly(name: str) -> None:
    """In float64 to rounding, which a matrix's roots and bases carry on."""
    ways = [_trained(name, mode, torch.float64) for mode in ("eager", "compiled")]
    for eager, fast in zip(*ways, strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_carries_a_rounding_on(dtype: torch.dtype) -> None:
    """A last bit of the momentum is now and then one of bfloat16; the path is the same."""
    ways = [_trained("muon", m, dtype, weight_decay=0.1, lr=0.02) for m in ("eager", "compiled")]
    for eager, fast, start in zip(*ways, (p.detach() for _, p in _named(dtype)), strict=True):
        assert float((fast - eager).norm() / (eager - start).norm()) < 0.01


def test_a_kernel_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above compare two ways: compiled programs run in the one and not in the other."""
    calls: list[int] = []

    def counted(text: str, vector: Tensor, columns: Sequence[Sequence[Tensor]]) -> None:
        calls.append(1)
        native.launch(text, vector, columns)

    monkeypatch.setattr(flanked, "launch", counted)
    _trained("muon", "eager", torch.float32)
    assert not calls
    _trained("muon", "compiled", torch.float32)
    assert len(calls) == 2 * (4 * 8 - 2)  # two parts; one parameter has no gradient twice


def test_saved_and_resumed_to_the_same_bits() -> None:
    params = _named()
    opt = rs.optimizer("muon", params, mode="compiled", weight_decay=0.1)
    train(opt, params, range(3))
    again = copy.deepcopy(params)
    other = rs.optimizer("muon", again, weight_decay=0.1)
    other.load_state_dict(opt.state_dict())
    assert other.param_groups[0]["mode"] == "compiled"
    mine, theirs = train(opt, params, range(3, 6)), train(other, again, range(3, 6))
    assert all(map(torch.equal, mine, theirs))


def test_large_matrices_choose_it() -> None:
    large = [("m", nn.Parameter(torch.zeros(1024, 512)))]
    assert rs.optimizer("muon", large).param_groups[0]["mode"] == "compiled"
    assert rs.optimizer("muon", _named()).param_groups[0]["mode"] == "eager"


def test_without_a_compiler_it_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = _trained("muon", "eager", torch.float32)

    def fails(text: str) -> bool:
        return not text

    monkeypatch.setattr(flanked, "compiles", fails)
    assert all(map(torch.equal, eager, _trained("muon", "compiled", torch.float32)))


def _shaped(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u.flip(0)


def _asks(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u + hyper.gradient


def _narrow(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u[:1]


def test_who_can() -> None:
    """Whoever ends element by element, and asks there for no gradient, which would be another."""
    pieces = rs.transforms
    shaped = Transform(_shaped, name="shaped")
    step = pieces.scale_by_learning_rate(0.1)
    assert FlankedKernel.can_run(rs.chain(shaped, step))
    assert FlankedKernel.can_run(rs.chain(pieces.trace_ema(), shaped, step))
    assert not FlankedKernel.can_run(rs.chain(step, shaped))
    assert not FlankedKernel.can_run(pieces.trace_ema())
    asks = Transform(_asks, scope="element", name="asks")
    assert not FlankedKernel.can_run(rs.chain(shaped, asks, step))
    assert FlankedKernel.can_run(rs.chain(asks, shaped, step))
    clipped = pieces.clip_by_global_norm(1.0)
    assert not FlankedKernel.can_run(rs.chain(clipped, shaped, step))


def test_a_piece_that_changes_the_shape_is_named() -> None:
    rule = rs.chain(Transform(_narrow, name="narrow"), rs.transforms.scale_by_learning_rate(0.1))
    with pytest.raises(InputError, match=r"narrow gave an update of shape \(1, 24\) for m0"):
        _trained(rule, "compiled", torch.float32)


def test_the_gradient_between_is_the_one_that_came() -> None:
    """Pieces in the middle find it, whatever has been made of it before."""
    asks = Transform(_asks, name="asks")
    rule = rs.chain(rs.transforms.trace_ema(), asks, rs.transforms.scale_by_learning_rate(0.1))
    ways = [_trained(rule, mode, torch.float64) for mode in ("eager", "compiled")]
    for eager, fast in zip(*ways, strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-12, atol=1e-12)
