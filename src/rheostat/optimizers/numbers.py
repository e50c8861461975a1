"""Numbers that live on an accelerator, with the arithmetic of plain ones.

Rules are written for numbers: `1 - b2**hyper.step`, `lerp_(u, 1 - b1)`. On an accelerator the step
count and what a schedule says depend on the steps that were skipped, which the host does not know
without waiting. There a rule gets stand-ins: float64 scalars on the device, rounded to the dtype of
the tensor that they meet, as plain numbers would be.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


class Number:
    """A number on the device: a 0-dim float64 tensor.

    Numbers of one step share a `memo`, so that what many parameters compute alike is computed once.
    A branch on one, or `float()` of it, gives the right answer and waits for the device. `known` is
    its value, where the host knows it too.
    """

    __slots__ = ("_memo", "known", "tensor")

    def __init__(self, tensor: Tensor, memo: dict[Any, Any], known: float | None = None) -> None:
        self.tensor = tensor
        self.known = known
        self._memo = memo

    def apply(self, name: str, act: Callable[..., Any], *operands: Any) -> Number:
        """What a function makes of numbers; one operand at least is a Number."""
        # By identity: the memo keeps the operands, so that no other object gets their addresses.
        key = (name, *(id(a) if isinstance(a, Number) else a for a in operands))
        if key not in self._memo:
            values = [a.tensor if isinstance(a, Number) else a for a in operands]
            result: Tensor = act(*values)
            self._memo[key] = Number(result.double(), self._memo), operands
        return self._memo[key][0]

    def to(self, dtype: torch.dtype) -> Tensor:
        """The number as a tensor of that dtype."""
        if dtype is torch.float64:
            return self.tensor
        key = (id(self), dtype)
        if key not in self._memo:
            self._memo[key] = self.tensor.to(dtype), self
        return self._memo[key][0]

    def __neg__(self) -> Number:
        return self.apply("neg", operator.neg, self)

    def __abs__(self) -> Number:
        return self.apply("abs", operator.abs, self)

    def __bool__(self) -> bool:
        return bool(self.tensor)

    def __float__(self) -> float:
        return float(self.tensor)

    def __repr__(self) -> str:
        return repr(float(self))

    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = [*args, *kwargs.values()]
        tensors = [a for a in given if isinstance(a, Tensor)]
        if not tensors:
            return _of_numbers(func, args)
        dtype = _common_dtype(tensors)
        name = func.__name__
        if name in ("lerp", "lerp_") and dtype in HALF:
            return _lerp_in_float(name, *args)
        for keyword in ("value", "alpha"):
            if isinstance(kwargs.get(keyword), Number):
                return _scaled(name, args, kwargs[keyword].to(dtype))
        if name == "where" and isinstance(args[0], Number):
            args = (args[0].tensor.bool(), *args[1:])
        lifted = {k: v.to(dtype) if isinstance(v, Number) else v for k, v in kwargs.items()}
        return func(*(a.to(dtype) if isinstance(a, Number) else a for a in args), **lifted)


def vector_of(values: Sequence[Any]) -> Tensor:
    """Numbers as one float64 vector, on the device if one of them is there."""
    one = next((value for value in values if isinstance(value, Number)), None)
    if one is None:
        return torch.tensor(values, dtype=torch.float64)
    fill = one.tensor.new_full
    return torch.stack([v.tensor if isinstance(v, Number) else fill((), v) for v in values])


def known_of(value: Any) -> Any:
    """What the host knows of a number: itself where it is a plain one, None where only the device
    does; of a tuple all parts, or None."""
    if isinstance(value, tuple):
        parts = tuple(known_of(part) for part in cast("tuple[Any, ...]", value))
        return None if None in parts else parts
    return value.known if isinstance(value, Number) else value


def _of_numbers(func: Callable[..., Any], args: tuple[Any, ...]) -> Number:
    """A torch function of numbers alone."""
    one = next(a for a in args if isinstance(a, Number))

    def act(*values: Any) -> Tensor:
        wide = [v if isinstance(v, Tensor) else one.tensor.new_full((), v) for v in values]
        if func is torch.where:
            wide[0] = wide[0].bool()
        return func(*wide)

    return one.apply(func.__name__, act, *args)


def _common_dtype(tensors: list[Tensor]) -> torch.dtype:
    """What a plain number would be rounded to beside these tensors."""
    floating = [t for t in tensors if t.is_floating_point() or t.is_complex()]
    if not floating:
        return torch.get_default_dtype()
    shaped = [t for t in floating if t.ndim]
    dtype = (shaped or floating)[0].dtype
    return dtype.to_real() if dtype.is_complex else dtype


def _lerp_in_float(name: str, start: Tensor, end: Tensor, weight: Number) -> Tensor:
    """A half precision would round the weight."""
    result = start.float().lerp_(end.float(), weight.to(torch.float32))
    return start.copy_(result) if name.endswith("_") else result.to(start.dtype)


def _scaled(name: str, args: tuple[Any, ...], factor: Tensor) -> Tensor:
    """The torch functions with a `value` or `alpha`, which takes plain numbers only."""
    start, *rest = cast("tuple[Tensor, ...]", args)
    match name.removesuffix("_"), rest:
        case "addcmul", [a, b]:
            change = (a * factor).mul_(b)
        case "addcdiv", [a, b]:
            change = (a * factor).div_(b)
        case "add", [a]:
            change = a * factor
        case "sub", [a]:
            change = a * -factor
        case _:
            raise TypeError(f"{name} takes no number that lives on a device")
    return start.add_(change) if name.endswith("_") else start + change


def _operators() -> None:
    """Give Number the arithmetic of numbers."""

    def make(name: str, act: Callable[..., Any], swapped: bool) -> Callable[[Any, Any], Any]:
        def apply(self: Number, other: Any) -> Any:
            if isinstance(other, Tensor):
                return NotImplemented
            pair = (other, self) if swapped else (self, other)
            return self.apply(name, act, *pair)

        return apply

    for name in ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod"):
        act = getattr(operator, name)
        setattr(Number, f"__{name}__", make(name, act, False))
        setattr(Number, f"__r{name}__", make(name, act, True))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Number, f"__{name}__", make(name, getattr(operator, name), False))


_operators()
