"""Second moments kept as the outer product of two vectors, rows by columns: Adafactor's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeAlias

import annotated_types as at
import torch
from torch import Tensor

from rheostat.core.hyper import Count, Fraction, NonNegative, Positive, Steps, UnitInterval
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform
from rheostat.transforms.norms import norm
from rheostat.transforms.numbers import larger, smaller

MomentumType: TypeAlias = Literal["bfloat16", "float16", "float32"]
NonPositive: TypeAlias = Annotated[float, at.Le(0)]
AtLeastOne: TypeAlias = Annotated[float, at.Ge(1)]


@register("transform", "step_by_adafactor")
def step_by_adafactor(
    lr: NonNegative = 1e-2,
    beta2_decay: NonPositive = -0.8,
    eps: tuple[NonNegative | None, NonNegative] = (None, 1e-3),
    d: AtLeastOne = 1.0,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """Adafactor as torch.optim has it, its relative step size and decoupled decay included.

    With β = 1 − t^beta2_decay, R and C the running means of g² over the last dimension and the one
    before it, and v = R C / max(mean R, eps₁), or the running mean of g² itself for a vector:
    û = g / max(√v, eps₁),  u ← min(lr, 1/√t) · max(eps₂, RMS(w)) · û / max(1, RMS(û) / d)
    + lr · weight_decay · w.

    Source: Shazeer & Stern 2018 (arXiv:1804.04235), Algorithms 4 and 5.
    lr: largest relative step size.
    beta2_decay: power of t by which the running means lengthen.
    eps: eps₁ in units of the gradient (the precision of the parameter's type where it is not
     given), eps₂ in units of weight.
    d: largest root mean square of û that is not scaled down.
    weight_decay: share of the weights taken off per unit of lr.
    """

    def row(param: Tensor) -> tuple[int, ...]:
        return (*param.shape[:-1], 1) if param.ndim > 1 else (0,)

    def column(param: Tensor) -> tuple[int, ...]:
        return (*param.shape[:-2], 1, param.shape[-1]) if param.ndim > 1 else (0,)

    def whole(param: Tensor) -> tuple[int, ...]:
        return tuple(param.shape) if param.ndim <= 1 else (0,)

    def estimate(u: Tensor, state: State, new: float, floor: float) -> Tensor:
        """v: a tensor of its own."""
        if u.ndim <= 1:
            return state["variance"].lerp_(u.square(), new).clone()
        square = u.square()
        rows = state["row_var"].lerp_(square.mean(-1, keepdim=True), new)
        columns = state["col_var"].lerp_(square.mean(-2, keepdim=True), new)
        return (rows @ columns).div_(rows.mean(-2, keepdim=True).clamp_(min=floor))

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        if not u.numel():
            return u.clone()
        floor = torch.finfo(param.dtype).eps if eps[0] is None else eps[0]
        square = estimate(u, state, hyper.step**hyper.beta2_decay, floor)
        direction = square.clamp_(min=floor * floor).rsqrt_().mul_(u)
        root = u.numel() ** 0.5
        size = (norm(param) / root).clamp_(min=eps[1]) * smaller(hyper.lr, hyper.step**-0.5)
        size /= (norm(direction) / (root * hyper.d)).clamp_(min=1.0)
        return direction.mul_(size).add_(hyper.lr * hyper.weight_decay * param)

    return Transform(
        update,
        buffers={
            "row_var": Buffer(shape=row),
            "col_var": Buffer(shape=column),
            "variance": Buffer(shape=whole),
        },
        hyperparameters={
            "lr": lr,
            "beta2_decay": beta2_decay,
            "d": d,
            "weight_decay": weight_decay,
        },
        scope="matrix",
        scaled=True,
    )


def factored_dims(shape: torch.Size, smallest: int) -> tuple[int, int] | None:
    """The dimensions that a second moment is factored over, the shorter first; None where the
    second longest is shorter than `smallest`. Of equal dimensions the later counts as longer."""
    order = sorted(range(len(shape)), key=lambda i: (shape[i], i))
    if len(shape) < 2 or shape[order[-2]] < smallest:
        return None
    return order[-2], order[-1]


@register("transform", "scale_by_factored_rms")
def scale_by_factored_rms(
    decay_rate: NonNegative = 0.8,
    decay_offset: Steps = 0,
    beta2_cap: UnitInterval = 0.999,
    eps: Positive = 1e-30,
    min_dim_size_to_factor: Count = 32,
) -> Transform:
    """Divide by the root of a second moment that is factored over the two longest dimensions.

    With β = min(beta2_cap, 1 − (t − decay_offset)^(−decay_rate)) and s = g² + eps, r and c the
    running means of s over the longest and the second longest dimension:
    u ← u / √(r c / mean r), or u / √v where the second longest dimension is shorter than
    `min_dim_size_to_factor`.

    Source: Zhai et al. 2022 (arXiv:2106.04560), section 3.4; Shazeer & Stern 2018
     (arXiv:1804.04235), Algorithm 4.
    decay_rate: power of t by which the running means lengthen.
    decay_offset: steps that the parameter's count begins late; β is 0 until then.
    beta2_cap: largest decay rate of the running means.
    eps: added to the squares.
    min_dim_size_to_factor: a second longest dimension shorter than this is not factored.
    """

    def without(which: int) -> Callable[[Tensor], tuple[int, ...]]:
        def shape(param: Tensor) -> tuple[int, ...]:
            dims = factored_dims(param.shape, min_dim_size_to_factor)
            if dims is None:
                return (0,)
            return tuple(1 if i == dims[which] else n for i, n in enumerate(param.shape))

        return shape

    def whole(param: Tensor) -> tuple[int, ...]:
        factored = factored_dims(param.shape, min_dim_size_to_factor) is not None
        return (0,) if factored else tuple(param.shape)

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        count = larger(hyper.step - decay_offset, 1)
        new = 1 - smaller(hyper.beta2_cap, 1 - count**-hyper.decay_rate)
        square = u.square() + hyper.eps
        dims = factored_dims(u.shape, min_dim_size_to_factor)
        if dims is None:
            return u * state["exp_avg_sq"].lerp_(square, new).rsqrt()
        shorter, longer = dims
        rows = state["exp_avg_sq_r"].lerp_(square.mean(longer, keepdim=True), new)
        columns = state["exp_avg_sq_c"].lerp_(square.mean(shorter, keepdim=True), new)
        return u * (rows / rows.mean(shorter, keepdim=True)).rsqrt() * columns.rsqrt()

    return Transform(
        update,
        buffers={
            "exp_avg_sq_r": Buffer(shape=without(1)),
            "exp_avg_sq_c": Buffer(shape=without(0)),
            "exp_avg_sq": Buffer(shape=whole),
        },
        hyperparameters={"decay_rate": decay_rate, "beta2_cap": beta2_cap, "eps": eps},
        scope="matrix",
    )


@register("transform", "average_update")
def average_update(
    momentum: Fraction = 0.9, momentum_dtype: MomentumType = "bfloat16"
) -> Transform:
    """Momentum over finished updates: m ← momentum · m + (1 − momentum) · u,  u ← m.

    m starts from zero, uncorrected, and may be kept in half precision.

    momentum: decay rate of the running mean.
    momentum_dtype: what the running mean is kept in.
    """
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(momentum_dtype)

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        mean = state["exp_avg"]
        return mean.lerp_(u.to(mean.dtype), 1 - hyper.momentum).to(u.dtype, copy=True)

    return Transform(update, buffers={"exp_avg": Buffer(dtype=dtype)}, scope="element")
