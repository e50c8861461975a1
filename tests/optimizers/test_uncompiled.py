"""What torch's compiler cannot make runs all the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core import compiler
from rheostat.core.transform import Hyper, State, Transform
from rheostat.optimizers import compiled


def _by_length(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    size = u.abs().flatten()
    return u * size.kthvalue(max(1, size.numel() // 2)).values


def _by_least(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * u.flatten().sort().values[0]


def _trained(update: Callable[..., Tensor], mode: Any) -> tuple[list[Tensor], str]:
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.zeros(size)) for size in (600_000, 21)]
    opt = rs.optimizer(Transform(update, scope="whole"), params, lr=1.0, mode=mode)
    for _ in range(2):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        opt.step()
    return [param.detach() for param in params], opt.param_groups[0]["mode"]


def test_a_rule_that_goes_by_the_length_is_not_compiled() -> None:
    """It would have the length of the tensors that it was traced with."""
    found, mode = _trained(_by_length, "auto")
    assert mode == "eager"
    for one, other in zip(found, _trained(_by_length, "eager")[0], strict=True):
        assert torch.equal(one, other)


def _failing(fault: Exception, calls: list[int]) -> Callable[..., Any]:
    def compile_(function: Any, **options: Any) -> Any:
        def run(*tensors: Tensor) -> None:
            calls.append(len(tensors))
            raise fault

        return run

    return compile_


@pytest.fixture
def _forgotten() -> Any:
    def forget() -> None:
        compiled._compiled.cache_clear()  # pyright: ignore[reportPrivateUsage]
        compiler.warn_once.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.usefixtures("_forgotten")
def test_a_rule_that_the_compiler_refuses_runs_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._dynamo.exc import Unsupported

    calls: list[int] = []
    monkeypatch.setattr(torch, "compile", _failing(Unsupported("no way\nat all"), calls))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found, mode = _trained(_by_least, "auto")
    assert mode == "compiled"
    assert calls == [3]  # and never again
    assert [str(one.message) for one in said] == [f"no compiled kernels (no way); {compiled.LOST}"]
    for one, other in zip(found, _trained(_by_least, "eager")[0], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("_forgotten")
def test_what_fails_while_it_runs_is_not_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", _failing(RuntimeError("out of memory"), []))
    with pytest.raises(RuntimeError, match="out of memory"):
        _trained(_by_least, "auto")
