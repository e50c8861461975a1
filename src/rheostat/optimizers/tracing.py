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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx

from rheostat.core.errors import InputError
from rheostat.core.sealed import Sealed
from rheostat.core.transform import Hyper, State, Transform
from rheostat.optimizers.numbers import vector_of
from rheostat.optimizers.scalars import Numbers, Scalar, Trace
from rheostat.optimizers.structure import code_of, structure

MOST_SCALARS = 64
"""More scalars than any rule meets tensors with."""

_LENGTH, _OTHER_LENGTH = 64, 96
"""Elements of the tensors that a rule is traced with; of those where it must do the same."""


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
    _double: Callable[[], Traced | None] = lambda: None

    def numbers(
        self, known: Numbers, sums: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The inputs that the graph has beside tensors, one vector in float64: from the
        hyperparameters and the step, and the sums by name; for parameters of this dtype."""
        if dtype is torch.float64 and self.double is not None:
            return self.double.numbers(known, sums)
        slots = vector_of([scalar.value(known) for scalar in self._scalars])
        return self._prologue(slots, *(sums[name].double() for name in self.measured))

    @functools.cached_property
    def double(self) -> Traced | None:
        """The rule traced with float64 tensors, where it was traced with float32 ones."""
        return self._double()

    def serves(self, dtype: torch.dtype) -> bool:
        """Whether what it does with float32 is, with another name of the type, what it does with
        this one; its numbers may be others."""
        if dtype is not torch.float64:
            return True
        double = self.double
        measures = self.measuring is None or self.measuring.serves(dtype)
        same = self.graph.code.replace("torch.float32", "torch.float64")
        return double is not None and double.graph.code == same and measures

    def of(self, dtype: torch.dtype) -> Traced:
        """The same for parameters of this dtype."""
        return self.double or self if dtype is torch.float64 else self

    @property
    def code(self) -> str:
        """What is computed, with all constants."""
        return self.graph.code + self._prologue.code

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
    dtype: torch.dtype = torch.float32,
) -> Traced | None:
    """The graph of `verb(update, state, param, hyper)`, over flat tensors of a dtype or a parameter
    like this one; None where it has none, or another one for each length."""
    found = _graph_of(rule, verb, measured, like, dtype)
    if found is None or like is not None or rule.scope == "element":
        return found
    other = _graph_of(rule, verb, measured, like, dtype, _OTHER_LENGTH)
    return found if other is not None and other.code == found.code else None


def _graph_of(
    rule: Transform,
    verb: Callable[..., Any],
    measured: Sequence[str],
    like: Tensor | None,
    dtype: torch.dtype,
    length: int = _LENGTH,
) -> Traced | None:
    from torch.fx.experimental.proxy_tensor import make_fx

    trace: Trace | None = None

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
        state = Sealed(dict(zip(rule.buffers, buffers, strict=True)), rule.name)
        with Trace(slots) as trace:
            return verb(update, state, param, hyper)

    # Ones, so that nothing divides by zero; only the operations are kept.
    if like is None:
        one = torch.ones(length, dtype=dtype)
        own = [
            torch.ones(length if buffer.like_parameter else (), dtype=buffer.dtype or dtype)
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
    if any(map(_draws, graph.graph.nodes)):
        return None
    assert trace is not None
    main, prologue = _split(graph, 2 + len(own))
    double = functools.partial(graph_of, rule, verb, tuple(measured), like, torch.float64)
    return Traced(main, trace.scalars, prologue, tuple(measured), _double=double)


def _draws(node: fx.Node) -> bool:
    """Whether it draws from torch's generators, of which a compiled rule has others."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


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
