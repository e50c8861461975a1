"""Whitening by a preconditioner that is learned by descent: PSGD's Kronecker product.

A parameter of more than two dimensions is one matrix, its first dimension the rows. The factors
are refreshed by the parameter's own step count, so that a resumed run refreshes when the other
would have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rheostat.core.hyper import Count, Fraction, NonNegative, Steps
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform
from rheostat.transforms.kronecker import matrix_shape

_linalg: Any = torch.linalg
_SIDES = ("left", "right")
_BALANCE = 100


@register("transform", "scale_by_kron")
def scale_by_kron(
    momentum: Fraction = 0.9,
    precond_lr: NonNegative = 0.1,
    precondition_frequency: Count = 33,
    precondition_warmup: Steps = 500,
    max_size_triangular: Count = 2048,
) -> Transform:
    """Whitened momentum, the preconditioner a Kronecker product that is learned by descent (PSGD).

    u ← P m̂ = Q_Lᵀ Q_L m̂ Q_Rᵀ Q_R, its root mean square at most 1.1. With a random V,
    A = Q_L m̂ Q_Rᵀ and B = Q_L⁻ᵀ V Q_R⁻¹, a factor moves by
    Q_L ← Q_L − precond_lr · triu(A Aᵀ − B Bᵀ) Q_L / ‖A Aᵀ + B Bᵀ‖, Q_R likewise: until the whitened
    momentum is as large in every direction as the noise. Factors are upper triangular or diagonal;
    a vector has one, diagonal. A factor stays as it is while the momentum is 0.

    Source: Li 2022 (arXiv:2211.04422), section 3; momentum, limit and rhythm as in kron_torch.
    momentum: decay rate of the running mean.
    precond_lr: step size of the factors.
    precondition_frequency: the factors move every so many steps (kron_torch: at random, p = 0.03).
    precondition_warmup: first steps, at each of which the factors move.
    max_size_triangular: a longer side has a diagonal factor.
    """

    def factor(side: int) -> Callable[[Tensor], tuple[int, ...]]:
        def shape(param: Tensor) -> tuple[int, ...]:
            if param.ndim < 2 or not param.numel():
                return (param.numel(),) if side == 0 else (0,)
            size = matrix_shape(param)[side]
            return (size, size) if 1 < size <= max_size_triangular else (size,)

        return shape

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        mean = state["momentum_buffer"].lerp_(u, 1 - hyper.momentum)
        mean = mean / (1 - hyper.momentum**hyper.step)
        if not u.numel():
            return mean
        # A vector is one column, with nothing to the right of it.
        matrix = mean.reshape(matrix_shape(u)) if u.ndim > 1 else mean.reshape(-1, 1)
        factors = [state[side] for side in _SIDES if state[side].numel()]
        if hyper.step == 1:
            for q in factors:
                q.copy_(
                    torch.ones_like(q)
                    if q.ndim == 1
                    else torch.eye(len(q), dtype=q.dtype, device=q.device)
                )
        if hyper.step <= precondition_warmup or hyper.step % precondition_frequency == 0:
            if hyper.step % _BALANCE == 0:
                _balance(factors)
            _whiten(factors, matrix, hyper.noise(matrix), hyper.precond_lr)
        for side, q in enumerate(factors):
            matrix = _on(side, matrix, lambda x, q=q: _times(q, _times(q, x), transposed=True))
        rms = matrix.square().mean().sqrt()
        return matrix.mul((1.1 / (rms + 1e-8)).clamp(max=1.0)).reshape(u.shape)

    return Transform(
        update,
        buffers={
            "momentum_buffer": Buffer(),
            **{side: Buffer(shape=factor(i)) for i, side in enumerate(_SIDES)},
        },
        hyperparameters={"momentum": momentum, "precond_lr": precond_lr},
        host_step=True,
    )


def _on(side: int, matrix: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """The result of what acts on rows, on the rows (side 0) or on the columns (side 1)."""
    return act(matrix) if side == 0 else act(matrix.mT).mT


def _times(q: Tensor, x: Tensor, transposed: bool = False) -> Tensor:
    """Q x, or Qᵀ x; Q is a matrix, or the diagonal of one."""
    if q.ndim == 1:
        return q[:, None] * x
    return (q.mT if transposed else q) @ x


def _whiten(factors: list[Tensor], matrix: Tensor, noise: Tensor, rate: float) -> None:
    """Move the factors so that the whitened matrix is as large in each direction as the noise."""
    whitened, inverse = matrix, noise
    for side, q in enumerate(factors):
        whitened = _on(side, whitened, lambda x, q=q: _times(q, x))
        inverse = _on(side, inverse, lambda x, q=q: _divided(x, q))
    alive = whitened.abs().amax() > 0
    for side, q in enumerate(factors):
        a, b = (_second_moment(x if side == 0 else x.mT, q) for x in (whitened, inverse))
        size = (a + b).amax() if q.ndim == 1 else _norm_bound(a + b)
        change = (a - b) * (rate / (size + torch.finfo(torch.bfloat16).tiny))
        move = change * q if q.ndim == 1 else change.triu() @ q
        q.sub_(torch.where(alive, move, 0))


def _divided(x: Tensor, q: Tensor) -> Tensor:
    """Q⁻ᵀ x."""
    return x / q[:, None] if q.ndim == 1 else _linalg.solve_triangular(q.mT, x, upper=False)


def _second_moment(x: Tensor, q: Tensor) -> Tensor:
    """x xᵀ, or its diagonal where the factor has no more."""
    return x.square().sum(1) if q.ndim == 1 else x @ x.mT


def _norm_bound(matrix: Tensor) -> Tensor:
    """A lower bound of a symmetric matrix's spectral norm, rarely far below it: one step of the
    power method from the largest row."""
    scale = matrix.abs().amax()
    scaled = matrix / (scale + (scale == 0))
    row = scaled.index_select(0, scaled.square().sum(1).argmax().reshape(1))
    first = row @ scaled
    length: Tensor = _linalg.vector_norm(first)
    return scale * _linalg.vector_norm((first / (length + (length == 0))) @ scaled)


def _balance(factors: list[Tensor]) -> None:
    """Give all factors the same largest element; their product stays."""
    largest = torch.stack([q.abs().amax() for q in factors])
    mean = largest.prod() ** (1 / len(factors))
    for q, size in zip(factors, largest, strict=True):
        q.mul_(mean / size)
