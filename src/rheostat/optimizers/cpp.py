"""A traced rule as the source of one C++ function over many tensors.

Every operation is rounded by itself, as in torch, so that a rule has the bits of its eager run
wherever the traced formula is the same. Sums are taken in double precision, in shares that are
added in one order, so that the bits do not depend on the threads. Every other pass runs backwards:
it begins with what the pass before has left in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from rheostat.optimizers.assignments import PRODUCT, Assignments, Reader, Value

HEAD = """\
#include <cstdint>
#include <cstdlib>
#include <cstring>
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
// Of a float to less than one unit in the last place, without a division: from a third of the
// exponent, a step of fifth order to 1 / cube root (the series of (1 - h)^(-1/3)), and one of
// Newton's to the cube root.
static inline float cube_root(float x) {
  const float y = x < 1e-30f ? x * 0x1p60f : x;  // whose cube root's cube is no tiny number
  int32_t bits;
  memcpy(&bits, &y, 4);
  bits = 0x54a21d2a - (int32_t)((float)bits * (1.0f / 3));
  float z;
  memcpy(&z, &bits, 4);
  const float h = 1 - y * z * (z * z);
  const float near = 1.0f / 3 + 2.0f / 9 * h, far = 14.0f / 81 + 35.0f / 243 * h;
  z = z + z * h * (near + h * h * far);
  const float square = z * z, rough = y * square;
  const float fine = rough + (y - rough * (rough * rough)) * (square * (1.0f / 3));
  const float found = x < 1e-30f ? fine * 0x1p-20f : fine;
  return x < 0 ? __builtin_nanf("") : x > 0 && x < __builtin_inff() ? found : x;
}
static inline double cube_root(double x) { return exp(log(x) * (1.0 / 3)); }
// Elements between two prefetches, how far ahead they look, and elements of one thread's share.
constexpr int64_t STRIDE = 64, AHEAD = 512, SHARE = 16384;
// Memory for what one pass leaves to the next; each thread that steps has its own, and keeps it.
struct Spare {
  void* at = nullptr;
  int64_t bytes = 0;
  ~Spare() { free(at); }
};
static inline void* spare(int64_t bytes) {
  static thread_local Spare mine;
  if (bytes > mine.bytes) {
    free(mine.at);
    mine.bytes = (bytes + 4095) / 4096 * 4096;
    mine.at = aligned_alloc(4096, mine.bytes);
  }
  return mine.at;
}
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline void fetch(const void* p, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch((const char*)p + at);
}
"""

_RUN = """\
extern "C" void run_{0}(
    int64_t count, const int64_t* lengths, void* const* tensors, const double* vector,
    double* results, int threads) {{
  for (int64_t i = 0; i < count; i++)
    parameter<{0}>(lengths[i], tensors + i * {1}, vector, results, threads);
}}"""


def source(graph: fx.GraphModule, wide: Sequence[bool], doubles: Sequence[bool] = ()) -> str:
    """C++ for a graph of `Traced`, whose inputs are the parameter, the gradient, the buffers
    (`wide` says for each of these whether it is shaped like the parameter, `doubles` which are
    float64 whatever the parameter is) and the vector, in float64.

    Numbers of the whole parameter are computed in double precision.

    It has two functions, `run_float` and `run_double`:
    ``run(count, lengths, tensors, vector, results, threads)``, where `tensors` holds the addresses
    of each parameter's tensors, one parameter behind the other. To `results`, in float64, is added
    what the graph gives of each parameter.

    Raises UnsupportedError.
    """
    return _Writer(Assignments(graph, wide), doubles).text()


def spare(rule: Reader, count: str) -> list[str]:
    """Where a pass leaves what is carried to a later one: of so many elements."""
    if rule.carried is None:
        return []
    return [f"  T* t{rule.carried.place} = (T*)spare({count} * sizeof(T));"]


class _Writer:
    def __init__(self, rule: Assignments, doubles: Sequence[bool]) -> None:
        self._rule = rule
        self._doubles = doubles or (False,) * len(rule.axes)
        self._names = {
            id(value): f"{'w' if value.wide else 'c'}{i}" for i, value in enumerate(rule.values)
        }

    def text(self) -> str:
        lines = [HEAD]
        for number in range(self._rule.passes):
            lines += self._pass(number)
        lines += self._parameter()
        lines += [_RUN.format(dtype, len(self._rule.axes)) for dtype in ("float", "double")]
        return "\n".join(lines) + "\n"

    def _name(self, value: Any) -> str:
        if isinstance(value, Value):
            return self._names[id(value)]
        return f"T({value!r})" if isinstance(value, float) else str(value)

    def _assign(self, value: Value, code: str | None = None) -> str:
        if code is None:
            assert value.code is not None
            code = value.code.format(*map(self._name, value.inputs))
        kind = value.kind
        if not value.wide:
            kind, code = kind.replace("T", "double"), code.replace("T(", "double(")
        return f"const {kind} {self._name(value)} = {code};"

    # -- one pass -------------------------------------------------------------------------------

    def _places(self, number: int) -> list[int]:
        """The tensors that a pass reads or writes."""
        read = {place for _, place in self._rule.needed((number, 0)) if place is not None}
        return sorted(read | {store.place for store in self._rule.stores_at((number, 0))})

    def _numbers(self, number: int) -> list[Value]:
        """The numbers of the whole parameter that a pass uses."""
        used = {
            id(one)
            for value, place in self._rule.needed((number, 0))
            if place is None
            for one in value.inputs
        }
        return [v for v in self._rule.values if not v.wide and id(v) in used]

    def _together(self, number: int) -> int:
        """How many shares a pass runs through side by side: two where it only reads, which gets
        more from the memory; what also writes is no faster for it."""
        return 1 if self._rule.stores_at((number, 0)) else 2

    def _pass(self, number: int) -> list[str]:
        """The function of a pass, over a share of the `n` elements and those beside it."""
        writes, sums = self._rule.stores_at((number, 0)), self._rule.sums_at((number, 0))
        written = {store.place for store in writes}
        places = self._places(number)
        given = [
            *(f"{'' if p in written else 'const '}T* __restrict t{p}" for p in places),
            *(f"const {value.kind} {self._name(value)}" for value in self._numbers(number)),
            "int64_t share, int64_t n, double* sums",
        ]
        together, count = self._together(number), len(self._rule.sums)
        # A sum for each place in a stride: no element waits for the one before.
        ahead = "-" if number % 2 else "+"
        return [
            f"template <typename T> static void pass{number}({', '.join(given)}) {{",
            "  const int64_t begin = share * SHARE, most = least(n - begin, SHARE);",
            f"  const int64_t ways = least((n - begin + SHARE - 1) / SHARE, {together});",
            *(f"  double a{total.place}[{together}][STRIDE] = {{}};" for total in sums),
            f"  {_walk('place', '0', 'most', 'STRIDE', number)}",
            "  for (int64_t way = 0; way < ways; way++) {",
            "    const int64_t b = begin + way * SHARE + place, stop = least(b + STRIDE, n);",
            *(f"    fetch(t{place} + b {ahead} AHEAD, STRIDE * sizeof(T));" for place in places),
            "#pragma omp simd",
            "    for (int64_t i = b; i < stop; i++) {",
            *(
                "      " + self._assign(value, None if place is None else f"t{place}[i]")
                for value, place in self._rule.needed((number, 0))
            ),
            *(f"      t{store.place}[i] = {self._name(store.value)};" for store in writes),
            *(
                f"      a{total.place}[way][i - b] += {self._name(total.inputs[0])};"
                for total in sums
            ),
            "    }",
            "  }",
            *(
                "  for (int64_t way = 0; way < ways; way++) for (int64_t j = 0; j < STRIDE; j++) "
                f"sums[way * {count} + {total.place}] += a{total.place}[way][j];"
                for total in sums
            ),
            "}",
        ]

    # -- one parameter --------------------------------------------------------------------------

    def _parameter(self) -> list[str]:
        """The function of one parameter: its passes, each in shares that several threads may take,
        and between them what is computed once."""
        rule, count = self._rule, len(self._rule.sums)
        lines = [
            "template <typename T> static void parameter(",
            "    int64_t n, void* const* tensors, const double* vector, double* results,",
            "    int threads) {",
            *(
                f"  {kind}* t{place} = ({kind}*)tensors[{place}];"
                for place, double in enumerate(self._doubles)
                for kind in ("double" if double else "T",)
            ),
            *spare(rule, "n"),
            "  const int64_t shares = (n + SHARE - 1) / SHARE;",
            f"  double* const sums = (double*)calloc(shares * {count} + 1, sizeof(double));",
            *self._settled(0),
        ]
        for number in range(rule.passes):
            given = [
                *(self._address(number, place) for place in self._places(number)),
                *map(self._name, self._numbers(number)),
                f"k, n, sums + k * {count}",
            ]
            lines += [
                "#pragma omp parallel for num_threads(threads) if (threads > 1 && shares > 1)",
                f"  {_walk('k', '0', 'shares', self._together(number), number)}",
                f"    pass{number}<T>({', '.join(given)});",
            ]
            for total in rule.sums_at((number, 0)):
                mine = f"sums[k * {count} + {total.place}]"
                lines += [
                    f"  double total{total.place} = 0;",
                    f"  for (int64_t k = 0; k < shares; k++) total{total.place} += {mine};",
                ]
            lines += self._settled(number + 1)
        for store in rule.stores:
            if not store.value.wide:
                lines.append(f"  t{store.place}[0] = {self._name(store.value)};")
        for place, result in enumerate(rule.results):
            lines.append(f"  results[{place}] += {self._name(result)};")
        return [*lines, "  free(sums);", "}"]

    def _address(self, number: int, place: int) -> str:
        """Where a pass finds a tensor. Of one that it only multiplies by a number, such as the
        weights by their decay, nothing is read where that is 0: it gets the gradient instead, which
        it reads anyway."""
        rule, own = self._rule, f"t{place}"
        needed, places = rule.needed((number, 0)), self._places(number)
        roots = [store.value for store in rule.stores_at((number, 0))]
        roots += [total.inputs[0] for total in rule.sums_at((number, 0))]
        load = next((value for value, held in needed if held == place), None)
        written = any(store.place == place for store in rule.stores_at((number, 0)))
        if load is None or load in roots or written or place == 1 or 1 not in places:
            return own
        users = [value for value, held in needed if held is None and load in value.inputs]
        factors = {one for user in users for one in user.inputs if one is not load}
        factor = factors.pop() if len(factors) == 1 else None
        number_only = isinstance(factor, Value) and not factor.wide
        if not number_only or any(user.code != PRODUCT for user in users):
            return own
        return f"{self._name(factor)} == 0 ? t1 : {own}"

    def _settled(self, level: int) -> list[str]:
        """The numbers that are known from the end of a pass on."""
        return [
            "  " + self._assign(value, self._read(value))
            for value in self._rule.values
            if not value.wide and value.level == level
        ]

    @staticmethod
    def _read(value: Value) -> str | None:
        if value.summed:
            return f"T(total{value.place})"
        return f"t{value.place}[0]" if value.code is None else None


def _walk(name: str, begin: str, end: str, stride: str | int, number: int) -> str:
    """The loop of a pass over what lies in strides from `begin` to `end`, forwards or backwards."""
    if number % 2:
        last = f"{begin} + ({end} - {begin} - 1) / {stride} * {stride}"
        return f"for (int64_t {name} = {last}; {name} >= {begin}; {name} -= {stride})"
    return f"for (int64_t {name} = {begin}; {name} < {end}; {name} += {stride})"
