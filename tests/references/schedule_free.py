"""Schedule-free steps as arXiv:2405.15682 writes them, with x, y and z all kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def schedule_free_adamw(
    start: Array,
    gradient: Callable[[Array, int], Array],
    rates: list[float],
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    power: float,
    r: float,
) -> tuple[Array, Array]:
    """(y, x) after one step for each rate; `gradient(y, t)` is the gradient of step t = 1, 2, …"""
    x, y, z = start.copy(), start.copy(), start.copy()
    v = np.zeros_like(start)
    total = 0.0
    for t, rate in enumerate(rates, 1):
        g = gradient(y, t)
        v = betas[1] * v + (1 - betas[1]) * g**2
        z = z - rate * (g / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + weight_decay * y)
        weight = t**r * max(rates[:t]) ** power
        total += weight
        c = weight / total
        x = (1 - c) * x + c * z
        y = (1 - betas[0]) * z + betas[0] * x
    return y, x
