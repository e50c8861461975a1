"""Preconditioners that are a Kronecker product: one matrix for the rows of a parameter, one for its
columns. SOAP and Shampoo learn them from the gradient's second moments; PSGD's are in `whitening`.

A parameter of more than two dimensions is one matrix, its first dimension the rows; what has fewer
has no such matrices. Whatever is refreshed now and then is refreshed by the parameter's own step
count, so that a resumed run refreshes when the other would have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from rheostat.core.hyper import Count, Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform
from rheostat.transforms.orthogonal import Precision
from rheostat.transforms.products import multiply

Graft: TypeAlias = Literal["none", "sgd", "adam", "rmsprop"]

_linalg: Any = torch.linalg
_SIDES = ("left", "right")
_BLOCK = 256
"""Rows of a statistic that are computed together: only blocks on and below the diagonal are."""


def matrix_shape(param: Tensor) -> tuple[int, int]:
    """Rows and columns of a parameter as a matrix; (0, 0) for fewer than two dimensions."""
    if param.ndim < 2 or not param.numel():
        return (0, 0)
    return (param.shape[0], param.numel() // param.shape[0])


def accumulate(statistic: Tensor, rows: Tensor, keep: float) -> None:
    """statistic ← keep · statistic + (1 − keep) · rows rowsᵀ, in its lower triangle; a statistic
    without elements is left alone."""
    for start in range(0, statistic.shape[-1], _BLOCK):
        end = min(start + _BLOCK, statistic.shape[-1])
        product = multiply(rows[start:end], rows[:end].mT)
        statistic[start:end, :end].lerp_(product.to(statistic.dtype), 1 - keep)


def symmetric(statistic: Tensor) -> Tensor:
    """The whole of a symmetric matrix whose lower triangle is kept."""
    return statistic.tril() + statistic.tril(-1).mT


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of symmetric matrices.

    In float64 where float32 fails; zeros and the unit matrix where NaN or infinity leave none.
    """
    for dtype in (matrix.dtype, torch.float64):
        try:
            values, vectors = _linalg.eigh(matrix.to(dtype))
        except _linalg.LinAlgError:
            continue
        return values.to(matrix.dtype), vectors.to(matrix.dtype)
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.zeros_like(matrix[..., 0]), unit.expand_as(matrix)


@register("transform", "scale_by_soap")
def scale_by_soap(
    b1: Fraction = 0.95,
    b2: Fraction = 0.95,
    shampoo_beta: Fraction = 0.95,
    eps: NonNegative = 1e-8,
    precondition_frequency: Count = 10,
    max_precond_dim: Count = 10_000,
    dtype: Precision = "float32",
) -> Transform:
    """Adam in the eigenbasis of Shampoo's preconditioner.

    L ← β L + (1 − β) U Uᵀ,  R ← β R + (1 − β) Uᵀ U, with eigenvectors Q_L, Q_R;
    u ← Q_L adam(Q_Lᵀ U Q_R) Q_Rᵀ, eps added before Adam's correction of its second moment.
    The first step only sets the bases, by eigendecomposition; later they are refreshed by a power
    iteration and a QR decomposition. The running mean is kept in the eigenbasis, turned with it.

    Source: Vyas et al. 2024 (arXiv:2409.11321), Algorithms 3 and 4, as in the authors' code.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of squares, in the eigenbasis.
    shampoo_beta: β, decay rate of L and R.
    eps: added to the denominator, before the correction of the zero start.
    precondition_frequency: steps from one refreshment of the bases to the next.
    max_precond_dim: a longer side keeps its own basis; with neither side this is Adam.
    dtype: precision of the products that bear rounding, for L and R and on the way back; those into
     the eigenbasis do not, because the small moments there would drown in it.
    """
    half = torch.bfloat16 if dtype == "bfloat16" else None

    def square(side: int) -> Callable[[Tensor], tuple[int, int]]:
        def shape(param: Tensor) -> tuple[int, int]:
            size = matrix_shape(param)[side]
            return (size, size) if 1 < size <= max_precond_dim else (0, 0)

        return shape

    def moments(param: Tensor) -> tuple[int, ...]:
        return matrix_shape(param) if param.ndim > 1 else tuple(param.shape)

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        matrix = u.reshape(moments(u))
        sides = [side for side in _SIDES if state[side].numel()]
        if hyper.step == 1:
            _accumulate_both(matrix.to(half), state, hyper.shampoo_beta)
            for side in sides:
                _, vectors = eigen(symmetric(state[side]))
                state[f"{side}_basis"].copy_(vectors.flip(-1))
            return torch.zeros_like(u)
        b1, b2 = hyper.betas
        count = hyper.step - 1
        turned = _turn(matrix, state, True)
        mean = state["exp_avg"].lerp_(turned, 1 - b1)
        second = state["exp_avg_sq"].mul_(b2).addcmul_(turned, turned, value=1 - b2)
        size = (1 - b2**count) ** 0.5 / (1 - b1**count)
        root = second.sqrt().add_(hyper.eps)
        direction = _turn(torch.div(mean, root, out=root).mul_(size), state, False, half)
        _accumulate_both(matrix.to(half), state, hyper.shampoo_beta)
        if sides and count % precondition_frequency == 0:
            plain = _turn(mean, state, False)
            for side in sides:
                _refresh(state[side], state[f"{side}_basis"], second, _SIDES.index(side))
            mean.copy_(_turn(plain, state, True))
        return direction.reshape(u.shape)

    return Transform(
        update,
        buffers={
            "exp_avg": Buffer(shape=moments),
            "exp_avg_sq": Buffer(shape=moments),
            **{
                name: Buffer(shape=square(i))
                for i, s in enumerate(_SIDES)
                for name in (s, f"{s}_basis")
            },
        },
        hyperparameters={"betas": (b1, b2), "shampoo_beta": shampoo_beta, "eps": eps},
        host_step=True,
    )


def _accumulate_both(matrix: Tensor, state: State, keep: float) -> None:
    if matrix.ndim == 2:
        accumulate(state["left"], matrix, keep)
        accumulate(state["right"], matrix.mT, keep)


def _turn(matrix: Tensor, state: State, inward: bool, half: torch.dtype | None = None) -> Tensor:
    """Into the eigenbases, or out of them; the products in half precision where it is given."""
    left, right = (state[f"{side}_basis"] for side in _SIDES)
    turned = matrix.to(half)
    if left.numel():
        turned = multiply((left.mT if inward else left).to(half), turned)
    if right.numel():
        turned = multiply(turned, (right if inward else right.mT).to(half))
    return turned.to(matrix.dtype)


def _refresh(statistic: Tensor, basis: Tensor, square: Tensor, dim: int) -> None:
    """One power iteration, largest eigenvalues first; `square` follows the new order."""
    power = symmetric(statistic) @ basis
    order = (basis * power).sum(0).argsort(descending=True, stable=True)
    square.copy_(square.index_select(dim, order))
    # The two halves of torch.linalg.qr, without its copy of R.
    basis.copy_(_linalg.householder_product(*torch.geqrf(power.index_select(1, order))))


@register("transform", "scale_by_shampoo")
def scale_by_shampoo(
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: NonNegative = 1e-8,
    matrix_eps: NonNegative = 1e-6,
    graft: Graft = "adam",
    block_size: Count = 512,
    precondition_frequency: Count = 10,
) -> Transform:
    """Shampoo by blocks, each block's step as long as another rule would make it.

    L ← β₂ L + (1 − β₂) U Uᵀ,  R ← β₂ R + (1 − β₂) Uᵀ U for each block U of the update;
    u ← L̂^(−¼) m̂ R̂^(−¼) · ‖graft‖ / ‖L̂^(−¼) m̂ R̂^(−¼)‖, with m̂ the running mean and hats for the
    correction of zero starts. The roots are those of L̂ + matrix_eps · λ_max(L̂). Blocks have equal
    sides, the last ones filled up with zeros.

    Source: Gupta et al. 2018 (arXiv:1802.09568), Algorithm 1; blocks, averages and grafting as in
     Anil et al. 2020 (arXiv:2002.09018) and Shi et al. 2023 (arXiv:2309.06497).
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of L, R and v.
    eps: added to the denominator of the graft.
    matrix_eps: added to the diagonal, as a share of the largest eigenvalue.
    graft: whose step length each block gets: sgd ‖m̂‖, adam ‖m̂ / (√v̂ + eps)‖, rmsprop the same with
     v uncorrected, none its own.
    block_size: longest side of a block.
    precondition_frequency: the roots are taken at the first step, and then every so many.
    """

    def grid(param: Tensor) -> tuple[int, int, int, int]:
        """How many blocks down and across, and their sides."""
        rows, columns = matrix_shape(param)
        down, across = -(-rows // block_size), -(-columns // block_size)
        return down, across, -(-rows // max(down, 1)), -(-columns // max(across, 1))

    def square(side: int) -> Callable[[Tensor], tuple[int, int, int]]:
        def shape(param: Tensor) -> tuple[int, int, int]:
            down, across, *sides = grid(param)
            return (down * across, sides[side], sides[side])

        return shape

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2 = hyper.betas
        mean = state["exp_avg"].lerp_(u, 1 - b1) / (1 - b1**hyper.step)
        if u.ndim < 2 or not u.numel():
            return mean
        shape = grid(u)
        blocks = _blocks(u, shape)
        for side, factor in zip(_SIDES, (blocks, blocks.mT), strict=True):
            statistic = state[side].lerp_(factor @ factor.mT, 1 - b2)
            if (hyper.step - 1) % precondition_frequency == 0:
                corrected = statistic / (1 - b2**hyper.step)
                state[f"{side}_root"].copy_(_inverse_root(corrected, hyper.matrix_eps))
        direction = state["left_root"] @ _blocks(mean, shape) @ state["right_root"]
        if graft != "none":
            other = mean
            if graft != "sgd":
                v = state["exp_avg_sq"].mul_(b2).addcmul_(u, u, value=1 - b2)
                corrected = v / (1 - b2**hyper.step) if graft == "adam" else v
                other = mean / corrected.sqrt().add_(hyper.eps)
            wanted, own = (_linalg.matrix_norm(x) for x in (_blocks(other, shape), direction))
            direction = direction * (wanted / (own + (own == 0)))[:, None, None]
        return _unblocked(direction, shape, u)

    squares = {"exp_avg_sq": Buffer()} if graft in ("adam", "rmsprop") else {}
    return Transform(
        update,
        buffers={
            "exp_avg": Buffer(),
            **squares,
            **{
                name: Buffer(shape=square(i))
                for i, s in enumerate(_SIDES)
                for name in (s, f"{s}_root")
            },
        },
        hyperparameters={"betas": (b1, b2), "eps": eps, "matrix_eps": matrix_eps},
        host_step=True,
    )


def _blocks(u: Tensor, grid: tuple[int, int, int, int]) -> Tensor:
    """The blocks of a matrix, one after the other: (down · across, rows, columns)."""
    down, across, rows, columns = grid
    matrix = u.reshape(matrix_shape(u))
    missing = (0, across * columns - matrix.shape[1], 0, down * rows - matrix.shape[0])
    padded = torch.nn.functional.pad(matrix, missing)
    parts = padded.view(down, rows, across, columns).transpose(1, 2)
    return parts.reshape(down * across, rows, columns)


def _unblocked(blocks: Tensor, grid: tuple[int, int, int, int], like: Tensor) -> Tensor:
    down, across, rows, columns = grid
    parts = blocks.view(down, across, rows, columns).transpose(1, 2)
    whole = parts.reshape(down * rows, across * columns)
    height, width = matrix_shape(like)
    return whole[:height, :width].reshape(like.shape)


def _inverse_root(matrix: Tensor, ridge: float) -> Tensor:
    """(M + ridge · λ_max)^(−¼) of positive semidefinite matrices; of zero, the unit matrix."""
    values, vectors = eigen(matrix)
    values = values.clamp(min=0)
    largest = values.amax(-1, keepdim=True)
    # Rounding alone gives a singular matrix eigenvalues of about its precision.
    floor = largest * max(torch.finfo(matrix.dtype).eps, ridge)
    powers = (values + ridge * largest + (largest == 0)).maximum(floor).pow(-0.25)
    return (vectors * powers.unsqueeze(-2)) @ vectors.mT


# How often the factors of a matrix are given the same size, in steps: none of them should overflow.
