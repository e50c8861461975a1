"""A traced rule as single assignments, cut into passes over the elements of a parameter.

The graph is walked once, in its order (`Reader`): what a rule writes in place becomes a new value
of the buffer. Sums over a parameter cut the work into passes: each reads the elements once and
takes the sums that it can, and the next one uses them. A buffer is written as soon as its last
value is known, if no later pass needs the one before. Sums along the axes of a matrix are those of
`grids`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import fx

_TRUTH: Mapping[str, str] = {
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}",
}
PRODUCT = "{0} * {1}"
# A NaN is smaller than nothing, and stays; of two values either may be one.
_AT_LEAST = "({0} < {1} ? {1} : {0})"
_AT_MOST = "({1} < {0} ? {1} : {0})"
_LARGER = "(({0} < {1}) | ({1} != {1}) ? {1} : {0})"
_SMALLER = "(({1} < {0}) | ({1} != {1}) ? {1} : {0})"
_CODE: Mapping[str, str] = {
    **_TRUTH,
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "rsub": "{1} - {0}",
    "mul": PRODUCT,
    "div": "{0} / {1}",
    "maximum": _LARGER,
    "minimum": _SMALLER,
    "neg": "-{0}",
    "sqrt": "root({0})",
    "rsqrt": "T(1) / root({0})",
    "reciprocal": "T(1) / {0}",
    "abs": "size({0})",
    "sign": "T({0} > 0) - T({0} < 0)",
    "exp": "power_of_e({0})",
    "log": "natural_log({0})",
    "where": "({0} ? {1} : {2})",
    "scalar_tensor": "T({0})",
}
_CUBE_ROOT = "cube_root({0})"
_SLOW = {_CUBE_ROOT, *map(_CODE.get, ("div", "sqrt", "rsqrt", "reciprocal", "exp", "log"))}
"""What takes as long as many products."""

Axes = Literal["rc", "r", "c", ""]
"""What there is one value for: an element, a row, a column, the whole parameter."""
When = tuple[int, int]
"""A pass, and a stage of it; of flat tensors a pass has one."""


class UnsupportedError(Exception):
    """The graph does what cannot be written here."""


@dataclass(frozen=True, eq=False)
class Value:
    """One assignment: of an element ("wide"), or of a number of the whole parameter; of a matrix
    also of a row, or of a column.

    `code` has a {} for each input; None loads the tensor at `place`. `level` is the first pass in
    which the value can be known, and `stage` which walk along a row of that pass; for a sum
    (`place` counts them) those of what it adds, plus one pass, or along a row one walk.
    """

    axes: Axes
    level: int
    code: str | None
    inputs: tuple[Any, ...] = ()
    place: int = 0
    kind: str = "T"
    summed: bool = False
    stage: int = 0

    @property
    def wide(self) -> bool:
        """Whether there is one for each element."""
        return self.axes == "rc"

    @property
    def when(self) -> When:
        """The pass and the stage."""
        return self.level, self.stage


@dataclass(frozen=True)
class Store:
    """The last value of a tensor that the rule writes."""

    place: int
    value: Value


class Reader:
    """What a graph of `Traced` computes: `stores` are what it writes, `results` what it gives.

    `axes` says for the parameter, the gradient and each buffer what it has a value for. Raises
    UnsupportedError.
    """

    def __init__(self, graph: fx.GraphModule, axes: Sequence[Axes]) -> None:
        self.axes = axes
        self.values: list[Value] = []
        self.sums: list[Value] = []
        self.carried: Store | None = None
        """What one pass leaves to a later one in memory of the kernel's own, the tensor after the
        rule's last: an element that would take long to compute again."""
        # A cell holds the present value; whoever writes in place gives it another.
        self._cells: dict[fx.Node, list[Value]] = {}
        nodes = list(graph.graph.nodes)
        placeholders = [node for node in nodes if node.op == "placeholder"]
        tensors, self._vector = placeholders[: len(axes)], placeholders[-1]
        loads = [self._new(Value(axes[i], 0, None, place=i)) for i in range(len(axes))]
        for node, load in zip(tensors, loads, strict=True):
            self._cells[node] = [load]
        for node in nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op == "get_attr":
                raise UnsupportedError("a tensor that the rule was not given")
        self.stores = [
            Store(place, self._cells[node][0])
            for place, node in enumerate(tensors)
            if self._cells[node][0] is not loads[place]
        ]
        if any(store.place == 1 for store in self.stores):
            raise UnsupportedError("a rule that writes to its gradient")
        given = next(node for node in nodes if node.op == "output").args[0] or ()
        self.results = [self._cells[node][0] for node in cast("tuple[fx.Node, ...]", given)]
        if any(result.wide for result in self.results):
            raise UnsupportedError("a result for each element")

    def _new(self, value: Value) -> Value:
        self.values.append(value)
        return value

    def _call(self, node: fx.Node) -> None:
        called = cast("Any", node.target).__name__.partition(".")[0]
        name = called.removesuffix("_")
        if name == "select":
            if node.args[0] is not self._vector:
                raise UnsupportedError("a part of a tensor")
            self._cells[node] = [self._apply("vector[{0}]", node.args[2:3])]
            return
        args = [self._cells[a][0] if isinstance(a, fx.Node) else a for a in node.args]
        options = {
            k: self._cells[v][0] if isinstance(v, fx.Node) else v for k, v in node.kwargs.items()
        }
        value = self._computed(name, args, options, node)
        if name == called:
            self._cells[node] = [value]
            return
        cell = self._cells[node] = self._cells[cast("fx.Node", node.args[0])]
        if cell[0].axes != value.axes:
            spread = cell[0].axes
            value = self._new(Value(spread, value.level, "{0}", (value,), stage=value.stage))
        cell[0] = value

    def _computed(
        self, name: str, args: list[Any], options: Mapping[str, Any], node: fx.Node
    ) -> Value:
        match name:
            case "sum" | "mean" if {*options.values()} <= {torch.float64}:  # as all are taken
                total, count = self._sum(args, node)
                return self._apply(f"{{0}} / T({count})", [total]) if name == "mean" else total
            case "copy":
                return self._apply("T({0})", args[1:2])
            case "clone":
                return args[0]
            case "zeros" if node.meta["val"].numel() == 1:
                return self._apply("T(0)", [])
            case "pow":
                return self._power(*args)
            case "clamp":
                low, high = [*args[1:], None, None][:2]
                low, high = options.get("min", low), options.get("max", high)
                least = _LARGER if isinstance(low, Value) else _AT_LEAST
                most = _SMALLER if isinstance(high, Value) else _AT_MOST
                value = args[0] if low is None else self._apply(least, [args[0], low])
                return value if high is None else self._apply(most, [value, high])
            case "addcmul" | "addcdiv":
                product = self._apply(_CODE["mul" if name == "addcmul" else "div"], args[1:3])
                share = self._apply("T({0}) * {1}", [options.get("value", 1), product])
                return self._apply(_CODE["add"], [args[0], share])
            case "exp" if (cubed := _cubed(args[0])) is not None:
                return self._apply(_CUBE_ROOT, [cubed])
            case "add" | "sub" if options.get("alpha", 1) != 1:
                more = self._apply("T({0}) * {1}", [options["alpha"], args[1]])
                return self._apply(_CODE[name], [args[0], more])
            case _ if name in _CODE and (not options or name == "scalar_tensor"):
                return self._coded(name, args)
            case _:
                raise UnsupportedError(name)

    def _coded(self, name: str, args: list[Any]) -> Value:
        code, truth = _CODE[name], name in _TRUTH
        kinds = [one.kind for one in args if isinstance(one, Value)]
        if f"{{{len(args) - 1}}}" not in code or f"{{{len(args)}}}" in code:
            raise UnsupportedError(f"{name} of {len(args)} arguments")
        if kinds and not truth and all(kind == "bool" for kind in kinds):
            raise UnsupportedError(f"{name} of truth values")
        return self._apply(code, args, "bool" if truth else "T")

    def _apply(self, code: str, inputs: Sequence[Any], kind: str = "T") -> Value:
        known = [one for one in inputs if isinstance(one, Value)]
        for one in inputs:
            finite = isinstance(one, int | float) and math.isfinite(one)
            if not isinstance(one, Value) and not finite:
                raise UnsupportedError(f"an argument {one!r}")
        axes = cast("Axes", "".join(a for a in "rc" if any(a in one.axes for one in known)))
        level, stage = max((one.when for one in known), default=(0, 0))
        stage = stage if "r" in axes else 0
        return self._new(Value(axes, level, code, tuple(inputs), kind=kind, stage=stage))

    def _sum(self, args: list[Any], node: fx.Node) -> tuple[Value, str]:
        """A sum over the whole parameter, and what counts its elements."""
        if len(node.args) > 1 or not args[0].wide:
            raise UnsupportedError("a sum over a part")
        return self._total("", args[0], (args[0].level + 1, 0)), "n"

    def _total(self, axes: Axes, of: Value, when: When) -> Value:
        """A sum, known from then on."""
        level, stage = when
        place = len(self.sums)
        total = self._new(Value(axes, level, None, (of,), place, summed=True, stage=stage))
        self.sums.append(total)
        return total

    def _power(self, base: Any, exponent: Any) -> Value:
        if exponent == 2:
            return self._apply("{0} * {0}", [base])
        if exponent == 0.5:
            return self._apply(_CODE["sqrt"], [base])
        if any(isinstance(one, Value) and one.axes for one in (base, exponent)):
            raise UnsupportedError(f"a power of {exponent}")
        return self._apply("T(pow({0}, {1}))", [base, exponent])  # once a parameter

    # -- passes ---------------------------------------------------------------------------------

    def _settle(self, every: Sequence[When]) -> None:
        """Decide what is written when, `every` being all passes and stages in order."""
        when = {s.place: s.value.when for s in self.stores if s.value.wide}
        while True:
            # Where a later one still needs the value that was there, the last one writes.
            clash = next(
                (
                    value.place
                    for now in every
                    for value, _ in self._needed(now, when)
                    if value.code is None and when.get(value.place, now) < now
                ),
                None,
            )
            if clash is None:
                break
            when[clash] = every[-1]
        self._written = when
        pairs = ((now, later) for now in every for later in every if now[0] < later[0])
        for now, later in pairs:
            for value in self._computed_twice(now, later):
                if self.carried is None:
                    self.carried = Store(len(self.axes), value)
                    when[self.carried.place] = now

    def _computed_twice(self, now: When, later: When) -> Iterator[Value]:
        """What takes long, and is computed at both times; not what is only a part of such."""
        first, second = (
            [value for value, place in self.needed(at) if place is None] for at in (now, later)
        )
        both = {id(v): v for v in second if v.kind == "T" and any(v is one for one in first)}
        parts = {id(one) for value in both.values() for one in value.inputs}

        def is_slow(value: Value) -> bool:
            known = (one for one in value.inputs if id(one) in both)
            return value.code in _SLOW or any(map(is_slow, known))

        yield from (value for at, value in both.items() if at not in parts and is_slow(value))

    def sums_at(self, when: When) -> list[Value]:
        """The sums over elements that are taken then."""
        return [one for one in self.sums if one.inputs[0].wide and one.inputs[0].when == when]

    def stores_at(self, when: When) -> list[Store]:
        """The tensors like the parameter that are written then."""
        stores = self.stores if self.carried is None else [*self.stores, self.carried]
        return [s for s in stores if s.value.wide and self._written[s.place] == when]

    def needed(self, when: When) -> list[tuple[Value, int | None]]:
        """The values of elements that are needed then, in order, each with the place of the tensor
        that holds it, and None where it must be computed."""
        return self._needed(when, self._written)

    def _needed(self, now: When, written: Mapping[int, When]) -> list[tuple[Value, int | None]]:
        held = {id(s.value): s.place for s in self.stores if written.get(s.place, now) < now}
        if (carried := self.carried) is not None and written[carried.place][0] < now[0]:
            held[id(carried.value)] = carried.place
        found: set[int] = set()

        def visit(value: Any) -> None:
            if isinstance(value, Value) and value.wide and id(value) not in found:
                found.add(id(value))
                for one in () if id(value) in held else value.inputs:
                    visit(one)

        for total in self.sums_at(now):
            visit(total.inputs[0])
        for store in self.stores:
            if store.value.wide and written[store.place] == now:
                visit(store.value)
        return [
            (value, held.get(id(value), value.place if value.code is None else None))
            for value in self.values
            if id(value) in found
        ]


class Assignments(Reader):
    """A rule over flat tensors. `wide` says which of its tensors are shaped like the parameter.

    Raises UnsupportedError.
    """

    def __init__(self, graph: fx.GraphModule, wide: Sequence[bool]) -> None:
        axes: list[Axes] = ["rc" if one else "" for one in wide]
        super().__init__(graph, axes)
        last = (*(store.value for store in self.stores), *self.results)
        self.passes = max(value.level + value.wide for value in last)
        self._settle([(number, 0) for number in range(self.passes)])


def _cubed(exponent: Any) -> Value | None:
    """What the cube root is taken of, where an exponential has a third of its logarithm."""
    if not isinstance(exponent, Value) or exponent.code != _CODE["mul"]:
        return None
    log, third = exponent.inputs
    is_third = third == 1 / 3 and isinstance(log, Value) and log.code == _CODE["log"]
    return log.inputs[0] if is_third else None
