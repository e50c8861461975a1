"""Rules for matrices from their papers' formulas: plain loops in float64, exact decompositions.

Each takes the first weights (a matrix, or a convolution's) and the gradient of `descent.problem`,
and returns the weights after so many steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tests.references.descent import Array, Gradient

Polynomials = Sequence[tuple[float, float, float]]


def flat(x: Array) -> Array:
    """First dimension rows, all others columns."""
    return x.reshape(x.shape[0], -1)


def on_singular_values(matrix: Array, polynomials: Polynomials, order: int, eps: float) -> Array:
    """The polynomials applied to the singular values, after division by a Schatten norm."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    size = (s**order).sum() ** (1 / order) if order > 2 else max(np.sqrt((s**2).sum()), eps)
    s = s / size if size else s
    for a, b, c in polynomials:
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ vt


def muon(
    start: Array,
    gradient: Gradient,
    steps: int,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    factor: float,
    polar: Callable[[Array], Array],
    beta2: float | None = None,
) -> Array:
    """Muon, and NorMuon where there is a `beta2`; `polar` makes a matrix orthogonal."""
    w, b = start.copy(), np.zeros_like(start)
    v = np.zeros((start.shape[0], 1))
    for t in range(1, steps + 1):
        g = gradient(t, w)
        b = momentum * b + (1 - momentum) * g
        o = polar(flat(momentum * b + (1 - momentum) * g if nesterov else b))
        if beta2 is not None:
            v = beta2 * v + (1 - beta2) * (o**2).mean(1, keepdims=True)
            scaled = o / (np.sqrt(v) + 1e-10)
            o = scaled * np.linalg.norm(o) / (np.linalg.norm(scaled) + 1e-10)
        w = w - lr * (factor * o.reshape(w.shape) + weight_decay * w)
    return w


def soap(
    start: Array,
    gradient: Gradient,
    steps: int,
    *,
    lr: float,
    betas: tuple[float, float],
    shampoo_beta: float,
    eps: float,
    weight_decay: float,
    precondition_frequency: int,
    max_precond_dim: int = 10_000,
) -> Array:
    """SOAP with its running mean in the space of the weights, as the paper has it."""
    w = start.copy()
    m, v = np.zeros_like(flat(start)), np.zeros_like(flat(start))
    sides = [i for i in (0, 1) if start.ndim > 1 and m.shape[i] <= max_precond_dim]
    moments = [np.zeros((n, n)) for n in m.shape]
    bases = [np.eye(n) for n in m.shape]
    for t in range(1, steps + 1):
        g = flat(gradient(t, w))
        step = np.zeros_like(g)
        if t > 1:
            m = betas[0] * m + (1 - betas[0]) * g
            turned = bases[0].T @ g @ bases[1]
            v = betas[1] * v + (1 - betas[1]) * turned**2
            direction = (bases[0].T @ m @ bases[1]) / (np.sqrt(v) + eps)
            correction = math.sqrt(1 - betas[1] ** (t - 1)) / (1 - betas[0] ** (t - 1))
            step = correction * (bases[0] @ direction @ bases[1].T)
        w = w - lr * (step.reshape(w.shape) + weight_decay * w)
        for side in sides:
            outer = g @ g.T if side == 0 else g.T @ g
            moments[side] = shampoo_beta * moments[side] + (1 - shampoo_beta) * outer
            if t == 1:
                bases[side] = np.linalg.eigh(moments[side])[1][:, ::-1]
            elif (t - 1) % precondition_frequency == 0:
                power = moments[side] @ bases[side]
                order = np.argsort(-(bases[side] * power).sum(0), kind="stable")
                v = np.take(v, order, axis=side)
                bases[side] = np.linalg.qr(power[:, order])[0]
    return w


def shampoo(
    start: Array,
    gradient: Gradient,
    steps: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    matrix_eps: float,
    weight_decay: float,
    graft: str,
    block_size: int,
    precondition_frequency: int,
) -> Array:
    """Shampoo with a loop over blocks, equal but for the last."""
    w, shape = flat(start).copy(), start.shape
    m, v = np.zeros_like(w), np.zeros_like(w)
    cuts = [_cuts(n, block_size) for n in w.shape]
    blocks = [(rows, columns) for rows in cuts[0] for columns in cuts[1]]
    left = [np.zeros((len(w[r]), len(w[r]))) for r, _ in blocks]
    right = [np.zeros((w[:, c].shape[1], w[:, c].shape[1])) for _, c in blocks]
    roots: list[Any] = [None] * len(blocks)
    for t in range(1, steps + 1):
        g = flat(gradient(t, w.reshape(shape)))
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        mean = m / (1 - betas[0] ** t)
        corrected = v / (1 - betas[1] ** t) if graft == "adam" else v
        wanted = mean if graft == "sgd" else mean / (np.sqrt(corrected) + eps)
        step = np.zeros_like(w)
        for i, block in enumerate(blocks):
            left[i] = betas[1] * left[i] + (1 - betas[1]) * g[block] @ g[block].T
            right[i] = betas[1] * right[i] + (1 - betas[1]) * g[block].T @ g[block]
            if (t - 1) % precondition_frequency == 0:
                roots[i] = [
                    _inverse_root(x / (1 - betas[1] ** t), matrix_eps) for x in (left[i], right[i])
                ]
            direction = roots[i][0] @ mean[block] @ roots[i][1]
            if graft != "none":
                direction *= np.linalg.norm(wanted[block]) / np.linalg.norm(direction)
            step[block] = direction
        w = w - lr * (step + weight_decay * w)
    return w.reshape(shape)


def _cuts(length: int, block_size: int) -> list[slice]:
    size = math.ceil(length / math.ceil(length / block_size))
    return [slice(i, min(i + size, length)) for i in range(0, length, size)]


def _inverse_root(matrix: Array, ridge: float) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, 0) + ridge * values.max()
    return (vectors * values**-0.25) @ vectors.T


def kron(
    start: Array,
    gradient: Gradient,
    steps: int,
    *,
    noise: Callable[[int], Array],
    lr: float,
    momentum: float,
    weight_decay: float,
    precond_lr: float,
    due: Callable[[int], bool],
    triangular: tuple[bool, bool],
) -> Array:
    """PSGD with the whole Kronecker product written out, acting on the rows of the matrix in turn.

    `noise` gives the draw of a step, `due` says whether the factors move in it.
    """
    shape = start.shape
    w = flat(start).copy() if start.ndim > 1 else start.reshape(-1, 1).copy()
    m = np.zeros_like(w)
    left, right = np.eye(w.shape[0]), np.eye(w.shape[1])
    for t in range(1, steps + 1):
        g = gradient(t, w.reshape(shape)).reshape(w.shape)
        m = momentum * m + (1 - momentum) * g
        mean = m / (1 - momentum**t)
        if due(t):
            if t % 100 == 0 and start.ndim > 1:
                sizes = [np.abs(left).max(), np.abs(right).max()]
                left, right = (
                    q * math.sqrt(sizes[0] * sizes[1]) / s
                    for q, s in zip((left, right), sizes, strict=True)
                )
            whole = np.kron(left, right)
            a = (whole @ mean.reshape(-1)).reshape(w.shape)
            b = np.linalg.solve(whole.T, noise(t).reshape(-1)).reshape(w.shape)
            new_left = _moved(left, a @ a.T, b @ b.T, precond_lr, triangular[0])
            if start.ndim > 1:
                right = _moved(right, a.T @ a, b.T @ b, precond_lr, triangular[1])
            left = new_left
        whole = np.kron(left, right)
        step = (whole.T @ whole @ mean.reshape(-1)).reshape(w.shape)
        step = step * min(1.0, 1.1 / (math.sqrt((step**2).mean()) + 1e-8))
        w = w - lr * (step + weight_decay * w)
    return w.reshape(shape)


def _moved(q: Array, a: Array, b: Array, rate: float, triangular: bool) -> Array:
    tiny = 2.0**-126
    if not triangular:
        change, total = np.diag(np.diag(a - b)), np.diag(a + b)
        return q - rate * change @ q / (total.max() + tiny)
    total = a + b
    row = total[(total**2).sum(1).argmax()]
    power = row @ total
    bound = np.linalg.norm(power / np.linalg.norm(power) @ total)
    return q - rate * np.triu(a - b) @ q / (bound + tiny)


def galore(
    start: Array,
    gradient: Gradient,
    steps: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    rank: int,
    update_proj_gap: int,
    galore_scale: float,
) -> Array:
    """Adam between a projection and its transpose; a tall matrix is transposed first."""
    w, shape = flat(start).copy(), start.shape
    tall = w.shape[0] >= w.shape[1]
    m = v = 0.0
    basis = np.zeros((0, 0))
    for t in range(1, steps + 1):
        g = flat(gradient(t, w.reshape(shape)))
        wide = g.T if tall else g
        if (t - 1) % update_proj_gap == 0:
            found = np.linalg.svd(wide, full_matrices=False)[0][:, :rank]
            if t > 1:
                found = found * np.where((basis * found).sum(0) < 0, -1, 1)
            basis = found
        low = basis.T @ wide
        m = betas[0] * m + (1 - betas[0]) * low
        v = betas[1] * v + (1 - betas[1]) * low**2
        correction = math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
        step = galore_scale * basis @ (correction * m / (np.sqrt(v) + eps))
        w = w - lr * ((step.T if tall else step) + weight_decay * w)
    return w.reshape(shape)
