"""What a step says of itself on the CPU: at once, and for nothing."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import rheostat as rs
from rheostat.optimizers.results import StepResult


class _Calls(TorchDispatchMode):
    """The operations of torch that are called, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@contextmanager
def _calls() -> Iterator[list[str]]:
    with _Calls() as mode:
        yield mode.names


def _stepped(**arguments: Any) -> Any:
    params = [nn.Parameter(torch.ones(3)) for _ in range(5)]
    opt = rs.optimizer("adamw", params, mode="fused", **arguments)
    for _ in range(2):
        for param in params:
            param.grad = torch.full((3,), 2.0)
        opt.step()
    return opt


@pytest.mark.parametrize(("nonfinite", "reads"), [("skip", 1), ("propagate", 0)])
def test_a_result_reads_one_number_and_asks_for_nothing_later(nonfinite: Any, reads: int) -> None:
    """The global norm, which decides whether the step is skipped, is all that a step reads."""
    opt = _stepped(nonfinite=nonfinite)
    with _calls() as during:
        opt.step()
    assert during.count("_local_scalar_dense") == reads
    with _calls() as after:
        result = opt.last_step
        found = (result.applied, result.step, result.reason, result.restarts, result.grad_norm)
    assert after == []
    assert found[:4] == (True, 3, None, ())
    assert found[4] == (None if nonfinite == "propagate" else pytest.approx(60**0.5))


def test_a_result_stays_what_it_was() -> None:
    opt = _stepped()
    result = opt.last_step
    before = repr(result)
    opt.param_groups[0]["params"][0].grad.fill_(float("nan"))
    opt.step()
    opt.refresh()
    assert repr(result) == before
    assert opt.last_step.reason == "non-finite gradient in param.0"
    assert (opt.last_step.applied, opt.last_step.step) == (False, 2)


def test_a_result_is_a_value() -> None:
    result = StepResult(True, 3, None, 0.5)
    assert result == StepResult(True, 3, None, 0.5) != StepResult(True, 3)
    assert hash(result) == hash(copy.copy(result))
    assert pickle.loads(pickle.dumps(result)) == result
    assert repr(result) == (
        "StepResult(applied=True, step=3, reason=None, grad_norm=0.5, restarts=())"
    )
    with pytest.raises(AttributeError):
        result.applied = False  # type: ignore[misc]  # that is the point
