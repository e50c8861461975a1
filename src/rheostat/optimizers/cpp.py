"""A traced rule as the source of one C++ function over many tensors.

The graph is walked once, in its order, into single assignments: what a rule writes in place becomes
a new value of the buffer. Sums over a parameter cut the work into passes: each pass reads the
elements once, takes the sums that it can, and the next one uses them. A buffer is written as soon
as its last value is known, if no later pass needs the one before.

Every operation is rounded by itself, as in torch, so that a rule without sums gives the bits of its
eager run wherever the traced formula is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

_BINARY: Mapping[str, str] = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "maximum": "({0} < {1} ? {1} : {0})",
    "minimum": "({1} < {0} ? {1} : {0})",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}",
    "rsub": "{1} - {0}",
}
_UNARY: Mapping[str, str] = {
    "neg": "-{0}",
    "sqrt": "root({0})",
    "rsqrt": "T(1) / root({0})",
    "reciprocal": "T(1) / {0}",
    "abs": "size({0})",
    "sign": "T({0} > 0) - T({0} < 0)",
    "exp": "power_of_e({0})",
    "log": "natural_log({0})",
}
_SUMS = ("sum", "mean")

_HEAD = """\
#include <cstdint>
#include <cstdlib>
#if defined(__x86_64__) && defined(__GLIBC__)
#define MANY __attribute__((simd("notinbranch")))
#else
#define MANY
#endif
extern "C" {
MANY float expf(float);
MANY float logf(float);
MANY double exp(double);
MANY double log(double);
double pow(double, double);
}
static inline float root(float x) { return __builtin_sqrtf(x); }
static inline double root(double x) { return __builtin_sqrt(x); }
static inline float size(float x) { return __builtin_fabsf(x); }
static inline double size(double x) { return __builtin_fabs(x); }
static inline float power_of_e(float x) { return expf(x); }
static inline double power_of_e(double x) { return exp(x); }
static inline float natural_log(float x) { return logf(x); }
static inline double natural_log(double x) { return log(x); }
// Elements between two prefetches, how far ahead they look, and elements of one thread's share.
constexpr int64_t STRIDE = 256, AHEAD = 1024, SHARE = 16384;
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline void fetch(const void* p, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch((const char*)p + at);
}
"""


class UnsupportedError(Exception):
    """The graph does what this module cannot say in C++."""


@dataclass(frozen=True, eq=False)
class _Value:
    """One assignment: of an element ("wide"), or of a number of the whole parameter.

    `code` has a {} for each input; None loads the tensor or the scalar `index`. `level` is the
    first pass in which it can be known; for a sum, that of what it adds, plus one.
    """

    wide: bool
    level: int
    code: str | None
    inputs: tuple[Any, ...] = ()
    index: int = 0
    kind: str = "T"
    summed: bool = False


def source(graph: fx.GraphModule, wide: Sequence[bool]) -> str:
    """C++ for a graph of `Traced`, whose inputs are the parameter, the gradient, the buffers
    (`wide` says for each of these whether it is shaped like the parameter) and the vector.

    It has two functions, `run_float` and `run_double`:
    ``run(count, lengths, pointers, vector, threads)``, where `pointers` holds the addresses of each
    parameter's tensors, one parameter behind the other.

    Raises UnsupportedError.
    """
    return _Writer(graph, wide).text()


class _Writer:
    def __init__(self, graph: fx.GraphModule, wide: Sequence[bool]) -> None:
        self._wide = wide
        self._cells: dict[fx.Node, list[_Value]] = {}
        self._values: list[_Value] = []
        self._loads: list[_Value] = []
        self._places: list[list[_Value]] = []
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function":
                self._call(node)
        # (place of the tensor, its last value) for whatever the rule writes.
        self._stores = [
            (place, cell[0])
            for place, cell in enumerate(self._places)
            if cell[0] is not self._loads[place]
        ]
        if any(place == 1 for place, _ in self._stores):
            raise UnsupportedError("a rule that writes to its gradient")
        self._passes = 1 + max(value.level for _, value in self._stores)
        self._early = self._written_early()

    # -- reading the graph ----------------------------------------------------------------------

    def _new(self, value: _Value) -> _Value:
        self._values.append(value)
        return value

    def _placeholder(self, node: fx.Node) -> None:
        place = len(self._places)
        if place == len(self._wide):
            return  # the vector
        load = self._new(_Value(self._wide[place], 0, None, index=place))
        self._loads.append(load)
        # A cell holds the present value; whoever writes in place gives it another.
        self._cells[node] = [load]
        self._places.append(self._cells[node])

    def _call(self, node: fx.Node) -> None:
        name = node.target.__name__.partition(".")[0]  # type: ignore[union-attr]
        in_place = name.endswith("_")
        name = name.removesuffix("_")
        if name == "select":
            number = self._new(_Value(False, 0, "vector[{0}]", (int(node.args[2]),)))  # type: ignore[arg-type]
            self._cells[node] = [number]
            return
        value = self._computed(name, node)
        if in_place:
            cell = self._cells[node.args[0]]  # type: ignore[index]
            if cell[0].wide and not value.wide:
                value = self._new(_Value(True, value.level, "{0}", (value,)))
            cell[0] = value
            self._cells[node] = cell
        else:
            self._cells[node] = [value]

    def _computed(self, name: str, node: fx.Node) -> _Value:
        args = [self._argument(one) for one in node.args]
        if name in _SUMS:
            return self._sum(name, args, node)
        if name == "copy":
            return args[1] if isinstance(args[1], _Value) else self._apply("{0}", args[1:2])
        if name == "clone":
            return args[0]
        if name == "pow":
            return self._power(args)
        if name == "clamp":
            return self._clamp(args, node)
        if name == "where":
            return self._apply("({0} ? {1} : {2})", args)
        if name in ("scalar_tensor", "full"):
            return self._apply("T({0})", [node.args[0] if name == "scalar_tensor" else node.args[1]])
        if name == "zeros":
            return self._apply("T(0)", [])
        if name in ("addcmul", "addcdiv"):
            scaled = _BINARY["mul" if name == "addcmul" else "div"]
            product = self._apply(scaled, args[1:3])
            share = node.kwargs.get("value", 1)
            if share != 1:
                product = self._apply("T({0}) * {1}", [share, product])
            return self._apply("{0} + {1}", [args[0], product])
        if name in _BINARY:
            if node.kwargs.get("alpha", 1) != 1:
                args[1] = self._apply("T({0}) * {1}", [node.kwargs["alpha"], args[1]])
            truth = name in ("gt", "ge", "lt", "le", "eq", "ne", "bitwise_and", "bitwise_or")
            return self._apply(_BINARY[name], args[:2], "bool" if truth else "T")
        if name in _UNARY:
            return self._apply(_UNARY[name], args[:1])
        raise UnsupportedError(str(node.target))

    def _argument(self, one: Any) -> Any:
        if isinstance(one, fx.Node):
            return self._cells[one][0]
        return one

    def _apply(self, code: str, inputs: Sequence[Any], kind: str = "T") -> _Value:
        known = [one for one in inputs if isinstance(one, _Value)]
        others = [one for one in inputs if not isinstance(one, _Value)]
        if any(not isinstance(one, int | float) for one in others):
            raise UnsupportedError(f"an argument {others}")
        wide = any(one.wide for one in known)
        level = max((one.level for one in known), default=0)
        return self._new(_Value(wide, level, code, tuple(inputs), kind=kind))

    def _sum(self, name: str, args: list[Any], node: fx.Node) -> _Value:
        if len(node.args) > 1 or not args[0].wide:
            raise UnsupportedError("a sum over a part")
        total = self._new(
            _Value(False, args[0].level + 1, "T({0})", (args[0],), len(self._sums), summed=True)
        )
        return self._apply("{0} / T(n)", [total]) if name == "mean" else total

    @property
    def _sums(self) -> list[_Value]:
        return [value for value in self._values if value.summed]

    def _power(self, args: list[Any]) -> _Value:
        base, exponent = args
        if exponent == 2:
            return self._apply("{0} * {0}", [base])
        if exponent == 0.5:
            return self._apply(_UNARY["sqrt"], [base])
        if not any(isinstance(one, _Value) and one.wide for one in args):
            return self._apply("T(pow({0}, {1}))", args)  # once a parameter, not once an element
        raise UnsupportedError(f"a power of {exponent}")

    def _clamp(self, args: list[Any], node: fx.Node) -> _Value:
        low, high = [*args[1:], None, None][:2]
        low = self._argument(node.kwargs.get("min", low))
        high = self._argument(node.kwargs.get("max", high))
        value = args[0]
        # A NaN is smaller than nothing and stays.
        if low is not None:
            value = self._apply("({0} < {1} ? {1} : {0})", [value, low])
        if high is not None:
            value = self._apply("({1} < {0} ? {1} : {0})", [value, high])
        return value

    # -- passes ---------------------------------------------------------------------------------

    def _written_early(self) -> dict[int, int]:
        """Place of a buffer -> the pass that writes it: the first that can, unless a later one
        still needs the value that was there; then the last."""
        last = self._passes - 1
        early = {place: value.level for place, value in self._stores if value.wide}
        while True:
            clash = next(
                (
                    place
                    for number in range(self._passes)
                    for value in self._needed(number, early)
                    if value.code is None
                    and value.wide
                    and early.get(value.index, number) < number
                    for place in [value.index]
                ),
                None,
            )
            if clash is None:
                return early
            early[clash] = last

    def _roots(self, number: int, early: Mapping[int, int]) -> Iterator[_Value]:
        for total in self._sums:
            if total.level == number + 1:
                yield total.inputs[0]
        for place, value in self._stores:
            if value.wide and early[place] == number:
                yield value

    def _needed(self, number: int, early: Mapping[int, int]) -> list[_Value]:
        """The wide values of a pass, those that it computes and those that it loads, in order."""
        stored = {id(value) for place, value in self._stores if early.get(place, number) < number}
        found: dict[int, _Value] = {}

        def visit(value: Any) -> None:
            if not isinstance(value, _Value) or not value.wide or id(value) in found:
                return
            if id(value) not in stored:
                for one in value.inputs:
                    visit(one)
            found[id(value)] = value

        for root in self._roots(number, early):
            visit(root)
        return [value for value in self._values if id(value) in found]

    # -- writing --------------------------------------------------------------------------------

    def text(self) -> str:
        """The whole file."""
        lines = [_HEAD]
        numbers = self._narrow()
        for number in range(self._passes):
            lines += self._pass(number)
        lines += self._parameter(numbers)
        lines += self._run()
        return "\n".join(lines) + "\n"

    def _name(self, value: Any) -> str:
        if isinstance(value, _Value):
            return f"{'w' if value.wide else 'c'}{self._values.index(value)}"
        return f"T({value!r})" if isinstance(value, float) else str(value)

    def _expression(self, value: _Value) -> str:
        assert value.code is not None
        return value.code.format(*(self._name(one) for one in value.inputs))

    def _narrow(self) -> list[_Value]:
        """The numbers of the whole parameter, in order."""
        return [value for value in self._values if not value.wide]

    def _scalars_of(self, number: int) -> list[_Value]:
        """The narrow values that a pass uses."""
        stored = {id(v) for place, v in self._stores if self._early.get(place, number) < number}
        used = {
            id(one)
            for value in self._needed(number, self._early)
            if id(value) not in stored
            for one in value.inputs
            if isinstance(one, _Value) and not one.wide
        }
        return [value for value in self._narrow() if id(value) in used]

    def _pass(self, number: int) -> list[str]:
        needed = self._needed(number, self._early)
        stored = {
            id(value): place
            for place, value in self._stores
            if self._early.get(place, number) < number
        }
        loads: dict[int, int] = {}
        body: list[str] = []
        for value in needed:
            if id(value) in stored or value.code is None:
                place = stored.get(id(value), value.index)
                loads[place] = place
                body.append(f"const T {self._name(value)} = t{place}[i];")
            else:
                body.append(f"const {value.kind} {self._name(value)} = {self._expression(value)};")
        writes = [
            (place, value)
            for place, value in self._stores
            if value.wide and self._early[place] == number
        ]
        body += [f"t{place}[i] = {self._name(value)};" for place, value in writes]
        sums = [total for total in self._sums if total.level == number + 1]
        body += [f"a{total.index} += {self._name(total.inputs[0])};" for total in sums]
        places = sorted({*loads, *(place for place, _ in writes)})
        written = {place for place, _ in writes}
        given = [
            *(f"{'' if p in written else 'const '}T* __restrict t{p}" for p in places),
            *(f"const {v.kind} {self._name(v)}" for v in self._scalars_of(number)),
            "int64_t begin",
            "int64_t end",
            "double* sums",
        ]
        adds = ", ".join(f"a{total.index}" for total in sums)
        return [
            f"template <typename T> static void pass{number}({', '.join(given)}) {{",
            *(f"  double s{total.index} = 0;" for total in sums),
            "  for (int64_t b = begin; b < end; b += STRIDE) {",
            "    const int64_t stop = least(b + STRIDE, end);",
            *(f"    fetch(t{place} + b + AHEAD, STRIDE * sizeof(T));" for place in places),
            *(f"    T a{total.index} = 0;" for total in sums),
            f"#pragma omp simd{f' reduction(+ : {adds})' if adds else ''}",
            "    for (int64_t i = b; i < stop; i++) {",
            *(f"      {line}" for line in body),
            "    }",
            *(f"    s{total.index} += a{total.index};" for total in sums),
            "  }",
            *(f"  sums[{total.index}] += s{total.index};" for total in sums),
            "}",
        ]

    def _call_of(self, number: int, begin: str, end: str, sums: str) -> str:
        needed = self._needed(number, self._early)
        stored = {
            id(v): place for place, v in self._stores if self._early.get(place, number) < number
        }
        places = {
            stored.get(id(v), v.index) for v in needed if id(v) in stored or v.code is None
        } | {p for p, v in self._stores if v.wide and self._early[p] == number}
        names = [self._name(v) for v in self._scalars_of(number)]
        given = [*(f"t{p}" for p in sorted(places)), *names, begin, end, sums]
        return f"pass{number}<T>({', '.join(given)});"

    def _parameter(self, numbers: list[_Value]) -> list[str]:
        """One parameter: its passes, each over shares that several threads may take, and what is
        computed between them. Shares are summed in their order, whoever took them."""
        count = len(self._sums)
        lines = [
            "template <typename T> static void parameter("
            "int64_t n, void* const* tensors, const T* vector, int threads) {",
            *(f"  T* t{place} = (T*)tensors[{place}];" for place in range(len(self._places))),
            "  const int64_t shares = (n + SHARE - 1) / SHARE;",
        ]
        if count:
            lines.append(
                f"  double* const sums = (double*)calloc(shares * {count}, sizeof(double));"
            )
        done: set[int] = set()

        def settle(level: int) -> None:
            for value in numbers:
                if value.level <= level and id(value) not in done:
                    done.add(id(value))
                    lines.append(f"  const {value.kind} {self._name(value)} = {self._scalar(value)};")

        settle(0)
        for number in range(self._passes):
            at = f"sums + k * {count}" if count else "nullptr"
            end = "least((k + 1) * SHARE, n)"
            lines += [
                "#pragma omp parallel for num_threads(threads) if (threads > 1 && shares > 1)",
                "  for (int64_t k = 0; k < shares; k++)",
                f"    {self._call_of(number, 'k * SHARE', end, at)}",
            ]
            for total in self._sums:
                if total.level == number + 1:
                    i = total.index
                    lines += [
                        f"  double total{i} = 0;",
                        f"  for (int64_t k = 0; k < shares; k++) total{i} += sums[k * {count} + {i}];",
                    ]
            settle(number + 1)
        for place, value in self._stores:
            if not value.wide:
                lines.append(f"  t{place}[0] = {self._name(value)};")
        if count:
            lines.append("  free(sums);")
        return [*lines, "}"]

    def _scalar(self, value: _Value) -> str:
        if value.code is None:
            return f"t{value.index}[0]"
        if value.summed:
            return f"T(total{value.index})"
        return self._expression(value)

    def _run(self) -> list[str]:
        lines: list[str] = []
        for dtype in ("float", "double"):
            lines += [
                f'extern "C" void run_{dtype}(int64_t count, const int64_t* lengths, '
                f"void* const* tensors, const {dtype}* vector, int threads) {{",
                "  for (int64_t i = 0; i < count; i++)",
                f"    parameter<{dtype}>(lengths[i], tensors + i * {len(self._places)}, vector, threads);",
                "}",
            ]
        return lines
