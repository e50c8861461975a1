"""The modern first-order family in float64, line by line from the papers.

Each function returns the weights after `steps` updates from `w`; `g(t, w)` is the gradient at step
t, counted from 1. Decay is decoupled and multiplied by lr unless the paper has another.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from tests.references.descent import Array, Gradient

Numbers = TypeVar("Numbers", Array, float)


def mean(old: Numbers, new: Numbers, beta: float) -> Numbers:
    """A step of the exponential moving average."""
    return beta * old + (1 - beta) * new


def unbiased(average: Numbers, beta: float, t: int) -> Numbers:
    """An average over t steps that began at zero, as one of what it saw."""
    return average / (1 - beta**t)


def length(x: Array) -> float:
    """The Euclidean norm over all elements."""
    return math.sqrt((x**2).sum())


def lion(
    w: Array, g: Gradient, steps: int, lr: float, betas: tuple[float, float], weight_decay: float
) -> Array:
    """arXiv:2302.06675, Algorithm 2."""
    m = np.zeros_like(w)
    for t in range(1, steps + 1):
        grad = g(t, w)
        c = mean(m, grad, betas[0])
        w = w - lr * (np.sign(c) + weight_decay * w)
        m = mean(m, grad, betas[1])
    return w


def signum(
    w: Array, g: Gradient, steps: int, lr: float, momentum: float, weight_decay: float
) -> Array:
    """arXiv:1802.04434, Algorithm 2."""
    m = np.zeros_like(w)
    for t in range(1, steps + 1):
        m = mean(m, g(t, w), momentum)
        w = w - lr * (np.sign(m) + weight_decay * w)
    return w


def adabelief(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Array:
    """arXiv:2010.07468, Algorithm 2."""
    m, s = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        grad = g(t, w)
        m = mean(m, grad, betas[0])
        s = mean(s, (grad - m) ** 2, betas[1]) + eps
        m_hat, s_hat = unbiased(m, betas[0], t), unbiased(s, betas[1], t)
        w = w - lr * (m_hat / (np.sqrt(s_hat) + eps) + weight_decay * w)
    return w


def adan(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float, float],
    eps: float,
    weight_decay: float,
    proximal: bool,
) -> Array:
    """arXiv:2208.06677, Algorithm 1 in the paper's own β, with the authors' bias corrections."""
    b1, b2, b3 = (1 - beta for beta in betas)
    m, v, n = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    previous = None
    for t in range(1, steps + 1):
        grad = g(t, w)
        previous = grad if previous is None else previous
        m = (1 - b1) * m + b1 * grad
        v = (1 - b2) * v + b2 * (grad - previous)
        n = (1 - b3) * n + b3 * (grad + (1 - b2) * (grad - previous)) ** 2
        m_hat, v_hat, n_hat = (
            m / (1 - (1 - b1) ** t),
            v / (1 - (1 - b2) ** t),
            n / (1 - (1 - b3) ** t),
        )
        move = lr / (np.sqrt(n_hat) + eps) * (m_hat + (1 - b2) * v_hat)
        decay = lr * weight_decay
        w = (w - move) / (1 + decay) if proximal else (1 - decay) * w - move
        previous = grad
    return w


def adopt(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Array:
    """arXiv:2411.02853, Algorithm 2 with clipping; the paper counts from the second gradient."""
    v = g(1, w) ** 2
    w = w - lr * weight_decay * w
    m = np.zeros_like(w)
    for t in range(1, steps):
        grad = g(t + 1, w)
        normed = grad / np.maximum(np.sqrt(v), eps)
        m = mean(m, np.clip(normed, -(t**0.25), t**0.25), betas[0])
        w = w - lr * (m + weight_decay * w)
        v = mean(v, grad**2, betas[1])
    return w


def ademamix(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float, float],
    alpha: float,
    eps: float,
    weight_decay: float,
    alpha_warmup: int = 0,
    beta3_warmup: int = 0,
) -> Array:
    """arXiv:2409.03137, Algorithm 1, its schedules as printed in section 3."""
    m1, m2, v = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    start, end = betas[0], betas[2]
    for t in range(1, steps + 1):
        a = min(t * alpha / alpha_warmup, alpha) if alpha_warmup else alpha
        b3 = end
        if beta3_warmup:
            share = t / beta3_warmup
            bottom = (1 - share) * math.log(end) + share * math.log(start)
            # Past the warm-up the printed exponent leaves the range in which it means anything.
            b3 = math.exp(math.log(start) * math.log(end) / bottom) if share < 1 else end
        grad = g(t, w)
        m1 = mean(m1, grad, betas[0])
        m2 = mean(m2, grad, b3)
        v = mean(v, grad**2, betas[1])
        m1_hat, v_hat = unbiased(m1, betas[0], t), unbiased(v, betas[1], t)
        w = w - lr * ((m1_hat + a * m2) / (np.sqrt(v_hat) + eps) + weight_decay * w)
    return w


def laprop(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Array:
    """arXiv:2002.04839, Algorithm 1."""
    n, m = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        grad = g(t, w)
        n = mean(n, grad**2, betas[1])
        m = mean(m, grad / (np.sqrt(unbiased(n, betas[1], t)) + eps), betas[0])
        w = w - lr * (unbiased(m, betas[0], t) + weight_decay * w)
    return w


def mars(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    gamma: float,
    weight_decay: float,
) -> Array:
    """arXiv:2411.10438, Algorithm 2, with the gradient of the last step as the approximation."""
    m, v, last = np.zeros_like(w), np.zeros_like(w), None
    for t in range(1, steps + 1):
        grad = g(t, w)
        last = grad if last is None else last
        c = grad + gamma * betas[0] / (1 - betas[0]) * (grad - last)
        c = c / max(1.0, length(c))
        m = mean(m, c, betas[0])
        v = mean(v, c**2, betas[1])
        m_hat, v_hat = unbiased(m, betas[0], t), unbiased(v, betas[1], t)
        w = w - lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * w)
        last = grad
    return w


def stable_adamw(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Array:
    """arXiv:2304.13013, Algorithm 2, with its debiased β."""
    v, u = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        grad = g(t, w)
        b1, b2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in betas)
        v = mean(v, grad, b1)
        u = mean(u, grad**2, b2)
        rms = math.sqrt(np.mean(grad**2 / np.maximum(u, eps**2)))
        rate = lr / max(1.0, rms)
        w = w - rate * weight_decay * w - rate * v / (np.sqrt(u) + eps)
    return w


def novograd(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Array:
    """arXiv:1905.11286, Algorithm 1."""
    grad = g(1, w)
    v = float((grad**2).sum())
    m = grad / (math.sqrt(v) + eps) + weight_decay * w
    w = w - lr * m
    for t in range(2, steps + 1):
        grad = g(t, w)
        v = mean(v, float((grad**2).sum()), betas[1])
        m = betas[0] * m + (grad / (math.sqrt(v) + eps) + weight_decay * w)
        w = w - lr * m
    return w


def madgrad(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    momentum: float,
    eps: float,
    weight_decay: float,
) -> Array:
    """arXiv:2101.11075, Algorithm 1, which counts k from 0 and has c = 1 − momentum."""
    w0, s, v = w, np.zeros_like(w), np.zeros_like(w)
    for k in range(steps):
        grad = g(k + 1, w) + weight_decay * w
        weight = lr * math.sqrt(k + 1)
        s = s + weight * grad
        v = v + weight * grad**2
        z = w0 - s / (np.cbrt(v) + eps)
        w = mean(w, z, momentum)
    return w


def adam_mini(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    blocks: list[tuple[slice, ...]],
) -> Array:
    """arXiv:2406.16793, Algorithm 1, given the blocks as parts of the array."""
    w, m, v = w.copy(), np.zeros_like(w), [0.0] * len(blocks)
    for t in range(1, steps + 1):
        grad = g(t, w)
        for b, block in enumerate(blocks):
            m[block] = mean(m[block], grad[block], betas[0])
            v[b] = mean(v[b], float(np.mean(grad[block] ** 2)), betas[1])
            m_hat, v_hat = unbiased(m[block], betas[0], t), unbiased(v[b], betas[1], t)
            w[block] -= lr * (m_hat / (math.sqrt(v_hat) + eps) + weight_decay * w[block])
    return w


def lamb(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Array:
    """arXiv:1904.00962, Algorithm 2, φ the identity."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        grad = g(t, w)
        m = mean(m, grad, betas[0])
        v = mean(v, grad**2, betas[1])
        r = unbiased(m, betas[0], t) / (np.sqrt(unbiased(v, betas[1], t)) + eps) + weight_decay * w
        w = w - lr * length(w) / length(r) * r
    return w


def lars(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    dampening: float = 0.0,
    nesterov: bool = False,
) -> Array:
    """arXiv:1708.03888, Algorithm 1, with torch's dampening and Nesterov's look ahead."""
    b = np.zeros_like(w)
    for t in range(1, steps + 1):
        grad = g(t, w)
        size = length(w)
        local = trust_coefficient * size / (length(grad) + weight_decay * size)
        move = lr * local * (grad + weight_decay * w)
        b = momentum * b + (1 if t == 1 else 1 - dampening) * move
        w = w - (move + momentum * b if nesterov else b)
    return w


def sophia(
    w: Array,
    g: Gradient,
    steps: int,
    lr: float,
    betas: tuple[float, float],
    gamma: float,
    eps: float,
    weight_decay: float,
    samples: dict[int, Array],
) -> Array:
    """arXiv:2305.14342, Algorithm 3; `samples` are the estimates made ahead of a step."""
    m, h = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        m = mean(m, g(t, w), betas[0])
        if t in samples:
            h = mean(h, samples[t], betas[1])
        w = w - lr * weight_decay * w - lr * np.clip(m / np.maximum(gamma * h, eps), -1, 1)
    return w
