"""Numbers of a rule that are not known while it is traced."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor

Numbers = Mapping[str, Any]


class Scalar:
    """A number that is not known while tracing: an expression in the hyperparameters.

    Where it meets a tensor it becomes an input of the graph. Anything that needs its value now
    (a branch, `math.sqrt`) raises TypeError, and the rule is run eagerly.
    """

    def __init__(self, value: Callable[[Numbers], float]) -> None:
        self.value = value

    def __neg__(self) -> Scalar:
        value = self.value
        return Scalar(lambda numbers: -value(numbers))

    def __abs__(self) -> Scalar:
        value = self.value
        return Scalar(lambda numbers: abs(value(numbers)))

    def __bool__(self) -> bool:
        raise TypeError("a rule that branches on a hyperparameter cannot be compiled")

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        lift = Trace.current().lift
        kwargs = kwargs or {}
        for keyword in ("value", "alpha"):
            if isinstance(kwargs.get(keyword), Scalar):
                return _scaled(func.__name__, args, lift(kwargs[keyword]))
        cheaper = None if kwargs else _cheaper(func.__name__, args)
        if cheaper is not None:
            return cheaper
        lifted = {k: lift(v) if isinstance(v, Scalar) else v for k, v in kwargs.items()}
        return func(*(lift(a) if isinstance(a, Scalar) else a for a in args), **lifted)


def _scaled(name: str, args: tuple[Any, ...], factor: Tensor) -> Tensor:
    """The torch functions with a `value` or `alpha`, which takes plain numbers only."""
    start, *rest = cast("tuple[Tensor, ...]", args)
    match name.removesuffix("_"), rest:
        case "addcmul", [a, b]:
            result = start + factor * (a * b)
        case "addcdiv", [a, b]:
            result = start + factor * (a / b)
        case "add", [a]:
            result = start + factor * a
        case "sub", [a]:
            result = start - factor * a
        case _:
            raise TypeError(f"{name} with a scalar that is not known yet cannot be compiled")
    return start.copy_(result) if name.endswith("_") else result


def _cheaper(name: str, args: tuple[Any, ...]) -> Tensor | None:
    """What comes to the same with a number that is known before the call; None for most functions.

    A division of vectors takes as long as ten products, and torch's lerp chooses between two
    formulas element by element.
    """
    if not args or not isinstance(args[-1], Scalar):
        return None
    number: Any = args[-1]
    match name, args[:-1]:
        case "div" | "true_divide" | "__truediv__", (Tensor() as a,):
            return a * (1 / number)
        case "div_", (Tensor() as a,):
            return a.mul_(1 / number)
        case "lerp", (Tensor() as a, Tensor() as b) if a.itemsize == 2:  # rounds once
            return (a.float() * (1 - number) + b.float() * number).to(a.dtype)
        case "lerp", (Tensor() as a, Tensor() as b):
            return a * (1 - number) + b * number
        case "lerp_", (Tensor() as a, Tensor() as b) if a.itemsize == 2:  # rounds once
            return a.copy_(a.float() * (1 - number) + b.float() * number)
        case "lerp_", (Tensor() as a, Tensor() as b):
            return a.mul_(1 - number).add_(b * number)
        case _:
            return None


def _operators() -> None:
    """Give Scalar the arithmetic of numbers."""

    def plain(operand: Any) -> Callable[[Numbers], float]:
        return operand.value if isinstance(operand, Scalar) else lambda _: operand

    def make(act: Callable[[float, float], float], swapped: bool) -> Callable[[Any, Any], Any]:
        def apply(self: Scalar, other: Any) -> Any:
            if isinstance(other, Tensor):
                return NotImplemented
            one, two = (plain(other), self.value) if swapped else (self.value, plain(other))
            return Scalar(lambda numbers: act(one(numbers), two(numbers)))

        return apply

    for name in ("add", "sub", "mul", "truediv", "pow"):
        setattr(Scalar, f"__{name}__", make(getattr(operator, name), False))
        setattr(Scalar, f"__r{name}__", make(getattr(operator, name), True))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Scalar, f"__{name}__", make(getattr(operator, name), False))


_operators()


class Trace:
    """The scalars that a rule has met tensors with, in order, and the inputs in their place."""

    _stack: list[Trace] = []  # noqa: RUF012  (one a process: tracing is not concurrent)

    def __init__(self, slots: Tensor) -> None:
        self._slots = slots
        self.scalars: list[Scalar] = []

    @classmethod
    def current(cls) -> Trace:
        return cls._stack[-1]

    def lift(self, scalar: Scalar) -> Tensor:
        self.scalars.append(scalar)
        return self._slots[len(self.scalars) - 1]

    def __enter__(self) -> Trace:
        self._stack.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.pop()
