"""TensorFlow's RMSprop, element by element in float64.

As tf.compat.v1.train.RMSPropOptimizer and timm's RMSpropTF define it: the mean square starts at
one, epsilon is below the root, and the learning rate is inside the momentum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def trajectory(
    weights: Sequence[float],
    gradient: Callable[[Sequence[float], int], Sequence[float]],
    steps: int,
    *,
    lr: float,
    decay: float,
    epsilon: float,
    momentum: float,
    centered: bool,
    weight_decay: float,
) -> list[list[float]]:
    """The weights after each step; `gradient(weights, step)` with steps from 0."""
    w = list(weights)
    mean_square, mean, velocity = [1.0] * len(w), [0.0] * len(w), [0.0] * len(w)
    after: list[list[float]] = []
    for k in range(steps):
        gradients = gradient(w, k)
        for i in range(len(w)):
            g = gradients[i] + weight_decay * w[i]
            mean_square[i] = mean_square[i] + (1 - decay) * (g * g - mean_square[i])
            mean[i] = mean[i] + (1 - decay) * (g - mean[i])
            variance = mean_square[i] - (mean[i] ** 2 if centered else 0.0)
            velocity[i] = momentum * velocity[i] + lr * g / math.sqrt(variance + epsilon)
            w[i] = w[i] - velocity[i]
        after.append(list(w))
    return after
