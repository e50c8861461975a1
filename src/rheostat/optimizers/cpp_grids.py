"""A traced rule over matrices as the source of one C++ function (`grids` says what its passes are).

Numbers that depend on the shape, as all that stand in the graph, are no part of the source but an
argument (`constants`), so that matrices of many shapes share one function. Operations are rounded
one by one, and sums taken in double precision in shares that are added in one order, as in `cpp`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rheostat.optimizers.assignments import Axes, Store, Value, When
from rheostat.optimizers.cpp import HEAD, spare
from rheostat.optimizers.grids import Grid

Kind = Literal["T", "double", "half"]
"""What a tensor holds: numbers of the parameter's type, of float64, of bfloat16."""

_HEAD = (
    HEAD
    + """\
// Elements of a share at least; there are 16 at most, because each sums columns in its own memory.
constexpr int64_t ROWS = 65536;
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline float of_half(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float found;
  memcpy(&found, &bits, 4);
  return found;
}
static inline uint16_t to_half(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t even = bits + 0x7fff + ((bits >> 16) & 1);
  return x != x ? 0x7fc0 : even >> 16;
}
static inline float rounded(float x) { return of_half(to_half(x)); }
static inline double rounded(double x) { return of_half(to_half((float)x)); }
static inline double folded(double* sums) {
  for (int64_t left = STRIDE / 2; left; left /= 2)
    for (int64_t j = 0; j < left; j++) sums[j] += sums[j + left];
  return sums[0];
}
"""
)
_RUN = """\
extern "C" void run_{0}(
    int64_t count, const int64_t* shapes, void* const* tensors, const double* vector,
    const double* const* constants, int threads) {{
  for (int64_t i = 0; i < count; i++)
    parameter<{0}>(
        shapes[2 * i], shapes[2 * i + 1], tensors + i * {1}, vector, constants[i], threads);
}}"""


def source(grid: Grid, kinds: Sequence[Kind]) -> tuple[str, list[float]]:
    """C++ for a rule, and its constants; `kinds` say what its tensors hold.

    It has two functions, `run_float` and `run_double`:
    ``run(count, shapes, tensors, vector, constants, threads)``, where `shapes` holds each
    parameter's rows and columns, `tensors` the addresses of its tensors, one parameter behind the
    other, and `constants` the address of those for its shape.
    """
    writer = _Writer(grid, kinds)
    return writer.text(), writer.constants


class _Writer:
    def __init__(self, grid: Grid, kinds: Sequence[Kind]) -> None:
        self._grid, self._tensors = grid, len(kinds)
        self._kinds: Sequence[Kind] = (*kinds, "T")  # the last for what is carried
        self.constants: list[float] = []
        self._literals: dict[tuple[int, int], int] = {}
        for value in grid.values:
            for position, one in enumerate(value.inputs):
                if not isinstance(one, Value) and value.code != "vector[{0}]":
                    self._literals[id(value), position] = len(self.constants)
                    self.constants.append(float(one))
        letters: dict[Axes, str] = {"rc": "w", "r": "r", "c": "c", "": "n"}
        self._names = {id(v): f"{letters[v.axes]}{i}" for i, v in enumerate(grid.values)}
        self._used = [self._uses(number) for number in range(grid.passes)]
        """Of each pass, the values that what it computes of elements and rows is made of."""
        shared = [v for v in grid.sums if v.inputs[0].wide and v.axes != "r"]
        self._shared = sorted(shared, key=lambda v: v.axes)
        """The sums that each share has a part of: those over all, then those of columns."""
        self._rows = [v for v in grid.values if self._outlives_its_pass(v)]
        """What there is of each row and has memory of its own."""
        self._columns = [v for v in grid.values if v.axes == "c" and not _loads(v)]
        """The same of columns, which passes get from memory."""

    def _uses(self, number: int) -> set[int]:
        computed = [v for v in self._grid.values if v.axes == "r" and v.level == number]
        for when in self._stages(number):
            computed += [value for value, place in self._grid.needed(when) if place is None]
        return {id(one) for value in computed for one in value.inputs}

    def _outlives_its_pass(self, value: Value) -> bool:
        if value.axes != "r" or _loads(value):
            return False
        stored = any(store.value is value for store in self._grid.stores)
        summed = any(total.inputs[0] is value for total in self._grid.sums)
        later = any(id(value) in used for used in self._used[value.level + 1 :])
        return stored or summed or later

    def _stages(self, number: int) -> list[When]:
        return [(number, stage) for stage in range(self._grid.stages[number])]

    # -- names and codes ------------------------------------------------------------------------

    def _name(self, value: Value) -> str:
        return self._names[id(value)]

    def _code(self, value: Value) -> str:
        assert value.code is not None
        inputs: list[str] = []
        for position, one in enumerate(value.inputs):
            if isinstance(one, Value):
                inputs.append(self._name(one) + ("[j]" if one.axes == "c" else ""))
            elif (id(value), position) in self._literals:
                inputs.append(f"T(k[{self._literals[id(value), position]}])")
            else:
                inputs.append(str(one))
        code = value.code.format(*inputs)
        return code if value.axes else code.replace("T(", "double(")

    def _type(self, place: int) -> str:
        kind = self._kinds[place]
        return "uint16_t" if kind == "half" else kind

    def _offset(self, of: Value) -> str:
        """Where a sum begins among those of a share."""
        whole = sum(not one.axes for one in self._shared)
        at = self._shared.index(of)
        return str(at) if at < whole else f"{whole} + {at - whole} * columns"

    # -- the source -----------------------------------------------------------------------------

    def text(self) -> str:
        lines = [_HEAD]
        for number in range(self._grid.passes):
            lines += self._pass(number)
        lines += self._parameter()
        lines += [_RUN.format(dtype, self._tensors) for dtype in ("float", "double")]
        return "\n".join(lines) + "\n"

    def _given(self, number: int) -> Iterator[tuple[str, str]]:
        """The types and names of what a pass is given: tensors, numbers, columns and rows."""
        grid, used = self._grid, self._used[number]
        needed = [pair for when in self._stages(number) for pair in grid.needed(when)]
        places = {place for _, place in needed if place is not None}
        written = {s.place for when in self._stages(number) for s in grid.stores_at(when)}
        rows = {v.place for v in grid.values if v.axes == "r" and _loads(v) and id(v) in used}
        for place in sorted(places | written | rows):
            const = "" if place in written else "const "
            yield f"{const}{self._type(place)}* __restrict", f"t{place}"
        for value in grid.values:
            if value.axes == "" and id(value) in used:
                yield f"const {value.kind}", self._name(value)
            elif value.axes == "c" and id(value) in used:
                yield "const T* __restrict", self._name(value)
        for value in self._rows:
            if value.level == number or id(value) in used:
                yield "T* __restrict", f"kept_{self._name(value)}"
        yield "const double* __restrict", "k"

    def _pass(self, number: int) -> list[str]:
        """The function of a pass, over some rows."""
        sums = [v for v in self._shared if v.inputs[0].level == number]
        lines = [
            f"template <typename T> static void pass{number}(",
            f"    {', '.join(f'{kind} {name}' for kind, name in self._given(number))},",
            "    int64_t begin, int64_t end, int64_t rows, int64_t columns, double* sums) {",
            *(
                f"  double* __restrict q{v.place} = sums + {self._offset(v)};"
                if v.axes
                else f"  double a{v.place}[STRIDE] = {{}};"
                for v in sums
            ),
            "  for (int64_t row = begin; row < end; row++) {",
        ]
        for value in self._grid.values:
            if value.axes == "r" and id(value) in self._used[number]:
                name = self._name(value)
                if _loads(value):
                    lines.append(f"    const T {name} = t{value.place}[row];")
                elif value.level < number:
                    lines.append(f"    const T {name} = kept_{name}[row];")
        for when in self._stages(number):
            lines += self._stage(when)
        folded = (f"  sums[{self._offset(v)}] += folded(a{v.place});" for v in sums if not v.axes)
        return [*lines, "  }", *folded, "}"]

    def _stage(self, when: When) -> list[str]:
        """What is done with a row: its numbers, a walk along it, and what that sums."""
        grid = self._grid
        needed, stores, sums = grid.needed(when), grid.stores_at(when), grid.sums_at(when)
        lines: list[str] = []
        for value in grid.values:
            if value.axes == "r" and value.code is not None and value.when == when:
                lines += self._row(value, self._code(value))
        if not (stores or sums):
            return lines
        along = [total for total in sums if total.axes == "r"]
        places = sorted({p for _, p in needed if p is not None} | {s.place for s in stores})
        lines += [
            *(f"    double a{total.place}[STRIDE] = {{}};" for total in along),
            "    for (int64_t b = 0; b < columns; b += STRIDE) {",
            "      const int64_t at = row * columns, stop = least(b + STRIDE, columns);",
            *(
                f"      fetch(t{place} + at + b + AHEAD, STRIDE * sizeof(*t{place}));"
                for place in places
                if when[1] == 0  # later stages find the row in the cache
            ),
            "#pragma omp simd",
            "      for (int64_t j = b; j < stop; j++) {",
            *(f"        {self._element(value, place)}" for value, place in needed),
            *(f"        {self._store(store)}" for store in stores),
            *(
                f"        {f'q{v.place}[j]' if v.axes == 'c' else f'a{v.place}[j - b]'}"
                f" += {self._name(v.inputs[0])};"
                for v in sums
            ),
            "      }",
            "    }",
        ]
        for total in along:
            lines += self._row(total, f"T(folded(a{total.place}))")
        return lines

    def _element(self, value: Value, place: int | None) -> str:
        if place is None:
            return f"const {value.kind} {self._name(value)} = {self._code(value)};"
        held = f"t{place}[at + j]"
        code = f"T(of_half({held}))" if self._kinds[place] == "half" else held
        return f"const T {self._name(value)} = {code};"

    def _store(self, store: Store) -> str:
        name = self._name(store.value)
        code = f"to_half((float){name})" if self._kinds[store.place] == "half" else name
        return f"t{store.place}[at + j] = {code};"

    def _row(self, value: Value, code: str) -> list[str]:
        name = self._name(value)
        kept = [f"    kept_{name}[row] = {name};"] if value in self._rows else []
        return [f"    const {value.kind} {name} = {code};", *kept]

    # -- one parameter --------------------------------------------------------------------------

    def _parameter(self) -> list[str]:
        """The function of one parameter: its passes, each in shares of rows that several threads
        may take, and between them what is computed once."""
        grid = self._grid
        whole = sum(not one.axes for one in self._shared)
        rows, columns = len(self._rows), len(self._columns)
        lines = [
            "template <typename T> static void parameter(",
            "    int64_t rows, int64_t columns, void* const* tensors, const double* vector,",
            "    const double* k, int threads) {",
            *(
                f"  {self._type(place)}* t{place} = ({self._type(place)}*)tensors[{place}];"
                for place in range(self._tensors)
            ),
            *spare(grid, "rows * columns"),
            "  const int64_t each = most(most(ROWS / columns, (rows + 15) / 16), 4);",
            "  const int64_t shares = (rows + each - 1) / each;",
            f"  const int64_t width = {whole} + {len(self._shared) - whole} * columns;",
            "  double* const sums = (double*)calloc(shares * width + 1, sizeof(double));",
            f"  const int64_t kept = {rows} * rows + {columns} * columns;",
            "  T* const memory = (T*)malloc((kept + 1) * sizeof(T));",
            *(
                f"  T* const kept_{self._name(v)} = memory + {i} * rows;"
                for i, v in enumerate(self._rows)
            ),
            *(
                f"  T* const {self._name(v)} = memory + {rows} * rows + {i} * columns;"
                for i, v in enumerate(self._columns)
            ),
            *self._settled(0),
        ]
        for number in range(grid.passes):
            lines += [
                "#pragma omp parallel for num_threads(threads) if (threads > 1 && shares > 1)",
                "  for (int64_t share = 0; share < shares; share++) {",
                "    const int64_t begin = share * each;",
                f"    pass{number}<T>({', '.join(name for _, name in self._given(number))},",
                "        begin, least(begin + each, rows), rows, columns, sums + share * width);",
                "  }",
                *self._settled(number + 1),
            ]
        for store in grid.stores:
            name, place = self._name(store.value), store.place
            if store.value.axes == "r":
                lines.append(f"  for (int64_t i = 0; i < rows; i++) t{place}[i] = kept_{name}[i];")
            elif store.value.axes == "c":
                lines.append(f"  for (int64_t j = 0; j < columns; j++) t{place}[j] = {name}[j];")
            elif not store.value.axes:
                lines.append(f"  t{place}[0] = {name};")
        return [*lines, "  free(sums);", "  free(memory);", "}"]

    def _settled(self, level: int) -> list[str]:
        """What is known of columns and of all from the end of a pass on."""
        lines: list[str] = []
        for value in self._grid.values:
            if value.level == level and "r" not in value.axes:
                lines += self._sum(value) if value.summed else [self._between(value)]
        return lines

    def _between(self, value: Value) -> str:
        name = self._name(value)
        if not value.axes:
            code = f"t{value.place}[0]" if _loads(value) else self._code(value)
            return f"  const {value.kind.replace('T', 'double')} {name} = {code};"
        if _loads(value):
            return f"  const T* const {name} = t{value.place};"
        return f"  for (int64_t j = 0; j < columns; j++) {name}[j] = {self._code(value)};"

    def _sum(self, value: Value) -> list[str]:
        """A sum from those of the shares, or over what is kept of rows or columns."""
        name, of = self._name(value), value.inputs[0]
        if value.axes:
            first = f"sums[{self._offset(value)} + j]"
            return [
                "  for (int64_t share = 1; share < shares; share++)",
                "    for (int64_t j = 0; j < columns; j++)",
                f"      {first} += sums[share * width + {self._offset(value)} + j];",
                f"  for (int64_t j = 0; j < columns; j++) {name}[j] = T({first});",
            ]
        match of.axes:
            case "r":
                term, count = f"kept_{self._name(of)}[i]", "rows"
            case "c":
                term, count = f"{self._name(of)}[i]", "columns"
            case _:
                term, count = f"sums[i * width + {self._offset(value)}]", "shares"
        return [
            f"  double {name} = 0;",
            f"  for (int64_t i = 0; i < {count}; i++) {name} += {term};",
            f"  {name} = T({name});",
        ]


def _loads(value: Value) -> bool:
    return value.code is None and not value.summed
