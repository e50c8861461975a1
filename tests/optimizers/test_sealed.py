"""A rule writes its buffers in place; in every way to run it, another tensor is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.sealed import Sealed
from rheostat.core.transform import State, Transform, named

SIZES = [1000, 600_000]
"""Of these, "auto" runs one eagerly and compiles the other."""


def _rebinds(u: Tensor, state: State, param: Tensor, hyper: Any) -> Tensor:
    own = cast("dict[str, Tensor]", state)
    own["m"] = own["m"] * 0.9 + u
    return own["m"]


def _adds(u: Tensor, state: State, param: Tensor, hyper: Any) -> Tensor:
    own = cast("dict[str, Tensor]", state)
    own["m"] *= 0.9
    own["m"] += u
    return own["m"].clone()


def _after(param: Tensor, state: State, hyper: Any) -> Tensor:
    cast("dict[str, Tensor]", state)["m"] = param
    return param


def _momentum(verb: Callable[..., Tensor], **others: Any) -> Transform:
    return Transform(verb, buffers={"m": rs.Buffer()}, scope="element", name="mine", **others)


def _trained(rule: Transform, size: int) -> tuple[list[float], str]:
    param = nn.Parameter(torch.zeros(size))
    opt = rs.optimizer(rule, [("weight", param)], lr=1.0)
    found: list[float] = []
    for _ in range(3):
        param.grad = torch.ones(size)
        opt.step()
        found.append(param[0].item())
    return found, opt.param_groups[0]["mode"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "rule",
    [
        _momentum(_rebinds),
        named("inner", _momentum(_rebinds)),
        _momentum(_adds, after=_after),
    ],
)
def test_a_buffer_that_is_exchanged_is_refused(rule: Transform, size: int) -> None:
    with pytest.raises(InputError, match=r"written in place: state\['m'\]\.copy_\(…\), not state"):
        _trained(rule, size)


@pytest.mark.parametrize("size", SIZES)
def test_an_addition_in_place_is_none(size: int) -> None:
    found, mode = _trained(_momentum(_adds), size)
    assert mode == ("eager" if size < 500_000 else "compiled")
    assert found == pytest.approx([-1.0, -2.9, -5.61])


WRITING: list[tuple[str, list[Any]]] = [
    ("update", [{"m": torch.ones(2)}]),
    ("pop", ["m"]),
    ("popitem", []),
    ("setdefault", ["n", torch.ones(2)]),
    ("clear", []),
    ("__delitem__", ["m"]),
    ("__ior__", [{}]),
]


@pytest.mark.parametrize(("way", "given"), WRITING)
def test_no_other_way_is_left(way: str, given: list[Any]) -> None:
    with pytest.raises(InputError, match="mine: a buffer is written in place"):
        getattr(Sealed({"m": torch.zeros(2)}, "mine"), way)(*given)
