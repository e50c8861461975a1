"""One compiled kernel for a rule that works element by element, whatever the parameters.

The rule is traced once over flat tensors. Its scalar arithmetic (bias corrections, 1 − β …) is
lifted out and done in float64 before each call, so the kernel gets a few numbers as tensors and
is never compiled again when a hyperparameter changes. Large parameters are run one by one, as
flat views; small ones are gathered into one flat tensor, run together, and put back.
"""

from __future__ import annotations

import functools
import operator
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from rheostat.core.transform import Hyper, Transform

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item

SMALL = 1 << 15
"""Elements below which a parameter is gathered with others: a call costs tens of microseconds,
as much as moving some ten thousand elements twice."""

MOST_SCALARS = 64
"""More scalars than any rule meets tensors with."""

Numbers = Mapping[str, Any]


class Scalar:
    """A number that is not known while tracing: an expression in the hyperparameters.

    Where it meets a tensor it becomes an input of the kernel. Anything that needs its value now
    (a branch, `math.sqrt`) raises TypeError, and the rule is run eagerly.
    """

    def __init__(self, value: Callable[[Numbers], float]) -> None:
        self.value = value

    def __neg__(self) -> Scalar:
        return Scalar(lambda numbers: -self.value(numbers))

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
        lift = _Trace.current().lift
        kwargs = kwargs or {}
        for keyword in ("value", "alpha"):
            if isinstance(kwargs.get(keyword), Scalar):
                return _scaled(func.__name__, args, lift(kwargs[keyword]))
        return func(*(lift(a) if isinstance(a, Scalar) else a for a in args), **kwargs)


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


class _Trace:
    """The scalars that a rule has met tensors with, in order, and the inputs in their place."""

    _stack: list[_Trace] = []  # noqa: RUF012  (one a process: tracing is not concurrent)

    def __init__(self, slots: Sequence[Tensor]) -> None:
        self._slots = slots
        self.scalars: list[Scalar] = []

    @classmethod
    def current(cls) -> _Trace:
        return cls._stack[-1]

    def lift(self, scalar: Scalar) -> Tensor:
        self.scalars.append(scalar)
        return self._slots[len(self.scalars) - 1]

    def __enter__(self) -> _Trace:
        self._stack.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.pop()


class CompiledKernel:
    """A rule as one compiled function over flat tensors; compiled at the first step."""

    def __init__(self, rule: Transform) -> None:
        traced = _traced(rule)
        assert traced is not None
        self._traced = traced
        self._names = tuple(rule.buffers)
        # A buffer that is one number differs between parameters: they cannot run as one.
        self._gathers = all(buffer.like_parameter for buffer in rule.buffers.values())

    @staticmethod
    def can_run(rule: Transform) -> bool:
        """Whether the rule works element by element, and its scalars can be lifted."""
        return _traced(rule) is not None

    def takes(self, item: Item) -> bool:
        """Dense real float32 and float64 parameters without holes."""
        param, update = item.param, item.update
        # Buffers are made by the loop, as their declaration says: one look at the first suffices.
        first = item.state[self._names[0]] if self._names else param
        return (
            param.numel() >= (1 if self._gathers else SMALL)
            and param.dtype in (torch.float32, torch.float64)
            and update.layout == torch.strided
            and update.dtype == param.dtype
            and (first.dtype == param.dtype or not self._gathers)
            and param.is_contiguous()
            and update.is_contiguous()
        )

    def run(self, items: Sequence[Item]) -> None:
        """Large items one by one, small ones of one group, step, device and dtype together."""
        gathered: dict[tuple[Any, ...], list[Item]] = {}
        scalars: dict[tuple[Any, ...], list[Tensor]] = {}
        for item in items:
            key = (id(item.numbers), item.step, item.param.dtype, item.param.device)
            if key not in scalars:
                scalars[key] = self._traced.inputs(item)
            if self._gathers and item.param.numel() < SMALL:
                gathered.setdefault(key, []).append(item)
            else:
                buffers = [item.state[name] for name in self._names]
                flat = [buffer.view(-1) if buffer.ndim else buffer for buffer in buffers]
                param = item.param.detach().view(-1)
                self._traced(param, item.update.view(-1), flat, scalars[key])
        for key, small in gathered.items():
            self._run_together(small, scalars[key])

    def _run_together(self, items: list[Item], scalars: list[Tensor]) -> None:
        lists = [[item.param.view(-1) for item in items]]
        lists += [[item.state[name].view(-1) for item in items] for name in self._names]
        update = torch.cat([item.update.view(-1) for item in items])
        flat = [torch.cat(tensors) for tensors in lists]
        if len(update) == 1:
            # A length of one is special to the compiler, which would compile again for it.
            update, flat = update.repeat(2), [tensor.repeat(2) for tensor in flat]
        param, *buffers = flat
        self._traced(param, update, buffers, scalars)
        sizes = [item.param.numel() for item in items]
        for tensors, whole in zip(lists, flat, strict=True):
            parts = list(torch.split(whole[: sum(sizes)], sizes))
            torch._foreach_copy_(tensors, parts)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


class _Traced:
    """A rule's graph, compiled when first called, and the scalars it was freed of."""

    def __init__(self, graph: Any, scalars: list[Scalar], measured: tuple[str, ...]) -> None:
        self._scalars = scalars
        self._measured = measured
        # Dynamic from the first call on: no size is special, so none compiles anew.
        self._compiled = torch.compile(graph, dynamic=True, fullgraph=True)

    def inputs(self, item: Item) -> list[Tensor]:
        """The scalars for an item, computed in float64, then in its dtype and on its device."""
        numbers = {**item.numbers, "step": item.step}
        values = [scalar.value(numbers) for scalar in self._scalars]
        plain = torch.tensor(values, dtype=item.param.dtype, device=item.param.device)
        sums = [item.hyper.measured[name].to(item.param.dtype) for name in self._measured]
        return [*plain.unbind(), *sums]

    def __call__(
        self, param: Tensor, update: Tensor, buffers: list[Tensor], scalars: list[Tensor]
    ) -> None:
        """Move `param` and write `buffers`; all flat and of one length."""
        self._compiled(param, update, buffers, scalars)


_cache: dict[tuple[Any, ...], _Traced | None] = {}


def _traced(rule: Transform) -> _Traced | None:
    """The rule's graph, shared by all rules of one structure; None where it has none."""
    if rule.scope != "element" or any(piece.measure for piece in rule.pieces[1:]):
        return None
    for buffer in rule.buffers.values():
        if not buffer.like_parameter and buffer.shape(torch.empty(2, 2)) != ():
            return None
    key = tuple((piece.name, _constants(piece.update)) for piece in rule.pieces)
    if key not in _cache:
        _cache[key] = _trace(rule)
    return _cache[key]


def _constants(function: Any) -> tuple[Any, ...]:
    """The code of a function and the plain values that it closes over, which the graph holds."""
    cells = getattr(function, "__closure__", None) or ()
    found: list[Any] = [getattr(function, "__code__", function)]
    for cell in cells:
        content = cell.cell_contents
        if callable(content):
            found.append(_constants(content))
        elif isinstance(content, Transform):
            found += [_constants(piece.update) for piece in content.pieces]
        else:
            found.append(repr(content))
    return tuple(found)


def _trace(rule: Transform) -> _Traced | None:
    from torch.fx.experimental.proxy_tensor import make_fx

    trace: _Trace | None = None
    measured = tuple(_measured_names(rule))

    def run(param: Tensor, update: Tensor, buffers: list[Tensor], slots: list[Tensor]) -> None:
        nonlocal trace
        sums = dict(zip(measured, slots[len(slots) - len(measured) :], strict=True))
        numbers = {
            name: _lifted(name, value)
            for name, value in {**rule.hyperparameters, **rule.scalars}.items()
        }
        step = Scalar(lambda known: known["step"])
        hyper = Hyper(**numbers, step=step, gradient=update, measured=sums, noise=_refuse_noise)
        state = dict(zip(rule.buffers, buffers, strict=True))
        with _Trace(slots) as trace:
            for piece in rule.pieces:
                update = piece.update(update, state, param, hyper)
        param.sub_(update)

    def example(slots: int) -> tuple[Any, ...]:
        # Ones, so that nothing divides by zero; only the operations are kept.
        flat = [torch.ones(64 if b.like_parameter else ()) for b in rule.buffers.values()]
        return torch.ones(64), torch.ones(64), flat, [torch.ones(()) for _ in range(slots)]

    try:
        with torch.no_grad():
            run(*example(MOST_SCALARS))
            assert trace is not None
            scalars = trace.scalars
            graph = make_fx(run)(*example(len(scalars) + len(measured)))
    except (TypeError, RuntimeError):  # a scalar's value was asked for, or a tensor's
        return None
    return _Traced(graph, scalars, measured)


def _refuse_noise(like: Tensor) -> Tensor:
    raise TypeError("a rule that draws noise cannot be compiled: the draw is counted, not traced")


def _measured_names(rule: Transform) -> list[str]:
    """What the first piece's `measure` returns, learned from a call on ones."""
    measure = rule.pieces[0].measure
    if measure is None:
        return []
    state = {name: torch.ones(2) for name in rule.buffers}
    hyper = Hyper(**rule.hyperparameters, **rule.scalars, step=1.0, gradient=torch.ones(2))
    return list(measure(torch.ones(2), state, torch.ones(2), hyper))


def _lifted(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        count = len(cast("tuple[Any, ...]", value))
        return tuple(Scalar(lambda known, i=i: known[name][i]) for i in range(count))
    return Scalar(lambda known: known[name])


def compiler_at_hand() -> bool:
    """Whether there is a C++ compiler; says once what is lost without one."""
    if os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"):
        return True
    _warn_once()
    return False


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "no C++ compiler found: rules without a fused kernel run eagerly, several times slower; "
        "install g++ (and the Python headers) to compile them",
        stacklevel=2,
    )
