"""Prodigy (arXiv:2306.06101) and D-Adapted Adam (arXiv:2301.07733) from their papers, in numpy.

Both take one flat parameter: the sums over parameters are sums over its elements.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Gradient = Callable[[Array, int], Array]


def prodigy(
    start: Array,
    gradient: Gradient,
    rates: list[float],
    *,
    betas: tuple[float, float],
    eps: float,
    d0: float,
    weight_decay: float = 0.0,
) -> tuple[Array, list[float]]:
    """The weights after one step for each rate, and d after each."""
    b1, b2 = betas
    b3 = np.sqrt(b2)
    w, d, r = start.copy(), d0, 0.0
    m, v, s = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    estimates: list[float] = []
    for t, rate in enumerate(rates, 1):
        g = gradient(w, t)
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d**2 * g**2
        r = b3 * r + (1 - b3) * rate * d**2 * (g @ (start - w))
        s = b3 * s + (1 - b3) * rate * d**2 * g
        grown = max(d, r / np.abs(s).sum())
        w = w - rate * d * (m / (np.sqrt(v) + grown * eps) + weight_decay * w)
        d = grown
        estimates.append(d)
    return w, estimates


def dadapt_adam(
    start: Array,
    gradient: Gradient,
    rates: list[float],
    *,
    betas: tuple[float, float],
    eps: float,
    d0: float,
) -> tuple[Array, list[float]]:
    """The weights after one step for each rate, and d after each."""
    b1, b2 = betas
    root = np.sqrt(b2)
    w, d, r = start.copy(), d0, 0.0
    m, v, s = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    estimates: list[float] = []
    for t, rate in enumerate(rates, 1):
        g = gradient(w, t)
        r = root * r + (1 - root) * d * rate * (g @ (s / (np.sqrt(v) + eps)))
        m = b1 * m + (1 - b1) * d * rate * g
        v = b2 * v + (1 - b2) * g**2
        s = root * s + (1 - root) * d * rate * g
        d = max(d, r / ((1 - root) * np.abs(s).sum()))
        w = w - m / (np.sqrt(v) + eps)
        estimates.append(d)
    return w, estimates
