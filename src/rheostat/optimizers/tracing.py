"""A rule as a graph that knows no number in advance: over flat tensors where it does not mind the
shape of its tensors, or for one shape.

The rule is traced once. Its arithmetic on hyperparameters (bias corrections, 1 − β …) is done in
float64 outside, at every call, and so is what it makes of the sums that were measured: the graph
gets the results in one vector, and is never compiled again when a hyperparameter changes. What is
measured over all parameters has a graph of its own, which runs before.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx

from rheostat.core.errors import InputError
from rheostat.core.transform import Hyper, State, Transform
from rheostat.optimizers.numbers import vector_of
from rheostat.optimizers.structure import code_of, structure

MOST_SCALARS = 64
"""More scalars than any rule meets tensors with."""

_LENGTH = 64
"""Elements of the tensors that a rule is traced with."""

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
        lift = _Trace.current().lift
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


class _Trace:
    """The scalars that a rule has met tensors with, in order, and the inputs in their place."""

    _stack: list[_Trace] = []  # noqa: RUF012  (one a process: tracing is not concurrent)

    def __init__(self, slots: Tensor) -> None:
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


@dataclass(frozen=True, eq=False)
class Traced:
    """A rule's graph, and what it was freed of.

    `graph(param, update, *buffers, vector)` moves `param` and writes the buffers, all flat and of
    one length (but for buffers of one number), or in the shapes that they were traced in. `vector`
    is what `numbers` gives. Where the rule measures, `measuring` is another of the same inputs,
    which writes nothing, and gives of one parameter what is summed over all under the names
    `measured`. `finishes` says that what pieces do once the parameter has moved is in the graph.
    """

    graph: fx.GraphModule
    _scalars: Sequence[Scalar]
    _prologue: fx.GraphModule
    measured: tuple[str, ...] = ()
    measuring: Traced | None = None
    finishes: bool = True

    def numbers(self, known: Numbers, sums: Mapping[str, Tensor]) -> Tensor:
        """The inputs that the graph has beside tensors, one vector in float64: from the
        hyperparameters and the step, and the sums by name."""
        slots = vector_of([scalar.value(known) for scalar in self._scalars])
        return self._prologue(slots, *(sums[name].double() for name in self.measured))

    @functools.cached_property
    def meaning(self) -> tuple[Any, ...]:
        """What `numbers` computes; equal for graphs whose numbers are the same ones."""
        return self._prologue.code, *(code_of(scalar.value) for scalar in self._scalars)

    @functools.cached_property
    def over_rows(self) -> fx.GraphModule | None:
        """The graph for several parameters of one length, the rows of each tensor; a buffer of one
        number is a column. None where it sums in a way that has no such form."""
        graph = fx.Graph()
        graph.output(graph.graph_copy(self.graph.graph, {}))
        for node in graph.nodes:
            if node.op != "call_function" or not _reduces(node):
                continue
            if node.target not in _ROW_BY_ROW or len(node.args) > 1:
                return None
            node.target, rest = _ROW_BY_ROW[node.target]
            node.args = (node.args[0], *rest)
        return fx.GraphModule(self.graph, graph)


def _reduces(node: fx.Node) -> bool:
    """Whether it makes one number of a whole tensor."""
    shapes = [one.meta["val"].shape for one in node.all_input_nodes if "val" in one.meta]
    found = node.meta.get("val")
    return isinstance(found, Tensor) and not found.shape and any(len(s) for s in shapes)


_ROW_BY_ROW: Mapping[Any, tuple[Any, tuple[Any, ...]]] = {
    torch.ops.aten.sum.default: (torch.ops.aten.sum.dim_IntList, ([-1], True)),
    torch.ops.aten.mean.default: (torch.ops.aten.mean.dim, ([-1], True)),
    torch.ops.aten.linalg_vector_norm.default: (
        torch.ops.aten.linalg_vector_norm.default,
        (2, [-1], True),
    ),
}
"""Sums over a tensor -> the same over each row, kept as a column."""
_cache: dict[tuple[Any, ...], Traced | None] = {}


def traced(rule: Transform) -> Traced | None:
    """The rule's graph, shared by all rules of one structure; None where it has none."""
    measuring = [i for i, piece in enumerate(rule.pieces) if piece.measure]
    # What comes before a measurement is computed again after it, so that it must keep nothing.
    kept = any(piece.buffers for i in measuring for piece in rule.pieces[:i])
    if rule.scope in ("matrix", "tensor") or len(measuring) > 1 or kept:
        return None
    for buffer in rule.buffers.values():
        if not buffer.like_parameter and buffer.shape(torch.empty(2, 2)) != ():
            return None
    key = structure(rule, rule.pieces)
    if key is None:
        return None
    if key not in _cache:
        _cache[key] = _trace(rule)
    return _cache[key]


def _trace(rule: Transform) -> Traced | None:
    measured: list[str] = []
    measuring = None
    if rule.measuring is not None:
        measuring = graph_of(rule, lambda *given: _measured(rule, measured, *given), ())
        if measuring is None:
            return None

    def move(update: Tensor, state: State, param: Tensor, hyper: Hyper) -> None:
        param.sub_(through(rule.pieces, update, state, param, hyper))

    def finish(update: Tensor, state: State, param: Tensor, hyper: Hyper) -> None:
        move(update, state, param, hyper)
        for piece in rule.pieces:
            moved = param if piece.after is None else piece.after(param, state, hyper)
            if moved is not param:
                param.copy_(moved)

    whole = graph_of(rule, finish, measured)
    update = whole or graph_of(rule, move, measured)
    return update and replace(update, measuring=measuring, finishes=whole is not None)


def _measured(
    rule: Transform, names: list[str], update: Tensor, state: State, param: Tensor, hyper: Hyper
) -> tuple[Tensor, ...]:
    """What the rule measures of a parameter; its names are put into `names`."""
    piece = rule.measuring
    assert piece is not None
    assert piece.measure is not None
    before = tuple(itertools.takewhile(lambda one: one is not piece, rule.pieces))
    found = piece.measure(through(before, update, state, param, hyper), state, param, hyper)
    names[:] = found
    return tuple(found.values())


def through(
    pieces: Sequence[Transform], update: Tensor, state: State, param: Tensor, hyper: Hyper
) -> Tensor:
    """What the pieces make of an update. Raises TypeError where one changes its shape."""
    for piece in pieces:
        update = piece.update(update, state, param, hyper)
        if update.shape != param.shape:  # the eager run says so
            raise TypeError(f"{piece.name} changes the shape of its update")
    return update


def graph_of(
    rule: Transform,
    verb: Callable[..., Any],
    measured: Sequence[str],
    like: Tensor | None = None,
) -> Traced | None:
    """The graph of `verb(update, state, param, hyper)`, over flat tensors or a parameter like this
    one; None where it has none."""
    from torch.fx.experimental.proxy_tensor import make_fx

    trace: _Trace | None = None

    def run(param: Tensor, update: Tensor, *rest: Tensor) -> Any:
        nonlocal trace
        buffers, (slots, *found) = rest[: len(rule.buffers)], rest[len(rule.buffers) :]
        numbers = {
            name: _lifted(name, value)
            for name, value in {**rule.hyperparameters, **rule.scalars}.items()
        }
        hyper = Hyper(
            **numbers,
            step=Scalar(lambda known: known["step"]),
            gradient=update,
            measured=dict(zip(measured, found, strict=True)),
            noise=_refuse_noise,
        )
        state = dict(zip(rule.buffers, buffers, strict=True))
        with _Trace(slots) as trace:
            return verb(update, state, param, hyper)

    # Ones, so that nothing divides by zero; only the operations are kept.
    if like is None:
        one = torch.ones(_LENGTH)
        own = [
            torch.ones(_LENGTH if buffer.like_parameter else (), dtype=buffer.dtype)
            for buffer in rule.buffers.values()
        ]
    else:
        one, own = like, [buffer.make(like) for buffer in rule.buffers.values()]
    sums = [torch.ones((), dtype=torch.float64) for _ in measured]
    slots = torch.ones(MOST_SCALARS, dtype=torch.float64)
    with torch.no_grad():
        try:
            graph = make_fx(run)(one, one.clone(), *own, slots, *sums)
        except InputError:
            raise
        except Exception:  # noqa: BLE001  (it asks for a value, or fails, which its eager run tells)
            return None
    assert trace is not None
    main, prologue = _split(graph, 2 + len(own))
    return Traced(main, trace.scalars, prologue, tuple(measured))


def _split(whole: fx.GraphModule, tensors: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graph without what depends on numbers alone, and that part: numbers to one vector.

    Left in the loop over elements, a square root of a sum is taken again for every few of them.
    """
    placeholders = [node for node in whole.graph.nodes if node.op == "placeholder"]
    early = dict.fromkeys(placeholders[tensors:])
    for node in whole.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "call_function" and inputs and all(one in early for one in inputs):
            early[node] = None
    wanted = [node for node in early if any(user not in early for user in node.users)]

    before, after = fx.Graph(), fx.Graph()
    moved: dict[fx.Node, fx.Node] = {}
    for node in early:
        moved[node] = before.node_copy(node, moved.__getitem__)
    doubles = [before.call_method("double", (moved[node],)) for node in wanted]
    # A rule without numbers has nothing to stack.
    made = (torch.stack, (doubles,)) if doubles else (torch.zeros, (0,))
    before.output(before.call_function(*made))

    kept = {node: after.node_copy(node) for node in placeholders[:tensors]}
    vector = after.placeholder("vector")
    for i, node in enumerate(wanted):
        kept[node] = after.call_function(torch.ops.aten.select.int, (vector, 0, i))
    for node in whole.graph.nodes:
        if node not in early and node not in kept:
            kept[node] = after.node_copy(node, kept.__getitem__)
    return fx.GraphModule(whole, after), fx.GraphModule(whole, before)


def _refuse_noise(like: Tensor) -> Tensor:
    raise TypeError("a rule that draws noise cannot be compiled: the draw is counted, not traced")


def _lifted(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        count = len(cast("tuple[Any, ...]", value))
        return tuple(Scalar(lambda known, i=i: known[name][i]) for i in range(count))
    return Scalar(lambda known: known[name])
