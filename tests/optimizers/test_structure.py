"""What a rule reads from outside: what may change is not compiled in."""

from __future__ import annotations

import functools
import math
import random
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.transform import Hyper, State, Transform
from rheostat.optimizers.structure import structure

Verb = Callable[[Tensor, State, Tensor, Hyper], Tensor]

STEADY = 2.0
_rebound = 1.0


def set_rebound(value: float) -> None:
    global _rebound  # noqa: PLW0603  (a global that is bound again is what is tested)
    _rebound = value


class Rule:
    shared = 1.0

    def __init__(self) -> None:
        self.k = 1.0

    def update(self, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * self.k

    def within(self, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return functools.reduce(lambda v, _: v * self.k, [1], u)

    def handed(self, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * _k_of(self)

    def __call__(self, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * self.k

    @classmethod
    def of_class(cls, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * cls.shared


def _k_of(rule: Any) -> float:
    return rule.k


class Slotted:
    __slots__ = ("k",)

    def __init__(self) -> None:
        self.k = 1.0

    def update(self, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * self.k


class Empty:
    def update(self, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return self.twice(u)

    def twice(self, u: Tensor) -> Tensor:
        return u * STEADY


@dataclass(frozen=True)
class Frozen:
    k: float = 2.0

    def update(self, u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * self.k


def _of_class(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * Rule.shared


def _of_function(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    # A cast would be another thing that the rule reads.
    return u * _of_function.k  # type: ignore[attr-defined]  # functions' attributes have no types


def _of_global(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * _rebound


def _of_chance(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * random.random()


def _of_time(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * time.time()


def _of_constants(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return u * (STEADY * math.sqrt(1.0) * math.pi / math.pi)


def _counting() -> Verb:
    k = 0.0

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        nonlocal k
        k += 1.0
        return u * k

    return update


def _with_setter() -> tuple[Verb, Callable[[float], None]]:
    k = 1.0

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * k

    def put(value: float) -> None:
        nonlocal k
        k = value

    return update, put


def _bound_later() -> Verb:
    k = 1.0

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * k

    k = 10.0
    return update


def _bound_in_a_loop() -> Verb:
    made: list[Verb] = []
    for turn in range(2):
        k = 1.0 / (turn + 1)
        if not made:
            made.append(lambda u, state, param, hyper: u * k)  # noqa: B023  (it is what is tested)
    return made[0]


def _of_a_local_class() -> Verb:
    class Settings:
        k = 1.0

    return lambda u, state, param, hyper: u * Settings.k


def _of_a_local_function() -> Verb:
    def twice(u: Tensor) -> Tensor:
        return u * 2

    twice.k = 1.0  # type: ignore[attr-defined]  # functions' attributes have no types
    # A cast would be another thing that the rule reads.
    return lambda u, state, param, hyper: (
        twice(u) * twice.k  # type: ignore[attr-defined]  # functions' attributes have no types
    )


def _closed_over(k: float | None) -> Verb:
    k = k or 2.0

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * k

    return update


CHANGING: dict[str, Verb] = {
    "a method": Rule().update,
    "a function within a method": Rule().within,
    "an object that is handed on": Rule().handed,
    "a callable object": Rule(),
    "a class method": Rule.of_class,
    "slots": Slotted().update,
    "a class": _of_class,
    "a function's attribute": _of_function,
    "a global that is bound again": _of_global,
    "chance": _of_chance,
    "the clock": _of_time,
    "a variable that it binds": _counting(),
    "a variable that another function binds": _with_setter()[0],
    "a variable that is bound later": _bound_later(),
    "a variable that a loop binds again": _bound_in_a_loop(),
    "a class in a closure": _of_a_local_class(),
    "the attribute of a function in a closure": _of_a_local_function(),
    "the attribute of an object in a closure": functools.partial(Rule.update, Rule()),
}
CONSTANT: dict[str, Verb] = {
    "a method of an object that holds nothing": Empty().update,
    "a frozen dataclass": Frozen().update,
    "constants of modules": _of_constants,
    "a number of a closure": _closed_over(None),
    "a partial function": functools.partial(_closed_over(2.0)),
}


def _structure(update: Verb) -> Any:
    rule = Transform(update, scope="element")
    return structure(rule, rule.pieces)


@pytest.mark.parametrize("what", CHANGING)
def test_what_may_change_has_no_structure(what: str) -> None:
    assert _structure(CHANGING[what]) is None


@pytest.mark.parametrize("what", CONSTANT)
def test_what_stays_is_compiled(what: str) -> None:
    assert _structure(CONSTANT[what]) is not None
    param = nn.Parameter(torch.zeros(600_000))
    opt = rs.optimizer(Transform(CONSTANT[what], scope="element"), [param], lr=1.0)
    param.grad = torch.ones_like(param)
    opt.step()
    assert opt.param_groups[0]["mode"] == "compiled"
    assert param[0].item() == -2.0


def test_draws_of_torchs_are_not_compiled() -> None:
    """A compiled rule would have another generator than the eager one."""

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * torch.rand_like(u)

    rule = Transform(update, scope="element", name="drawing")
    with pytest.raises(InputError, match=r"drawing needs .* or reads what may change"):
        rs.optimizer(rule, [torch.nn.Parameter(torch.ones(3))], mode="compiled")


def test_a_module_that_answers_to_every_name_is_no_trouble() -> None:
    class Answering(types.ModuleType):  # as torch.classes
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    made: dict[str, Any] = {"odd": Answering("odd"), "torch": torch}
    exec("def update(u, state, param, hyper):\n    return u * 2.0", made)
    assert _structure(made["update"]) is not None


@pytest.mark.parametrize("size", [1000, 600_000])
def test_numbers_do_not_depend_on_the_size(size: int) -> None:
    rule = Rule()
    param = nn.Parameter(torch.zeros(size))
    opt = rs.optimizer(Transform(rule.update, scope="element"), [param], lr=1.0)
    for k in (1.0, 10.0):
        rule.k = k
        param.grad = torch.ones(size)
        opt.step()
    assert param[0].item() == -11.0
