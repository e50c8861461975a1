"""No step waits for an accelerator.

On a fake CUDA tensor `.item()`, `bool()` and `float()` raise, so that a step over fake parameters
which ends has not waited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.optimizers.ways import NAMES, SCHEDULE, STAYS, WAITS, rules_of, runs
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import rheostat as rs
from rheostat.core.transform import Hyper, Transform, chain
from rheostat.optimizers import compiled, fused, windows
from rheostat.optimizers.loop import Optimizer

pytestmark = pytest.mark.filterwarnings("ignore:.*without the model an embedding")


class _Watch(TorchDispatchMode):
    """Refuses what waits for a device though no value is read, and stands in for kernels that have
    no fake."""

    WAITING = ("nonzero", "masked_select", "_linalg_eigh", "_linalg_svd", "equal")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name.startswith("_fused_"):
            return None
        assert name not in self.WAITING, name
        if name == "_to_copy":
            _check_copy(args[0], kwargs.get("device", args[0].device), kwargs.get("non_blocking"))
        return func(*args, **kwargs)


def _looked_at(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """`copy_` asks for the device's own library before it asks a fake, and here it may be missing:
    as there is nothing to copy, it is only looked at."""
    _check_copy(source, target.device, non_blocking)
    return target


class _GraphCopies(TorchFunctionMode):
    """The same for the `copy_` of a graph."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.copy_.default:
            return _looked_at(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _check_copy(source: Tensor, target: Any, non_blocking: bool | None) -> None:
    stays = target is None or torch.device(target).type == source.device.type
    assert stays or non_blocking, f"a copy from {source.device} to {target} waits"


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused, "PLAIN", (*fused.PLAIN, FakeTensor))
    monkeypatch.setattr(compiled, "_compiled", lambda graph: graph.forward)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Tensor, "copy_", _looked_at)
    with FakeTensorMode(), _Watch(), _GraphCopies():
        yield


def _steps_there(rule: Any, count: int = 2, **arguments: Any) -> Optimizer:
    shapes = [(6, 4), (7,), (), (3, 4, 2, 2)]
    params = [(f"p{i}", nn.Parameter(torch.empty(s, device="cuda"))) for i, s in enumerate(shapes)]
    opt = rs.optimizer(rule, params, **arguments)
    for k in range(count):
        for i, (_, param) in enumerate(params):
            param.grad = None if i == 1 and k == 1 else torch.empty_like(param)
        opt.step()
    return opt


def _ways() -> list[Any]:
    """Every rule eagerly and fused; compiled, where the pieces are the same, a sample."""
    found = [(n, m) for n in STAYS for m in ("eager", "fused", "compiled") if runs(n, m)]
    sample = ("lion", "lamb", "prodigy", "novograd")
    return [
        pytest.param(*way, marks=pytest.mark.slow if way[1] == "compiled" else ())
        if way[0] not in sample
        else way
        for way in found
    ]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(("name", "mode"), _ways())
def test_no_step_waits(name: str, mode: Any, fake_cuda: None) -> None:
    opt = _steps_there(name, mode=mode)
    assert opt._roster.resident is not None
    assert opt.last_step is not None
    with pytest.raises(DataDependentOutputException):
        assert opt.last_step.applied


def test_no_scheduled_or_clipped_step_waits(fake_cuda: None) -> None:
    pieces = rs.transforms
    rule = chain(pieces.clip_by_global_norm(1.0), pieces.scale_by_adam())
    for mode in ("fused", "eager"):
        _steps_there(rule, lr=SCHEDULE, mode=mode)
        _steps_there("adamw", lr=SCHEDULE, weight_decay=SCHEDULE, mode=mode)
        _steps_there("adamw", nonfinite="propagate", mode=mode)


def test_where_no_step_is_in_doubt_no_window_is_outgrown(
    fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "WINDOW", 2)
    _steps_there("adamw", count=7, lr=SCHEDULE, nonfinite="propagate")


def test_only_the_step_with_which_a_cycle_ends_waits(fake_cuda: None) -> None:
    for state in ("keep", "reset"):
        cycles = rs.schedules.cosine_restarts(0.01, period=4, state=state)
        _steps_there("adamw", count=3, lr=cycles)
        with pytest.raises(DataDependentOutputException):
            _steps_there("adamw", count=4, lr=cycles)


def test_the_proof_can_fail(fake_cuda: None) -> None:
    def update(u: Tensor, state: Any, param: Tensor, hyper: Hyper) -> Tensor:
        return u * (2 if hyper.step > 1 else 1)

    with pytest.raises(DataDependentOutputException):
        _steps_there(Transform(update, name="branches"), lr=0.1)
    with pytest.raises(AssertionError, match="waits"):
        torch.empty(3, device="cuda").copy_(torch.ones(3))
    with pytest.raises(DataDependentOutputException):
        _steps_there("soap")


@pytest.mark.parametrize("name", NAMES)
def test_the_rules_that_wait_say_so(name: str) -> None:
    assert any(rule.synchronises for rule in rules_of(name)) is (name in WAITS)
