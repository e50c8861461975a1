"""Step counts lie in one piece of memory, and are each parameter's own all the same."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.transform import Hyper, State, Transform
from rheostat.optimizers import stages
from rheostat.optimizers.loop import Optimizer


def _made(count: int = 4) -> tuple[list[nn.Parameter], Optimizer]:
    params = [nn.Parameter(torch.ones(3)) for _ in range(count)]
    return params, rs.optimizer("adamw", params)


def _step(params: list[nn.Parameter], opt: Optimizer, without: tuple[int, ...] = ()) -> list[float]:
    for i, param in enumerate(params):
        param.grad = None if i in without else torch.ones(3)
    opt.step()
    return [opt.state[param]["step"].item() for param in params]


def test_each_counts_its_own_updates() -> None:
    params, opt = _made()
    assert _step(params, opt) == [1, 1, 1, 1]
    assert _step(params, opt, without=(1, 3)) == [2, 1, 2, 1]
    assert _step(params, opt) == [3, 2, 3, 2]
    assert len({opt.state[p]["step"].untyped_storage().data_ptr() for p in params}) == 1


def test_steps_that_were_skipped_for_their_gradients_are_counted_and_saved() -> None:
    params = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    opt = rs.optimizer("adamw", [{"params": [one]} for one in params], accumulate=2)

    def step(value: float | None, limit: float | None = None) -> list[int]:
        for param in params:
            param.grad = None if value is None else torch.full((3,), value)
        for group in opt.param_groups:
            group["limit"] = limit
        opt.step()
        return [group["skipped"] for group in opt.param_groups]

    assert step(1.0) == [0, 0], "it only added to an average"
    assert step(None) == [0, 0]
    assert step(math.nan) == [1, 1]
    assert step(9.0, limit=1.0) == [2, 2]
    assert step(1.0) == [2, 2]
    groups = [{"params": [nn.Parameter(torch.ones(3))]} for _ in params]
    again = rs.optimizer("adamw", groups, accumulate=2)
    again.load_state_dict(opt.state_dict())
    assert again.param_groups[0]["skipped"] == 2


def test_a_count_that_somebody_puts_there_is_believed() -> None:
    params, opt = _made()
    _step(params, opt)
    opt.state[params[0]]["step"] = torch.tensor(10.0)
    opt.state[params[1]]["step"].fill_(20.0)
    assert _step(params, opt) == [11, 21, 2, 2]
    opt.state[params[2]] = {**opt.state[params[2]], "step": torch.tensor(30.0)}
    assert _step(params, opt) == [12, 22, 31, 3]


def test_a_copy_and_a_file_count_by_themselves() -> None:
    params, opt = _made()
    _step(params, opt)
    other = copy.deepcopy(opt)
    copied = other.param_groups[0]["params"]
    assert _step(copied, other) == [2, 2, 2, 2]
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    again_params, again = _made()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert _step(again_params, again) == [2, 2, 2, 2]
    assert [opt.state[p]["step"].item() for p in params] == [1, 1, 1, 1]


@pytest.mark.usefixtures("whoever_counts")
def test_a_refused_step_is_not_counted() -> None:
    def wrong(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u[:2] if u.shape[0] == 3 else u

    whole, half = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    rule = rs.chain(rs.transforms.scale_by_adam(), rs.Transform(wrong, scope="tensor"))
    opt = rs.optimizer(rule, [whole, half], lr=0.1)
    for _ in range(2):
        whole.grad, half.grad = torch.ones(2), torch.ones(3)
        with pytest.raises(InputError, match="gave an update of shape"):
            opt.step()
    # What was moved before the fault was found has had an update, and its buffers know.
    assert [opt.state[p]["step"].item() for p in (whole, half)] == [2, 0]
    assert half.tolist() == [1.0] * 3
    assert opt.param_groups[0]["updates"] == 0
    half.grad = None
    opt.step()
    assert opt.last_step is not None
    assert opt.last_step.step == 1
    assert [opt.state[p]["step"].item() for p in (whole, half)] == [3, 0]


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_where_a_later_parameter_fails_those_before_it_are_counted(mode: Any) -> None:
    def fails(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        if param.shape[0] == 5:
            raise RuntimeError("no convergence")
        return u

    pieces = rs.transforms.trace(0.9), Transform(fails, scope="tensor", name="fails")
    params = [nn.Parameter(torch.zeros(rows, 4)) for rows in (4, 5, 6)]
    opt = rs.optimizer(rs.chain(*pieces), params, lr=0.1, mode=mode)
    for param in params:
        param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match="no convergence"):
        opt.step()
    moved = [bool(param.any()) for param in params]
    assert [opt.state[p]["step"].item() for p in params] == moved == [1, 0, 0]


def test_where_a_group_cannot_begin_only_those_before_it_are_counted() -> None:
    def divided(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u / hyper.k

    rule = rs.chain(Transform(divided, scope="element", hyperparameters={"k": 1.0}, name="divided"))
    params = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    opt = rs.optimizer(rule, [{"params": [param]} for param in params], lr=0.1, mode="compiled")
    opt.param_groups[1]["k"] = 0.0
    for param in params:
        param.grad = torch.ones_like(param)
    with pytest.raises(ZeroDivisionError):
        opt.step()
    assert [opt.state[p]["step"].item() for p in params] == [1, 0, 0]
    assert not params[1].any()
    opt.param_groups[1]["k"] = 1.0
    opt.step()
    assert [opt.state[p]["step"].item() for p in params] == [2, 1, 1]


def test_a_step_without_its_closure_is_not_counted() -> None:
    param, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    rule = rs.chain(rs.transforms.sam(0.1), rs.transforms.scale_by_adam())
    opt = rs.optimizer(rule, [param, other], lr=1.0)
    param.grad = torch.ones(1)
    for _ in range(3):
        with pytest.raises(InputError, match=r"call step\(closure\)"):
            opt.step()

    def closure() -> Tensor:
        opt.zero_grad()
        loss = param.sum()
        loss.backward()
        return loss

    opt.step(closure)
    assert param.item() == pytest.approx(-1)
    assert [opt.state[p]["step"].item() for p in (param, other)] == [1, 0]


@pytest.mark.parametrize("name", ["prodigy", "dadapt_adam"])
def test_a_large_parameter_is_measured_part_by_part(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: list[list[float]] = []
    for size in (1 << 16, 7):
        monkeypatch.setattr(stages, "PART", size)
        draw = torch.Generator().manual_seed(0)
        param = nn.Parameter(torch.randn(20, 5, generator=draw))
        opt = rs.optimizer(name, [param])
        found: list[float] = []
        for _ in range(20):
            param.grad = param.detach() - 30
            opt.step()
            found.append(float(opt.param_groups[0]["d"]))
        ways.append(found)
    assert ways[0] == pytest.approx(ways[1], rel=1e-5)
    assert ways[0][-1] > ways[0][0]
