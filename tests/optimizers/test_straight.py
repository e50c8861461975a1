"""Steps column by column have the bits of steps item by item, whatever gradients come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.transform import Transform, identity
from rheostat.optimizers import straight
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.straight import Column

CLIPPED = rs.chain(
    rs.transforms.clip_by_global_norm(1.0),
    rs.transforms.scale_by_adam(),
    rs.transforms.add_decayed_weights(0.1),
)
WAYS: list[tuple[Any, str, dict[str, Any]]] = [
    ("sgd", "fused", {"lr": 0.1, "weight_decay": 0.1}),
    ("sgd", "fused", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}),
    ("sgd", "fused", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("adamw", "fused", {"lr": rs.schedules.cosine(0.01, steps=5)}),
    ("lion", "compiled", {"lr": 0.01}),
    (CLIPPED, "compiled", {"lr": rs.schedules.cosine(0.01, steps=5)}),
]


class Seen:
    """Which steps were taken column by column."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
        self.steps: list[bool] = []
        self._went = False
        run = straight.run

        def watched(columns: Sequence[Column], *arguments: Any) -> bool:
            self._went = allowed and run(columns, *arguments)
            return self._went

        monkeypatch.setattr(straight, "run", watched)

    def step(self, opt: Optimizer) -> None:
        """A step of it."""
        self._went = False
        opt.step()
        self.steps.append(self._went)


def _trained(
    monkeypatch: pytest.MonkeyPatch, allowed: bool, name: Any, mode: Any, numbers: dict[str, Any]
) -> tuple[list[Tensor], list[bool]]:
    """Weights and state after steps with all that may come, and which steps went straight."""
    with monkeypatch.context() as patch:
        seen = Seen(patch, allowed)
        generator = torch.Generator().manual_seed(0)
        shapes = [(40, 30), (7,), (), (5, 4), (3, 4, 2, 2)]
        params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        groups = [{"params": params[:3]}, {"params": params[3:], "lr_factor": 0.5}]
        opt = rs.optimizer(name, groups, mode=mode, **numbers)
        for k in range(8):
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator)
            if k == 1:
                params[1].grad = None  # from here on its count is another
            if k == 3:
                params[0].grad = torch.randn(30, 40, generator=generator).t()
            if k == 5:
                opt.param_groups[1]["maximize"] = True
            if k == 6:
                opt.param_groups[1]["maximize"] = False
                for key, buffer in opt.state[params[0]].items():
                    opt.state[params[0]][key] = buffer.clone()
            seen.step(opt)
        return _everything(opt), seen.steps


def _everything(opt: Optimizer) -> list[Tensor]:
    weights = [p.detach() for group in opt.param_groups for p in group["params"]]
    return [*weights, *(one for state in opt.state.values() for one in state.values())]


@pytest.mark.parametrize(("name", "mode", "numbers"), WAYS)
def test_the_bits_are_those_of_items(
    monkeypatch: pytest.MonkeyPatch, name: str, mode: str, numbers: dict[str, Any]
) -> None:
    columns, went = _trained(monkeypatch, True, name, mode, numbers)
    items, _ = _trained(monkeypatch, False, name, mode, numbers)
    # A turned gradient and a maximized group go item by item.
    assert went == [True, True, True, False, True, False, True, True]
    for mine, other in zip(columns, items, strict=True):
        assert torch.equal(mine, other)


def _doubled(param: Tensor, state: Any, hyper: Any) -> Tensor:
    return param * 2


@pytest.mark.parametrize(
    "rule",
    [
        CLIPPED,  # by torch's kernel, tile by tile
        rs.chain(rs.transforms.scale_by_adam(), rs.transforms.clip_by_global_norm(1.0)),
        rs.chain(rs.transforms.scale_by_adam(), Transform(identity, after=_doubled)),
        "schedule_free_sgd",
        "prodigy",
    ],
)
def test_what_takes_more_than_a_kernel_goes_item_by_item(
    monkeypatch: pytest.MonkeyPatch, rule: Any
) -> None:
    seen = Seen(monkeypatch, True)
    params = [nn.Parameter(torch.randn(3, 3)) for _ in range(2)]
    for param in params:
        param.grad = torch.ones(3, 3)
    seen.step(rs.optimizer(rule, params))
    assert seen.steps == [False]


def test_without_momentum_a_buffer_of_it_is_kept_by_the_pieces() -> None:
    param = nn.Parameter(torch.ones(3))
    opt = rs.optimizer("sgd", [param], momentum=0.9, lr=0.1)
    opt.param_groups[0]["momentum"] = 0.0
    param.grad = torch.ones(3)
    opt.step()
    assert torch.equal(opt.state[param]["momentum_buffer"], torch.ones(3))


@pytest.mark.parametrize(("nonfinite", "straight"), [("skip", True), ("propagate", False)])
def test_a_clip_goes_straight_where_the_norm_was_taken(
    monkeypatch: pytest.MonkeyPatch, nonfinite: Any, straight: bool
) -> None:
    """Elsewhere somebody has to measure first."""
    seen = Seen(monkeypatch, True)
    opt = rs.optimizer(CLIPPED, _with_gradients(), mode="compiled", nonfinite=nonfinite)
    seen.step(opt)
    assert seen.steps == [straight]


def test_a_clip_of_one_group_alone_measures_that_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look's norm is of all gradients."""
    first, second, alone = _with_gradients(), _with_gradients(), _with_gradients()
    group = {"params": first, "rule": CLIPPED, "param_names": ["a", "b"]}
    other = {"params": second, "rule": rs.transforms.trace(), "param_names": ["c", "d"]}
    seen = Seen(monkeypatch, True)
    seen.step(Optimizer([group, other], mode="compiled"))
    seen.step(Optimizer([{**group, "params": alone}], mode="compiled"))
    assert seen.steps == [False, True]
    assert all(map(torch.equal, first, alone))


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon", "sgd"])
@pytest.mark.parametrize("mode", ["auto", "compiled"])
def test_gradients_that_are_negated_in_name_only_are_looked_into(name: Any, mode: Any) -> None:
    """As autograd gives them for the imaginary part of a conjugated number."""
    ways: list[Tensor] = []
    for way in (mode, "eager"):
        real, imaginary = (nn.Parameter(torch.zeros(1, 1)) for _ in range(2))
        opt = rs.optimizer(name, [("real", real), ("imaginary", imaginary)], lr=0.1, mode=way)
        for _ in range(2):
            opt.zero_grad()
            (torch.complex(real, imaginary).conj() * (1 + 2j)).real.sum().backward()
            assert imaginary.grad is not None
            assert imaginary.grad.is_neg()
            opt.step()
        ways.append(imaginary.detach())
    torch.testing.assert_close(*ways)
    assert ways[0].max() < 0


def _with_gradients() -> list[nn.Parameter]:
    params = [nn.Parameter(torch.ones(3, 3)) for _ in range(2)]
    for param in params:
        param.grad = torch.ones(3, 3)
    return params
