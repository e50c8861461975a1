"""Updates made orthogonal: every singular value brought near 1 by matrix products alone.

The iteration applies odd polynomials σ ← aσ + bσ³ + cσ⁵ to the singular values of a matrix that was
scaled below 1 first. Three sets of polynomials are known by name:

- "quintic": one polynomial, repeated; Jordan et al. 2024 (kellerjordan.github.io/posts/muon). After
  the usual 5 steps, singular values from 0.002 of the norm upwards lie in [0.68, 1.21].
- "polar_express": the best polynomial for each step, for singular values from 0.001 of the norm;
  Amsel et al. 2025 (arXiv:2505.16932), Algorithm 1. After 5 steps these lie in [0.85, 1.13].
- "polar_express_wide": the same construction, for the widest range that `ns_steps` steps can bring
  into [0.82, 1.18] (4 steps: from 0.0037), begun from a tighter bound than the Frobenius norm: the
  Schatten norm of order 8, which the first products give for nothing.

A matrix with one side much longer than the other is iterated upon by its Gram matrix, the short
side squared, and multiplied with the result at the end; in half precision also in between, because
the Gram matrix rounds small singular values away (Zhang, Amsel, Chen & Dao 2026, "Gram
Newton-Schulz", dao-lab.ai/blog/2026/gram-newton-schulz).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, cast

import annotated_types as at
import numpy as np
import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform
from rheostat.transforms.norms import norm
from rheostat.transforms.numbers import larger
from rheostat.transforms.products import multiply, multiply_and_add

Coefficients: TypeAlias = Literal["quintic", "polar_express", "polar_express_wide"]
Precision: TypeAlias = Literal["bfloat16", "float32"]
Scale: TypeAlias = Literal["original", "moonlight", "match_rms", "spectral", "scion"]
Iterations: TypeAlias = Annotated[int, at.Ge(1), at.Le(100)]
Polynomial: TypeAlias = tuple[float, float, float]
"""a, b, c of aσ + bσ³ + cσ⁵."""

DEFAULT_STEPS: dict[Coefficients, int] = {
    "quintic": 5,
    "polar_express": 5,
    "polar_express_wide": 4,
}
_QUINTIC: Polynomial = (3.4445, -4.7750, 2.0315)
_LAST: Polynomial = (1.875, -1.25, 0.375)
"""What the best polynomials tend to: the fifth-order Newton–Schulz step."""
_CHUNK = 512
_LARGE = 2.0**32
"""A power of two, in the middle between what a gradient may be and what has no square any more."""
_FLOOR = 1e-3
_CUSHION = 0.02407327424182761
_SAFETY = 1.01
_WIDE_SAFETY = 1.03
_WIDE_ERROR = 0.18
_LONG = 1.5
"""Ratio of the sides from which iterating on the Gram matrix saves products."""
_SHORT = 128
"""Short side below which the rounding of a Gram matrix, which averages out over a long one, can
grow in a few steps; and little is to be saved."""


@dataclass(frozen=True)
class Iteration:
    """The polynomials in order, and whether they begin from the tighter bound."""

    polynomials: tuple[Polynomial, ...]
    tight: bool


@functools.cache
def iteration(coefficients: Coefficients, ns_steps: int | None = None) -> Iteration:
    """The set of that name; its usual number of steps where none is given."""
    steps = ns_steps or DEFAULT_STEPS[coefficients]
    if coefficients == "quintic":
        return Iteration((_QUINTIC,) * steps, tight=False)
    wide = coefficients == "polar_express_wide"
    floor = _widest_floor(steps) if wide else _FLOOR
    polynomials, _ = best_polynomials(floor, steps)
    # Rounding may carry a singular value above the bound; only the last step leaves it there.
    k = _WIDE_SAFETY if wide else _SAFETY
    safe = [(a / k, b / k**3, c / k**5) for a, b, c in polynomials[:-1]]
    return Iteration((*safe, polynomials[-1]), tight=wide)


def best_polynomials(floor: float, steps: int) -> tuple[tuple[Polynomial, ...], float]:
    """Each step's best polynomial for singular values in [floor, 1], and the error that is left.

    Best: nearest to 1 in the largest error over the range that the steps before leave. For the sake
    of rounding a lower end below `_CUSHION` of the upper one is raised to it, and the polynomial
    centred again, as Amsel et al. do.
    """
    found: list[Polynomial] = []
    lower, upper = floor, 1.0
    for _ in range(steps):
        a, b, c = _minimax(max(lower, _CUSHION * upper), upper)
        ends = [a * x + b * x**3 + c * x**5 for x in (lower, upper)]
        centre = 2 / sum(ends) if lower < _CUSHION * upper else 1.0
        found.append((a * centre, b * centre, c * centre))
        lower = ends[0] * centre
        upper = 2 - lower
    return tuple(found), 1 - lower


def _minimax(lower: float, upper: float) -> Polynomial:
    """The odd quintic nearest to 1 on [lower, upper]: its error takes the same size, with changing
    sign, at both ends and at two points between (Remez exchange)."""
    if lower > (1 - 1e-5) * upper:
        return (_LAST[0] / upper, _LAST[1] / upper**3, _LAST[2] / upper**5)
    inner = [(3 * lower + upper) / 4, (lower + 3 * upper) / 4]
    a, b, c, before = 0.0, 0.0, 0.0, math.inf
    for _ in range(50):  # it converges quadratically, to rounding
        points = np.array([lower, *inner, upper])
        system = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        a, b, c, error = (float(x) for x in np.linalg.solve(system, np.ones(4)))
        if abs(error - before) <= 1e-15:
            break
        before = error
        root = math.sqrt(9 * b * b - 20 * a * c)
        inner = [math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1)]
    return (a, b, c)


def _widest_floor(steps: int) -> float:
    """The lowest floor that so many steps bring within `_WIDE_ERROR`."""
    low, high = -12.0 * math.log(10), 0.0
    for _ in range(40):
        middle = (low + high) / 2
        _, error = best_polynomials(math.exp(middle), steps)
        low, high = (low, middle) if error <= _WIDE_ERROR else (middle, high)
    return math.exp(high)


def near_polar(
    matrix: Tensor, how: Iteration, dtype: torch.dtype, eps: float, scale: float = 1.0
) -> Tensor:
    """The orthogonal factor of a matrix's polar decomposition, nearly, times `scale`; in `dtype`.

    Zero in, zero out. The Frobenius norm is taken to be at least `eps`; it may be as large as
    float64 has a square of it.
    """
    x = _in_range(matrix, dtype)
    tall = x.shape[0] > x.shape[1]
    last = len(how.polynomials) - 1
    factor: Tensor | None = None
    short = min(x.shape)
    long = short >= _SHORT and max(x.shape) >= _LONG * short
    # Products go where nothing is read any more: fresh memory costs up to a fifth of one.
    gram, value, product, spare = x.new_empty(4, short, short).unbind()
    other: Tensor | None = None
    for phase in _phases(how.polynomials, dtype, long):
        _gram(x, tall, gram)
        for step in phase:
            a, b, c = how.polynomials[step]
            if step == last:
                a, b, c = a * scale, b * scale, c * scale
            if step == 0:
                factor = _first(gram, b, c, how.tight, eps, value)
            else:
                multiply_and_add(gram, gram, gram, value, beta=b, alpha=c)
            value.diagonal().add_(a)
            if step != phase[-1]:
                multiply(multiply(gram, value, spare), value, gram)
            if step == phase[0]:
                product, value = value, product
            else:
                multiply(product, value, spare)
                product, spare = spare, product
        if factor is not None:
            product.mul_(factor)
            factor = None
        moved = torch.empty_like(x) if other is None else other
        multiply(*((x, product) if tall else (product, x)), moved)
        # What was given is not written to.
        x, other = moved, None if x is matrix else x
    return x


def _in_range(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix in `dtype`, divided by a power of two if float64 where its largest element is
    above `_LARGE`: squares of more than 1.8e19 overflow float32 and bfloat16.

    The division is exact, and what is smaller keeps its bits. Nothing waits for the device.
    """
    if matrix.dtype is not torch.float64 or dtype is torch.float64:
        return matrix.to(dtype)
    largest = matrix.abs().amax().clamp(min=_LARGE)
    # mantissa / largest is a power of two, and 1 / (2 · _LARGE) where nothing is larger; torch's
    # ldexp computes such a power in float32, which has not all of them.
    power = torch.frexp(largest).mantissa / largest * (2 * _LARGE)
    return (matrix * power).to(dtype)


def _phases(polynomials: Sequence[Polynomial], dtype: torch.dtype, long: bool) -> list[list[int]]:
    """Which steps share a Gram matrix: all, as long as its rounding stays small.

    Rounding gives it small eigenvalues that are wrong, by about its precision, and each step
    multiplies them by up to a²; a negative one that has grown past 1 destroys the result.
    """
    most = 1.5 / torch.finfo(dtype).eps if long else 1.0
    phases: list[list[int]] = []
    gain = math.inf
    for step, (a, _, _) in enumerate(polynomials):
        if gain > most:
            phases.append([])
            gain = 1.0
        phases[-1].append(step)
        gain *= a * a
    return phases


def _gram(x: Tensor, tall: bool, gram: Tensor) -> None:
    """Put XᵀX of a tall matrix, XXᵀ of another, into `gram`."""
    if not tall:
        multiply(x, x.mT, gram)
        return
    # On the CPU the transposed product is a quarter faster in pieces that the cache holds.
    rows = _CHUNK if x.device.type == "cpu" else x.shape[0]
    first, *others = cast("tuple[Tensor, ...]", x.split(rows))
    multiply(first.mT, first, gram)
    for piece in others:
        multiply_and_add(gram, piece.mT, piece, gram)


def _first(gram: Tensor, b: float, c: float, tight: bool, eps: float, value: Tensor) -> Tensor:
    """Put bG + cG² into `value`, G the Gram matrix of a matrix scaled below 1, and G itself into
    `gram`; returns the factor that does the scaling.

    It is left to the small matrices: the long one is read by two products only.
    """
    exact = torch.promote_types(gram.dtype, torch.float32)
    tiny = torch.finfo(torch.float32).tiny
    trace = gram.diagonal().sum(dtype=exact).clamp_(min=larger(eps * eps, tiny))
    gram.div_(trace)
    multiply(gram, gram, value)
    factor = trace.rsqrt()
    share: Tensor | float = c
    if tight:
        # ‖G²‖_F = (Σσ⁸)^½ bounds the largest σ⁴, and lies far below (Σσ²)².
        bound = norm(value).to(exact).clamp_(min=tiny**0.5)
        gram.mul_(bound.rsqrt())
        share, factor = c / bound, factor * bound.pow(-0.25)
    value.mul_(share).add_(gram, alpha=b)
    return factor


def as_matrix(u: Tensor) -> Tensor:
    """A view with the first dimension as rows and all others as columns; a vector is one column."""
    return u.reshape(u.shape[0] if u.ndim else 1, -1)


def check_split(split: Sequence[int], rows: int = 0) -> int:
    """The rows of a share of one. Raises InputError for no shares, and for rows that they do not
    divide."""
    if not split:
        raise InputError("split: names no share; should be proportions, such as [1, 1, 1]")
    unit, rest = divmod(rows, sum(split))
    if rest:
        raise InputError(f"split: {rows} rows cannot be divided as {':'.join(map(str, split))}")
    return unit


def in_parts(matrix: Tensor, split: Sequence[int] | None) -> tuple[Tensor, ...]:
    """The rows of a fused matrix in the given proportions; the whole where there are none.

    Raises InputError where the rows cannot be so divided.
    """
    if split is None:
        return (matrix,)
    unit = check_split(split, matrix.shape[0])
    return cast("tuple[Tensor, ...]", matrix.split([share * unit for share in split]))


def step_scale(scale: Scale, rows: int, columns: int, kernel: int) -> float:
    """What an orthogonal update is multiplied with; `columns` are `kernel` for each channel."""
    match scale:
        case "original":
            return max(1.0, rows / columns) ** 0.5
        case "moonlight" | "match_rms":
            return 0.2 * max(rows, columns) ** 0.5
        case "spectral":
            return (rows / columns) ** 0.5
        case "scion":
            return (rows * kernel / columns) ** 0.5 / kernel


@register("transform", "trace_ema")
def trace_ema(momentum: Fraction = 0.95, nesterov: bool = True) -> Transform:
    """Momentum as a running mean: b ← momentum · b + (1 − momentum) · u, from zero, uncorrected.

    With `nesterov` the update is momentum · b + (1 − momentum) · u, otherwise b itself. For rules
    that take only the direction, where the small beginning does not matter.

    momentum: decay rate of the running mean.
    nesterov: look ahead by one momentum.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        buffer = state["momentum_buffer"].lerp_(u, 1 - hyper.momentum)
        return u.lerp(buffer, hyper.momentum) if nesterov else buffer.clone()

    return Transform(update, buffers={"momentum_buffer": Buffer()}, scope="element")


@register("transform", "orthogonalize")
def orthogonalize(
    coefficients: Coefficients = "quintic",
    ns_steps: Iterations | None = None,
    scale: Scale = "original",
    dtype: Precision = "bfloat16",
    eps: NonNegative = 1e-7,
    split: Sequence[Count] | None = None,
) -> Transform:
    """Bring every singular value of the update near 1, and scale the result by its shape.

    An update of more than two dimensions is one matrix, its first dimension the rows.

    coefficients: the set of polynomials: quintic, polar_express or polar_express_wide (see the
     module).
    ns_steps: how many of them; 5, and 4 of polar_express_wide, where it is not given.
    scale: by the m rows and n columns: original √max(1, m/n); moonlight and match_rms
     0.2 √max(m, n); spectral √(m/n); scion √(m/i) / k for i input channels and k kernel positions.
    dtype: what the products are computed in; float32 means float64 for float64 parameters.
    eps: the smallest norm that an update is divided by.
    split: proportions in which the rows are several matrices, each made orthogonal by itself.
    """
    how = iteration(coefficients, ns_steps)
    if split is not None:
        check_split(split)

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        if not u.numel():
            return u.clone()
        precision = torch.bfloat16 if dtype == "bfloat16" else u.dtype
        kernel = math.prod(u.shape[2:])

        def one(part: Tensor) -> Tensor:
            factor = step_scale(scale, part.shape[0], part.shape[1], kernel)
            return near_polar(part, how, precision, hyper.eps, factor)

        parts = [one(part) for part in in_parts(as_matrix(u), split)]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.to(u.dtype).reshape(u.shape)

    return Transform(update)
